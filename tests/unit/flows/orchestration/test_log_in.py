"""The log-in of the server that `assay up` starts: whose it is, and who gets to see it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flows.orchestration import log_in
from flows.orchestration import server as up
from materials.errors import InputError
from tests.unit.flows.commands.test_cli import call

URL = "http://127.0.0.1:4200/api"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_HOME", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".prefect"


@pytest.fixture
def everything_open() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("everything_open")
def test_nobody_else_can_read_the_folder_or_the_file(home: Path) -> None:
    home.mkdir(0o777)  # as an older Assay, or another user of a shared folder, may have left it
    log_in.make_private(home)
    file = log_in.keep(URL, "assay:word")
    assert (mode(home), mode(file)) == (0o700, 0o600)
    assert [path.name for path in home.iterdir()] == ["server.env"]


@pytest.mark.usefixtures("everything_open")
def test_a_file_that_stands_open_is_replaced_and_not_written_into(home: Path) -> None:
    log_in.make_private(home)
    (home / "server.env").write_text("PREFECT_API_URL=old\n")
    (home / "server.env").chmod(0o666)
    with (home / "server.env").open() as reader:  # whoever has it open goes on reading the old one
        file = log_in.keep(URL, "assay:word")
        assert "word" not in reader.read()
    assert mode(file) == 0o600


def test_a_folder_of_somebody_elses_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: home.stat().st_uid + 1)
    with pytest.raises(InputError, match=r"\.prefect cannot be made a folder of your own .*another user"):
        log_in.make_private(home)
    home.rmdir()
    home.write_text("a file")
    with pytest.raises(InputError, match=r"\.prefect cannot be made"):
        log_in.make_private(home)
    with pytest.raises(InputError, match=r"server\.env cannot be written"):
        log_in.keep(URL, "assay:word")


def test_each_server_has_its_own() -> None:
    words = {log_in.new_log_in() for _ in range(20)}
    assert len(words) == 20
    assert all(word.startswith("assay:") and len(word) >= 32 for word in words)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (URL, "assay:word"),
        (URL + "/", "assay:word"),
        ("http://localhost:4200/api", "assay:word"),
        ("http://127.0.0.1:4201/api", None),  # another's server, who would learn it
        ("http://group.example:4200/api", None),
        ("https://127.0.0.1:4200/api", None),
    ],
)
def test_it_goes_to_its_own_server_alone(home: Path, asked: str, found: str | None) -> None:
    log_in.make_private(home)
    log_in.keep(URL, "assay:word")
    assert log_in.kept(asked) == found


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"PREFECT_API_URL=http://127.0.0.1:4200/api\n", None])
def test_no_file_or_half_a_file_is_none(home: Path, content: bytes | None) -> None:
    log_in.make_private(home)
    if content is not None:
        (home / "server.env").write_bytes(content)
    assert log_in.kept(URL) is None


def test_what_the_user_gives_the_client_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in.make_private(home)
    log_in.keep(URL, "assay:word")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:mine")
    log_in.use_kept(URL)
    assert os.environ["PREFECT_API_AUTH_STRING"] == "me:mine"
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    log_in.use_kept(URL)
    assert os.environ["PREFECT_API_AUTH_STRING"] == "assay:word"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_person_at_a_terminal_sees_it_and_a_log_does_not(
    home: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    import prefect.context
    from prefect.settings import temporary_settings

    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(prefect.context, "refresh_global_settings_context", lambda: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    log_in.make_private(home)
    with temporary_settings(), up._guarded(URL) as told:
        word = os.environ["PREFECT_SERVER_API_AUTH_STRING"]
        assert os.environ["PREFECT_API_AUTH_STRING"] == word == log_in.kept(URL)
        if terminal:
            assert told == f"Open http://127.0.0.1:4200/log-in#{word}"
        else:
            assert word not in told
            assert str(home / "server.env") in told
    assert list(home.iterdir()) == []


def test_a_users_own_for_the_server_stays_and_is_shown_to_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import prefect.context
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(prefect.context, "refresh_global_settings_context", lambda: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    log_in.make_private(home)
    with temporary_settings({PREFECT_SERVER_API_AUTH_STRING: "me:mine"}), up._guarded(URL) as told:
        assert os.environ["PREFECT_SERVER_API_AUTH_STRING"] == os.environ["PREFECT_API_AUTH_STRING"] == "me:mine"
        assert "mine" not in told
        assert list(home.iterdir()) == []


HOLD = """
import sys
from flows.orchestration import log_in
with log_in.alone():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_one_server_at_a_time_has_its_log_in_in_a_folder(home: Path, end: str) -> None:
    log_in.make_private(home)
    words = [sys.executable, "-c", HOLD]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"an `assay up` runs already with Prefect's files in .*\.prefect"):
            log_in.alone().__enter__()
        if end == "killed":
            first.kill()
        first.communicate()
    with log_in.alone():
        assert mode(home / "up.lock") == 0o600


def test_a_second_up_leaves_the_log_in_of_the_first(
    home: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PREFECT_API_URL", "ASSAY_DATABASE_URL", "ASSAY_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(up, "_process", lambda *_: pytest.fail("it started something"))
    log_in.make_private(home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with log_in.alone():
        log_in.keep(URL, "assay:word")
        code, _, said = call(capsys, "up", "--campaigns", str(root / "configs"), "--port", port)
        assert code == 2
        assert said.startswith("assay: an `assay up` runs already with Prefect's files in ")
        assert log_in.kept(URL) == "assay:word"

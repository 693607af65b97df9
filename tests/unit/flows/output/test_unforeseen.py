"""Whatever happens, a person is told in a sentence, and no command ends in a traceback."""

from __future__ import annotations

import errno
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.campaign.loop import Request, opened
from flows.commands import export, status
from flows.commands.run import run_request
from flows.config.campaign import Campaign
from flows.config.cluster import Cluster
from flows.output import terminal
from flows.output.places import require_file, require_folder
from flows.output.progress import Progress
from flows.output.unforeseen import CURES, foreseen
from flows.report import table as tables
from flows.run.context import Run
from materials import explanation
from materials.errors import AssayError, InputError
from materials.store.ledger import Ledger
from tests.unit.flows.commands.test_cli import call
from tests.unit.materials import made_records as made

ASSAY = Path(sys.executable).with_name("assay")
NONE = "nobody foresaw"


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'assay.db'}"
    with Ledger.open(url) as opened:
        campaign_id = opened.add_campaign("test", {"name": "test"})
        candidates = [made.candidate(f"[/i]NaCl-{letter}") for letter in "abc"]
        opened.add_candidates(campaign_id, candidates)
        opened.publish(campaign_id, [made.ranked(c.material_id, rank=i) for i, c in enumerate(candidates, start=1)])
    return url


@pytest.mark.parametrize(
    "error",
    [RuntimeError("it broke\nhere"), KeyError("x"), RecursionError(), MemoryError(), AssertionError(), OSError("odd")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        (tables, "query", ["table"]),
        (explanation, "explain", ["show", "x"]),
        (status, "status", ["status"]),
        (export, "export", ["export", "out"]),
    ],
)
def test_what_nobody_foresaw_is_a_sentence_and_a_file(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    ledger: str,
    error: Exception,
    module: object,
    function: str,
    arguments: list[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(module, function, fail)
    code, out, said = call(capsys, *arguments, "--ledger", ledger)
    assert (code, out) == (1, "")
    assert said.count("\n") == 1
    assert NONE in said
    details = Path(said.rsplit("details are in ", 1)[1].strip())
    assert "Traceback" in details.read_text()
    assert details.stat().st_mode & 0o077 == 0


def test_details_hold_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MP_API_KEY", "marker-key")
    monkeypatch.setenv("PGPASSWORD", "marker-word")
    (tmp_path / "run").mkdir()
    try:
        raise RuntimeError("postgresql://me:marker/pass@host/x with marker-key and marker-word")
    except RuntimeError as error:
        said = str(foreseen(error, tmp_path / "run"))
    (details,) = (tmp_path / "run").iterdir()
    assert str(details) in said
    assert "marker" not in said + details.read_text()


def test_without_a_place_for_details_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> tuple[int, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    assert "could not be written anywhere" in str(foreseen(ValueError("x")))


@pytest.mark.parametrize("number", sorted(CURES))
def test_what_the_system_refuses_names_the_file_and_the_cure(number: int, tmp_path: Path) -> None:
    said = str(foreseen(OSError(number, os.strerror(number), str(tmp_path / "there")), tmp_path))
    assert said.startswith(f"{tmp_path / 'there'}: ")
    assert CURES[number] in said
    assert NONE not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["table", "--output", "nowhere/rows.csv", "--format", "csv"],
        ["table", "--output", "nowhere/rows.parquet", "--format", "parquet"],
        ["table", "--output", "/dev/full", "--format", "json"],
        ["export", "assay.db/out"],
        ["export", "/proc/nowhere"],
    ],
)
def test_what_cannot_be_written_is_a_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    ledger: str,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, said = call(capsys, *arguments, "--ledger", ledger)
    assert code in (1, 2)
    assert said.count("\n") == 1
    assert NONE not in said


@pytest.mark.parametrize("style", ["csv", "json", "table"])
def test_a_disk_that_fills_under_a_file_is_told_with_the_file(
    capsys: pytest.CaptureFixture[str], ledger: str, style: str
) -> None:
    code, _, said = call(capsys, "table", "--output", "/dev/full", "--format", style, "--ledger", ledger)
    assert code == 1
    assert said.startswith("assay: /dev/full: No space left on device; make room there")


def test_a_disk_that_fills_under_an_export_is_told_with_the_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ledger: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "export", full)
    code, _, said = call(capsys, "export", "out", "--ledger", ledger)
    assert code == 1
    assert said.startswith("assay: out: No space left on device; make room there")


@pytest.mark.parametrize("folder", ["file/run", "file", "/proc/run", "x" * 5000])
def test_a_folder_that_cannot_be_had_is_told_before_anything_runs(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--folder: "):
        require_folder(tmp_path / folder, "--folder")
    with pytest.raises(InputError, match="--folder: "), opened(request(tmp_path, tmp_path / folder), Progress(print)):
        raise AssertionError("it began")
    assert not (tmp_path / "assay.db").exists()


@pytest.mark.parametrize("file", ["nowhere/profile", "file/profile", "."])
def test_a_file_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path, file: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--profile: "):
        require_file(tmp_path / file, "--profile")


def request(tmp_path: Path, folder: Path) -> Request:
    file = tmp_path / "POSCAR"
    file.write_text("Cu\n3.6\n0 .5 .5\n.5 0 .5\n.5 .5 0\nCu\n1\ndirect\n0 0 0\n")
    return Request(
        campaign=Campaign.model_validate({"name": "a", "sources": [{"kind": "files", "path": str(file)}]}),
        cluster=Cluster(),
        ledger_url=f"sqlite:///{tmp_path / 'assay.db'}",
        folder=folder,
        use_dft=False,
    )


def test_a_disk_that_fills_in_the_middle_ends_the_run_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(_run: Run) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/file")

    monkeypatch.setattr("flows.commands.run.discover", full)
    with pytest.raises(AssayError, match=r"^/somewhere/file: No space left on device; make room there"):
        run_request(request(tmp_path, tmp_path / "runs"))
    with Ledger.open(f"sqlite:///{tmp_path / 'assay.db'}") as opened_again:
        (campaign,) = opened_again.campaigns()
    assert [one["state"] for one in campaign["runs"]] == ["failed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_clean_stop(tmp_path: Path, number: signal.Signals) -> None:
    found, said = signal.signal(number, signal.default_int_handler), list[str]()  # these tests may run below a nohup
    try:
        with opened(request(tmp_path, tmp_path), Progress(said.append)) as run:
            os.kill(os.getpid(), number)
            assert run.stop.wait(10)
        assert said[-1].startswith("Stopping")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, found)


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in terminal.stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("bars", [False, True])
@pytest.mark.parametrize("pair", [pty.openpty, os.pipe], ids=["terminal", "pipe"])
def test_a_run_outlives_whoever_reads(
    monkeypatch: pytest.MonkeyPatch, pair: Callable[[], tuple[int, int]], bars: bool
) -> None:
    theirs, ours = pair()
    screen = open(ours, "w")  # noqa: SIM115 - what is left in its buffer cannot be written
    monkeypatch.setattr(sys, "stderr", screen)
    progress = Progress(bars=bars)
    with progress.counting("Screening", 2, "structures") as counter:
        os.close(theirs)  # the window is closed, or the reader has ended
        counter.advance()
        progress.say("still here")
        counter.advance()
    progress.say("and at its end")
    monkeypatch.undo()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), ours)
    screen.close()


def closed(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


def full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)  # in a process of its own


@pytest.mark.parametrize(
    ("prepare", "code", "said"),
    [
        (closed(0), 0, rb"^$"),
        (closed(1), 0, rb"^$"),
        (closed(2), 0, rb"^$"),
        (full, 1, rb"^assay: standard output: No space left on device; make room there[^\n]*\n$"),
    ],
    ids=["stdin closed", "stdout closed", "stderr closed", "stdout full"],
)
def test_a_stream_that_is_not_there(ledger: str, prepare: Callable[[], None], code: int, said: bytes) -> None:
    done = subprocess.run([ASSAY, "table", "--ledger", ledger], capture_output=True, preexec_fn=prepare)
    assert done.returncode == code
    assert re.match(said, done.stderr)


@pytest.mark.parametrize("arguments", [["status"], ["show", "[/i]NaCl-a"], ["table", "--format", "json"]])
def test_an_output_that_is_full_is_told_as_that(ledger: str, arguments: list[str]) -> None:
    done = subprocess.run([ASSAY, *arguments, "--ledger", ledger], capture_output=True, preexec_fn=full)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"assay: standard output: No space left on device; ")


def test_a_reader_that_has_seen_enough(ledger: str) -> None:
    line = f"'{ASSAY}' table --ledger '{ledger}' --format json --columns all | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        [b"run", b"\xff.yaml"],
        [b"table", b"\xe9"],
        [b"table", b"--where", b"formula = \xff"],
        [b"show", b"\xff"],
        [b"export", b"\xff"],
        [b"\xff"],
        [b"run", b"--\xff"],
    ],
)
def test_an_argument_that_is_no_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, said = call(capsys, *[os.fsdecode(argument) for argument in arguments])
    assert (code, said.count("\n")) == (2, 1)
    assert "is no UTF-8" in said
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("ASSAY_RUN_DIR", os.fsdecode(b"\xff"))
    assert "ASSAY_RUN_DIR is no UTF-8" in call(capsys, "status")[2]


def test_names_that_look_like_markup_are_shown(capsys: pytest.CaptureFixture[str], ledger: str) -> None:
    for arguments in (["table"], ["table", "--format", "csv"], ["show", "[/i]NaCl-a"], ["status"]):
        code, out, said = call(capsys, *arguments, "--ledger", ledger)
        assert (code, said) == (0, "")
        assert "[/i]NaCl-a" in out or arguments == ["status"]

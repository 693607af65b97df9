"""Keys and passwords stay where a user put them: marker secrets are looked for in all that a campaign leaves behind.

Campaigns run directly and under a Prefect server with authentication, to their end and into failures. What is searched:
what was said, every file of the run and of each program's home, both databases as text, everything that Prefect's API
gives, and the environments of the processes that compute.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import yaml

from flows.config.campaign import Campaign
from tests.integration.test_compose import Api, listening
from tests.peers import compose, materials_project
from tests.peers.compose import ROOT, Stack
from tests.peers.postgresql import binaries

pytestmark = [pytest.mark.postgresql, pytest.mark.prefect, pytest.mark.slow, pytest.mark.long]

ASSAY = Path(sys.executable).with_name("assay")
CAMPAIGN = ROOT / "configs" / "materials-project.yaml"
KEY = materials_project.KEY
WRONG_KEY = "WrongKeyWrongKeyWrongKeyWrongKey"
PASSWORD, WRONG_PASSWORD = "marker/of@the:database", "wr0ng/of@the:database"
WORD = "marker:of-prefect"
AUTH = f"somebody:{WORD}"
BLOCK = "materials-project-key"
SECRETS = (KEY, WRONG_KEY, PASSWORD, WRONG_PASSWORD, WORD)


def forms(secret: str) -> set[bytes]:
    """How a secret may be written: as it is, in an address, in JSON, in a header."""
    header = base64.b64encode(AUTH.encode()).decode()
    found = {
        secret,
        quote(secret, safe=""),
        quote(secret, safe="/"),
        repr(secret),
        base64.b64encode(secret.encode()).decode(),
    }
    return {form.strip("'=").encode() for form in (*found, header)}


MARKERS = frozenset().union(*map(forms, SECRETS))


def leaks(content: bytes | str) -> list[bytes]:
    content = content.encode() if isinstance(content, str) else content
    return [marker for marker in MARKERS if marker in content]


def files_that_leak(folder: Path) -> dict[str, list[bytes]]:
    found = {}
    for file in folder.rglob("*"):
        if file.is_file() and (told := leaks(file.read_bytes())):
            found[str(file)] = told
    return found


@dataclass
class Seen:
    """What was seen of a process and its children while they ran."""

    computing: dict[str, dict[str, str]] = field(default_factory=dict)  # environments of Dask workers, DFT processes
    sockets: set[tuple[str, int]] = field(default_factory=set)  # where connections were taken


def kind_of(process: psutil.Process) -> str:
    """Tell Dask workers by what Python's spawn runs, DFT processes by the folder in which they work."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        if any("spawn_main" in word for word in process.cmdline()):
            return "dask"
        if "dft" in Path(process.cwd()).parts:
            return "dft"
    return ""


@contextmanager
def watched(of: int) -> Iterator[Seen]:
    """Look at what a process starts, as long as it runs."""
    seen = Seen()
    ended = threading.Event()

    def look() -> None:
        rounds = 0
        while not ended.wait(0.2):
            with suppress(psutil.NoSuchProcess):
                top = psutil.Process(of)
                if rounds % 10 == 0:
                    seen.sockets |= listening(top)
                for process in top.children(recursive=True):
                    kind = kind_of(process)
                    if kind:
                        seen.computing[f"{kind}-{process.pid}"] = process.environ()
            rounds += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[materials_project.Peer]:
    with materials_project.running() as peer:
        yield peer


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, server: materials_project.Peer) -> Iterator[Stack]:
    """PostgreSQL, a Prefect server with authentication and a worker, as deploy/compose.yaml has them.

    The worker has the Materials Project's key from a Secret block of the server's, not from its environment.
    """
    if binaries() is None:
        pytest.skip("no PostgreSQL here")
    folder = tmp_path_factory.mktemp("secrets")
    variables = {"POSTGRES_PASSWORD": PASSWORD, "PREFECT_AUTH": AUTH}
    extra = {"MP_API_ENDPOINT": server.url, "ASSAY_MP_API_KEY_BLOCK": BLOCK, "PYTHONPATH": str(ROOT)}
    with compose.running(folder, variables, extra) as stack:
        code = (
            f"import os; from prefect.blocks.system import Secret; Secret(value=os.environ['MARKER']).save({BLOCK!r})"
        )
        environment = stack.environment("deploy") | {"MARKER": KEY}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
        yield stack


def database_url(stack: Stack, password: str = PASSWORD, name: str = "assay") -> str:
    return f"postgresql://assay:{quote(password, safe='')}@127.0.0.1:{stack.port['5432']}/{name}"


def dumped(stack: Stack, name: str) -> str:
    """A database as text."""
    programs = binaries()
    assert programs is not None
    done = subprocess.run(
        [programs / "pg_dump", "--inserts", database_url(stack, name=name)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def run(stack: Stack, folder: Path, *arguments: str, **secrets: str) -> tuple[int, str, Seen]:
    """Run `assay` as a user with the secrets in his environment does: its exit code, its words, what was seen."""
    folder.mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ASSAY_"))},
        "HOME": str(folder / "home"),
        "MP_API_ENDPOINT": stack.extra["MP_API_ENDPOINT"],
        "MP_API_KEY": KEY,
        "ASSAY_DATABASE_URL": database_url(stack),
        "PREFECT_HOME": str(folder / "prefect"),
        "PYTHONPATH": str(ROOT),
        **secrets,
    }
    process = subprocess.Popen(
        [str(ASSAY), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with watched(process.pid) as seen:
        said, _ = process.communicate(timeout=300)
    return process.returncode, said, seen


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    for secret in SECRETS:
        for form in forms(secret):
            (tmp_path / "file").write_bytes(b"..." + form + b"...")
            assert files_that_leak(tmp_path)


@pytest.mark.dft
def test_a_campaign_that_ends_well(stack: Stack, tmp_path: Path, gpaw: None) -> None:
    code, said, seen = run(stack, tmp_path / "run", "run", str(CAMPAIGN), "--budget", "1")
    assert code == 0, said
    assert {host for host, _ in seen.sockets} == {"127.0.0.1"}  # Dask's scheduler, workers, dashboard
    assert {name.split("-")[0] for name in seen.computing} == {"dask", "dft"}
    for name, environment in seen.computing.items():
        assert not leaks(json.dumps(environment)), name
        assert "PATH" in environment
    for command in (("table", "--format", "csv"), ("status",), ("doctor",), ("export", "out", "--where", "rank < 3")):
        _, more, _ = run(stack, tmp_path / "run", *command)
        said += more
    assert not leaks(said)
    assert not files_that_leak(tmp_path)
    assert "materials_project" in (ledger := dumped(stack, "assay"))
    assert not leaks(ledger)


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        ({"MP_API_KEY": WRONG_KEY}, "key"),
        ({"MP_API_KEY": KEY[:-1]}, "key"),
        ({"ASSAY_DATABASE_URL": "password"}, "ledger"),
        ({"ASSAY_DATABASE_URL": "port"}, "ledger"),
        ({"ASSAY_DATABASE_URL": "scheme"}, "database URL"),
    ],
    ids=["refused key", "half a key", "wrong password", "no server", "no URL"],
)
def test_failures_tell_no_secret(stack: Stack, tmp_path: Path, secrets: dict[str, str], words: str) -> None:
    broken = {
        "password": database_url(stack, WRONG_PASSWORD),
        "port": database_url(stack).replace(stack.port["5432"], "9"),
        "scheme": database_url(stack).replace("postgresql:", "postgrespl:"),
    }
    secrets = {name: broken.get(value, value) for name, value in secrets.items()}
    for command in (("run", str(CAMPAIGN), "--no-dft"), ("doctor",)):
        code, said, _ = run(stack, tmp_path / "run", *command, **secrets)
        if command[0] == "run":
            assert code in (1, 2), said
            assert words in said
        assert "Traceback" not in said
        assert not leaks(said.replace(KEY[:-1], "***")), said
        assert KEY[:-1] not in said
    assert not files_that_leak(tmp_path)


def test_under_prefect_with_the_key_in_a_secret_block(stack: Stack, server: materials_project.Peer) -> None:
    api = Api(stack, AUTH)
    content = yaml.safe_load(CAMPAIGN.read_text()) | {"name": "blocked"}
    content["screening"] = {"fmax": 0.04}  # which no other test has asked for: there is something to compute
    parameters = Campaign.model_validate(content).model_dump(mode="json", exclude_none=True) | {"use_dft": False}
    deployment = api.get("/deployments/name/discover/quickstart")
    parameters["cluster"] = {"workers": {"count": 1}}
    ended = {}
    worker = stack.processes["assay-worker"].pid
    for name in ("well", "refused"):
        server.behave()
        if name == "refused":
            server.misbehave("summary", "403")
            parameters["name"] = "refused"
            parameters["sources"][0]["num_sites"] = [1, 11]  # a question whose answer is not at hand
        with watched(worker) as seen:
            flow_run = api.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
            ended[name] = api.wait_for_end(flow_run["id"], stack)
        if name == "well":
            assert seen.computing
            assert not [name for name, environment in seen.computing.items() if leaks(json.dumps(environment))]
            assert {host for host, _ in seen.sockets} == {"127.0.0.1"}
    server.behave()
    assert ended["well"]["type"] == "COMPLETED", stack.told("assay-worker")
    assert ended["refused"]["type"] == "FAILED"
    assert KEY in server.keys
    everything_is_clean(stack, api)


def test_from_the_command_line_as_a_flow_run(stack: Stack, tmp_path: Path) -> None:
    api = Api(stack, AUTH)
    prefect = {"PREFECT_API_URL": api.url, "PREFECT_API_AUTH_STRING": AUTH}
    code, said, _ = run(stack, tmp_path / "run", "run", str(CAMPAIGN), "--no-dft", **prefect)
    assert code == 0, said
    assert not leaks(said)
    for broken in ({"MP_API_KEY": WRONG_KEY}, {"ASSAY_DATABASE_URL": database_url(stack, WRONG_PASSWORD)}):
        # In a folder without the snapshot, for which no key would be needed any more.
        code, said, _ = run(stack, tmp_path / "elsewhere", "run", str(CAMPAIGN), "--no-dft", **prefect, **broken)
        assert code in (1, 2), said
        assert not leaks(said), said
    wrong = {"PREFECT_API_AUTH_STRING": f"somebody:{WRONG_PASSWORD}"}
    code, said, _ = run(stack, tmp_path / "run", "run", str(CAMPAIGN), "--no-dft", **prefect | wrong)
    assert code in (1, 2), said
    assert not leaks(said), said
    assert not files_that_leak(tmp_path)
    everything_is_clean(stack, api)


def everything_is_clean(stack: Stack, api: Api) -> None:
    """Search what Prefect gives, what it keeps, what the services said, and the files of the worker."""
    time.sleep(3)  # logs reach the server a little late
    asked = ("flow_runs", "task_runs", "logs", "artifacts", "deployments", "block_documents", "events", "variables")
    for name in asked:
        found: Any = api.post(f"/{name}/filter", {"limit": 200} if name != "events" else {})
        assert found or name == "variables", name
        assert not leaks(json.dumps(found)), name
    for name in ("assay", "prefect"):
        text = dumped(stack, name)
        assert "flow_run" in text or "ranked_candidates" in text
        assert not leaks(text), name
    for name in stack.processes:
        assert not leaks(stack.told(name)), name
    assert not files_that_leak(stack.folder / "data")
    assert not files_that_leak(stack.folder / "home")
    assert not files_that_leak(stack.folder / "scratch")

"""A Prefect server with its UI, a deployment for each campaign file, and a worker: `assay up`."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows.campaign import Campaign
from flows.cluster_file import Cluster
from materials.errors import AssayError, CampaignError, InputError

HOST = "127.0.0.1"
START_S = 180.0  # until the server answers: its first start makes a database
STOP_S = 20.0  # for what was started to end by itself
# A worker is told to leave its runs in order, and each run to write down what has ended.
WORKER_STOP_S = 90.0
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_API_URL": "/api",  # from wherever the browser got the page, through a tunnel too
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # what does not find the server is to fail, and not start one more
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "PREFECT_CLI_PROMPT": "false",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where `assay up` runs things.

    Attributes:
        campaigns: Folder of the campaign files.
        cluster: For their runs, unless the form says otherwise.
        port: Of the server and its UI, on loopback.
        ledger_url: Of the runs.
        folder: For calculations, snapshots and reports.
    """

    campaigns: Path
    cluster: Cluster
    port: int
    ledger_url: str | None
    folder: Path


def up(place: Place, say: Callable[[str], None]) -> None:
    """Start server, deployments and worker, and stay until Ctrl-C or SIGTERM; then end what was started.

    A server that PREFECT_API_URL names is used as it is, and not ended.

    Raises:
        InputError: No campaign file loads, the port is taken, or the server that PREFECT_API_URL names cannot be used.
        AssayError: Something that was started ended by itself.
    """
    campaigns = _campaigns(place.campaigns, say)
    given = os.environ.get("PREFECT_API_URL")
    url = given or f"http://{HOST}:{place.port}/api"
    os.environ.update(_environment(place, url))
    with suppress(_Stopped), ExitStack() as started, _told_to_stop(say) as told:
        server = None
        if given is None:
            _require_free(place.port)
            say("Starting a Prefect server")
            words = ("server", "start", "--host", HOST, "--port", str(place.port))
            server = started.enter_context(_process("server", STOP_S, *words))
            _wait_for(url, server, told)
        from flows.deployments import register
        from flows.discovery import require_server

        require_server()
        names = register(campaigns, place.cluster, Path.cwd())
        for name in names:
            say(f"  {name}")
        say(f"Ready: {url.removesuffix('/api')}  Ctrl-C ends it")
        _work(server, say, told)


def _work(server: subprocess.Popen[bytes] | None, say: Callable[[str], None], told: list[int]) -> None:
    """Keep a worker until somebody says stop; one that is killed is followed by another."""
    from flows.deployments import POOL

    while True:
        with _process("worker", WORKER_STOP_S, "worker", "start", "--pool", POOL) as worker:
            while worker.poll() is None:
                if told:
                    raise _Stopped
                if server is not None and server.poll() is not None:
                    raise AssayError(f"Prefect's server ended by itself; its last words are in {_log('server')}")
                time.sleep(0.5)
        if worker.returncode >= 0:
            raise AssayError(f"Prefect's worker ended by itself; its last words are in {_log('worker')}")
        say("Prefect's worker was killed, its runs show as Crashed; another worker has their place.")


def _campaigns(folder: Path, say: Callable[[str], None]) -> list[Campaign]:
    """Read the campaign files of a folder; one that is wrong is told, and does not keep the others."""
    from flows.load import load_campaign

    if not folder.is_dir():
        raise InputError(f"--campaigns: {folder} is no folder; give one that holds campaign files")
    found: dict[str, Campaign] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            campaign = load_campaign(path.resolve())
        except CampaignError as error:
            say("Left out: " + str(error).replace("\n", "; "))
            continue
        if campaign.name in found:
            say(f"Left out: {path}: name: another file of the folder is called {campaign.name} as well")
            continue
        found[campaign.name] = campaign
    if not found:
        raise InputError(
            f"--campaigns: {folder} holds no campaign file that can be used; `assay schema` tells what one says"
        )
    return list(found.values())


def _environment(place: Place, url: str) -> dict[str, str]:
    """What server, worker and runs inherit; what the user set himself holds."""
    from flows.crashes import HEARTBEAT

    home = {"PREFECT_HOME": str(Path.cwd() / ".prefect")}
    password = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    client = {"PREFECT_API_AUTH_STRING": password} if password else {}
    ours = {name: value for name, value in (QUIET | HEARTBEAT | home | client).items() if name not in os.environ}
    ledger = {"ASSAY_DATABASE_URL": _absolute(place.ledger_url)}
    return ours | ledger | {"ASSAY_RUN_DIR": str(place.folder.resolve()), "PREFECT_API_URL": url}


def _absolute(ledger_url: str | None) -> str:
    """Name an SQLite file by its whole path: whoever reads it, from wherever, means the same one."""
    if ledger_url is None:
        return f"sqlite:///{Path.cwd() / 'assay.db'}"
    if "://" not in ledger_url:
        return f"sqlite:///{Path(ledger_url).resolve()}"
    return ledger_url


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"--port: {port} cannot be had ({error.strerror}): another server may be there; give another port,"
                f" or use that server: PREFECT_API_URL=http://{HOST}:{port}/api assay up"
            ) from None


def _wait_for(url: str, server: subprocess.Popen[bytes], told: list[int]) -> None:
    until = time.monotonic() + START_S
    while not _answers(url):
        if told:
            raise _Stopped
        if server.poll() is not None or time.monotonic() > until:
            what = "ended at once" if server.poll() is not None else f"did not answer within {START_S:.0f} s"
            raise AssayError(f"The Prefect server {what}; its last words are in {_log('server')}")
        time.sleep(0.3)


def _answers(url: str) -> bool:
    import requests

    try:
        return bool(requests.get(f"{url}/health", timeout=5).ok)
    except requests.RequestException:
        return False


def _log(name: str) -> Path:
    return Path(os.environ["PREFECT_HOME"]) / f"{name}.log"


@contextmanager
def _process(name: str, patience_s: float, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Prefect's commands, its words in a log, and end it, and all of its group, with this block."""
    path = _log(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on, worker first
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    try:
        yield process
    finally:
        for number, seconds in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when `assay up` is gone, even by kill -9."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


class _Stopped(Exception):
    """Somebody asked to stop, as one does."""


@contextmanager
def _told_to_stop(say: Callable[[str], None]) -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM end it; the second one finds the first under way.

    What the handler raises ends whatever goes on, unless it goes on where Python lets no exception out (after a fork,
    in `__del__`): so what was heard is there to look at, too. A list, for an event's lock may be held just then.
    """
    told: list[int] = []

    def stop(number: int, _frame: object) -> None:
        told.append(number)
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        say("Stopping: runs write down what has ended, then the server ends.")
        raise _Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    yield told

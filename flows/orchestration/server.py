"""`assay up`: a Prefect server with its UI, a deployment for each campaign file, and a worker."""

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

from flows.config.campaign import Campaign
from flows.config.cluster import Cluster
from flows.orchestration import log_in
from flows.orchestration.prefect_server import HOST, LOG_IN
from flows.output.terminal import stop_signals
from materials.errors import AssayError, CampaignError, InputError

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

    A server that PREFECT_API_URL names is used as it is, and not ended. One that is started here wants a log-in: what
    PREFECT_SERVER_API_AUTH_STRING says, or one made for it, which `log_in` keeps for `assay run`.

    Raises:
        InputError: No campaign file loads, the port is taken, Prefect's folder is not the user's own or has another
            `assay up`, or the server that PREFECT_API_URL names cannot be used.
        AssayError: Something that was started ended by itself.
    """
    campaigns = _campaigns(place.campaigns, say)
    given = os.environ.get("PREFECT_API_URL")
    url = given or f"http://{HOST}:{place.port}/api"
    home = log_in.prefect_home()
    if "PREFECT_HOME" not in os.environ or not home.exists():  # one that somebody has made is as open as he has it
        log_in.make_private(home)
    os.environ.update(_environment(place, url))
    if given is not None:
        log_in.use_kept(given)
    with suppress(_Stopped), ExitStack() as started, _told_to_stop(say) as told:
        server = None
        if given is None:
            _require_free(place.port)
            started.enter_context(log_in.alone())
            say("Starting a Prefect server")
            way_in = started.enter_context(_guarded(url))
            words = ("-P", "-m", "flows.orchestration.prefect_server", str(place.port))
            server = started.enter_context(_process("server", STOP_S, *words))
            _wait_for(url, server, told)
        from flows.orchestration.deployments import register
        from flows.orchestration.prefect_flow import require_server

        require_server()
        names = register(campaigns, place.cluster, Path.cwd())
        for name in names:
            say(f"  {name}")
        if given is None:
            say(way_in)
        say(f"Ready: {url.removesuffix('/api')}  Ctrl-C ends it")
        _work(server, say, told)


def _work(server: subprocess.Popen[bytes] | None, say: Callable[[str], None], told: list[int]) -> None:
    """Keep a worker until somebody says stop; one that is killed is followed by another."""
    from flows.orchestration.deployments import POOL

    while True:
        with _process("worker", WORKER_STOP_S, "-m", "prefect", "worker", "start", "--pool", POOL) as worker:
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
    from flows.config.load import load_campaign

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
    from flows.orchestration.crashes import HEARTBEAT

    home = {"PREFECT_HOME": str(log_in.prefect_home())}
    pages = ",".join(f"http://{name}:{place.port}" for name in (HOST, "localhost"))
    own = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": pages}
    ours = {name: value for name, value in (QUIET | HEARTBEAT | home | own).items() if name not in os.environ}
    ledger = {"ASSAY_DATABASE_URL": _absolute(place.ledger_url)}
    return ours | ledger | {"ASSAY_RUN_DIR": str(place.folder.resolve()), "PREFECT_API_URL": url}


@contextmanager
def _guarded(url: str) -> Iterator[str]:
    """Have the server and its clients want the same log-in; say how a person gets in.

    What the user has set, in the environment or in Prefect's own files, stays, and is written down nowhere.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING

    own = PREFECT_SERVER_API_AUTH_STRING.value()
    word = own or log_in.new_log_in()
    os.environ.update(PREFECT_SERVER_API_AUTH_STRING=word, PREFECT_API_AUTH_STRING=word)
    refresh_global_settings_context()
    if own:
        yield "Log in with what PREFECT_SERVER_API_AUTH_STRING says"
        return
    file = log_in.keep(url, word)
    try:
        # A person sees a terminal; what is no terminal may be a log, which others read.
        seen = sys.stdout.isatty()
        yield f"Open {url.removesuffix('/api')}{LOG_IN}#{word}" if seen else f"The log-in is in {file}"
    finally:
        if log_in.kept(url) == word:
            file.unlink(missing_ok=True)


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
    """Run Python beside this one, its words in a log, and end it, and all of its group, with this block."""
    path = _log(name)
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
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
    """Let Ctrl-C, SIGTERM and a hang-up end it; the second one finds the first under way.

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

    before = {number: signal.signal(number, stop) for number in stop_signals()}
    yield told

"""A real Prefect server and worker, each a process of its own, in folders and on a port that nobody else has."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

ROOT = Path(__file__).parents[2]
COMMANDS = Path(sys.executable).parent
START_S = 120.0


class Prefect:
    """What a user has at hand: the command line, and the API behind the UI."""

    def __init__(self, url: str, folder: Path, extra: Mapping[str, str]) -> None:
        self.url, self.folder = url, folder
        # The server says 503 while its database is locked; Prefect's own client asks again, too.
        again = Retry(total=5, status_forcelist=[503], allowed_methods=None, backoff_factor=1)
        self.session = requests.Session()
        self.session.mount("http://", HTTPAdapter(max_retries=again))
        if word := extra.get("PREFECT_API_AUTH_STRING"):
            self.log_in(word)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ASSAY_"))},
            "PREFECT_API_URL": url,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "PREFECT_CLI_COLORS": "false",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
            # What the shell says of the folder that a command is started in.
            "PWD": str(ROOT),
            **extra,
        }

    def log_in(self, word: str) -> None:
        """Give the API USER:PASSWORD from now on."""
        user, _, password = word.partition(":")
        self.session.auth = (user, password)

    def client_settings(self) -> dict[Any, str]:
        """What Prefect's client needs in this process, for `temporary_settings`."""
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

        return {PREFECT_API_URL: self.url, PREFECT_API_AUTH_STRING: self.environment["PREFECT_API_AUTH_STRING"]}

    def run(self, *command: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this Python's environment in the checkout, as a user types it."""
        done = subprocess.run(
            [str(COMMANDS / command[0]), *command[1:]],
            cwd=ROOT,
            env=self.environment | extra,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    @contextmanager
    def start(self, name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command beside the test, its output in a file, and end it and all that it started."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(COMMANDS / command[0]), *command[1:]],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                end(process)

    def get(self, path: str) -> Any:
        """Read from the API."""
        return _answer(self.session.get(self.url + path, timeout=60))

    def post(self, path: str, content: Any = None) -> Any:
        """Ask the API."""
        return _answer(self.session.post(self.url + path, json=content or {}, timeout=60))

    def state(self, flow_run_id: str) -> tuple[str, str]:
        """Say what state a flow run is in, and its message."""
        state = self.get(f"/flow_runs/{flow_run_id}")["state"]
        return state["type"], state["message"] or ""

    def wait_for_end(self, flow_run_id: str, timeout: float = 240) -> tuple[str, str]:
        """Wait until a flow run has ended; return its state and message."""
        until = time.monotonic() + timeout
        while (state := self.state(flow_run_id))[0] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            assert time.monotonic() < until, (state, self.told())
            time.sleep(0.5)
        return state

    def logs(self, flow_run_id: str) -> list[str]:
        """Read what a flow run has logged."""
        found = self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "TIMESTAMP_ASC"})
        return [line["message"] for line in found]

    def artifacts(self) -> list[dict[str, Any]]:
        """List all artifacts that carry a key."""
        found: list[dict[str, Any]] = self.post("/artifacts/filter")
        return [artifact for artifact in found if artifact["key"]]

    def told(self) -> str:
        """Give the end of what server and worker wrote, for a failing test to show."""
        return "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))


@contextmanager
def running(folder: Path, extra: Mapping[str, str]) -> Iterator[Prefect]:
    """Start a server on a free loopback port, with a log-in; `extra` is the environment of all that is started."""
    word = f"somebody:{secrets.token_urlsafe(16)}"
    extra = {"PREFECT_SERVER_API_AUTH_STRING": word, "PREFECT_API_AUTH_STRING": word, **extra}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    prefect = Prefect(f"http://127.0.0.1:{port}/api", folder, extra)
    with prefect.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)) as process:
        until = time.monotonic() + START_S
        while True:
            assert process.poll() is None, prefect.told()
            assert time.monotonic() < until, prefect.told()
            try:
                if requests.get(prefect.url + "/health", timeout=5).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.5)
        yield prefect


def _answer(response: requests.Response) -> Any:
    assert response.ok, f"{response.status_code} {response.url}: {response.text[:2000]}"
    return response.json() if response.content else None


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    process.wait(10)

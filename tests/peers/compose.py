"""The services of deploy/compose.yaml as processes of this machine, started as the file says: tests have no engine.

What differs from containers is said in `Stack`: host names are loopback, ports are free ones, folders of the image are
the checkout and a temporary folder. PostgreSQL's image is stood in for by the PostgreSQL that is installed here.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.peers.postgresql import binaries, unprivileged

ROOT = Path(__file__).parents[2]
COMMANDS = Path(sys.executable).parent
FILE = ROOT / "deploy" / "compose.yaml"
PORTS = ("4200", "5432", "8080", "8786", "8787", "8789")
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
HEALTHY_S = 150.0


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Put variables in as compose does: `${NAME}`, `${NAME:-default}`, `${NAME:?complaint}`.

    Raises:
        KeyError: One that has to be set is not; it carries the complaint.
    """

    def value(match: re.Match[str]) -> str:
        name, how, word = match.groups()
        if found := variables.get(name):
            return found
        if how == ":?":
            raise KeyError(f"{name}: {word}")
        return word or ""

    return VARIABLE.sub(value, text)


def services(variables: Mapping[str, str]) -> dict[str, Any]:
    """The services of the file, its variables put in, anchors and merges resolved."""
    found: dict[str, Any] = _filled(yaml.safe_load(FILE.read_text())["services"], variables)
    return found


def _filled(content: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(content, dict):
        return {key: _filled(value, variables) for key, value in content.items()}
    if isinstance(content, list):
        return [_filled(value, variables) for value in content]
    return interpolated(content, variables) if isinstance(content, str) else content


class Stack:
    """The services that run, and where they are reached."""

    def __init__(self, folder: Path, variables: Mapping[str, str], extra: Mapping[str, str]) -> None:
        self.folder = folder
        self.services = services(variables)
        self.variables = variables
        self.extra = extra  # environment that tests add to every service
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = {port: str(free_port()) for port in PORTS}
        for name in ("data", "home", "scratch"):
            (folder / name).mkdir()
        self.places = {"/opt/assay": ROOT, "/data": folder / "data"}
        for service in self.services.values():
            self._mount(service.get("volumes", []))
        # PostgreSQL refuses to run as root, and pytest's own folder lets nobody else in.
        self.postgres = TemporaryDirectory(prefix="assay-postgresql-", dir="/tmp")

    def here(self, text: str) -> str:
        """Say for this machine what the file says for a container."""
        text = re.sub(r"\b(postgres|prefect-server|dask-scheduler):(?=\d)", "127.0.0.1:", text)
        text = re.sub(r"\b0\.0\.0\.0\b", "127.0.0.1", text)
        for port, free in self.port.items():
            text = re.sub(rf"(?<![\w.-]){port}(?![\w.-])", free, text)
        for inside, outside in self.places.items():
            text = re.sub(rf"(?<![\w/]){inside}\b", str(outside), text)
        return re.sub(r"(?<![\w/])/tmp$", str(self.folder / "scratch"), text)

    def _mount(self, volumes: Sequence[str]) -> None:
        """Find where what is mounted into containers lies here; addresses inside of a file are made this machine's."""
        for outside, inside, *_ in (volume.split(":") for volume in volumes if volume.startswith((".", "/"))):
            source = FILE.parent / outside
            if source.is_file() and inside not in self.places:
                copy = self.folder / source.name
                copy.write_text(self.here(source.read_text()))
                source = copy
            self.places.setdefault(inside, source.resolve())

    def environment(self, name: str) -> dict[str, str]:
        """What the service is told: the image's, the file's, and nothing of ours but where programs are."""
        asked = self.services[name].get("environment", {})
        return {
            "PATH": f"{COMMANDS}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            **{key: self.here(value) for key, value in image_environment().items() if key != "PATH"},
            "PREFECT_HOME": str(self.folder / "home" / name),
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(self.folder / "home" / "ui"),
            **{key: self.here(value) for key, value in asked.items()},
            **self.extra,
        }

    def start(self, name: str) -> None:
        """Start a service once what it depends on is as it must be, and wait until it is healthy or has ended."""
        service = self.services[name]
        for needed, how in service.get("depends_on", {}).items():
            if needed not in self.processes:
                self.start(needed)
            if how["condition"] == "service_completed_successfully":
                assert self.processes[needed].wait(120) == 0, self.told(needed)
        command = [self.here(word) for word in (*service.get("entrypoint", []), *service.get("command", []))]
        who: dict[str, Any] = {}
        if name == "dask-worker":
            command.append("--host=127.0.0.1")  # in a container all its addresses are those of an internal network
        if name == "postgres":
            command, who = self._postgres(), unprivileged()
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder / "data",
                env=self.environment(name),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **who,
            )
        if name == "postgres":
            self._make_databases()
        if "healthcheck" in service:
            self._wait_for_health(name)

    def healthy(self, name: str) -> bool:
        """Run a service's health check once, as the file says it."""
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        program = shutil.which(command[0], path=f"{COMMANDS}:{binaries()}:{os.environ['PATH']}")
        assert program, command
        done = subprocess.run(
            [program, *map(self.here, command[1:])],
            env=self.environment(name),
            cwd=self.folder,
            capture_output=True,
            timeout=60,
        )
        return done.returncode == 0

    def told(self, name: str) -> str:
        """What a service has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _wait_for_health(self, name: str) -> None:
        until = time.monotonic() + HEALTHY_S
        while not self.healthy(name):
            assert self.processes[name].poll() is None, self.told(name)
            assert time.monotonic() < until, self.told(name)
            time.sleep(0.5)

    def _postgres(self) -> list[str]:
        """Do what the image's entrypoint does with an empty volume, and give the server's command."""
        asked, who = self.services["postgres"]["environment"], unprivileged()
        folder, programs = Path(self.postgres.name), binaries()
        assert programs is not None
        (folder / "password").write_text(asked["POSTGRES_PASSWORD"])
        for path in (folder, folder / "password"):
            os.chown(path, who.get("user", -1), who.get("group", -1))
        initdb = [programs / "initdb", "-D", folder / "data", "-U", asked["POSTGRES_USER"], "--no-sync"]
        options = [asked["POSTGRES_INITDB_ARGS"], "-A", "scram-sha-256", "--pwfile", folder / "password"]
        subprocess.run([*initdb, *options], cwd=folder, check=True, stdout=subprocess.DEVNULL, **who)
        settings = ["fsync=off", f"port={self.port['5432']}", "listen_addresses=127.0.0.1"]
        flags = [part for setting in settings for part in ("-c", setting)]
        return [str(programs / "postgres"), "-D", str(folder / "data"), *flags, "-k", str(folder)]

    def _make_databases(self) -> None:
        asked = self.services["postgres"]["environment"]
        environment = {**os.environ, "PGPASSWORD": asked["POSTGRES_PASSWORD"]}
        programs = binaries()
        assert programs is not None
        client = ["-h", "127.0.0.1", "-p", self.port["5432"], "-U", asked["POSTGRES_USER"]]
        until = time.monotonic() + HEALTHY_S
        while subprocess.run([programs / "pg_isready", "-q", *client], check=False).returncode:
            assert time.monotonic() < until, self.told("postgres")
            time.sleep(0.2)
        subprocess.run([programs / "createdb", *client, asked["POSTGRES_DB"]], env=environment, check=True)
        [script] = [v for v in self.services["postgres"]["volumes"] if "/docker-entrypoint-initdb.d/" in v]
        file = FILE.parent / script.split(":")[0]
        psql = [programs / "psql", "-q", *client, "-d", asked["POSTGRES_DB"], "-v", "ON_ERROR_STOP=1", "-f", file]
        subprocess.run(psql, env=environment, check=True)


def image_environment() -> dict[str, str]:
    """What the Containerfile's ENV sets."""
    text = (ROOT / "deploy" / "Containerfile").read_text()
    [block] = re.findall(r"^ENV ((?:.+\\\n)*.+)$", text, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in block.replace("\\\n", " ").split())


@contextmanager
def running(
    folder: Path, variables: Mapping[str, str], extra: Mapping[str, str], only: Sequence[str] = ()
) -> Iterator[Stack]:
    """`docker compose up`, of all services or of some, and at the end down."""
    stack = Stack(folder, variables, extra)
    with stack.postgres, ExitStack() as ends:
        ends.callback(_end, stack)
        for name in only or stack.services:
            if name not in stack.processes:
                stack.start(name)
        yield stack


def _end(stack: Stack) -> None:
    for name, process in reversed(stack.processes.items()):
        gently = signal.SIGINT if name == "postgres" else signal.SIGTERM
        for number, seconds in ((gently, 20), (signal.SIGKILL, 10)):
            try:
                os.killpg(process.pid, number)
                process.wait(seconds)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

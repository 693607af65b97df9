"""A real PostgreSQL server on loopback, with a password, in a folder that nobody else has."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

PASSWORD = "s3cret/word@x"


class NoPostgreSQL(Exception):
    """There is none on this machine."""


class Server:
    """A server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._bin, self._who = folder, binaries(), unprivileged()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"postgresql://assay:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}"
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            os.chown(path, self._who.get("user", -1), self._who.get("group", -1))
        initdb = [self._bin / "initdb", "-D", folder / "data", "-U", "assay", "--pwfile", folder / "password"]
        made = [*initdb, "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"]
        subprocess.run(made, cwd=folder, check=True, stdout=subprocess.DEVNULL, **self._who)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
        # fsync=off: a power cut would hurt, a kill -9 does not.
        flags = [part for setting in [*settings, "fsync=off"] for part in ("-c", setting)]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.folder / "data", *flags],
                cwd=self.folder,
                stderr=log,
                start_new_session=True,
                **self._who,
            )
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        until = time.monotonic() + 120
        while subprocess.run(ready, check=False).returncode != 0:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a power cut would, its connections with it."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        """End it at once, whoever is still connected."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=30)

    def make(self, database: str) -> str:
        """Make an empty database; its URL."""
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        createdb = [self._bin / "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "assay", database]
        subprocess.run(createdb, check=True, env=environment)
        return f"{self.url}/{database}"


@contextmanager
def running() -> Iterator[Server]:
    """Start a server, and end it.

    Raises:
        NoPostgreSQL: Debian's package is not here.
    """
    # Not pytest's own folder: only its owner may enter that.
    with TemporaryDirectory(prefix="assay-postgresql-", dir="/tmp") as name:
        server = Server(Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def binaries() -> Path:
    """The newest PostgreSQL on this machine: on the PATH, or where Debian hides it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0]))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path is None:
        raise NoPostgreSQL("no PostgreSQL here: neither `initdb` nor /usr/lib/postgresql/*/bin")
    return Path(on_path).resolve().parent


def unprivileged() -> dict[str, int]:
    """PostgreSQL refuses to run as root: whom it runs as then."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}

"""A real OPTIMADE server (optimade[server], mongomock) on loopback, and a proxy before it that spoils its answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from optimade.adapters.structures.pymatgen import from_pymatgen
from pymatgen.core import Structure

from tests.peers.materials_project import Handler, Peer

RUNNING_ON = re.compile(r"running on (http://127\.0\.0\.1:\d+)")


def document(name: str, structure: Structure, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A line of OPTIMADE JSON lines, made by optimade's own adapter."""
    attributes = json.loads(from_pymatgen(structure).model_dump_json(exclude_unset=True))
    attributes |= {"last_modified": "2026-01-01T00:00:00Z", "immutable_id": None, **(changes or {})}
    return {"id": name, "type": "structures", "attributes": attributes}


@contextmanager
def serving(documents: list[dict[str, Any]], folder: Path) -> Iterator[str]:
    """Run the real server in a child process; its base URL."""
    lines = [{"x-optimade": {"meta": {"api_version": "1.2.0"}}}, *documents]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "insert_test_data": False,
        "insert_from_jsonl": str(folder / "data.jsonl"),
        "database_backend": "mongomock",
        "log_dir": str(folder),
    }
    (folder / "config.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "uvicorn", "optimade.server.main:app", "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "OPTIMADE_CONFIG_FILE": str(folder / "config.json")}
    with (
        open(folder / "server.log", "w+") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            yield wait_for_address(process, folder / "server.log")
        finally:
            process.terminate()


def wait_for_address(process: subprocess.Popen[bytes], log: Path, patience_s: float = 90.0) -> str:
    for _ in range(int(patience_s / 0.1)):
        if found := RUNNING_ON.search(log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        threading.Event().wait(0.1)
    raise AssertionError(log.read_text())


class Proxy(Handler):
    upstream: str

    def do_GET(self) -> None:
        self.peer.asked.append((self.path.split("?")[0], {}))
        trouble = self.peer.trouble(self.path)
        # The server writes its links with the host that it was asked as: the proxy's.
        answer = requests.get(self.upstream + self.path, headers={"Host": self.headers["Host"]}, timeout=60)
        if trouble is None:
            self.send(answer.status_code, answer.content)
        else:
            self.go_wrong(trouble, answer.json())


@contextmanager
def spoiling(upstream: str) -> Iterator[Peer]:
    """A proxy in a thread of this process that hands on what the server says, until it is told to misbehave."""
    peer = Peer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("PeerProxy", (Proxy,), {"peer": peer, "upstream": upstream}))
    server.daemon_threads = True
    peer.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A stand-in for the Materials Project's server on loopback, for the real client: and it misbehaves on demand.

In a test: `with running() as peer: peer.url, peer.misbehave("thermo", "cut", times=2)`.
For another process: `python -m tests.peers.materials_project --port 8123 --misbehave summary:429:2`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

DOCUMENTS = Path(__file__).with_name("materials_project.json.gz")
KEY = "0123456789abcdefghijABCDEFGHIJkl"
VERSION = "2026.10.01"
KINDS = (
    "cut",
    "half_json",
    "html",
    "short",
    "empty",
    "no_data",
    "no_total",
    "repeat",
    "grow",
    "slow",
    "redirect",
    "list",
)


@dataclass
class Misbehaviour:
    where: str  # part of the path: "heartbeat", "summary", "thermo"
    kind: str  # a status such as "429", or one of KINDS
    times: float  # how often; inf: for ever
    after: int = 0  # well-behaved answers before
    retry_after: str | None = None

    def is_due(self) -> bool:
        if self.after > 0:
            self.after -= 1
            return False
        if self.times == 0:
            return False
        self.times -= 1
        return True


@dataclass
class Peer:
    """The documents, what is to go wrong, and what was asked."""

    version: str = VERSION
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # path, parameters
    keys: set[str | None] = field(default_factory=set)
    url: str = ""
    slowness_s: float = 5.0
    summary: list[dict[str, Any]] = field(default_factory=list)
    thermo: list[dict[str, Any]] = field(default_factory=list)
    _troubles: list[Misbehaviour] = field(default_factory=list)

    def misbehave(
        self, where: str, kind: str, times: float = math.inf, after: int = 0, retry_after: str | None = None
    ) -> None:
        assert kind in KINDS or kind.isdigit(), kind
        self._troubles.append(Misbehaviour(where, kind, times, after, retry_after))

    def behave(self) -> None:
        self._troubles.clear()

    def requests(self, part: str) -> int:
        return sum(part in path for path, _ in self.asked)

    def trouble(self, path: str) -> Misbehaviour | None:
        for trouble in self._troubles:
            if trouble.where in path and trouble.is_due():
                return trouble
        return None


def load_documents(peer: Peer) -> None:
    """Fill a peer: what emmet made, and beside it what a careful client must not take."""
    content = json.loads(gzip.decompress(DOCUMENTS.read_bytes()))
    for thermo in content["thermo"]:
        entry = thermo["entries"][thermo["energy_type"]]
        name = entry["entry_id"].removesuffix("-GGA")  # thermo["material_id"] says the same in emmet's newer letters
        peer.thermo.append(thermo)
        # The same materials on the r2SCAN-mixed hull, at energies that would ruin a PBE one.
        mixed = {**thermo, "thermo_type": "GGA_GGA+U_R2SCAN", "energy_per_atom": thermo["energy_per_atom"] - 5}
        peer.thermo.append(mixed)
        peer.summary.append(
            {
                "material_id": name,
                "structure": entry["structure"],
                "chemsys": thermo["chemsys"],
                "formula_pretty": thermo["formula_pretty"],
                "elements": sorted(thermo["chemsys"].split("-")),
                "nelements": thermo["nelements"],
                "nsites": thermo["nsites"],
                "energy_above_hull": thermo["energy_above_hull"],
                "is_stable": thermo["is_stable"],
                "theoretical": not content["experimental"][name],
                "deprecated": False,
                "batch_id": None,
            }
        )
    gold = next(document for document in peer.summary if document["formula_pretty"] == "LiZnP")
    peer.summary.append({**gold, "material_id": "mp-3200001", "batch_id": "gnome_r2scan_statics"})
    peer.summary.append({**gold, "material_id": "mp-99002", "deprecated": True})


def matching(documents: list[dict[str, Any]], asked: dict[str, str]) -> list[dict[str, Any]]:
    """Documents that meet the parameters of a search, by the server's own rules; an unknown parameter raises."""
    found = documents
    for name, value in asked.items():
        if not name.startswith("_"):
            found = [document for document in found if meets(document, name, value)]
    if "_sort_fields" in asked:
        found = sorted(found, key=lambda document: document[asked["_sort_fields"]])
    return found


def meets(document: dict[str, Any], name: str, value: str) -> bool:
    values = value.split(",")
    if name in ("material_ids", "thermo_types"):
        return document[name[:-1]] in values
    if name == "chemsys":
        if "*" not in value:
            return document["chemsys"] in values
        if len(values) > 1:
            raise KeyError("wild cards are understood in a single system only")
        symbols = value.split("-")
        return document["nelements"] == len(symbols) and set(symbols) - {"*"} <= set(document["elements"])
    if name == "formula":
        return document["formula_pretty"] in values
    if name == "elements":
        return set(values) <= set(document["elements"])
    if name == "exclude_elements":
        return not set(values) & set(document["elements"])
    if name in ("is_stable", "theoretical", "deprecated"):
        return document[name] == (value.lower() == "true")
    if name == "batch_id_not_eq":
        return document["batch_id"] != value
    if name.endswith("_min"):
        return document[name[:-4]] >= float(value)
    if name.endswith("_max"):
        return document[name[:-4]] <= float(value)
    raise KeyError(name)


class Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True
    peer: Peer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the key would be on no line, but the tests read standard error."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.peer.asked.append((parts.path, asked))
        trouble = self.peer.trouble(parts.path)
        if parts.path == "/heartbeat":
            content: dict[str, Any] = {
                "status": "OK",
                "version": "0.87.3",
                "db_version": self.peer.version,
                "access_controlled_batch_ids": ["gnome_r2scan_statics"],
            }
        else:
            self.peer.keys.add(self.headers.get("x-api-key"))
            if self.headers.get("x-api-key") != KEY:
                self.answer(401, {"detail": f"Invalid API key {self.headers.get('x-api-key')}"})
                return
            documents = {"/materials/summary/": self.peer.summary, "/materials/thermo/": self.peer.thermo}.get(
                parts.path
            )
            if documents is None:
                self.answer(404, {"detail": "Not Found"})
                return
            try:
                found = matching(documents, asked)
            except (KeyError, ValueError) as error:
                self.answer(422, {"detail": [{"loc": ["query", str(error)], "msg": "not understood"}]})
                return
            content = self.page(found, asked)
        if trouble is None:
            self.answer(200, content)
        else:
            self.go_wrong(trouble, content)

    def page(self, found: list[dict[str, Any]], asked: dict[str, str]) -> dict[str, Any]:
        skip, limit = int(asked.get("_skip", 0)), int(asked.get("_limit", 100))
        fields = asked["_fields"].split(",")
        data = [{name: document.get(name) for name in fields} for document in found[skip : skip + limit]]
        return {"data": data, "meta": {"total_doc": len(found), "api_version": "0.87.3"}}

    def go_wrong(self, trouble: Misbehaviour, content: dict[str, Any]) -> None:
        kind, body = trouble.kind, json.dumps(content).encode()
        if kind.isdigit():
            headers = {"Retry-After": trouble.retry_after} if trouble.retry_after else {}
            self.answer(int(kind), {"detail": "misbehaving"}, headers)
        elif kind == "cut":
            self.send(200, body[: len(body) // 2], {"Content-Length": str(len(body))})
            self.close_connection = True
        elif kind == "half_json":
            self.send(200, body[: len(body) // 2])
        elif kind == "html":
            self.send(200, b"<!DOCTYPE html><html><title>Please log in</title></html>", {"Content-Type": "text/html"})
        elif kind == "redirect":
            self.answer(302, {}, {"Location": "http://thief.invalid/"})
        elif kind == "slow":
            time.sleep(self.peer.slowness_s)
            self.answer(200, content)
        elif kind == "list":
            self.send(200, json.dumps(content.get("data", [])).encode())
        else:
            self.answer(200, spoiled(content, kind))

    def answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(content).encode(), headers or {})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        whole = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        try:
            self.send_response(status)
            for name, value in whole.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client did not want to wait


def spoiled(content: dict[str, Any], kind: str) -> dict[str, Any]:
    if "data" not in content:
        return {}
    data, total = content["data"], content["meta"].get("total_doc", 0)
    return {
        "short": {**content, "data": data[:-1]},
        "empty": {**content, "data": []},
        "no_data": {"meta": content["meta"]},
        "no_total": {"data": data, "meta": {}},
        "repeat": {**content, "data": [data[0]] * len(data)} if data else content,
        "grow": {**content, "meta": {"total_doc": total + 1}},
    }[kind]


@contextmanager
def running(port: int = 0) -> Iterator[Peer]:
    """A peer in a thread of this process, on a free port."""
    peer = Peer()
    load_documents(peer)
    server = ThreadingHTTPServer(("127.0.0.1", port), type("PeerHandler", (Handler,), {"peer": peer}))
    server.daemon_threads = True
    peer.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--misbehave", action="append", default=[], metavar="PART:KIND[:TIMES]")
    arguments = parser.parse_args()
    with running(arguments.port) as peer:
        for spec in arguments.misbehave:
            part, kind, times = [*spec.split(":"), "inf"][:3]
            peer.misbehave(part, kind, float(times))
        print(peer.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()

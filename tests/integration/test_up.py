"""`assay up`: server, deployments and worker, as a user starts and ends them."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml
from ase.io import write
from markdown_it import MarkdownIt

from flows.config.campaign import Campaign
from tests.integration.test_prefect import METALS, SCREENING, crystals
from tests.peers import materials_project
from tests.peers.materials_project import Peer
from tests.peers.prefect_server import ROOT, Prefect
from tests.peers.waiting import soon

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

ASSAY = Path(sys.executable).with_name("assay")
MARK = "<script>alert(1)<script>![x](http:evil.example)[bold]*e*"  # may be a file's name, too


class Up:
    """A folder with two good campaign files and a bad one, and what `assay up` makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.prefect = Prefect(f"http://127.0.0.1:{self.port}/api", folder, {})
        self.environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "ASSAY_"))},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        (folder / "campaigns").mkdir()
        few = f"{MARK}.extxyz"
        write(folder / "campaigns" / few, crystals(["Cu", "Ag", "Al"]))
        for name in ("first", "second"):
            content = {
                "name": name,
                "description": f"# Which?\n\n{MARK}",
                "hull_leaves_out": MARK,
                "sources": [{"kind": "files", "path": few}],
                "screening": {"potential": SCREENING["potential"] | {"level_of_theory": MARK}},
                "dft": {"budget": 0},
            }
            (folder / "campaigns" / f"{name}.yaml").write_text(yaml.safe_dump(content))
        (folder / "campaigns" / "wrong.yaml").write_text("name: wrong\nsource: []\n")

    def word(self) -> str:
        """The log-in, from the file that this user alone can read."""
        [line] = (self.folder / ".prefect" / "server.env").read_text().splitlines()[1:]
        return line.removeprefix("PREFECT_API_AUTH_STRING=")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(ASSAY), "up", "--campaigns", "campaigns", "--port", str(self.port), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def ready(process: subprocess.Popen[str], up: Up) -> list[str]:
    """Read what it says until it is ready, and log in as its user does."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith("Ready: "):
            up.prefect.log_in(up.word())
            return lines
    raise AssertionError("\n".join(lines))


def members(folder: Path) -> list[psutil.Process]:
    """Processes that have this folder's Prefect home in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder / ".prefect") in process.environ().get("PREFECT_HOME", ""):
                found.append(process)
        except psutil.Error:
            continue
    return found


def processes(folder: Path, word: str) -> set[psutil.Process]:
    """Those of them that have a word in their command or environment."""
    found = set()
    for process in members(folder):
        with suppress(psutil.Error):
            if word in f"{process.cmdline()} {process.environ()}":
                found.add(process)
    return found


@pytest.fixture(scope="module")
def database() -> Iterator[Peer]:
    """A stand-in for the Materials Project."""
    with materials_project.running() as server:
        yield server


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, database: Peer) -> Up:
    up = Up(tmp_path_factory.mktemp("up"))
    up.environment |= {"MP_API_ENDPOINT": database.url, "MP_API_KEY": materials_project.KEY}
    return up


@pytest.fixture(scope="module")
def running(up: Up) -> Iterator[list[str]]:
    """It runs; what it said until it was ready. It must end by Ctrl-C without a word of Python's and leave nothing."""
    process = up.start()
    try:
        yield ready(process, up)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith("Stopping")
        assert members(up.folder) == []
        assert not (up.folder / ".prefect" / "server.env").exists()
    finally:
        process.kill()
        for left in members(up.folder):
            left.kill()


def test_it_says_where_and_names_what_it_leaves_out(up: Up, running: list[str]) -> None:
    assert running[-1] == f"Ready: http://127.0.0.1:{up.port}  Ctrl-C ends it"
    assert "  discover/first" in running
    assert "  discover/second" in running
    [left] = [line for line in running if line.startswith("Left out: ")]
    assert "wrong.yaml: source: unknown key; did you mean 'sources'?" in left
    assert running[-2] == f"The log-in is in {up.folder / '.prefect' / 'server.env'}"
    assert requests.get(f"http://127.0.0.1:{up.port}/", timeout=30).ok
    listening = {c.laddr.ip for p in members(up.folder) for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_the_form_holds_the_campaign_file(up: Up, running: list[str]) -> None:
    deployment = deployed(up, "first")
    assert deployment["entrypoint"] == "flows.discovery:discover"
    parameters = deployment["parameters"]
    assert parameters["sources"][0]["path"] == str(up.folder / "campaigns" / f"{MARK}.extxyz")
    sections = {name: parameters[name] for name in Campaign.model_fields}
    assert Campaign.model_validate(sections).dft.budget == 0


def test_two_campaigns_run_side_by_side_to_their_tables(up: Up, running: list[str]) -> None:
    ids = [begin(up, name) for name in ("first", "second")]
    assert [up.prefect.wait_for_end(i)[0] for i in ids] == ["COMPLETED"] * 2, up.prefect.logs(ids[0])
    assert {a["key"].rsplit("-", 1)[0] for a in up.prefect.artifacts()} == {"assay-first", "assay-second"}
    done = subprocess.run(
        [str(ASSAY), "table", "first"], cwd=up.folder, env=up.environment, capture_output=True, text=True, check=True
    )
    assert "CuAg" in done.stdout or "AgCu" in done.stdout
    assert "<script>alert(1)" in done.stdout
    for shown in [deployed(up, "first")["description"], *(a["data"] for a in up.prefect.artifacts())]:
        page = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(shown)
        assert "&lt;script&gt;alert(1)" in page
        assert "<script" not in page
        assert "<em" not in page
        assert all(image.startswith('<img src="data:image/png;') for image in re.findall("<img[^>]*", page))
        assert page.count("<h1") == ("Found" in page)


EVIL = {"Origin": "https://evil.example"}


@pytest.mark.parametrize(
    ("headers", "logged_in", "status"),
    [
        ({}, False, 401),  # another user of this machine
        (EVIL, False, 403),  # a web page that somebody has open
        (EVIL | {"Content-Type": "text/plain"}, False, 403),  # for which a browser asks nobody first
        (EVIL, True, 403),
        ({"Origin": "null"}, True, 403),
        ({"Host": "evil.example"}, True, 403),  # a page whose own name was led here
        ({"Host": "evil.example", "Origin": "http://evil.example"}, True, 403),
    ],
)
def test_a_stranger_starts_nothing(
    up: Up, running: list[str], headers: dict[str, str], logged_in: bool, status: int
) -> None:
    url = f"{up.prefect.url}/deployments/{deployed(up, 'first')['id']}/create_flow_run"
    content = json.dumps({"name": "strange", "job_variables": {"command": f"touch {up.folder / 'canary'}"}})
    ask = up.prefect.session if logged_in else requests
    answer = ask.post(url, data=content, headers={"Content-Type": "application/json"} | headers, timeout=30)
    assert answer.status_code == status
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert up.prefect.post("/flow_runs/filter", {"flow_runs": {"name": {"any_": ["strange"]}}}) == []
    before = ask.options(url, headers=EVIL | headers | {"Access-Control-Request-Method": "POST"}, timeout=30)
    assert not before.ok


@pytest.mark.parametrize("headers", [EVIL, {"Host": "evil.example"}, {}])
def test_a_stranger_hears_of_no_event(up: Up, running: list[str], headers: dict[str, str]) -> None:
    handshake = {
        "Host": f"127.0.0.1:{up.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    } | headers
    lines = ["GET /api/events/out HTTP/1.1", *(f"{name}: {value}" for name, value in handshake.items()), "", ""]
    with socket.create_connection(("127.0.0.1", up.port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 403 ")


def test_the_command_line_has_the_log_in_of_the_server_beside_it(up: Up, running: list[str]) -> None:
    command = [str(ASSAY), "run", "campaigns/first.yaml", "--no-dft"]
    environment = up.environment | {"PREFECT_API_URL": up.prefect.url}
    done = subprocess.run(command, cwd=up.folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    elsewhere = up.folder / "campaigns"
    environment["ASSAY_DATABASE_URL"] = str(up.folder / "assay.db")
    done = subprocess.run(
        [str(ASSAY), "run", "first.yaml"], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2
    assert "PREFECT_API_AUTH_STRING: the Prefect server" in done.stderr
    assert ".prefect/server.env" in done.stderr


def test_the_log_in_is_in_one_file_that_nobody_else_can_read(up: Up, running: list[str]) -> None:
    word = up.word()
    home = up.folder / ".prefect"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "server.env").stat().st_mode) == 0o600
    secret = word.partition(":")[2].encode()
    forms = (secret, base64.b64encode(word.encode()).strip(b"="))
    holders = [file for file in up.folder.rglob("*") if file.is_file() and any(f in file.read_bytes() for f in forms)]
    assert holders == [home / "server.env"]
    assert word not in "".join(running)
    for process in members(up.folder):
        with suppress(psutil.Error):
            assert word not in "\0".join(process.cmdline())  # which everybody sees


@pytest.mark.long
def test_a_killed_worker_crashes_its_run_and_is_followed_by_another(up: Up, running: list[str]) -> None:
    content = slow(up, "slow", METALS[:6])
    first = begin_screening(up, content)
    [worker] = processes(up.folder, "'worker', 'start'")
    worker.kill()
    assert up.prefect.wait_for_end(first, 90)[0] == "CRASHED"
    assert states(up, "slow") == ["stopped"]
    assert soon(lambda: not processes(up.folder, first))
    second = begin(up, "first", **content)
    assert up.prefect.wait_for_end(second)[0] == "COMPLETED"
    assert states(up, "slow") == ["stopped", "finished"]


@pytest.mark.long
def test_a_run_that_is_gone_with_its_worker_has_crashed(up: Up, running: list[str]) -> None:
    flow_run_id = begin_screening(up, slow(up, "gone", METALS[6:12]))
    for process in processes(up.folder, "'worker', 'start'") | processes(up.folder, flow_run_id):
        process.kill()
    state, message = up.prefect.wait_for_end(flow_run_id, 100)  # 90 s, and what this machine is slow
    assert state == "CRASHED"
    assert "Run again, it goes on" in message


def slow(up: Up, name: str, metals: list[str]) -> dict[str, Any]:
    """Sections of a campaign that takes its time."""
    path = up.folder / f"{name}.extxyz"
    write(path, crystals(metals))
    potential = SCREENING["potential"] | {"model": "tests.peers.calculators:Slow"}
    return {
        "name": name,
        "sources": [{"kind": "files", "path": str(path)}],
        "screening": {"potential": potential},
    }


def begin_screening(up: Up, content: dict[str, Any]) -> str:
    """Start a run, and wait until its workers are at work."""
    flow_run_id = begin(up, "first", **content)
    assert soon(lambda: any(line.startswith("Screening") for line in up.prefect.logs(flow_run_id)))
    return flow_run_id


@pytest.mark.long
def test_a_schedule_runs_and_finds_new_files(up: Up, running: list[str]) -> None:
    files = up.folder / "campaigns" / "many"
    files.mkdir()
    write(files / "a.extxyz", crystals(["Ni", "Pd"]))
    with scheduled(up, "second", name="files", sources=[{"kind": "files", "path": str(files)}]):
        wait_for_a_run(up, "files")
        assert relaxed(up, "files") == 3
        write(files / "b.extxyz", crystals(["Rh"]))
        wait_for_a_run(up, "files")
        assert relaxed(up, "files") == 3 + 1  # nothing that is known is computed again


@pytest.mark.long
def test_a_schedule_asks_a_database_for_a_new_version(up: Up, running: list[str], database: Peer) -> None:
    metastable = next(d for d in database.summary if d["chemsys"] == "Li-P-Zn" and d["energy_above_hull"] > 0)
    database.summary.remove(metastable)
    source = {"kind": "materials_project", "chemsys": ["Li-P-Zn"], "snapshot": "latest"}
    with scheduled(up, "second", name="database", sources=[source], screening={}, use_dft=False):
        wait_for_a_run(up, "database")
        known, pulled = relaxed(up, "database"), database.requests("summary")
        assert known > 0
        wait_for_a_run(up, "database")
        assert relaxed(up, "database") == known
        assert database.requests("summary") == pulled  # it is at hand, and the version was asked for alone
        database.summary.append(metastable)  # first, for a run may ask between these two lines
        database.version = "2026.11.01"
        wait_for_a_run(up, "database")
        assert relaxed(up, "database") == known + 1
    assert any(database.version in line for line in logged(up, "database"))
    assert database.requests("summary") > pulled
    ended = states(up, "database")  # on a slow machine the schedule comes round once more before it is taken off
    assert ended == ["finished"] * len(ended)
    assert len(ended) >= 3


def test_a_taken_port_is_one_sentence(up: Up, running: list[str]) -> None:
    process = up.start()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert said.rstrip().rpartition("\n")[2].startswith(f"assay: --port: {up.port} cannot be had")


def test_a_page_that_came_through_a_tunnel_finds_the_api(up: Up, running: list[str]) -> None:
    assert requests.get(f"http://127.0.0.1:{up.port}/ui-settings", timeout=30).json()["api_url"] == "/api"


class Stranger(BaseHTTPRequestHandler):
    """Answers as a Prefect server does that does not know us: it tells anybody that it lives, and no more."""

    def answer(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 401 if self.path.startswith("/api/") else 404)
        self.end_headers()

    do_GET = do_POST = answer


@pytest.mark.parametrize("command", [["up", "--campaigns", "campaigns"], ["run", "campaigns/first.yaml"]])
@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/api", "assay: PREFECT_API_AUTH_STRING: the Prefect"),
        ("", "assay: PREFECT_API_URL: no Prefect server answers"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_sentence(
    up: Up, server: str, path: str, sentence: str, command: list[str]
) -> None:
    done = subprocess.run(
        [str(ASSAY), *command],
        cwd=up.folder,
        env=up.environment | {"PREFECT_API_URL": server + path, "PREFECT_API_AUTH_STRING": "me:secret-word"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(sentence)
    assert "Traceback" not in done.stderr
    assert "secret-word" not in done.stderr


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_another_server_is_used_and_what_was_set_in_the_ui_stays(up: Up, running: list[str]) -> None:
    deployment = deployed(up, "first")
    cron = {"active": False, "schedule": {"cron": "0 3 * * 1", "timezone": "UTC"}}
    up.prefect.post(f"/deployments/{deployment['id']}/schedules", [cron])
    up.environment["PREFECT_API_URL"] = up.prefect.url
    try:
        process = up.start()
        ready(process, up)
        again = deployed(up, "first")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert process.returncode == 0
    finally:
        del up.environment["PREFECT_API_URL"]
    assert again["id"] == deployment["id"]
    assert [(s["schedule"]["cron"], s["active"]) for s in again["schedules"]] == [("0 3 * * 1", False)]
    assert requests.get(f"{up.prefect.url}/health", timeout=30).ok  # it was not ours to end


def deployed(up: Up, name: str) -> dict[str, Any]:
    found: dict[str, Any] = up.prefect.get(f"/deployments/name/discover/{name}")
    return found


def begin(up: Up, name: str, /, **changes: Any) -> str:
    cluster = {"workers": {"count": 1, "memory_gib": 2}}
    asked = {"parameters": {**deployed(up, name)["parameters"], "cluster": cluster, **changes}}
    return str(up.prefect.post(f"/deployments/{deployed(up, name)['id']}/create_flow_run", asked)["id"])


def states(up: Up, campaign: str) -> list[str]:
    """How the runs of a campaign have ended, by the ledger."""
    query = "SELECT state FROM runs WHERE campaign_id LIKE ? ORDER BY started_at"
    with closing(sqlite3.connect(up.folder / "assay.db")) as connection:
        return [state for (state,) in connection.execute(query, [f"{campaign}-%"])]


@contextmanager
def scheduled(up: Up, deployment_name: str, /, **changes: Any) -> Iterator[None]:
    """Have a deployment run every twenty seconds, with some of its parameters changed."""
    deployment = deployed(up, deployment_name)
    url = f"{up.prefect.url}/deployments/{deployment['id']}"
    patched = up.prefect.session.patch(url, json={"parameters": deployment["parameters"] | changes}, timeout=30)
    assert patched.ok, patched.text
    every = {"active": True, "schedule": {"interval": 20, "anchor_date": "2026-01-01T00:00:00Z"}}
    [schedule] = up.prefect.post(f"/deployments/{deployment['id']}/schedules", [every])
    try:
        yield
    finally:
        up.prefect.session.delete(f"{url}/schedules/{schedule['id']}", timeout=30)


def started(up: Up, campaign: str) -> list[str]:
    """The runs of a campaign that are more than planned.

    By its name, for the server may still add runs of a schedule that it has just taken off.
    """
    runs = up.prefect.post("/flow_runs/filter")
    return [r["id"] for r in runs if r["parameters"].get("name") == campaign and r["state"]["type"] != "SCHEDULED"]


def wait_for_a_run(up: Up, campaign: str) -> None:
    """Wait until a run that starts by itself, from now on, has ended and all that it logs is there.

    One that started ahead of it may have seen what the test did just now, so count over all runs of the schedule.
    """
    known = set(started(up, campaign))
    assert soon(lambda: not known.issuperset(started(up, campaign)), 180), up.prefect.told()
    for run in set(started(up, campaign)) - known:
        assert up.prefect.wait_for_end(run)[0] == "COMPLETED", up.prefect.logs(run)
        assert soon(lambda run=run: any(line.startswith("Finished in state") for line in up.prefect.logs(run)))


def logged(up: Up, campaign: str) -> list[str]:
    """What the runs of a campaign have logged."""
    return [line for run in started(up, campaign) for line in up.prefect.logs(run)]


def relaxed(up: Up, campaign: str) -> int:
    """How many structures the runs of a campaign have relaxed, by their logs."""
    lines = [line for line in logged(up, campaign) if line.startswith("Screening") and "structures" in line]
    return sum(int(line.rsplit(": ", 1)[1].split()[0]) for line in lines)

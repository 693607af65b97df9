"""Campaigns under a real Prefect server: deployed, started, watched, failed, cancelled."""

import base64
import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.io import write

from flows.config.campaign import Campaign
from flows.orchestration.crashes import HEARTBEAT
from materials.store.ledger import Ledger
from tests.peers.prefect_server import ROOT, Prefect, running
from tests.peers.waiting import soon

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

SCREENING = {"potential": {"kind": "ase", "model": "tests.peers.calculators:Balls", "level_of_theory": "toy"}}
TRIED = """SELECT count(DISTINCT material_id) FROM calculations WHERE material_id IN
    (SELECT material_id FROM proposals WHERE campaign_id LIKE 'many-%')"""
METALS = ["Cu", "Ag", "Au", "Ni", "Pd", "Pt", "Al", "Rh", "Ir", "Co", "Fe", "Mn", "Cr", "V", "Mo", "Ru", "Zn", "Ga"]


def crystals(symbols: list[str]) -> list[Atoms]:
    """Elements and their CsCl-like alloys, pushed out of symmetry so that there is something to relax."""
    found = [bulk(symbol, "fcc", a=3.7) for symbol in symbols]
    for index, (one, other) in enumerate(combinations(symbols, 2)):
        atoms = bulk(one + other, "cesiumchloride", a=3.0).repeat((2, 1, 1))
        atoms.rattle(0.1, seed=index)
        found.append(atoms)
    return found


def campaign(name: str, path: Path) -> dict[str, Any]:
    """Every section, for those that are left out come from the deployment's own."""
    content = {"name": name, "sources": [{"kind": "files", "path": str(path)}], "screening": SCREENING}
    return Campaign.model_validate(content).model_dump(mode="json", exclude_none=True)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """Do what deploy/README.md says, line by line: a pool, the deployments, a worker, beside a server of our own."""
    section = (ROOT / "deploy" / "README.md").read_text().split("\n## In the Prefect UI\n")[1]
    typed = re.findall(r"^    (prefect .+)$", section, re.MULTILINE)
    pool, deploy, worker = [shlex.split(line, comments=True) for line in typed if " server " not in line]
    folder = tmp_path_factory.mktemp("prefect")
    places = {"ASSAY_DATABASE_URL": f"sqlite:///{folder / 'assay.db'}", "ASSAY_RUN_DIR": str(folder / "runs")}
    with running(folder, places) as prefect:
        prefect.run(*pool)
        prefect.run(*deploy)
        with prefect.start("worker", *worker):
            yield prefect


@pytest.fixture(scope="module")
def deployment(prefect: Prefect) -> dict[str, Any]:
    found: dict[str, Any] = prefect.get("/deployments/name/discover/quickstart")
    return found


@pytest.fixture(scope="module")
def few(prefect: Prefect) -> Path:
    path = prefect.folder / "few.extxyz"
    write(path, crystals(["Cu", "Ag", "Al"]))
    return path


def start(prefect: Prefect, deployment: dict[str, Any], parameters: dict[str, Any]) -> str:
    """Fill in the form and press the button."""
    content = {"cluster": {"workers": {"count": 1, "memory_gib": 2}}, "use_dft": False} | parameters
    flow_run = prefect.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": content})
    return str(flow_run["id"])


def said(prefect: Prefect, flow_run_id: str, words: str) -> bool:
    """Whether the run's log holds some words, now or soon."""
    return soon(lambda: any(words in line for line in prefect.logs(flow_run_id)))


def test_the_deployment_is_what_its_file_says(deployment: dict[str, Any]) -> None:
    file = yaml.safe_load((ROOT / "deploy/prefect.yaml").read_text())["deployments"][0]
    assert deployment["entrypoint"] == "flows.discovery:discover"
    assert deployment["parameters"] == file["parameters"]
    assert not deployment["pull_steps"]
    assert deployment["job_variables"] == {"working_dir": str(ROOT), "env": HEARTBEAT}
    [schedule] = deployment["schedules"]
    assert schedule["schedule"]["cron"] == file["schedules"][0]["cron"]
    assert schedule["active"] is file["schedules"][0]["active"]
    definitions = deployment["parameter_openapi_schema"]["definitions"]
    assert "chgnet" in definitions["Potential"]["properties"]["kind"]["enum"]
    roles = definitions["Prototypes"]["properties"]["roles"]
    assert {"Li", "Xe"} <= set(roles["additionalProperties"]["items"]["enum"])


def test_a_campaign_runs_to_its_table(prefect: Prefect, deployment: dict[str, Any], few: Path) -> None:
    flow_run_id = start(prefect, deployment, campaign("tiny", few))
    assert prefect.wait_for_end(flow_run_id)[0] == "COMPLETED", prefect.logs(flow_run_id)
    tasks = prefect.post("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [flow_run_id]}}})
    assert {task["name"] for task in tasks} == {"propose", "screen", "assess", "describe", "publish"}
    assert {task["state"]["type"] for task in tasks} == {"COMPLETED"}
    [artifact] = [a for a in prefect.artifacts() if a["key"].startswith("assay-tiny")]
    assert artifact["flow_run_id"] == flow_run_id
    assert artifact["type"] == "markdown"
    assert len(re.findall(r"^\| \d+ \| `", artifact["data"], flags=re.M)) == 6  # ranked rows
    [picture] = re.findall(r"\]\(data:image/png;base64,([^)]+)\)", artifact["data"])
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert said(prefect, flow_run_id, "Report:")

    # From the command line it is a flow run as well, goes on with the same campaign, and its report replaces the older.
    file = prefect.folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(campaign("tiny", few)))
    prefect.run("assay", "run", str(file), "--no-dft")
    [again] = [a for a in prefect.artifacts() if a["key"].startswith("assay-tiny")]
    assert again["key"] == artifact["key"]
    assert again["flow_run_id"] != flow_run_id
    assert prefect.state(again["flow_run_id"])[0] == "COMPLETED"
    with Ledger.open(prefect.environment["ASSAY_DATABASE_URL"]) as ledger:
        assert len(ledger.campaigns()) == 1


def test_a_foreseen_failure_is_one_sentence(prefect: Prefect, deployment: dict[str, Any]) -> None:
    nowhere = prefect.folder / "nowhere.extxyz"
    flow_run_id = start(prefect, deployment, campaign("nothing", nowhere))
    state, message = prefect.wait_for_end(flow_run_id)
    assert state == "FAILED"
    assert "nowhere.extxyz" in message
    assert "\n" not in message.strip()
    # Prefect's engine adds one of its own to each run that fails; before that, the log has the sentence alone.
    assert said(prefect, flow_run_id, "Traceback")
    lines = prefect.logs(flow_run_id)
    assert message in lines
    assert all(line.startswith("Engine execution exited") for line in lines if "Traceback" in line)


def test_the_command_line_tells_failures_as_it_does_without_a_server(prefect: Prefect) -> None:
    file = prefect.folder / "nothing.yaml"
    file.write_text(yaml.safe_dump(campaign("nothing", prefect.folder / "nowhere.extxyz")))
    done = prefect.run("assay", "run", str(file), "--no-dft", code=2)
    assert done.stderr.rstrip().rpartition("\n")[2].startswith("assay: ")
    assert "Traceback" not in done.stderr
    # Nothing listens on the discard port.
    done = prefect.run("assay", "run", str(file), "--no-dft", code=2, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "PREFECT_API_URL: no Prefect server answers at http://127.0.0.1:9/api" in done.stderr


def test_a_cancelled_run_ends_its_workers_and_can_go_on(prefect: Prefect, deployment: dict[str, Any]) -> None:
    many = prefect.folder / "many.extxyz"
    write(many, crystals(METALS))
    flow_run_id = start(prefect, deployment, campaign("many", many))
    assert said(prefect, flow_run_id, "Screening"), prefect.told()
    prefect.post(f"/flow_runs/{flow_run_id}/set_state", {"state": {"type": "CANCELLING"}})
    state, message = prefect.wait_for_end(flow_run_id, 120)
    assert state == "CANCELLED", prefect.logs(flow_run_id)
    assert "goes on from there" in message
    assert soon(lambda: not [p for p in psutil.process_iter() if flow_run_id in _environment(p)])
    assert _ask(prefect, "SELECT state FROM runs WHERE campaign_id LIKE 'many-%'") == [("stopped",)]
    tasks = prefect.post("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [flow_run_id]}}})
    assert {task["name"]: task["state"]["type"] for task in tasks} == {"propose": "COMPLETED", "screen": "CANCELLED"}
    # The end of the workers is no structure's fault.
    assert _ask(prefect, "SELECT * FROM failures WHERE campaign_id LIKE 'many-%' AND stage != 'propose'") == []
    [(done,)] = _ask(prefect, TRIED)
    again = start(prefect, deployment, campaign("many", many))
    assert prefect.wait_for_end(again)[0] == "COMPLETED", prefect.logs(again)
    [(whole,)] = _ask(prefect, TRIED)
    assert 0 <= done < whole
    [line] = [line for line in prefect.logs(again) if line.startswith("Screening")]
    assert line.endswith(f": {whole - done} structures")  # what had ended is not computed again


def test_a_run_of_the_command_line_is_cancelled_in_the_ui(prefect: Prefect) -> None:
    write(prefect.folder / "slow.extxyz", crystals(METALS))
    slow = campaign("slow", prefect.folder / "slow.extxyz")
    slow["screening"]["potential"]["model"] = "tests.peers.calculators:Slow"
    file = prefect.folder / "slow.yaml"
    file.write_text(yaml.safe_dump(slow))
    with prefect.start("slow", "assay", "run", str(file), "--no-dft") as process:
        assert soon(lambda: "Screening" in (prefect.folder / "slow.log").read_text())
        [run] = prefect.post("/flow_runs/filter", {"flow_runs": {"name": {"any_": ["slow"]}}})
        prefect.post(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        assert process.wait(60) == 130, prefect.told()
    assert prefect.state(run["id"])[0] == "CANCELLED"
    assert _ask(prefect, "SELECT state FROM runs WHERE campaign_id LIKE 'slow-%'") == [("stopped",)]


def test_a_killed_run_shows_as_crashed_and_can_go_on(prefect: Prefect, deployment: dict[str, Any]) -> None:
    many = prefect.folder / "more.extxyz"
    write(many, crystals(METALS[:12]))
    flow_run_id = start(prefect, deployment, campaign("more", many))
    assert said(prefect, flow_run_id, "Screening"), prefect.told()
    killed = time.monotonic()
    for process in psutil.process_iter():
        if flow_run_id in _environment(process):
            process.kill()
    assert prefect.wait_for_end(flow_run_id, 150)[0] == "CRASHED"
    print(f"Crashed after {time.monotonic() - killed:.0f} s")
    again = start(prefect, deployment, campaign("more", many))
    assert prefect.wait_for_end(again)[0] == "COMPLETED", prefect.logs(again)


def _ask(prefect: Prefect, query: str) -> list[tuple[Any, ...]]:
    database = prefect.environment["ASSAY_DATABASE_URL"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def _environment(process: psutil.Process) -> str:
    try:
        return str(process.environ())
    except psutil.Error:
        return ""

"""What `assay status` says of a campaign: which run lives, and what is missing."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flows.commands.status import status
from flows.run import process
from materials.errors import LedgerError
from materials.records import Failure
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(str(tmp_path / "assay.db")) as opened:
        yield opened


def begun(ledger: Ledger, budget: int = 0, **by: str) -> str:
    campaign_id = ledger.add_campaign("test", {"name": "test", "dft": {"code": "gpaw"}})
    ledger.start_run(campaign_id, versions={"python": "3"} | by, weights_hash=None, config={}, budget=budget)
    return campaign_id


def described(ledger: Ledger) -> dict[str, Any]:
    (found,) = json.loads(status(ledger, None, "json"))
    return found  # type: ignore[no-any-return]


def gone() -> dict[str, str]:
    """Name a process that has ended, of this machine."""
    code = "import json; from flows.run.process import here; print(json.dumps(here()))"
    told: dict[str, str] = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )
    return told


def test_a_run_that_lives(ledger: Ledger) -> None:
    begun(ledger, **process.here())
    assert described(ledger)["last_run"] == "running"
    assert f"running ({socket.gethostname()}, process {os.getpid()})" in status(ledger, None, "text")


@pytest.mark.parametrize("what", ["killed", "another process of that number"])
def test_a_run_that_died(ledger: Ledger, what: str) -> None:
    by = process.here()
    if what == "killed":
        by = gone()
    else:
        by["process_started"] = str(float(by["process_started"]) - 3600)
    begun(ledger, **by)
    assert described(ledger)["last_run"] == "died"
    assert f"died (process {by['process']} is gone; the same command goes on from there)" in status(
        ledger, None, "text"
    )


def test_a_run_elsewhere_is_said_to_be_there(ledger: Ledger) -> None:
    begun(ledger, **process.here() | {"host": "node17"})
    assert described(ledger)["last_run"] == "running"
    assert "running, when last heard of, on node17, process " in status(ledger, None, "text")


def test_a_run_of_an_older_version_says_nothing_of_its_process(ledger: Ledger) -> None:
    begun(ledger)
    assert "test-" in status(ledger, None, "text")
    assert ": running, when last heard of (1 runs" in status(ledger, None, "text")


def test_refused_rows_are_not_to_be_screened_and_what_a_kill_ended_is(ledger: Ledger) -> None:
    campaign_id = begun(ledger)
    names = ["done", "refused", "crashed", "failed", "waiting"]
    ledger.add_candidates(campaign_id, [made.candidate(name) for name in names])
    ledger.add_candidates(campaign_id, [made.candidate("known", role="competing")])
    ledger.add_failures(
        campaign_id, [Failure(material_id="refused", stage="propose", error="TooClose", message="0.1 Å")]
    )
    ledger.add_calculations(
        [
            made.calculation("done"),
            made.calculation("crashed", status="crashed", energy=None),
            made.calculation("failed", status="failed", energy=None),
            made.calculation("known", fidelity="dft", method="materials-project-1"),
        ]
    )
    assert described(ledger)["missing"] == {"screened": 2, "validated": 0}
    assert "2 not yet screened" in status(ledger, None, "text")


def test_after_a_cancel_something_is_missing(ledger: Ledger) -> None:
    campaign_id = begun(ledger, budget=5)
    names = ["done", "refused", "cancelled", "killed", "never"]
    ledger.add_candidates(campaign_id, [made.candidate(name) for name in names])
    ledger.add_calculations([made.calculation(name) for name in names])
    ledger.add_selections(campaign_id, [made.selection(name, rank=i) for i, name in enumerate(names, start=1)])
    dft: dict[str, Any] = {"fidelity": "dft", "method": "gpaw-1"}
    ledger.add_calculations(
        [
            made.calculation("done", **dft),
            made.calculation("never", fidelity="dft", method="materials-project-1"),
            made.calculation("refused", status="failed", energy=None, **dft),
            made.calculation("cancelled", status="cancelled", energy=None, **dft),
            made.calculation("killed", status="crashed", energy=None, properties={"from_outside": True}, **dft),
        ]
    )
    assert described(ledger)["missing"] == {"screened": 0, "validated": 3}
    assert "3 not yet validated" in status(ledger, None, "text")


def test_a_campaign_lives_while_any_of_its_runs_does(ledger: Ledger) -> None:
    begun(ledger, budget=3, **process.here())
    begun(ledger, budget=9, **gone())
    found = described(ledger)
    assert (found["last_run"], found["alive"], found["budget"]) == ("running", True, 3)
    assert f"running ({socket.gethostname()}, process {os.getpid()}) (2 runs" in status(ledger, None, "text")


def test_of_runs_that_all_ended_the_newest_is_told(ledger: Ledger) -> None:
    campaign_id = begun(ledger, **gone())
    run_id = ledger.start_run(campaign_id, versions=process.here(), weights_hash=None, config={})
    ledger.end_run(run_id, "stopped")
    assert described(ledger)["last_run"] == "stopped"


def test_before_anything_was_proposed_that_is_missing(ledger: Ledger) -> None:
    begun(ledger, budget=2, **gone())
    assert "missing            not yet proposed, 2 not yet validated" in status(ledger, None, "text")


def test_what_is_screened_and_was_never_published_is_not_yet_ranked(ledger: Ledger) -> None:
    campaign_id = begun(ledger, **gone())
    ledger.add_candidates(campaign_id, [made.candidate("done")])
    ledger.add_calculations([made.calculation("done")])
    assert "missing            not yet ranked" in status(ledger, None, "text")
    ledger.publish(campaign_id, [made.ranked("done", rank=1)])
    assert "missing            nothing" in status(ledger, None, "text")


def test_a_run_that_finished_with_nothing_to_rank_misses_nothing(ledger: Ledger) -> None:
    campaign_id = ledger.add_campaign("test", {"name": "test"})
    run_id = ledger.start_run(campaign_id, versions=process.here(), weights_hash=None, config={})
    ledger.end_run(run_id, "finished")
    assert "missing            nothing" in status(ledger, None, "text")


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("campaigns", "config", "5"),
        ("runs", "versions", "[]"),
        ("runs", "budget", "many"),
    ],
)
def test_a_damaged_ledger_is_named(tmp_path: Path, ledger: Ledger, table: str, column: str, value: str) -> None:
    begun(ledger, **process.here())
    with closing(sqlite3.connect(tmp_path / "assay.db")) as raw, raw:
        raw.execute(f"UPDATE {table} SET {column} = ?", [value])
    with pytest.raises(LedgerError, match=rf"assay\.db is damaged: {table}\.{column} .* go back to a copy of it"):
        status(ledger, None, "text")


def test_parts_of_a_record_that_are_damaged_are_not_known(tmp_path: Path, ledger: Ledger) -> None:
    begun(ledger, **process.here())
    here = json.dumps({"host": socket.gethostname(), "process": [], "process_started": None})
    with closing(sqlite3.connect(tmp_path / "assay.db")) as raw, raw:
        raw.execute("UPDATE runs SET versions = ?", [here])
        raw.execute("UPDATE campaigns SET config = ?", ['{"dft": []}'])
    assert "not yet proposed" in status(ledger, None, "text")

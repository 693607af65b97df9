"""A whole campaign from the command line: real structures, CHGNet, GPAW, and killed at its worst moments."""

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import SMALL, run, start

pytestmark = [pytest.mark.dft, pytest.mark.slow]


def ask(folder: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{folder / 'assay.db'}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def rows(folder: Path) -> dict[str, tuple[Any, ...]]:
    """The ranked table, by material: what a disturbed campaign must share with an undisturbed one."""
    found = ask(
        folder,
        "select material_id, rank, status, fidelity, meets_targets, round, decomposition_energy_per_atom, band_gap"
        " from ranked_candidates",
    )
    return {row[0]: row[1:] for row in found}


def test_it_ends_with_validated_candidates(finished: Path) -> None:
    table = json.loads(run(finished, "table", "--where", "status = validated", "--format", "json"))
    assert len(table) == 2
    for row in table:
        assert row["fidelity"] == "dft"
        assert row["band_gap"] is not None
        assert row["energy_above_hull"] >= 0
        # Published: the Li-II-V half-Heuslers are stable with the group-V atom on 4c, with PBE gaps of 1 to 2 eV, or
        # 0.5 for LiZnAs.
        assert row["decomposition_energy_per_atom"] < -0.1
        assert re.search(r"(P|As) on 4c$", row["parents"])
        assert row["band_gap"] == pytest.approx(0.5, abs=0.1) if row["formula"] == "LiZnAs" else 1 < row["band_gap"] < 2


def test_one_level_of_theory_a_hull(finished: Path) -> None:
    levels = {
        level for (level,) in ask(finished, "select distinct level_of_theory from stabilities where fidelity='dft'")
    }
    raw = {level for level in levels if level.endswith("/PW450")}  # kept beside what the hulls are of
    assert len(raw) == 1
    assert levels == raw | {f"{level}/MP2020-anions" for level in raw}


def test_it_says_what_it_did_and_where_it_lies(finished: Path) -> None:
    said = (finished / "said.txt").read_text()
    for needed in (
        "Proposed 12 candidates",
        "Screened",
        "Round 1:",
        "Round 2:",
        "hit rate: ",
        "not measured",
        "Time: ",
    ):
        assert needed in said, said
    report = next(finished.glob("assay-runs/reports/*/summary.md")).read_text()
    assert "What the hull leaves out" in report
    assert next(finished.glob("assay-runs/reports/*/overview.png")).stat().st_size > 10_000


def test_run_again_it_changes_nothing(finished: Path) -> None:
    tables = (
        "candidates",
        "proposals",
        "calculations",
        "stabilities",
        "predictions",
        "selections",
        "failures",
        "rankings",
    )
    before = {table: ask(finished, f"select * from {table}") for table in tables}
    said = run(finished, "run", str(SMALL))
    assert "calculations" not in said
    assert {table: ask(finished, f"select * from {table}") for table in tables} == before


def test_show_tells_everything_behind_a_row(finished: Path) -> None:
    (material_id,) = ask(finished, "select material_id from ranked_candidates where rank = 1")[0]
    said = run(finished, "show", material_id)
    for needed in (
        "Proposed",
        "chgnet-0.3.0",
        "gpaw-",
        "Stability",
        "Predicted before",
        "Why",
        "P(all targets) ",
        "σ ",
    ):
        assert needed in said
    assert json.loads(run(finished, "show", material_id, "--format", "json"))["material_id"] == material_id


@pytest.mark.parametrize("style", ["cif", "poscar", "extxyz"])
def test_exports_read_back(finished: Path, tmp_path: Path, style: str) -> None:
    from ase.io import read

    run(finished, "export", str(tmp_path), "--format", style, "--where", "status = validated")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    formats = {"cif": "cif", "poscar": "vasp", "extxyz": "extxyz"}
    for file in files:
        atoms = read(file, format=formats[style])
        assert file.stem.split("-")[1] == atoms.get_chemical_formula(empirical=True) or len(atoms) > 0
        assert len(set(atoms.get_chemical_symbols())) == 3


def test_status_and_query_errors(finished: Path) -> None:
    assert "missing            nothing" in run(finished, "status")
    assert "did you mean band_gap?" in run(finished, "table", "--where", "band_gp > 1", code=2)
    assert "no material" in run(finished, "show", "mp-0", code=2)


@pytest.mark.long
def test_killed_again_and_again_it_ends_the_same(finished: Path, tmp_path: Path) -> None:
    def interrupt(victim: Callable[[psutil.Process], psutil.Process | None], when: Callable[[], bool]) -> None:
        """Start the campaign, wait for a moment, kill -9 a process of it; wait for its end if it goes on without."""
        process = start(tmp_path, "run", str(SMALL))
        campaign = psutil.Process(process.pid)
        while process.poll() is None:
            if when() and (unlucky := victim(campaign)) is not None:
                unlucky.send_signal(signal.SIGKILL)
                if unlucky.pid == process.pid:
                    break
                when = lambda: False  # noqa: E731  one victim a run
            time.sleep(0.05)
        said, _ = process.communicate(timeout=600)
        if process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(said)

    def count(what: str) -> int:
        try:
            return int(ask(tmp_path, f"select count(*) from calculations where {what}")[0][0])
        except sqlite3.OperationalError:  # not made yet
            return 0

    def itself(campaign: psutil.Process) -> psutil.Process:
        return campaign

    def child(pattern: str) -> Callable[[psutil.Process], psutil.Process | None]:
        def find(campaign: psutil.Process) -> psutil.Process | None:
            for process in campaign.children(recursive=True):
                try:
                    if re.search(pattern, " ".join(process.cmdline())):
                        return process
                except psutil.Error:
                    continue
            return None

        return find

    dft = [0]

    def more_dft() -> bool:
        return count("fidelity = 'dft'") > dft[0]

    # The flow, as soon as it has written what it proposes and screening has begun.
    interrupt(itself, lambda: count("1") >= 0 and (tmp_path / "assay.db").exists() and bool(_workers()))
    # A Dask worker: the run goes on without it, and on to DFT; then the flow again in the midst of DFT.
    interrupt(itself, more_dft)
    dft[0] = count("fidelity = 'dft'")
    assert dft[0] >= 1
    # A DFT process: it is sent again, and the run ends.
    interrupt(child("driver.py gpaw"), lambda: True)
    run(tmp_path, "run", str(SMALL))

    undisturbed, disturbed = rows(finished), rows(tmp_path)
    assert disturbed.keys() == undisturbed.keys()
    for material_id, (*facts, energy, gap) in undisturbed.items():
        *facts_again, energy_again, gap_again = disturbed[material_id]
        assert facts_again == facts, material_id
        assert energy_again == pytest.approx(energy, abs=1e-3)
        assert gap_again == pytest.approx(gap, abs=5e-3) if gap is not None else gap_again is None
    # Nothing is there twice, and nothing was recorded as failed because its process was killed.
    assert ask(tmp_path, "select calculation_id from calculations group by calculation_id having count(*) > 1") == []
    assert ask(tmp_path, "select count(*) from calculations") == ask(finished, "select count(*) from calculations")
    assert ask(tmp_path, "select status, count(*) from calculations group by 1") == ask(
        finished, "select status, count(*) from calculations group by 1"
    )


def _workers() -> list[int]:
    """Dask workers of this test's own campaign."""
    mine = os.getpid()
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        if "spawn_main" in " ".join(process.info["cmdline"] or []):
            try:
                if any(parent.pid == mine for parent in process.parents()):
                    found.append(process.pid)
            except psutil.Error:
                continue
    return found


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A terminal sends the signal to every process of the group: flow and workers alike."""
    quickstart = str(SMALL.parents[2] / "configs" / "quickstart.yaml")
    process = start(tmp_path, "run", quickstart, "--no-dft")
    while process.poll() is None:
        time.sleep(0.1)
        if (tmp_path / "assay.db").exists() and _count(tmp_path, "calculations") > 500:  # all elements, too
            os.killpg(process.pid, signal.SIGINT)
            break
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "goes on from there" in said
    assert "Traceback" not in said
    done = _count(tmp_path, "calculations")
    assert done > 0
    assert "not yet screened" in run(tmp_path, "status")
    # What is known by then can be looked at, and what the rest may change is not kept.
    assert _count(tmp_path, "ranked_candidates") > 0
    assert _count(tmp_path, "stabilities") == _count(tmp_path, "equivalences") == 0
    (report,) = (tmp_path / "assay-runs" / "reports").glob("*/summary.md")
    assert "not yet screened: " in report.read_text()
    said = run(tmp_path, "run", quickstart, "--no-dft")
    assert f"workers: {_count(tmp_path, 'calculations') - done} structures" in said
    assert f"Screened {_count(tmp_path, 'calculations')}" in said
    assert "not yet screened" not in report.read_text()


def _count(folder: Path, table: str) -> int:
    try:
        return int(ask(folder, f"select count(*) from {table}")[0][0])
    except sqlite3.OperationalError:  # not made yet
        return 0

"""Screening over real Dask workers, with structures that do their worst."""

import os
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from ase import units
from ase.io import read

from flows.run.context import Interrupted
from flows.stages.screen import screen
from materials.errors import ClusterError
from tests.integration.conftest import candidate


def test_each_poison_takes_only_its_own_structure(make_run: Any) -> None:
    healthy = [candidate(symbol, 3.4 + 0.02 * i) for i in range(10) for symbol in ("Cu", "Ni", "Ag")]
    killer, raiser, nan = candidate("Xe", 3.6), candidate("Kr", 3.6), candidate("Ar", 3.6)
    run = make_run("Poisoned", [*healthy[:15], killer, raiser, nan, *healthy[15:]])
    assert screen(run) == 33
    identity = run.potential_identity
    statuses = run.ledger.computed(identity.method, identity.level_of_theory, run.screening_hash)
    assert len(statuses) == 33
    assert {statuses[c.material_id] for c in healthy} == {"converged"}
    assert [statuses[c.material_id] for c in (killer, raiser, nan)] == ["failed", "failed", "failed"]
    failures = {failure.material_id: failure for failure in run.ledger.failures(run.campaign_id)}
    assert set(failures) == {killer.material_id, raiser.material_id, nan.material_id}
    assert "died" in failures[killer.material_id].message
    assert "krypton is not to my taste" in failures[raiser.material_id].message
    # Nothing is left to do, and nothing is tried again.
    assert screen(run) == 0


def test_a_structure_whose_workers_were_killed_by_others_is_tried_once_more_at_the_end(
    make_run: Any, tmp_path: Path
) -> None:
    run = make_run("Unlucky", [candidate("Cu", 3.4 + 0.02 * i) for i in range(20)] + [candidate("Xe", 3.6)])
    assert screen(run) == 21
    assert len((tmp_path / "deaths").read_text()) == 4
    assert not run.ledger.failures(run.campaign_id)


def unlucky(make_run: Any, candidates: list[Any], times: int, error: str = "") -> Any:
    potential = {
        "kind": "ase",
        "model": "tests.peers.calculators:Unlucky",
        "level_of_theory": "toy",
        "calculator_arguments": {"times": times, "error": error},
    }
    return make_run("Unlucky", candidates, potential=potential)


def statuses_of(run: Any) -> dict[str, str]:
    identity = run.potential_identity
    return run.ledger.computed(identity.method, identity.level_of_theory, run.screening_hash)  # type: ignore[no-any-return]


def test_six_kills_leave_the_ledger_of_an_undisturbed_run(make_run: Any, tmp_path: Path) -> None:
    """All six of the worker that has one structure: what kills again and again is tried beside one that is sound."""
    run = unlucky(make_run, [*[candidate("Cu", 3.4 + 0.02 * i) for i in range(6)], candidate("Xe", 3.6)], times=6)
    assert screen(run) == 7
    assert len((tmp_path / "deaths").read_text()) == 6
    assert set(statuses_of(run).values()) == {"converged"}
    assert not run.ledger.failures(run.campaign_id)


def test_a_lone_structure_that_nobody_vouches_for_is_tried_again_at_the_next_run(make_run: Any, tmp_path: Path) -> None:
    lone = candidate("Xe", 3.6)
    run = unlucky(make_run, [lone], times=6)
    assert screen(run) == 1
    assert statuses_of(run) == {lone.material_id: "crashed"}
    (failure,) = run.ledger.failures(run.campaign_id)
    assert "tried again at the next `assay run`" in failure.message
    assert screen(run) == 1
    assert statuses_of(run) == {lone.material_id: "converged"}
    assert screen(run) == 0


def test_a_full_disk_of_a_worker_is_no_fault_of_the_structure(make_run: Any) -> None:
    xenon, copper = candidate("Xe", 3.6), candidate("Cu", 3.6)
    run = unlucky(make_run, [copper, xenon], times=3, error="disk")
    screen(run)
    assert statuses_of(run) == {copper.material_id: "converged", xenon.material_id: "crashed"}
    assert screen(run) == 1
    assert statuses_of(run)[xenon.material_id] == "converged"


def test_what_fills_the_memory_of_a_worker_alone_is_to_blame_until_somebody_asks_again(make_run: Any) -> None:
    xenon, copper = candidate("Xe", 3.6), candidate("Cu", 3.6)
    run = unlucky(make_run, [copper, xenon], times=4, error="memory")
    screen(run)
    assert statuses_of(run) == {copper.material_id: "converged", xenon.material_id: "failed"}
    assert screen(run) == 0
    assert screen(replace(run, retry_failed=True)) == 1
    assert statuses_of(run)[xenon.material_id] == "converged"


def test_workers_that_can_do_nothing_are_no_fault_of_the_structures(
    make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("Balls", [candidate("Cu", 3.4 + 0.02 * i) for i in range(12)])
    broken = SimpleNamespace(relax_chunk=_broken)
    monkeypatch.setattr("models.relaxation.worker.relax_chunk", broken.relax_chunk)
    with pytest.raises(ClusterError, match="assay doctor"):
        screen(run)
    identity = run.potential_identity
    assert run.ledger.computed(identity.method, identity.level_of_theory, run.screening_hash) == {}


def test_a_worker_that_dies_as_it_starts_is_no_end(make_run: Any) -> None:
    run = make_run("Balls", [candidate("Cu", 3.6)])
    killed = threading.Thread(target=kill_the_first_worker)
    killed.start()
    assert screen(run) == 1
    killed.join()


def kill_the_first_worker() -> None:
    while True:
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
                    return


def test_a_stop_keeps_what_has_ended(make_run: Any) -> None:
    candidates = [candidate("Cu", 3.4 + 0.005 * i) for i in range(100)]
    run = make_run("Balls", candidates)
    keep = run.ledger.add_calculations

    def keep_and_stop(calculations: Any) -> None:
        keep(calculations)
        run.stop.set()

    run.ledger.add_calculations = keep_and_stop
    with pytest.raises(Interrupted):
        screen(run)
    identity = run.potential_identity
    done = len(run.ledger.computed(identity.method, identity.level_of_theory, run.screening_hash))
    assert 0 < done < 100
    run.stop.clear()
    run.ledger.add_calculations = keep
    assert screen(run) == 100 - done


def test_options_reach_the_workers_and_trajectories_come_back(make_run: Any) -> None:
    candidates = [candidate("Cu", a) for a in (3.5, 3.8)]
    run = make_run("Balls", candidates, pressure_gpa=5.0, max_stress_gpa=0.1, trajectories=True)
    assert screen(run) == 2
    calculations = run.ledger.calculations(campaign_id=run.campaign_id, fidelity="mlip")
    for proposed in candidates:
        calculation = calculations[proposed.material_id]
        images = read(run.folder / "trajectories" / run.campaign_id / f"{proposed.material_id}.extxyz", ":")
        assert calculation.status == "converged"
        assert len(images) >= 2
        assert np.allclose(images[0].cell, proposed.structure.lattice.matrix)
        assert images[-1].get_potential_energy() == pytest.approx(calculation.energy)
        stress = images[-1].get_stress(voigt=False) / units.GPa
        assert np.abs(stress + 5.0 * np.eye(3)).max() < 0.1
        enthalpies = [i.get_potential_energy() + 5.0 * units.GPa * i.get_volume() for i in images]
        assert enthalpies == sorted(enthalpies, reverse=True)


def _broken(*arguments: Any) -> None:
    raise RuntimeError(f"no model in {os.getpid()}")

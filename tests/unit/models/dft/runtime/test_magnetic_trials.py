"""Magnetic orders tried one after the other, with an Ising model in place of a DFT code."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from pymatgen.core import Lattice, Structure

from models.dft.presets import cell_of, spin_of
from models.dft.runtime import calculation as course
from models.dft.runtime import magnetic_trials

OXIDE = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.17), ["Ni", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)])


class Ising(Calculator):
    """Antiparallel neighbours at the lattice constant lower the energy by 0.1 eV; moments stay, or vanish."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, vanish: bool) -> None:
        super().__init__()
        self.vanish = vanish

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        from ase.neighborlist import neighbor_list

        start = self.atoms.get_initial_magnetic_moments()
        self.moments = 0.0 * start if self.vanish else 0.8 * start
        first, second, distance = neighbor_list("ijd", self.atoms, 4.2)
        bonds = zip(first, second, distance, strict=True)
        signs = np.sign(self.moments)
        energy = sum(0.05 * signs[i] * signs[j] for i, j, d in bonds if abs(d - 4.17) < 0.05)
        self.results = {"energy": energy, "forces": np.zeros((len(self.atoms), 3)), "stress": np.zeros(6)}


class Physics(SimpleNamespace):
    """What `course` asks of a code; it counts what it is asked."""

    LOG = "log.txt"

    def __init__(self, *, failing: tuple[str, ...] = (), vanish: bool = False, killed_at: int | None = None) -> None:
        super().__init__(failing=failing, vanish=vanish, killed_at=killed_at, scf=[], gaps=[], gapless=0)

    def ground_state(self, atoms: Any, task: Any) -> tuple[Any, list[str]]:
        names = {tuple(m): n for n, m in task["settings"]["magnetic_orders"]["tried"]}
        name = names[tuple(atoms.get_initial_magnetic_moments().tolist())]
        if len(self.scf) == self.killed_at:
            raise KeyboardInterrupt
        self.scf.append(name)

        def attempt(rung: str) -> None:
            if name in self.failing:
                raise course.NotConverged("never")

        rungs = course.climb(["default", "slow"], attempt, self.LOG)
        atoms.calc = Ising(self.vanish)
        atoms.get_potential_energy()
        return atoms.calc, rungs

    def properties(self, calc: Ising, settings: Any) -> dict[str, Any]:
        return {"total_magnetization": float(calc.moments.sum()), "magmoms": calc.moments.tolist()}

    def band_gap(self, calc: Ising, settings: Any) -> float:
        self.gaps.append(1)
        if len(self.gaps) <= self.gapless:
            raise course.Ended("scf_not_converged", "the levels at the density did not converge")
        return 1.0

    def forget(self, calc: Ising) -> None:
        pass

    def convergence_errors(self) -> tuple[type[Exception], ...]:
        return ()


def task(mode: str = "static", **spin: Any) -> dict[str, Any]:
    fields = {"mode": mode, "fmax": 0.05, "max_stress_gpa": 1.0, "max_steps": 3, **spin_of(OXIDE, "auto"), **spin}
    cell = cell_of(OXIDE, fields["magnetic_orders"])
    return {
        "settings": fields,
        "numbers": [site.specie.Z for site in cell],
        "cell": cell.lattice.matrix.tolist(),
        "scaled_positions": cell.frac_coords.tolist(),
    }


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_lowest_is_kept_and_its_gap_alone_is_asked_for() -> None:
    physics = Physics()
    result = magnetic_trials.compute(task(), 0.0, physics)
    found = result["properties"]
    assert found["magnetic_order"] == "antiferromagnetic (½ ½ ½)"
    assert found["total_magnetization_per_formula_unit"] == pytest.approx(0)
    assert result["energy"] == pytest.approx(-0.3 * 4)
    assert [trial["order"] for trial in found["orders_tried"]] == [
        "antiferromagnetic (½ ½ ½)",
        "antiferromagnetic (0 0 1)",
        "ferromagnetic",
    ]
    ferromagnet = found["orders_tried"][-1]
    assert ferromagnet["energy_per_atom"] == pytest.approx(0.15)
    assert ferromagnet["total_magnetization"] == pytest.approx(1.6 * 4)
    assert len(physics.gaps) == 1


@pytest.mark.parametrize("at", [1, 2])
def test_what_was_tried_is_not_tried_again(at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        magnetic_trials.compute(task(), 0.0, Physics(killed_at=at))
    physics = Physics()
    result = magnetic_trials.compute(task(), 0.0, physics)
    assert len(physics.scf) == 3 - at
    assert not physics.gaps
    assert result == magnetic_trials.compute(task(), 0.0, Physics())
    assert result["properties"]["magnetic_order"] == "antiferromagnetic (½ ½ ½)"
    assert magnetic_trials.time_used() > 0


def test_an_order_that_does_not_converge_is_noted_and_the_others_go_on() -> None:
    physics = Physics(failing=("antiferromagnetic (½ ½ ½)",))
    result = magnetic_trials.compute(task(), 0.0, physics)
    assert result["properties"]["magnetic_order"] in ("antiferromagnetic (0 0 1)", "ferromagnetic")
    noted = result["properties"]["orders_tried"][0]
    assert noted["energy_per_atom"] is None
    assert "default, then slow" in noted["message"]
    assert result["properties"]["mixing"] == "default"  # that rungs failed for another order does not count
    everything = tuple(name for name, _ in task()["settings"]["magnetic_orders"]["tried"])
    Path("orders.json").unlink()
    with pytest.raises(course.Ended) as ended:
        magnetic_trials.compute(task(), 0.0, Physics(failing=everything))
    assert ended.value.status == "scf_not_converged"


def test_an_order_whose_levels_do_not_converge_is_noted_and_the_others_go_on() -> None:
    physics = Physics()
    physics.gapless = 1
    found = magnetic_trials.compute(task(), 0.0, physics)["properties"]
    assert found["magnetic_order"] == "antiferromagnetic (0 0 1)"
    assert found["orders_tried"][0]["energy_per_atom"] is None
    assert "levels at the density" in found["orders_tried"][0]["message"]


def test_a_kill_after_an_order_that_failed_leaves_no_rung_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    first = "antiferromagnetic (½ ½ ½)"
    write = course.write

    def killed(name: str, content: Any) -> None:
        write(name, content)
        if name == magnetic_trials.FILE:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(course, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            magnetic_trials.compute(task(), 0.0, Physics(failing=(first,)))
    found = magnetic_trials.compute(task(), 0.0, Physics(failing=(first,)))["properties"]
    assert [trial["energy_per_atom"] is None for trial in found["orders_tried"]] == [True, False, False]


def test_moments_that_vanish_are_a_result() -> None:
    result = magnetic_trials.compute(task(), 0.0, Physics(vanish=True))
    assert result["properties"]["magnetic_order"] == "none"
    assert result["properties"]["total_magnetization_per_formula_unit"] == 0.0


def test_a_relaxation_relaxes_the_lowest() -> None:
    physics = Physics()
    result = magnetic_trials.compute(task("relax"), 0.0, physics)
    assert result["properties"]["magnetic_order"] == "antiferromagnetic (½ ½ ½)"
    assert len(physics.gaps) == 1
    assert physics.scf[:3] == [name for name, _ in task()["settings"]["magnetic_orders"]["tried"]]
    assert set(physics.scf[3:]) == {"antiferromagnetic (½ ½ ½)"}


@pytest.mark.parametrize(
    ("magmoms", "started", "order"),
    [
        ([1.7, -1.7, 0.0], [2, -2, 0], "AFM"),
        ([-1.7, 1.7, 0.0], [2, -2, 0], "AFM"),
        ([1.7, 1.7, 0.1], [2, -2, 0], "ferromagnetic"),
        ([1.7, -1.2, 0.1], [2, 2, 0], "ferrimagnetic"),
        ([1.7, -1.7, 0.0], [2, 2, 0], "antiferromagnetic"),
        ([0.01, -0.01, 0.0], [2, -2, 0], "none"),
        ([2.2, 2.2, -0.08], None, "ferrimagnetic"),
        ([], [2.0], "none"),
    ],
)
def test_what_became_of_an_order(magmoms: list[float], started: list[float] | None, order: str) -> None:
    assert magnetic_trials.order_found(magmoms, sum(magmoms), started, "AFM") == order


def test_moments_are_given_a_formula_unit() -> None:
    def moment(numbers: list[int], total: float) -> float:
        found = {"total_magnetization": total, "magmoms": [total / len(numbers)] * len(numbers)}
        said = magnetic_trials.moments_of(numbers, found, None, "ferromagnetic")
        return float(said["total_magnetization_per_formula_unit"])

    assert moment([8, 8], 2.0) == 2.0  # O2
    assert moment([26, 26], 4.4) == pytest.approx(2.2)
    assert moment([19, 8, 8] * 4, 4.0) == 1.0  # KO2
    assert magnetic_trials.moments_of([3], {}, None, "") == {"magnetic_order": "none"}

"""What every calculation of a driven code goes through."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from models.dft.runtime import calculation as course


class Pushed(Calculator):
    """Two atoms, pushed along a diagonal by a force of 0.04 eV/Å along each axis of a plane."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        forces = np.array([[0.04, -0.04, 0.0], [-0.04, 0.04, 0.0]])
        self.results = {"energy": -1.0, "forces": forces, "stress": np.zeros(6)}


def ground_state(atoms: Any, task: Any) -> tuple[Any, list[str]]:
    atoms.calc = atoms.calc or Pushed()
    return atoms.calc, ["default"]


PHYSICS = SimpleNamespace(
    LOG="log.txt",
    ground_state=ground_state,
    convergence_errors=lambda: (),
    properties=lambda *_: {},
    band_gap=lambda *_: 0.0,
)


@pytest.mark.parametrize(("fmax", "status"), [(0.05, "max_steps"), (0.057, "converged")])
def test_the_largest_force_is_its_length_where_it_is_written_and_where_it_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmax: float, status: str
) -> None:
    monkeypatch.chdir(tmp_path)
    atoms = Atoms("Si2", scaled_positions=[(0, 0, 0), (0.25, 0.25, 0.25)], cell=[5.4] * 3, pbc=True)
    task = {"settings": {"mode": "relax", "fmax": fmax, "max_stress_gpa": 0.5, "max_steps": 0}}
    result = course.evaluate(atoms, task, 0.0, PHYSICS)
    assert result["status"] == status
    assert result["max_force"] == pytest.approx(0.04 * 2**0.5)

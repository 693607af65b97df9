"""pw.x itself: its forces and stresses against its energies, its ranks, and a whole campaign. What every code must do,
test_dft_contract.py asks."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from pymatgen.core import Lattice, Structure

from materials.errors import CodeNotInstalled
from models.dft.base import DFTCode, Limits, clean_environment
from models.dft.espresso.calculation import PwCalculator
from models.dft.espresso.code import Espresso
from tests.integration import conftest
from tests.peers.dft_cases import NICKEL_OXIDE, SILICON, Ask, diamond, espresso, fcc, nobody_works_in, run, working_in

pytestmark = [pytest.mark.dft, pytest.mark.slow]

ALUMINIUM_ARSENIDE = Structure.from_spacegroup(
    "F-43m", Lattice.cubic(5.66), ["Al", "As"], [(0, 0, 0), (0.25, 0.25, 0.25)]
)


@pytest.fixture(scope="module")
def code() -> DFTCode:
    try:
        return espresso()
    except CodeNotInstalled as error:
        pytest.skip(str(error))


def calculated(code: DFTCode, structure: Structure, **settings: Any) -> Atoms:
    """The primitive cell with pw.x behind it, converged further than any preset asks.

    The mesh holds Γ: a shifted one has less symmetry than the cell.
    """
    assert isinstance(code, Espresso)
    mesh = {"kpoints": (3, 3, 3), "kpoint_shift": (False, False, False)}
    asked = Ask(structure=structure, settings={"convergence_density": 1e-6, **mesh, **settings})
    task = {**code.task(structure, asked.settings_for(code)), "launcher": ()}
    atoms = Atoms(numbers=task["numbers"], scaled_positions=task["scaled_positions"], cell=task["cell"], pbc=True)
    atoms.calc = PwCalculator(task)
    return atoms


def test_forces_are_what_the_energy_says(code: DFTCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    atoms = calculated(code, ALUMINIUM_ARSENIDE)
    start = atoms.positions.copy()
    atoms.positions[1] = start[1] + (0.1, 0.05, 0)
    force, here, energies = atoms.get_forces()[1, 0], atoms.positions.copy(), []
    for step in (-0.02, 0.02):
        atoms.positions = here
        atoms.positions[1, 0] += step
        energies.append(atoms.get_potential_energy())
    assert abs(force) > 0.3
    assert force == pytest.approx(-(energies[1] - energies[0]) / 0.04, abs=0.005)


def test_forces_with_u_are_what_the_energy_says(code: DFTCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mesh = {"kpoints": (2, 2, 2), "magnetic_orders": {}}
    atoms = calculated(espresso({"Ni": 6.0}), NICKEL_OXIDE, **mesh)
    atoms.set_initial_magnetic_moments([2.0 if symbol == "Ni" else 0.0 for symbol in atoms.symbols])
    oxygen = list(atoms.symbols).index("O")
    atoms.positions[oxygen] += (0.12, 0.05, 0)
    force, here, energies = atoms.get_forces()[oxygen, 0], atoms.positions.copy(), []
    for step in (-0.02, 0.02):
        atoms.positions = here
        atoms.positions[oxygen, 0] += step
        energies.append(atoms.get_potential_energy())
    assert abs(force) > 0.3
    assert force == pytest.approx(-(energies[1] - energies[0]) / 0.04, abs=0.01)


def test_the_stress_is_what_the_energy_says(code: DFTCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # So many plane waves that their number does not matter.
    atoms = calculated(code, diamond("Si", 5.3), cutoff_ev=600.0, density_cutoff_ev=2400.0)

    def strain(by: Any) -> None:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array(by)), scale_atoms=True)

    strain([[0.01, 0.02, 0], [0.02, 0, 0], [0, 0, 0]])
    cell, volume, stress = atoms.cell.array.copy(), atoms.get_volume(), atoms.get_stress()
    assert stress[:3].max() < -0.02  # pressed together, it wants to grow
    assert stress[5] > 0.02  # sheared, it wants to go back
    for index, direction in ((0, [[1, 0, 0], [0, 0, 0], [0, 0, 0]]), (5, [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]])):
        energies = []
        for step in (-0.004, 0.004):
            atoms.set_cell(cell, scale_atoms=True)
            strain(step * np.array(direction))
            energies.append(atoms.get_potential_energy())
        assert stress[index] == pytest.approx((energies[1] - energies[0]) / 0.008 / volume, abs=1e-3)


def test_a_ferromagnet_and_what_the_table_lacks(code: DFTCode, tmp_path: Path) -> None:
    asked = {
        "nickel": Ask(structure=fcc("Ni", 3.45), settings={"kpoints": (6, 6, 6), "magnetic_orders": {}}),
        "germanium": Ask(structure=diamond("Ge", 5.66)),
        # Enough steps for the second rung of the ladder, not for the first.
        "slow": Ask(structure=SILICON, settings={"max_scf_steps": 5, "convergence_density": 1e-5}),
    }
    results = run(tmp_path, code, asked)
    # Experiment says 0.6 μB.
    assert results["nickel"].properties["total_magnetization"] == pytest.approx(0.6, abs=0.15)
    assert results["nickel"].band_gap == 0.0
    assert results["germanium"].status == "failed"
    assert "has no pseudopotential for Ge" in results["germanium"].message
    assert (results["slow"].status, results["slow"].attempts) == ("converged", 2)
    assert results["slow"].properties["mixing"] == "slow"


@pytest.mark.skipif(not shutil.which("mpirun"), reason="no mpirun")
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_no_rank_outlives_its_driver(code: DFTCode, tmp_path: Path, signum: int) -> None:
    dear = {"cutoff_ev": 2000.0, "density_cutoff_ev": 8000.0, "kpoints": (12, 12, 12)}
    limits = Limits(cores=2)
    code.write_inputs(tmp_path, SILICON, Ask(structure=SILICON, settings=dear).settings_for(code), limits)
    driver = subprocess.Popen(
        code.command(tmp_path, ("mpirun", "--oversubscribe", "-np", "2")),
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while sum("pw.x" in words.split()[0] for words in working_in(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert len(working_in(tmp_path)) == 4  # the driver, mpirun, and two ranks
    os.kill(driver.pid, signum)
    driver.wait(30)
    assert nobody_works_in(tmp_path), working_in(tmp_path)


def test_a_whole_campaign(code: DFTCode, tmp_path: Path) -> None:
    campaign = Path(__file__).with_name("espresso.yaml")
    said = conftest.run(tmp_path, "run", str(campaign))
    assert "DFT (espresso, quick)" in said
    table = json.loads(conftest.run(tmp_path, "table", "--where", "status = validated", "--format", "json"))
    assert len(table) == 2
    best, other = table
    assert best["level_of_theory"].startswith("LDA/debian-lda-")
    assert best["level_of_theory"] == other["level_of_theory"]
    # Experiment: zincblende, -0.6 eV/atom from the elements (https://doi.org/10.1063/1.1368156: a = 5.66 Å); LDA's
    # indirect gap is 1.3 to 1.4 eV. Rocksalt appears under pressure only.
    assert best["formation_energy_per_atom"] == pytest.approx(-0.6, abs=0.1)
    assert best["band_gap"] == pytest.approx(1.4, abs=0.2)
    assert other["energy_above_hull"] > 0.1 > best["energy_above_hull"]
    assert other["band_gap"] == 0.0
    # Run again, it computes nothing.
    assert "calculations" not in conftest.run(tmp_path, "run", str(campaign))

"""GPAW itself, through the folders and processes that campaigns use, on cells of one to three atoms."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from flows.jobs import folder_of, job_for, run_jobs
from materials.errors import CodeNotInstalled
from models.dft.contract import DFTResult, DFTSettings, Limits, clean_environment
from models.dft.gpaw import Gpaw
from models.dft.presets import settings_for

CODE = Gpaw()


pytestmark = [pytest.mark.dft, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    try:
        CODE.version()
    except CodeNotInstalled as error:
        pytest.skip(str(error))


def silicon(a: float = 5.43) -> Structure:
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(a), ["Si"], [(0, 0, 0)])


def quick(structure: Structure, **settings) -> DFTSettings:
    elements = [element.symbol for element in structure.composition.elements]
    return replace(settings_for("quick", elements, structure, code=CODE), **settings)


def run(folder: Path, asked: dict[str, tuple[Structure, DFTSettings]], **limits: float) -> dict[str, DFTResult]:
    results: dict[str, DFTResult] = {}
    run_jobs(
        [job_for(name, structure, settings, CODE) for name, (structure, settings) in asked.items()],
        CODE,
        runs_dir=folder,
        concurrent=2,
        limits=Limits(**{"walltime_s": 300.0, **limits}),
        on_result=lambda job, result: results.__setitem__(job.material_id, result),
        stop=threading.Event(),
    )
    return results


def test_each_end(tmp_path: Path) -> None:
    near = Structure(Lattice.cubic(5.0), ["Si", "Si"], [(0, 0, 0), (0.2, 0, 0)])
    iron = Structure.from_spacegroup("Im-3m", Lattice.cubic(2.83), ["Fe"], [(0, 0, 0)])
    calcium = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.53), ["Ca"], [(0, 0, 0)])
    results = run(
        tmp_path,
        {
            "silicon": (silicon(), quick(silicon())),
            "scf": (silicon(), quick(silicon(), max_scf_steps=1)),
            "near": (near, quick(near)),
            "iron": (iron, quick(iron, kpoints=(4, 4, 4), cutoff_ev=350.0)),
            "calcium": (calcium, quick(calcium, kpoints=(4, 4, 4), cutoff_ev=350.0)),
        },
    )
    assert {name: result.status for name, result in results.items()} == {
        "silicon": "converged",
        "scf": "scf_not_converged",
        "near": "failed",
        "iron": "converged",
        "calcium": "converged",
    }
    assert "1.00 Å apart" in results["near"].message
    assert "with mixing default, then slow" in results["scf"].message
    assert results["silicon"].properties["mixing"] == "default"
    gap = results["silicon"].band_gap
    # PBE: 0.57 to 0.61 eV at 85 % of the way to X (https://doi.org/10.1103/PhysRevB.82.205212), 0.71 at X itself.
    assert gap is not None
    assert 0.55 < gap < 0.75
    # Experiment says 2.2 μB.
    assert results["iron"].properties["total_magnetization"] == pytest.approx(2.2, abs=0.2)
    assert results["iron"].band_gap == 0.0
    # Left alone, GPAW gives calcium no band above the filled ones, and calls it an insulator.
    assert results["calcium"].band_gap == 0.0


def test_a_relaxation_is_stopped_and_goes_on_to_the_right_lattice_constant(tmp_path: Path) -> None:
    structure = silicon(5.7)
    settings = replace(settings_for("quick", ["Si"], structure, code=CODE, relax=True), max_stress_gpa=0.3)
    job = job_for("silicon", structure, settings, CODE)
    folder = folder_of(tmp_path, job.calculation_id)
    CODE.write_inputs(folder, structure, settings, Limits(walltime_s=300.0))
    process = subprocess.Popen(CODE.command(folder, ()), env=clean_environment(), stdout=subprocess.DEVNULL)
    checkpoint = folder / "checkpoint.json"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (checkpoint.exists() and json.loads(checkpoint.read_text())["n_steps"]):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 20
    assert not (folder / "result.json").exists()
    before = json.loads(checkpoint.read_text())

    result = run(tmp_path, {"silicon": (structure, settings)})["silicon"]
    assert result.status == "converged"
    assert result.n_steps > before["n_steps"] >= 1
    assert result.wall_time_s > before["wall_time_s"]
    assert result.energy is not None
    assert result.energy < before["energies"][0]
    # PBE, https://doi.org/10.1103/PhysRevB.79.085104: 5.469 Å.
    assert (8 / len(result.structure) * result.structure.volume) ** (1 / 3) == pytest.approx(5.469, abs=0.02)


def test_memory_and_time_are_bounded(tmp_path: Path) -> None:
    assert run(tmp_path / "a", {"x": (silicon(), quick(silicon()))}, walltime_s=1.2)["x"].status == "walltime"
    small = run(tmp_path / "b", {"x": (silicon(), quick(silicon(), cutoff_ev=2000.0))}, memory_gib=0.15)["x"]
    assert small.status == "out_of_memory"


def test_the_same_energy_from_any_cell_and_any_number_of_ranks(tmp_path: Path) -> None:
    settings = quick(silicon())
    alone = run(tmp_path / "a", {"cubic": (silicon(), settings)})["cubic"]
    primitive = silicon().get_primitive_structure()
    cores = 2 if shutil.which("mpirun") else 1
    other = run(tmp_path / "b", {"primitive": (primitive, settings)}, cores=cores)["primitive"]
    assert alone.energy is not None
    assert other.energy is not None
    assert alone.energy / len(alone.structure) == pytest.approx(other.energy / len(other.structure), abs=1e-5)

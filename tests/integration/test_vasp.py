"""VASP's stand-in with custodian around it: what is repaired, what is not, and how a campaign uses its energies."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.io import read as ase_read
from pymatgen.core import Structure
from pymatgen.io.vasp.outputs import Oszicar, Outcar, Vasprun

from flows.dft.outcomes import ATTEMPTS
from flows.dft.run import folder_of, job_for
from models.dft.base import DFTResult, Limits, clean_environment
from models.dft.vasp.code import Vasp
from models.dft.vasp.output import site_moments
from tests.peers import vasp as peer
from tests.peers.dft_cases import SILICON, Ask, diamond, run, told, vasp

STRETCHED = diamond("Si", 5.3)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def code() -> Vasp:
    return vasp()


def only(folder: Path, code: Vasp, ask: Ask, **limits: float) -> DFTResult:
    return run(folder, code, {"x": ask}, **limits)["x"]


def runs_in(folder: Path) -> int:
    (count,) = folder.rglob("stand-in.runs")
    return len(count.read_text().splitlines())


# The stand-in itself


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, code: Vasp) -> Path:
    """What the stand-in writes in a relaxation, with no custodian around it."""
    folder = tmp_path_factory.mktemp("alone")
    moved = STRETCHED.copy()
    code.write_inputs(folder, moved, Ask(structure=moved, relax=True).settings_for(code), Limits())
    program = json.loads((folder / "task.json").read_text())["program"]
    said = subprocess.run(program, cwd=folder, capture_output=True, text=True, env=os.environ | told(seconds=0))
    assert said.returncode == 0, said.stderr
    assert "reached required accuracy - stopping structural energy minimisation" in said.stdout
    return folder


def test_others_read_its_files_as_they_read_vasps(outputs: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        run = Vasprun(outputs / "vasprun.xml", parse_potcar_file=False)
        outcar, oszicar = Outcar(outputs / "OUTCAR"), Oszicar(outputs / "OSZICAR")
        from_xml = ase_read(outputs / "vasprun.xml", index=-1)
        from_text = ase_read(outputs / "OUTCAR", index=-1)
    assert run.converged
    assert run.converged_electronic
    assert 1 < len(run.ionic_steps) < 99
    energy = run.final_energy
    assert [outcar.final_energy, oszicar.final_energy] == pytest.approx([energy] * 2, abs=1e-6)
    assert [a.get_potential_energy() for a in (from_xml, from_text)] == pytest.approx([energy] * 2, abs=1e-6)
    assert len(oszicar.ionic_steps) == len(run.ionic_steps) == len(ase_read(outputs / "OUTCAR", index=":"))
    assert np.allclose(from_xml.get_forces(), from_text.get_forces(), atol=1e-5)
    assert np.allclose(from_xml.get_stress(), from_text.get_stress(), atol=1e-5)
    assert outcar.efermi == pytest.approx(run.efermi, abs=1e-3)
    assert site_moments(outputs / "OUTCAR") == [site["tot"] for site in outcar.magnetization] != []
    assert outcar.run_stats["Total CPU time used (sec)"] > 0
    gap, _, _, _ = run.eigenvalue_band_properties
    assert gap == pytest.approx(1.2, abs=1e-3)
    contcar = Structure.from_file(outputs / "CONTCAR")
    assert contcar.matches(run.final_structure)
    assert contcar.volume == pytest.approx(run.final_structure.volume, rel=1e-6)


def test_it_checks_what_vasp_checks(outputs: Path, tmp_path: Path) -> None:
    for name in ("INCAR", "KPOINTS", "POSCAR"):
        (tmp_path / name).write_text((outputs / name).read_text())
    (tmp_path / "POTCAR").write_text((outputs / "POTCAR").read_text().replace("PAW_PBE Si", "PAW_PBE Al"))
    said = subprocess.run([sys.executable, "-P", peer.__file__], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 1
    assert "POSCAR and POTCAR are incompatible" in said.stdout


# What custodian repairs, and what it cannot


def test_zbrent_goes_on_from_contcar(tmp_path: Path, code: Vasp) -> None:
    asked = Ask(structure=STRETCHED, relax=True, environment=told(trouble="zbrent", times=1, step=3))
    result = only(tmp_path, code, asked)
    assert result.status == "converged", result.message
    assert result.attempts == 2
    (correction,) = result.properties["custodian"]
    assert correction["errors"] == ["zbrent"]
    assert {"file": "CONTCAR", "action": {"_file_copy": {"dest": "POSCAR"}}} in correction["actions"]
    assert runs_in(tmp_path) == 3  # the first relaxation twice, and the second
    assert result.n_steps > 3


def test_edddav_is_tried_with_another_algorithm(tmp_path: Path, code: Vasp) -> None:
    result = only(tmp_path, code, Ask(structure=SILICON, environment=told(trouble="edddav", times=1)))
    assert result.status == "converged", result.message
    (folder,) = (tmp_path / "dft").iterdir()
    assert "ALGO = All" in (folder / "INCAR").read_text()
    # What was mended is told; the question, and so the name of the calculation, is what it was.
    assert result.properties["custodian"][0]["errors"] == ["edddav"]


def test_what_custodian_cannot_mend_is_told_in_its_words(tmp_path: Path, code: Vasp) -> None:
    results = run(
        tmp_path,
        code,
        {
            "edddav": Ask(structure=SILICON, environment=told(trouble="edddav")),
            "refuse": Ask(structure=diamond("Si", 5.4), environment=told(trouble="refuse")),
            "memory": Ask(structure=diamond("Si", 5.5), environment=told(trouble="memory_words")),
            "lacking": Ask(structure=diamond("Ge", 5.6)),
        },
    )
    assert {name: result.status for name, result in results.items()} == {
        "edddav": "scf_not_converged",
        "refuse": "failed",
        "memory": "out_of_memory",
        "lacking": "failed",
    }
    assert "no POTCAR-PBE for Ge" in results["lacking"].message
    assert "custodian saw edddav, edddav" in results["edddav"].message
    assert "object at" not in results["edddav"].message
    assert "I REFUSE TO CONTINUE" in results["refuse"].message
    assert "insufficient virtual memory" in results["memory"].message
    assert all(result.energy is None for result in results.values())


@pytest.mark.parametrize(
    ("trouble", "relax", "seen"),
    [
        ("brmix", False, "brmix"),
        ("dentet", False, "dentet"),
        ("eddrmm", False, "eddrmm"),
        ("subspace", True, "subspacematrix"),
        ("brions", True, "brions"),
    ],
)
def test_a_warning_is_mended_once(tmp_path: Path, code: Vasp, trouble: str, relax: bool, seen: str) -> None:
    asked = Ask(structure=STRETCHED, relax=relax, environment=told(trouble=trouble, times=1))
    result = only(tmp_path, code, asked)
    assert (result.status, result.attempts) == ("converged", 2), result.message
    assert result.properties["custodian"][0]["errors"] == [seen]


def test_an_scf_cycle_that_stays_astray_has_not_converged(tmp_path: Path, code: Vasp) -> None:
    """VASP goes on after such warnings, and calls what comes out converged."""
    asked = {
        name: Ask(structure=diamond("Si", 5.3 + i / 10), environment=told(trouble=name))
        for i, name in enumerate(("brmix", "dentet", "eddrmm"))
    }
    for name, result in run(tmp_path, code, asked).items():
        assert (result.status, result.energy) == ("scf_not_converged", None)
        assert f"custodian saw {name}, {name}" in result.message


def test_what_neither_stops_vasp_nor_can_be_mended_is_no_end(tmp_path: Path, code: Vasp) -> None:
    result = only(tmp_path, code, Ask(structure=SILICON, environment=told(trouble="subspace")))
    assert (result.status, result.attempts) == ("converged", 1), result.message


@pytest.mark.parametrize("old", [True, False])
def test_an_energy_that_rises_is_a_failure_in_any_version(tmp_path: Path, code: Vasp, old: bool) -> None:
    asked = Ask(structure=STRETCHED, relax=True, environment=told(trouble="uphill", old=old))
    result = only(tmp_path, code, asked)
    assert result.status == "failed"
    assert "the energy rose by 0.0500 eV" in result.message


def test_an_older_versions_energy_is_read(tmp_path: Path, code: Vasp) -> None:
    old, new = (
        only(tmp_path / name, code, Ask(structure=SILICON, environment=told(old=name == "old")))
        for name in ("old", "new")
    )
    assert old.energy == pytest.approx(new.energy, abs=1e-7)


@pytest.mark.parametrize("trouble", ["killed", "segfault"])
def test_a_program_that_dies_gets_another_chance(tmp_path: Path, code: Vasp, trouble: str) -> None:
    once = Ask(structure=STRETCHED, relax=True, environment=told(trouble=trouble, times=1, step=3))
    assert only(tmp_path, code, once).status == "converged"


def test_one_that_always_dies_crashed(tmp_path: Path, code: Vasp) -> None:
    result = only(tmp_path, code, Ask(structure=SILICON, environment=told(trouble="killed")))
    assert result.status == "crashed"
    assert runs_in(tmp_path) == ATTEMPTS


def test_more_time_goes_on_from_where_it_was(tmp_path: Path, code: Vasp) -> None:
    slow = Ask(structure=STRETCHED, relax=True, environment=told(seconds=60, step=4))
    short = only(tmp_path, code, slow, walltime_s=20.0)
    assert short.status == "walltime"
    (folder,) = (tmp_path / "dft").iterdir()
    done = json.loads((folder / "checkpoint.json").read_text())["n_steps"]
    assert done == 3
    reached = Structure.from_file(folder / "CONTCAR")
    long = only(tmp_path, code, replace(slow, environment=told(seconds=0)), walltime_s=200.0)
    assert long.status == "converged", long.message
    assert long.n_steps > done
    assert long.wall_time_s > short.wall_time_s
    first = Vasprun(folder / "vasprun.xml.relax1", parse_potcar_file=False).initial_structure
    assert first.volume == pytest.approx(reached.volume, rel=1e-6)


def test_the_driver_ends_and_so_does_vasp(tmp_path: Path, code: Vasp) -> None:
    asked = Ask(structure=SILICON).settings_for(code)
    folder = folder_of(tmp_path, job_for("x", SILICON, asked, code).calculation_id)
    code.write_inputs(folder, SILICON, asked, Limits())
    environment = clean_environment() | told(seconds=60)
    driver = subprocess.Popen(code.command(folder, ()), cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    while not (folder / "OUTCAR").exists():
        time.sleep(0.05)
    pid = int((folder / "stand-in.runs").read_text())
    # An orphan's twin gives way.
    assert subprocess.run(code.command(folder, ()), cwd=folder, env=environment).returncode == 21
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert code.worker(folder) is None
    assert not (folder / "result.json").exists()

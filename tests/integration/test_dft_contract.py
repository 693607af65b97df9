"""What every DFT code must do, asked of each, run for real: in folders and processes, as campaigns run them."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

from flows.dft.run import folder_of, job_for
from materials.errors import CodeNotInstalled
from models.dft.base import DFTCode, DFTResult, Limits, clean_environment
from models.dft.calculation_record import calculation_from, level_of_theory, method_of
from tests.peers.dft_cases import (
    BOTH_ORDERS,
    CASES,
    HYDROGEN,
    Ask,
    Case,
    nobody_works_in,
    run,
    symbols_of,
    working_in,
)

pytestmark = [pytest.mark.dft, pytest.mark.slow]


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def code(case: Case) -> DFTCode:
    try:
        return case.open()
    except CodeNotInstalled as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def ended(case: Case, code: DFTCode, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DFTResult]:
    """Each way to end, and a metal."""
    folder = tmp_path_factory.mktemp("ends")
    return run(
        folder, code, {status: ask for status, (ask, _) in case.ends.items()} | {"metal": Ask(structure=case.metal)}
    )


def test_each_end_is_what_it_is_called(case: Case, ended: dict[str, DFTResult]) -> None:
    assert {status: ended[status].status for status in case.ends} == {status: status for status in case.ends}
    for status, (_, word) in case.ends.items():
        assert word in ended[status].message
        if status not in ("converged", "max_steps"):
            assert ended[status].energy is None
            assert ended[status].structure is None
            assert "dft" in ended[status].message  # the folder, for who wants to see more


def test_what_converged_has_all_its_numbers(ended: dict[str, DFTResult], code: DFTCode) -> None:
    result = ended["converged"]
    assert result.message == ""
    assert result.energy is not None
    assert result.energy < 0
    assert result.structure is not None
    assert len(result.structure) == 2  # the primitive cell
    assert result.max_force == pytest.approx(0, abs=0.05)
    assert result.max_stress is not None
    assert 0 < result.max_stress < 0.1
    assert result.wall_time_s > 0
    settings = Ask(structure=result.structure).settings_for(code)
    record = calculation_from(result, "silicon", method_of(code), settings)
    assert record.method.startswith(f"{code.name}-")
    assert record.properties["band_gap"] == result.band_gap
    assert record.level_of_theory == level_of_theory(settings)


def test_forces_and_stress_are_kept_in_the_order_of_the_sites(case: Case, code: DFTCode, tmp_path: Path) -> None:
    """Against energies, of the crystal that came back: the cell is turned and its sites are sorted on the way."""
    ask = case.skewed
    moved = run(tmp_path, code, {"moved": ask})["moved"]
    found, cell = moved.properties, moved.structure
    assert cell is not None, moved.message
    forces, stress = np.array(found["forces"]), np.array(found["stress"])
    assert forces.shape == (len(cell), 3)
    assert np.allclose(forces.sum(axis=0), 0, atol=0.02)
    assert np.allclose(stress, stress.T, atol=1e-6)
    assert abs(forces).max() > 0.3
    assert moved.max_stress == pytest.approx(abs(stress).max(), abs=1e-9)
    push = np.zeros((len(cell), 3))
    push[-1] = 0.01 * forces[-1] / np.linalg.norm(forces[-1])
    strain = 0.004 * stress / np.linalg.norm(stress)
    asked = {}
    for name, sign in (("back", -1), ("forth", 1)):
        coordinates, lattice = cell.cart_coords + sign * push, cell.lattice.matrix @ (np.eye(3) + sign * strain)
        pushed = Structure(cell.lattice, cell.species, coordinates, coords_are_cartesian=True)
        asked |= {f"pushed {name}": pushed, f"strained {name}": Structure(lattice, cell.species, cell.frac_coords)}
    energies = {
        name: result.energy or 0.0
        for name, result in run(tmp_path, code, {k: replace(ask, structure=s) for k, s in asked.items()}).items()
    }
    worth = {kind: (energies[f"{kind} forth"] - energies[f"{kind} back"]) / 2 for kind in ("pushed", "strained")}
    assert worth["pushed"] == pytest.approx(-(forces * push).sum(), rel=0.03)
    assert worth["strained"] == pytest.approx(cell.volume * (stress * strain).sum(), rel=0.03)


def test_moments_are_kept_in_the_order_of_the_sites(case: Case, code: DFTCode, tmp_path: Path) -> None:
    magnet = run(tmp_path, code, {"magnet": case.magnet})["magnet"]
    assert magnet.structure is not None, magnet.message
    moments, total = magnet.properties["magmoms"], magnet.properties["total_magnetization"]
    assert total > 0.5
    assert moments == pytest.approx([total * site.specie.is_transition_metal for site in magnet.structure], abs=0.15)


def test_the_lowest_magnetic_order_is_kept(case: Case, code: DFTCode, tmp_path: Path) -> None:
    if code.name == "vasp":
        pytest.skip("its input sets start ferromagnetic")
    mesh = {"kpoints": (2, 2, 2), "kpoint_shift": (True, True, True), "gap_kpoints": (1, 1, 1)}
    asked = Ask(structure=HYDROGEN, settings={"magnetic_orders": BOTH_ORDERS, "cutoff_ev": 300.0, **mesh})
    found = run(tmp_path, code, {"hydrogen": asked})["hydrogen"]
    assert found.status == "converged", found.message
    assert found.properties["magnetic_order"] == "antiferromagnetic (½ ½ ½)"
    assert found.properties["total_magnetization_per_formula_unit"] == pytest.approx(0.0, abs=0.01)
    up, down = found.properties["magmoms"]
    assert up == pytest.approx(-down, abs=0.01)
    assert up > 0.2  # within GPAW's small sphere
    assert found.band_gap is not None
    assert found.band_gap > 1.0
    antiparallel, parallel = found.properties["orders_tried"]
    assert found.energy == pytest.approx(2 * antiparallel["energy_per_atom"])
    assert 0.05 < parallel["energy_per_atom"] - antiparallel["energy_per_atom"] < 0.3
    assert parallel["total_magnetization"] == pytest.approx(2.0, abs=0.01)


def test_an_insulator_has_a_gap_and_a_metal_has_none(case: Case, ended: dict[str, DFTResult]) -> None:
    gap = ended["converged"].band_gap
    assert gap is not None
    assert case.gap[0] < gap < case.gap[1]
    assert ended["metal"].status == "converged"
    assert ended["metal"].band_gap == 0.0


def test_bands_that_touch_at_k_alone_are_seen_to_where_the_code_asks_for_k(
    case: Case, code: DFTCode, tmp_path: Path
) -> None:
    settings = case.honeycomb.settings_for(code)
    assert settings.kpoints[0] % 3  # the mesh of the density holds no K
    result = run(tmp_path, code, {"honeycomb": case.honeycomb})["honeycomb"]
    assert result.status == "converged", result.message
    assert result.band_gap is not None
    assert case.honeycomb_gap[0] <= result.band_gap <= case.honeycomb_gap[1]


def test_the_question_decides_the_hash_and_the_cell_does_not(case: Case, code: DFTCode) -> None:
    elements = symbols_of([case.insulator])
    asked = code.settings("quick", elements, case.insulator, geometry="abc")
    again = code.settings("quick", elements, case.insulator.get_primitive_structure(), geometry="abc")
    assert asked == again
    assert asked.settings_hash == again.settings_hash
    # As it is read back from a file.
    assert json.loads(json.dumps(asked.content())) == asked.content()
    others = [
        code.settings("quick", elements, case.insulator, geometry="abd"),
        code.settings("quick", elements, case.insulator, geometry="abc", relax=True),
        code.settings("quick", elements, case.metal, geometry="abc"),
        replace(asked, smearing_ev=0.1),
        replace(asked, potentials="others"),
    ]
    assert len({settings.settings_hash for settings in (asked, *others)}) == len(others) + 1


def test_the_level_of_theory_is_one_for_a_hull_and_of_this_code_alone(case: Case, code: DFTCode) -> None:
    elements = symbols_of([case.insulator, case.metal])
    levels = {level_of_theory(code.settings("quick", elements, s)) for s in (case.insulator, case.metal)}
    assert len(levels) == 1
    (level,) = levels
    assert code.settings("quick", elements, case.metal).functional in level
    asked = code.settings("quick", elements, case.metal)
    # Where a code has rules of its own for the level, they have looked at the potentials before.
    others = {"potentials": "others"} if not asked.level else {"level": "others"}
    assert level_of_theory(replace(asked, **others)) != level
    for other in CASES.values():
        try:
            opened = other.open()
        except CodeNotInstalled:
            continue
        if opened.name != code.name:
            assert level_of_theory(opened.settings("quick", elements, case.metal)) != level


def test_the_input_is_there_before_anything_runs(case: Case, code: DFTCode, tmp_path: Path) -> None:
    folder = tmp_path / "a calculation"
    limits = Limits(cores=4)
    code.write_inputs(folder, case.insulator, Ask(structure=case.insulator).settings_for(code), limits)
    assert any(folder.iterdir())
    assert not code.finished(folder, limits)
    assert code.worker(folder) is None
    assert code.parse(folder).status == "crashed"
    alone, ranks = code.command(folder, ()), code.command(folder, limits.launcher)
    assert str(folder) in " ".join(alone)
    assert " ".join(limits.launcher) in " ".join(ranks)


def test_a_calculation_that_was_given_up_has_ended(case: Case, code: DFTCode, tmp_path: Path) -> None:
    settings = Ask(structure=case.insulator).settings_for(code)
    for status, more in (
        ("crashed", None),
        ("walltime", Limits(walltime_s=200)),
        ("out_of_memory", Limits(memory_gib=9)),
    ):
        folder = tmp_path / status
        had = Limits(walltime_s=100, memory_gib=1)
        code.write_inputs(folder, case.insulator, settings, had)
        code.give_up(folder, DFTResult(status=status, message="why", wall_time_s=2.0))
        assert code.finished(folder, had)
        result = code.parse(folder)
        assert (result.status, result.energy, result.wall_time_s) == (status, None, 2.0)
        assert "why" in result.message
        if more is not None:  # which could better it
            assert not code.finished(folder, more)


def test_a_torn_result_is_none(case: Case, code: DFTCode, tmp_path: Path) -> None:
    code.write_inputs(tmp_path, case.insulator, Ask(structure=case.insulator).settings_for(code), Limits())
    code.give_up(tmp_path, DFTResult(status="crashed"))
    (result,) = [file for file in tmp_path.iterdir() if "crashed" in file.read_text(errors="replace")]
    result.write_text('{"status": "conv')
    assert not code.finished(tmp_path, Limits())
    found = code.parse(tmp_path)
    assert found.status == "crashed"
    assert f"{result.name}: no result" in found.message


def steps_of(folder: Path) -> int:
    checkpoint = folder / "checkpoint.json"
    return int(json.loads(checkpoint.read_text())["n_steps"]) if checkpoint.exists() else 0


def interrupt(folder: Path, code: DFTCode, signum: int, *, after: int) -> None:
    """Start what lies in a folder, and end it after so many steps."""
    process = subprocess.Popen(
        code.command(folder, ()),
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while steps_of(folder) < after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert code.worker(folder) == process.pid
    os.kill(process.pid, signum)
    assert process.wait(30) != 0
    assert nobody_works_in(folder), working_in(folder)
    assert code.worker(folder) is None
    assert not code.finished(folder, Limits(walltime_s=300.0))
    assert code.parse(folder).status == "crashed"


def test_a_relaxation_is_killed_and_stopped_and_goes_on_to_the_right_lattice(
    case: Case, code: DFTCode, tmp_path: Path
) -> None:
    ask = case.stretched
    settings = ask.settings_for(code)
    folder = folder_of(tmp_path, job_for("silicon", ask.structure, settings, code).calculation_id)
    code.write_inputs(folder, ask.structure, settings, Limits(walltime_s=300.0))
    interrupt(folder, code, signal.SIGKILL, after=1)
    interrupt(folder, code, signal.SIGTERM, after=2)
    before = steps_of(folder)
    result = run(tmp_path, code, {"silicon": ask})["silicon"]
    assert result.status == "converged", result.message
    assert result.n_steps >= before >= 2
    assert result.structure is not None
    a, tolerance = case.lattice_constant
    assert (8 / len(result.structure) * result.structure.volume) ** (1 / 3) == pytest.approx(a, abs=tolerance)


def test_the_same_energy_from_any_cell_and_any_number_of_ranks(case: Case, code: DFTCode, tmp_path: Path) -> None:
    ask = Ask(structure=case.insulator)
    primitive: Structure = case.insulator.get_primitive_structure()
    alone = run(tmp_path / "a", code, {"cubic": ask})["cubic"]
    cores = 2 if shutil.which("mpirun") else 1
    other = run(tmp_path / "b", code, {"primitive": Ask(structure=primitive)}, cores=cores)["primitive"]
    assert alone.energy is not None
    assert alone.structure is not None
    assert other.energy is not None, other.message
    assert other.structure is not None
    assert alone.energy / len(alone.structure) == pytest.approx(other.energy / len(other.structure), abs=1e-5)
    assert alone.band_gap == pytest.approx(other.band_gap, abs=1e-3)


def test_u_opens_the_gap_of_an_oxide(case: Case, code: DFTCode, tmp_path: Path) -> None:
    if case.with_u is None:
        pytest.skip("its input sets say who has a U")
    with_u = case.with_u()
    plain = run(tmp_path / "plain", code, {"NiO": case.oxide})["NiO"]
    found = run(tmp_path / "U", with_u, {"NiO": case.oxide})["NiO"]
    assert (plain.status, found.status) == ("converged", "converged"), plain.message + found.message
    assert plain.band_gap == 0.0  # ferromagnetic and without U it is a metal
    assert found.band_gap is not None
    assert found.band_gap > 0.3
    assert plain.energy is not None
    assert found.energy is not None
    assert 0.5 < found.energy - plain.energy < 4.0  # what the shell's partly filled orbitals cost
    assert found.properties["total_magnetization"] == pytest.approx(2.0, abs=0.05)
    levels = [level_of_theory(case.oxide.settings_for(one)) for one in (code, with_u)]
    assert "+U(Ni6)/" in levels[1]
    assert "+U" not in levels[0]

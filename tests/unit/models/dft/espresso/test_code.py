"""Quantum ESPRESSO behind the contract, without running it: its input, and its words as they were recorded."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.io import read as ase_read
from pymatgen.core import Lattice, Structure

from materials.errors import CodeNotInstalled, DFTError
from models.dft.base import Limits, clean_environment
from models.dft.calculation_record import level_of_theory
from models.dft.espresso import code as espresso
from models.dft.espresso.calculation import LADDER, command, parameters, with_fractions
from models.dft.espresso.code import Espresso
from models.dft.espresso.output import BOHR, RYDBERG, Output, raise_refusal, site_moments
from models.dft.espresso.pseudopotentials import Family, Pseudopotential
from models.dft.runtime.calculation import Died, Ended, NotConverged

RECORDED = Path(__file__).with_name("recorded")
SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [(0, 0, 0)])
NICKEL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Ni"], [(0, 0, 0)])


def pseudopotential(name: str, valence: float, cutoff_ry: float, density_cutoff_ry: float) -> Pseudopotential:
    return Pseudopotential(
        file=f"{name}.upf",
        valence=valence,
        sha256=name,
        cutoff_ev=cutoff_ry * RYDBERG,
        density_cutoff_ev=density_cutoff_ry * RYDBERG,
    )


FAMILY = Family(
    name="made-up-1",
    functional="LDA",
    folder=Path("pseudo"),
    elements={"Si": pseudopotential("Si", 4, 18, 72), "Ni": pseudopotential("Ni", 10, 30, 300)},
)


@pytest.fixture(autouse=True)
def no_cache() -> Iterator[None]:
    espresso.find_installation.cache_clear()
    yield
    espresso.find_installation.cache_clear()


SILICON_XML = RECORDED / "silicon-scf.xml"


class StandIn:
    """A pw.x that repeats what the real one wrote: runs in the order in which they were recorded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "stand-in"
        self.folder.mkdir()
        self.program = self.folder / "pw.x"
        self.program.write_text(
            "#!/bin/sh\n"
            f"cd {self.folder}\n"
            'if [ "$1" != -in ]; then echo "     Program PWSCF v.6.7MaX starts on 25Nov2026"; exit 1; fi\n'
            "run=$(($(cat runs 2>/dev/null || echo 0) + 1)); echo $run > runs\n"
            'cp "$OLDPWD/$2" input-$run; mkdir -p "$OLDPWD/pw/pw.save"\n'
            '[ ! -f $run.xml ] || cp $run.xml "$OLDPWD/pw/pw.save/data-file-schema.xml"\n'
            "[ ! -f $run.out ] || cat $run.out\n"
            "[ ! -f $run.err ] || cat $run.err >&2\n"
            "[ ! -f $run.sh ] || . ./$run.sh\n"
        )
        self.program.chmod(0o755)
        monkeypatch.setenv("ASSAY_PW", str(self.program))

    def will(self, *runs: str) -> "StandIn":
        """Repeat these files, in this order, with a plus between those of one run; or end as a line of shell says."""
        for number, names in enumerate(runs, 1):
            for name in names.split("+"):
                kind = {".xml": "xml", ".pwo": "out", ".err": "err"}.get(Path(name).suffix)
                if kind:
                    shutil.copy(RECORDED / name, self.folder / f"{number}.{kind}")
                else:
                    (self.folder / f"{number}.sh").write_text(name + "\n")
        return self

    @property
    def runs(self) -> int:
        return int((self.folder / "runs").read_text())


@pytest.fixture
def pw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


def run(folder: Path, structure: Structure, mpi: tuple[str, ...] = (), **settings):
    code = Espresso(FAMILY)
    symbols = [element.symbol for element in structure.composition.elements]
    asked = replace(code.settings("quick", symbols, structure), **settings)
    code.write_inputs(folder, structure, asked, Limits(walltime_s=60.0))
    with open(folder / "driver.log", "wb") as log:
        exit_code = subprocess.run(
            code.command(folder, mpi), env=clean_environment(), stdout=log, stderr=subprocess.STDOUT
        ).returncode
    return exit_code, code.parse(folder)


def test_where_there_is_none_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_PW", "/nowhere/pw.x")
    with pytest.raises(CodeNotInstalled, match=r"apt-get install quantum-espresso.*no program /nowhere/pw.x"):
        Espresso(FAMILY).version()


def test_a_program_that_is_not_pw_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_PW", "true")
    with pytest.raises(CodeNotInstalled, match=r"Tried .*true: exit code 0"):
        Espresso(FAMILY).version()


def test_a_program_that_is_named_is_used(pw: StandIn) -> None:
    assert Espresso().version() == "6.7MaX"


def test_without_pseudopotentials_it_only_tells_its_version() -> None:
    with pytest.raises(DFTError, match=r"dft.pseudopotentials: .*name a table"):
        Espresso().settings("quick", ["Si"], SILICON)


def test_the_hull_and_the_table_decide_the_cutoffs() -> None:
    code = Espresso(FAMILY)
    alone, both = code.settings("quick", ["Si"], SILICON), code.settings("quick", ["Ni", "Si"], SILICON)
    assert (alone.cutoff_ev, alone.density_cutoff_ev) == (18 * RYDBERG, 72 * RYDBERG)
    assert (both.cutoff_ev, both.density_cutoff_ev) == (30 * RYDBERG, 300 * RYDBERG)
    assert level_of_theory(alone) == f"LDA/{FAMILY.identity}/PW244.902/RHO979.61"
    assert code.settings("accurate", ["Si"], SILICON, relax=False).cutoff_ev == 1.25 * 18 * RYDBERG
    assert code.settings("quick", ["Si"], SILICON, relax=True).cutoff_ev == 1.25 * 18 * RYDBERG


def test_other_files_are_another_level_of_theory() -> None:
    other = {**FAMILY.elements, "Si": replace(FAMILY.elements["Si"], sha256="c")}
    assert replace(FAMILY, elements=other).identity != FAMILY.identity
    assert replace(FAMILY, folder=Path("elsewhere")).identity == FAMILY.identity


def task_of(structure: Structure, pw: StandIn, **settings):
    code = Espresso(FAMILY)
    symbols = [element.symbol for element in structure.composition.elements]
    settings = {"magnetic_orders": {}, **settings}  # what was recorded is the ferromagnet in its primitive cell
    task = code.task(structure, replace(code.settings("quick", symbols, structure), **settings))
    return {**task, "launcher": ()}


def atoms_of(task):
    from ase import Atoms

    atoms = Atoms(numbers=task["numbers"], scaled_positions=task["scaled_positions"], cell=task["cell"], pbc=True)
    moments = task["settings"]["magnetic_moments"]
    if moments:
        atoms.set_initial_magnetic_moments([moments.get(symbol, 0.0) for symbol in atoms.symbols])
    return atoms


def test_settings_reach_the_input_in_rydberg(pw: StandIn) -> None:
    task = task_of(SILICON, pw)
    found = parameters(atoms_of(task), task, "scf", LADDER["default"], None)
    variables = found["input_data"]
    assert (variables["ecutwfc"], variables["ecutrho"]) == (18.0, 72.0)
    assert variables["degauss"] == pytest.approx(0.05 / 13.6057, rel=1e-5)
    assert variables["conv_thr"] == pytest.approx(8e-8)  # eight electrons
    assert (found["kpts"], found["koffset"]) == ((4, 4, 4), (1, 1, 1))
    assert "nbnd" not in variables
    gap = parameters(atoms_of(task), task, "nscf", LADDER["slow"], 8)
    assert (gap["kpts"], gap["koffset"]) == ((2, 2, 2), (0, 0, 0))
    assert gap["input_data"]["nbnd"] == 8
    assert gap["input_data"]["mixing_beta"] < variables["mixing_beta"]


def test_moments_become_fractions_and_have_their_bands(pw: StandIn) -> None:
    task = task_of(NICKEL, pw)
    atoms = with_fractions(atoms_of(task), task["pseudopotentials"]["valence"])
    assert atoms.get_initial_magnetic_moments() == pytest.approx([1.2 / 10])
    assert parameters(atoms_of(task), task, "scf", {}, None)["input_data"]["nbnd"] == 10  # 5.6 up, and 4 empty
    task["settings"]["magnetic_moments"]["Ni"] = 20.0
    assert with_fractions(atoms_of(task), {"Ni": 10}).get_initial_magnetic_moments() == pytest.approx([0.9])


def test_the_launcher_stands_before_the_program_and_the_leash_before_both(pw: StandIn) -> None:
    task = {**task_of(SILICON, pw), "launcher": ("mpirun", "-np", "4")}
    words = command(task)
    assert words[0] == sys.executable
    assert words[2].endswith("run_with_parent.py")
    assert words[3] == str(os.getpid())
    assert words[5:] == ["mpirun", "-np", "4", str(pw.program)]


def test_what_pw_wrote_is_read_in_our_units_and_signs() -> None:
    output, said = Output(RECORDED / "nickel-scf.xml", "scf"), (RECORDED / "nickel-scf.pwo").read_text()

    def number(pattern: str) -> float:
        found = re.findall(pattern, said)
        return float(found[-1])

    free, entropy = number(r"!\s+total energy\s+=\s+(\S+) Ry"), number(r"\(-TS\)\s+=\s+(\S+) Ry")
    assert entropy < -0.01
    assert output.energy == pytest.approx((free - entropy / 2) * RYDBERG, abs=1e-6)
    assert output.fermi_level == pytest.approx(number(r"Fermi energy is\s+(\S+) ev"), abs=1e-4)
    assert output.magnetization == pytest.approx(number(r"total magnetization\s+=\s+(\S+) Bohr"), abs=0.01)
    # pw.x prints a pressure; ours is the stress, of the other sign.
    assert output.stress[:3].mean() / 0.006241509 * 10 == pytest.approx(-number(r"P=\s+(\S+)"), abs=0.01)
    assert output.electrons == 10
    assert output.n_kpoints == 2
    assert output.levels().shape == (2, 2, 10)
    assert np.all(output.levels()[0].mean(axis=1) < output.levels()[1].mean(axis=1))  # up lies lower
    forces = Output(RECORDED / "silicon-scf.xml", "scf").forces
    assert forces.shape == (2, 3)
    assert np.allclose(forces, 0, atol=1e-4)
    assert pytest.approx(0.529177, abs=1e-6) == BOHR


def test_moments_of_the_sites_are_those_of_the_last_report() -> None:
    said = (RECORDED / "nickel-scf.pwo").read_text()
    assert site_moments(said) == [0.2605]
    assert site_moments((RECORDED / "silicon-scf.pwo").read_text()) == []
    newer = """
     Magnetic moment per site  (integrated on atomic sphere of radius R)
     atom   1 (R=0.357)  charge= 14.3137  magn=  0.5000
     atom   2 (R=0.357)  charge= 14.3137  magn= -0.5000
     Magnetic moment per site  (integrated on atomic sphere of radius R)
     atom   1 (R=0.357)  charge= 14.3135  magn=  2.6124   constr=  0.0000
     atom   2 (R=0.357)  charge= 14.3135  magn=-12.6118   constr=  0.0000
"""
    assert site_moments(newer) == [2.6124, -12.6118]


def test_what_the_run_before_left_is_not_read_as_a_result() -> None:
    with pytest.raises(Died, match="without a result of this run"):
        Output(RECORDED / "silicon-scf.xml", "nscf")


def test_a_run_that_ended_while_it_set_up_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "set-up.xml"
    path.write_text(re.sub(r"(<n_scf_steps>)\d+", r"\g<1>0", SILICON_XML.read_text()))
    with pytest.raises(Died, match="before the cycle began"):
        Output(path, "scf")


def test_its_own_words_are_quoted_or_climbed_past() -> None:
    with pytest.raises(Ended, match=r"^Error in routine readpp \(1\): file .*Xx.UPF not found$") as refused:
        raise_refusal((RECORDED / "refused.pwo").read_text(), "")
    assert refused.value.status == "failed"
    with pytest.raises(NotConverged, match=r"cdiaghg \(34\): S matrix not positive definite"):
        raise_refusal((RECORDED / "lost-its-way.pwo").read_text(), "")
    raise_refusal((RECORDED / "silicon-scf.pwo").read_text(), "")


def refusal(routine: str, message: str, *, style: str = "Error in routine {} (1):") -> str:
    rule = "%" * 78
    return (
        f"     iteration #  1\n\n {rule}\n     {style.format(routine)}\n     {message}\n {rule}\n\n     stopping ...\n"
    )


@pytest.mark.parametrize(
    ("routine", "message"),
    [
        ("broyden", "factorization"),
        ("broyden", "DSYTRI"),
        ("mix_rho", "negative dr2"),
        ("electrons", "charge is wrong"),
        ("electrons", "charge is wrong: smearing is needed"),
        (" cdiaghg", " problems computing cholesky "),
        ("cdiaghg", "eigenvectors failed to converge"),
        ("rdiaghg", "info =/= 0"),
        ("cdiaghg", "S matrix not positive definite"),
        ("pdsyevd_drv", " PDSYEVD "),
        ("pzpotrf", "problems computing cholesky decomposition"),
        ("c_bands", "too many bands are not converged"),
        ("ppcg", " zhegvd failed "),
        ("crmmdiagg", " cannot solve diis "),
        ("gram_schmidt_k", " vectors are linear dependent "),
        ("efermig", "internal error, cannot bracket Ef"),
    ],
)
def test_a_density_that_went_astray_is_mixed_in_another_way(routine: str, message: str) -> None:
    for style in ("Error in routine {} (1):", "task #         0\n     from {} : error #         1"):
        with pytest.raises(NotConverged, match=re.escape(message.strip())):
            raise_refusal(refusal(routine, message, style=style), "")


@pytest.mark.parametrize(
    ("routine", "message"),
    [
        ("setup", "too few bands"),
        ("c_bands", "invalid type of diagonalization"),
        ("diag_bands", "too many bands, or too few plane waves"),
        ("readpp", "file Xx.UPF not found"),
        ("read_namelists", "bad line in namelist &system"),
        ("set_cutoff", "ecutwfc not set"),
        ("checkallsym", "not orthogonal operation"),
        ("sgam_at_ifc", "overlapping atoms"),
        ("divide_et_impera", "some nodes have no k-points"),
        ("potinit", "starting and expected charges differ"),
        ("electrons", "dexx is negative! Check that exxdiv_treatment is appropriate"),
        ("scale_h", "Not enough space allocated for radial FFT: try restarting with a larger cell_factor."),
    ],
)
def test_what_it_refuses_for_its_input_is_tried_once(routine: str, message: str) -> None:
    with pytest.raises(Ended, match=re.escape(message)) as refused:
        raise_refusal(refusal(routine, message), "")
    assert refused.value.status == "failed"


@pytest.mark.parametrize(
    ("said", "errors", "status"),
    [
        (refusal("cegterg", "cannot allocate hc"), "", "out_of_memory"),
        (refusal("s_psi_k", "cannot allocate memory (ps)"), "", "out_of_memory"),
        (refusal("add_vuspsi_nc", "error allocating ps"), "", "out_of_memory"),
        ("", "forrtl: severe (41): insufficient virtual memory", "out_of_memory"),
        ("", "0: ALLOCATE: 8589934592 bytes requested; not enough memory", "out_of_memory"),
        ("     Maximum CPU time exceeded\n", "", "walltime"),
        ("  probably because G_par is NOT a reciprocal lattice vector \n", "", "failed"),
        (" [Q, R] = qr(X, 0) failed\n", "", "another mixer"),
        (refusal("davcio", 'error writing file "./pw/pw.wfc1"'), "", "another attempt"),
        (refusal("write_rhog", "error writing file"), "", "another attempt"),
    ],
)
def test_each_kind_of_end_that_it_has_words_for(said: str, errors: str, status: str) -> None:
    with pytest.raises((Ended, NotConverged, Died)) as end:
        raise_refusal(said, errors)
    kinds = {NotConverged: "another mixer", Died: "another attempt"}
    assert kinds.get(end.type) or end.value.status == status
    assert kinds.get(end.type, status) == status


def test_words_that_only_its_crash_file_has_are_read(pw: StandIn, tmp_path: Path) -> None:
    crash = refusal("broyden", "factorization", style="task #         0\n     from {} : error #         1")
    (pw.folder / "crash").write_text(crash)
    pw.will(f"cat {pw.folder}/crash >> $OLDPWD/CRASH; exit 1", "silicon-scf.xml", "silicon-gap.xml")
    _, result = run(tmp_path / "x", SILICON)
    assert (result.status, result.attempts, result.properties["mixing"]) == ("converged", 2, "slow")


def test_a_version_that_does_not_say_whether_it_converged_is_refused(pw: StandIn, tmp_path: Path) -> None:
    new = pw.program.read_text()
    for version in ("6.3MaX", "5.4.0", "6.0"):
        espresso.find_installation.cache_clear()
        pw.program.write_text(new.replace("6.7MaX", version))
        with pytest.raises(CodeNotInstalled, match=rf"is version {version}.*6\.4 or later"):
            Espresso(FAMILY).version()
    for version in ("6.4", "6.4.1", "7.5", "10.0"):
        espresso.find_installation.cache_clear()
        pw.program.write_text(new.replace("6.7MaX", version))
        assert Espresso(FAMILY).version() == version
    # Where another one computes than the one that was asked.
    old = tmp_path / "old.xml"
    old.write_text(re.sub(r"<convergence_achieved>.*?</convergence_achieved>", "", SILICON_XML.read_text()))
    with pytest.raises(Ended, match=r"6\.4 or later") as refused:
        Output(old, "scf")
    assert refused.value.status == "failed"


def test_a_calculation_from_input_to_result(pw: StandIn, tmp_path: Path) -> None:
    pw.will("silicon-scf.xml+silicon-scf.pwo", "silicon-gap.xml")
    exit_code, result = run(tmp_path / "a b", SILICON)
    assert (exit_code, result.status, result.message, result.attempts) == (0, "converged", "", 1)
    assert result.energy == pytest.approx(-215.41087, abs=1e-5)
    assert result.band_gap == pytest.approx(0.64517, abs=1e-5)
    assert result.properties["mixing"] == "default"
    recorded = ase_read(RECORDED / "silicon-scf.pwo")
    assert np.array(result.properties["forces"]) == pytest.approx(recorded.get_forces(), abs=1e-6)
    assert np.array(result.properties["stress"]) == pytest.approx(recorded.get_stress(voigt=False), abs=1e-6)
    assert pw.runs == 2
    assert not (tmp_path / "a b" / "pw").exists()
    assert "calculation      = 'nscf'" in (pw.folder / "input-2").read_text()


def test_a_metal_is_not_asked_twice(pw: StandIn, tmp_path: Path) -> None:
    pw.will("nickel-scf.xml+nickel-scf.pwo")
    _, result = run(tmp_path / "x", NICKEL, magnetic_orders={})
    assert (result.status, result.band_gap, pw.runs) == ("converged", 0.0, 1)
    assert result.properties["total_magnetization"] == pytest.approx(0.24, abs=0.01)
    assert result.properties["magmoms"] == [0.2605]


def test_the_ladder_is_climbed_and_the_rung_that_served_is_told(pw: StandIn, tmp_path: Path) -> None:
    pw.will("not-converged.xml", "lost-its-way.pwo+exit 34", "silicon-scf.xml", "silicon-gap.xml")
    _, result = run(tmp_path / "x", SILICON)
    assert (result.status, result.attempts, result.properties["mixing"]) == ("converged", 3, "screened")
    assert "diagonalization  = 'cg'" in (pw.folder / "input-3").read_text()
    assert json.loads((tmp_path / "x" / "rungs.json").read_text()) == ["default", "slow"]


@pytest.mark.parametrize(
    ("runs", "status", "exit_code", "words", "started"),
    [
        (["not-converged.xml"] * 3, "scf_not_converged", 10, "default, then slow, then screened: not in 3 steps", 3),
        (["refused.pwo+exit 1"], "failed", 14, "Error in routine readpp (1): file", 1),
        (["no-memory.err+exit 1"], "out_of_memory", 13, "Error allocating 729000000 bytes", 1),
        (["silicon-scf.xml", "kill -SEGV $$"], "crashed", 22, "without a result", 2),
        (["kill -KILL $$"], "crashed", 22, "exit code -9 and without a result", 1),
        (["silicon-scf.xml", "no-memory.err+exit 1"], "out_of_memory", 13, "Error allocating", 2),
        (
            ["silicon-scf.xml", "lost-its-way.pwo+exit 34"],
            "scf_not_converged",
            10,
            "the levels at the density did not converge: Error in routine cdiaghg",
            2,
        ),
    ],
)
def test_each_end_that_was_recorded(
    pw: StandIn, tmp_path: Path, runs: list[str], status: str, exit_code: int, words: str, started: int
) -> None:
    pw.will(*runs)
    found, result = run(tmp_path / "x", SILICON)
    assert (result.status, found, result.energy) == (status, exit_code, None)
    assert words in result.message
    assert pw.runs == started
    assert (tmp_path / "x" / "result.json").exists() is (status != "crashed")
    assert not (tmp_path / "x" / "pw").exists()


def test_what_the_table_lacks_is_a_row_that_failed(pw: StandIn, tmp_path: Path) -> None:
    germanium = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.66), ["Ge"], [(0, 0, 0)])
    _, result = run(tmp_path / "x", germanium)
    assert result.status == "failed"
    assert f"{FAMILY.identity} has no pseudopotential for Ge" in result.message

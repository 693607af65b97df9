"""Quantum ESPRESSO's part of a calculation: the density and the band gap. driver.py loads it.

Each evaluation is a run of pw.x of its own, started through ASE, and read from the XML file that pw.x writes.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.espresso import EspressoProfile, EspressoTemplate

from models.dft.espresso.output import RYDBERG, Output, raise_refusal, site_moments
from models.dft.runtime.calculation import Died, Ended, NotConverged, climb, gap

HERE = Path(".")  # the driver works in the calculation's folder
SCRATCH = Path("pw")  # the density, and what else pw.x leaves behind
LOG = "scf.pwo"
CRASH = Path("CRASH")  # where pw.x writes, too, why it ends: its output may be lost with it
LEASH = Path(__file__).parents[1] / "runtime" / "run_with_parent.py"
# How the density is mixed: the next rung is climbed where the one before has not converged within its steps.
LADDER: dict[str, dict[str, Any]] = {
    "default": {"mixing_beta": 0.7},
    "slow": {"mixing_beta": 0.3, "patience": 2},
    # Little of the new density, its long waves screened as in an inhomogeneous electron gas, and a diagonalisation
    # that does not lose its way.
    "screened": {
        "mixing_beta": 0.1,
        "mixing_mode": "local-TF",
        "mixing_ndim": 12,
        "diagonalization": "cg",
        "patience": 3,
    },
}


class PwCalculator(Calculator):
    """pw.x for ASE: energy (smearing extrapolated to zero), forces and stress, from one SCF cycle."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task
        self.rungs: list[str] = []
        self.output: Output | None = None

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Converge the density with the first rung of the ladder that leads there."""
        super().calculate(atoms, properties, system_changes)
        try:
            self.rungs = climb(LADDER, self._attempt, LOG)
        except (Ended, Died):
            shutil.rmtree(SCRATCH, ignore_errors=True)  # what failed shall not fill the disk
            raise

    def _attempt(self, rung: str) -> None:
        shutil.rmtree(SCRATCH, ignore_errors=True)
        output = run_pw(self.atoms, self.task, "scf", LADDER[rung])
        if not output.converged:
            raise NotConverged(f"not in {output.scf_steps} steps")
        self.output = output
        self.results = {"energy": output.energy, "forces": output.forces, "stress": output.stress}


def ground_state(atoms: Any, task: Any) -> tuple[PwCalculator, list[str]]:
    """Converge the density, from rung to rung; the calculator, and the rungs that were tried, the last one served."""
    if lacking := task["pseudopotentials"]["lacking"]:
        raise Ended("failed", f"{task['settings']['potentials']} has no pseudopotential for {', '.join(lacking)}")
    if not isinstance(atoms.calc, PwCalculator):
        atoms.calc = PwCalculator(task)
    atoms.get_potential_energy()
    return atoms.calc, atoms.calc.rungs


def convergence_errors() -> tuple[type[Exception], ...]:
    """None: the calculator climbs the ladder by itself."""
    return ()


def forget(calc: PwCalculator) -> None:
    """Remove the density."""
    shutil.rmtree(SCRATCH, ignore_errors=True)


def properties(calc: PwCalculator, settings: Any) -> dict[str, Any]:
    """What else the density says, by the Materials Project's names."""
    assert calc.output is not None
    found: dict[str, Any] = {"n_kpoints": calc.output.n_kpoints, "efermi": calc.output.fermi_level}
    if settings["magnetic_moments"]:
        found["total_magnetization"] = calc.output.magnetization
        found["magmoms"] = site_moments(Path(LOG).read_text(errors="replace"))
    return found


def band_gap(calc: PwCalculator, settings: Any) -> float:
    """The gap (eV), over the mesh of the density and a Γ-centred one."""
    output = calc.output
    assert output is not None

    def finer(n_bands: int) -> Any:
        try:
            return run_pw(calc.atoms, calc.task, "nscf", LADDER[calc.rungs[-1]], n_bands + 3).levels()
        except NotConverged as error:
            raise Ended("scf_not_converged", f"the levels at the density did not converge: {error}") from None

    moment = output.magnetization if settings["magnetic_moments"] else None
    # The cycle has four empty bands or more, converged to 1e-5 Ry: on its mesh they need no run of their own.
    try:
        return gap(output.electrons, moment, output.levels(), finer)
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)  # the last that was wanted of the density


def run_pw(atoms: Any, task: Any, calculation: str, rung: dict[str, Any], n_bands: int | None = None) -> Output:
    """Run pw.x once: an SCF cycle, or the levels on the Γ-centred mesh at the density that lies in the scratch folder.

    Raises:
        NotConverged: It lost its way in the cycle, and says so.
        Ended: It refused, with its own words, or had not enough memory.
        Died: It ended without a word.
    """
    profile = EspressoProfile(shlex.join(command(task)), task["pseudopotentials"]["folder"])
    template = EspressoTemplate()
    name = "gap" if calculation == "nscf" else "scf"
    template.inputname, template.outputname, template.errorname = f"{name}.pwi", f"{name}.pwo", f"{name}.err"
    spins = with_fractions(atoms, task["pseudopotentials"]["valence"])
    wanted = with_hubbard(parameters(atoms, task, calculation, rung, n_bands), spins, task)
    template.write_input(profile, HERE, spins, wanted, [])
    CRASH.unlink(missing_ok=True)
    # MPI's end of a program takes with it what was not yet written: the words of why, that is.
    os.environ["GFORTRAN_UNBUFFERED_PRECONNECTED"] = "1"
    code = 0
    try:
        template.execute(HERE, profile)
    except subprocess.CalledProcessError as error:
        code = error.returncode
    said, errors = (Path(file).read_text(errors="replace") for file in (template.outputname, template.errorname))
    crash = CRASH.read_text(errors="replace") if CRASH.exists() else ""
    raise_refusal(f"{said}\n{crash}", errors)
    try:
        shutil.copy(SCRATCH / "pw.save" / "data-file-schema.xml", f"{name}.xml")
        return Output(Path(f"{name}.xml"), calculation)
    except (OSError, ET.ParseError) as error:
        raise Died(f"pw.x ended with exit code {code} and without a result: {error}") from None


def command(task: Any) -> list[str]:
    """The words that start pw.x, on a leash."""
    # mpirun passes a SIGTERM on to its ranks; pw.x itself might write files first.
    signum = signal.SIGTERM if task["launcher"] else signal.SIGKILL
    leash = [sys.executable, "-P", str(LEASH), str(os.getpid()), str(int(signum))]
    return [*leash, *task["launcher"], task["program"]]


def parameters(atoms: Any, task: Any, calculation: str, rung: dict[str, Any], n_bands: int | None) -> dict[str, Any]:
    """What ASE writes pw.x's input from, in Rydberg."""
    settings, valence = task["settings"], task["pseudopotentials"]["valence"]
    electrons = sum(valence[symbol] for symbol in atoms.symbols)
    # pw.x asks for the estimated error of the energy, which is of second order in that of the density.
    per_electron = min(settings["convergence_energy_ev"] / RYDBERG, settings["convergence_density"] ** 2)
    variables: dict[str, Any] = {
        "calculation": calculation,
        "outdir": str(SCRATCH),
        "prefix": "pw",
        "disk_io": "low",
        "ecutwfc": settings["cutoff_ev"] / RYDBERG,
        "ecutrho": settings["density_cutoff_ev"] / RYDBERG,
        "occupations": "smearing",
        "smearing": "fermi-dirac",
        "degauss": settings["smearing_ev"] / RYDBERG,
        "conv_thr": per_electron * electrons,
        "electron_maxstep": settings["max_scf_steps"] * rung.get("patience", 1),
        **{key: value for key, value in rung.items() if key != "patience"},
    }
    files = {"pseudopotentials": task["pseudopotentials"]["files"], "crystal_coordinates": True}
    if calculation == "nscf":
        variables |= {"nbnd": n_bands, "diago_full_acc": True}
        return {**files, "input_data": variables, "kpts": tuple(settings["gap_kpoints"]), "koffset": (0, 0, 0)}
    variables |= {"tstress": True, "tprnfor": True}
    moments = atoms.get_initial_magnetic_moments()
    if moments.any():
        # Left alone, pw.x takes as many bands for the spin that has more electrons as for the other.
        up = math.ceil((electrons + abs(moments.sum())) / 2)
        variables["nbnd"] = max(math.ceil(0.6 * electrons), up + 4 + len(atoms) // 2)
    shift = tuple(int(shifted) for shifted in settings["kpoint_shift"])
    return {**files, "input_data": variables, "kpts": tuple(settings["kpoints"]), "koffset": shift}


def with_hubbard(wanted: dict[str, Any], atoms: Any, task: Any) -> dict[str, Any]:
    """Add U, on the atomic orbitals of the pseudopotentials, in the syntax that this pw.x reads.

    From 7.1 on a card names the shell of each species (https://www.quantum-espresso.org/Doc/INPUT_PW.html#HUBBARD);
    before, &SYSTEM has U by the number of the species, and pw.x knows the shell.
    """
    shells = {name.split("-")[0]: (name, u) for name, u in task["settings"].get("hubbard", {}).items()}
    marked = [(i, label, *shells[symbol]) for i, (symbol, label) in enumerate(species(atoms), 1) if symbol in shells]
    if not marked:
        return wanted
    if task["hubbard_card"]:
        lines = [f"U {label}-{name.split('-')[1]} {u}" for _, label, name, u in marked]
        return {**wanted, "additional_cards": ["HUBBARD (atomic)", *lines]}
    old = {"lda_plus_u": True, "lda_plus_u_kind": 0, "U_projection_type": "atomic"}
    old |= {f"Hubbard_U({i})": u for i, _, _, u in marked}
    # In its section by name: ASE knows these keys no more, and leaves out without a word what it would have to sort.
    return {**wanted, "input_data": wanted["input_data"] | {"system": old}}


def species(atoms: Any) -> list[tuple[str, str]]:
    """Element and label of the species that ASE makes, in its order: each start moment of an element is one."""
    moments = atoms.get_initial_magnetic_moments()
    if not moments.any():
        return [(symbol, symbol) for symbol in dict.fromkeys(atoms.symbols)]
    found: list[tuple[str, str]] = []
    for symbol, _ in dict.fromkeys(zip(atoms.symbols, moments)):  # noqa: B905 - an older Python may run this
        earlier = sum(symbol == other for other, _ in found)
        found.append((symbol, f"{symbol}{earlier or ''}"))
    return found


def with_fractions(atoms: Any, valence: dict[str, float]) -> Any:
    """The atoms with their moments as pw.x has them: fractions of the valence electrons, never all of them."""
    moments = atoms.get_initial_magnetic_moments()
    found = atoms.copy()
    if moments.any():
        fractions = [m / valence[symbol] for m, symbol in zip(moments, atoms.symbols, strict=True)]
        found.set_initial_magnetic_moments(np.clip(fractions, -0.9, 0.9))
    return found

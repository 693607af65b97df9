"""VASP's part of a calculation, with custodian around it for repairs. driver.py loads it.

INCAR, KPOINTS, POSCAR and POTCAR lie in the folder; what VASP writes is read from vasprun.xml.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from ase import Atoms
from custodian.custodian import Custodian, CustodianError
from custodian.vasp import handlers as known
from custodian.vasp.jobs import VaspJob
from custodian.vasp.utils import is_valid_poscar
from custodian.vasp.validators import VasprunXMLValidator
from pymatgen.io.vasp.inputs import Incar
from pymatgen.io.vasp.outputs import Vasprun

from models.dft.runtime import calculation as course
from models.dft.runtime import magnetic_trials
from models.dft.runtime.calculation import Died, Ended
from models.dft.vasp.checkpoint import CHECKPOINT, POLL_S, Book
from models.dft.vasp.output import energy_of, read_run

LEASH = Path(__file__).parents[1] / "runtime" / "run_with_parent.py"
FIRST_RELAXATION = "vasprun.xml.relax1"  # what custodian calls it once it has ended
# Wave functions and densities are many times as large as all the rest, and nothing here reads them.
HEAVY = ("WAVECAR", "CHG", "CHGCAR", "AECCAR0", "AECCAR1", "AECCAR2", "TMPCAR")
# custodian looks whether VASP has ended every POLL_S seconds, and every so many times at what it has written meanwhile.
LOOKS = 150
# Corrections of one run, and of all runs of a calculation, before custodian gives up.
MOST_CORRECTIONS = 5
MOST_CORRECTIONS_IN_ALL = 10
# How VASP words that it refuses: without such words a process that ended was killed.
REFUSALS = re.compile(r"I REFUSE TO CONTINUE|VERY BAD NEWS|EEEEEEE|internal error|ERROR:|Error EDDDAV|ZBRENT|LAPACK")
# What custodian calls it where the SCF cycle went astray: mixing, diagonalisation, the Fermi level.
SCF_ERRORS = frozenset(
    [
        *("brmix", "dentet", "subspacematrix", "eddrmm", "edddav", "pssyevx", "pdsyevx", "zheev", "eddiag"),
        *("grad_not_orth", "algo_tet", "amin", "Non-converging job", "Unconverged", "Positive energy"),
    ]
)
# What it calls steps of a relaxation that are too short: where the last run ended nevertheless, no number is worse.
SHORT_STEPS = frozenset(["brions"])
MEMORY = re.compile(
    r"insufficient virtual memory|Allocation would exceed|Error allocating|Cannot allocate", re.IGNORECASE
)


class Errors(known.VaspErrorHandler):
    """What VASP says of errors, but for a warning that it outlives and custodian cannot cure: a run that converges in
    spite of it is well, and one that does not is seen by other handlers."""

    def check(self, directory: str = "./") -> bool:
        """Look for errors that can be cured, or that end a run."""
        super().check(directory)
        if Incar.from_file(Path(directory, "INCAR")).get("LREAL", False) is False:
            self.errors.discard("subspacematrix")
        return bool(self.errors)


class Job(VaspJob):
    """One run of VASP, in the book."""

    def __init__(self, book: Book, words: list[str], **options: Any) -> None:
        super().__init__(words, auto_gamma=False, backup=False, **options)
        self.book = book

    def as_dict(self) -> dict[str, Any]:
        """For custodian's log."""
        return {"command": list(self.vasp_cmd), "suffix": self.suffix}

    def run(self, directory: str = "./") -> Any:
        """Start VASP."""
        self.book.turn_page()
        # Of a VASP that is killed before it writes anything, nothing must be read.
        Path("vasprun.xml").unlink(missing_ok=True)
        return super().run(directory)


def compute(task: Any, started: float) -> dict[str, Any]:
    """Run VASP as often as it takes, and return what `result.json` will hold.

    A relaxation is run twice, as the Materials Project does: the second run has the plane waves of its own cell.
    """
    settings = task["settings"]
    if lacking := task["lacking"]:
        raise Ended("failed", f"there is no {settings['potentials']} for {', '.join(lacking)} in pymatgen's folder")
    warnings.simplefilter("ignore")  # the log is for VASP's words and custodian's
    course.check_geometry(
        Atoms(numbers=task["numbers"], scaled_positions=task["scaled_positions"], cell=task["cell"], pbc=True)
    )
    book = Book(started)
    resume(book, settings["mode"] == "relax")
    threading.Thread(target=book.keep, daemon=True).start()
    custodian = Custodian(
        handlers(),
        jobs_of(book, command(task), settings["mode"] == "relax"),
        [VasprunXMLValidator()],
        max_errors_per_job=MOST_CORRECTIONS,
        max_errors=MOST_CORRECTIONS_IN_ALL,
        polling_time_step=POLL_S,
        monitor_freq=LOOKS,
        skip_over_errors=True,  # a handler that stumbles over a file must not end a run that is well
        terminate_on_nonzero_returncode=False,  # some MPIs have one for a run that ended well
    )
    said = ""
    try:
        custodian.run()
    except CustodianError as error:
        said = str(error)
    finally:
        book.close()
    for name in HEAVY:
        for path in Path().glob(f"{name}*"):
            path.unlink()
    return result_of(settings, corrections(custodian.run_log), said, book.n_steps)


def jobs_of(book: Book, words: list[str], relaxes: bool) -> list[Job]:
    """The runs that are still to be done."""
    if not relaxes or os.path.exists(FIRST_RELAXATION):
        return [Job(book, words)]
    again = [
        {"dict": "INCAR", "action": {"_set": {"ISTART": 1}}},
        {"file": "CONTCAR", "action": {"_file_copy": {"dest": "POSCAR"}}},
    ]
    return [Job(book, words, final=False, suffix=".relax1"), Job(book, words, settings_override=again)]


def handlers() -> list[Any]:
    """What custodian looks for, and repairs: those that the Materials Project's own workflows have.

    Left out are the one that ends frozen runs (the walltime does) and those that make settings finer for one phase of a
    hull than for another.
    """
    return [
        Errors(),
        known.StdErrHandler(),
        known.MeshSymmetryErrorHandler(),
        known.UnconvergedErrorHandler(),
        known.NonConvergingErrorHandler(),
        known.PotimErrorHandler(),
        known.PositiveEnergyErrorHandler(),
        # A metal that is relaxed with tetrahedra has wrong forces.
        known.IncorrectSmearingHandler(),
    ]


def command(task: Any) -> list[str]:
    """VASP's command on a leash: it ends with this process."""
    # mpirun passes a SIGTERM on to its ranks; a single VASP needs no time to clear away.
    signum = signal.SIGTERM if task["launcher"] else signal.SIGKILL
    starter = [sys.executable, "-P", str(LEASH), str(os.getpid()), str(int(signum))]
    return [*starter, *task["launcher"], *task["program"]]


def resume(book: Book, relaxes: bool) -> None:
    """Take up what an earlier attempt left: a relaxation goes on from its last geometry."""
    if os.path.exists(CHECKPOINT):
        book.before = int(course.read(CHECKPOINT)["before"])
        if relaxes and is_valid_poscar("CONTCAR"):
            shutil.copy("CONTCAR", "POSCAR")
    book.turn_page()


def corrections(log: Any) -> list[dict[str, Any]]:
    """What custodian found and did, without the classes that found it."""
    return [
        {"errors": list(correction["errors"]), "actions": correction["actions"] or []}
        for job in log
        for correction in job["corrections"]
        if not correction.get("skipped")
    ]


def result_of(settings: Any, repaired: list[dict[str, Any]], said: str, n_steps: int) -> dict[str, Any]:
    """Read how it ended.

    Args:
        settings: What was asked.
        repaired: From `corrections`.
        said: Why custodian gave up; empty if it did not.
        n_steps: Ionic steps of all runs.

    Raises:
        Ended: Without a result.
        Died: VASP was killed.
    """
    try:
        run = Vasprun("vasprun.xml", parse_potcar_file=False)
    except Exception:  # noqa: BLE001 - a file that was cut short raises whatever the parser was about to do
        raise end_of(said, repaired) from None
    if not run.converged_electronic:
        raise Ended("scf_not_converged", f"not in {run.parameters['NELM']} steps; {told(repaired, said)}")
    relaxes = settings["mode"] == "relax"
    converged = run.converged_ionic
    short_steps = last_errors(repaired) == SHORT_STEPS and os.path.exists(FIRST_RELAXATION)
    if said and converged and not short_steps:
        raise given_up(said, repaired)
    result = read_run(run, Path("OUTCAR"))
    first = energy_of(run.ionic_steps[0])
    if relaxes and result["energy"] > first + course.MAY_RISE * len(result["numbers"]):
        raise Ended("failed", f"the energy rose by {result['energy'] - first:.4f} eV in the relaxation")
    result["status"] = "converged" if converged else "max_steps"
    result["message"] = "" if converged else f"not relaxed in {n_steps} steps; {told(repaired, said)}"
    result["n_steps"] = n_steps if relaxes else 0
    result["attempts"] = 1 + len(repaired)
    if repaired:
        result["properties"]["custodian"] = repaired
    result["properties"] |= magnetic_trials.moments_of(result["numbers"], result["properties"], None, "ferromagnetic")
    return result


def end_of(said: str, repaired: list[dict[str, Any]]) -> Exception:
    """Why there is no vasprun.xml that could be read."""
    text = "\n".join(
        Path(name).read_text(errors="replace") for name in ("vasp.out", "std_err.txt") if Path(name).exists()
    )
    tail = "\n".join(line for line in text.splitlines()[-40:] if line.strip())
    if match := MEMORY.search(tail):
        return Ended("out_of_memory", match[0])
    if not said.startswith("Validation failed") or REFUSALS.search(tail):
        return given_up(said, repaired)
    return Died(f"VASP ended without a result: {said}")


def given_up(said: str, repaired: list[dict[str, Any]]) -> Ended:
    """What it is called when custodian knows no other cure."""
    lost = not said.startswith("Validation failed") and last_errors(repaired) & SCF_ERRORS
    return Ended("scf_not_converged" if lost else "failed", told(repaired, said))


def last_errors(repaired: list[dict[str, Any]]) -> frozenset[str]:
    """What custodian saw in the last run that it found fault with."""
    return frozenset(repaired[-1]["errors"]) if repaired else frozenset()


def told(repaired: list[dict[str, Any]], said: str) -> str:
    """What custodian did about it, in words."""
    errors = [error for correction in repaired for error in correction["errors"]]
    tried = f"custodian saw {', '.join(errors)}" if errors else "custodian saw nothing that it knows"
    words = re.sub(r"<[\w.]*\.(\w+) object at \w+>", r"\1", " ".join(said.split()))
    return f"{tried}; {words}".strip("; ")

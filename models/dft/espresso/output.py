"""Output of pw.x: its XML file, and its error messages."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

from models.dft.runtime.calculation import Died, Ended, NotConverged

# As pw.x has them: CODATA 2018.
RYDBERG = 13.605693122994  # eV
HARTREE = 2 * RYDBERG
BOHR = 0.529177210903  # Å
# Routines that diagonalise, orthogonalise, mix or fill bands: they fail where a density on its way to convergence went
# astray, and another way may lead there. (All of what calls `errore` in PW, KS_Solvers and LAXlib, from 6.4 to 7.5.)
NUMERICAL = re.compile(
    r"p?[cr]diaghg?|p?[cr]egterg|diagonalize\w*|p[dz]syevd_drv|pzheevd_drv|p[dz]potrf|tqli|laxlib\w*"
    r"|ppcg|paro\w*|[cr]rmmdiagg|[cr]cgdiagg|gram_schmidt_\w+|c_bands|mix_rho|broyden|efermi[gt]"
    r"|.*_gpu"
)
# What these say of their input, which no other way of mixing changes.
SETTING = re.compile(r"invalid|not initialized|npol|NYI|without GPU", re.IGNORECASE)
WRONG_CHARGE = re.compile(r"charge is wrong|wrong charge", re.IGNORECASE)
# Routines that read and write what pw.x keeps in its scratch folder.
FILES = re.compile(r"davcio|diropn\w*|seqopn|\w*buffers?|(read|write)_(rhog|wfc|collected_wfc)|pw_write\w*")
# What is told in a line of its own, without percent signs: how it ended; None: another way of mixing may do.
LINES: dict[str, str | None] = {
    r"\[Q, R\] = qr\(X, 0\) failed": None,
    "G_par is NOT a reciprocal lattice vector": "failed",
    "Maximum CPU time exceeded": "walltime",
}
# How a refused allocation reads, from pw.x, Fortran, C++ or the system.
NO_MEMORY = re.compile(
    r"error allocating|cannot allocate|allocation would exceed|insufficient virtual memory|not enough memory|bad_alloc"
    r"|out of memory",
    re.IGNORECASE,
)


class Output:
    """What pw.x wrote into its XML file, in eV and Å, and with ASE's sign of the stress."""

    def __init__(self, path: Path, calculation: str) -> None:
        root = ET.parse(path).getroot()
        self.output = root.find("output")
        # One that dies leaves what the run before it wrote.
        if self.output is None or root.findtext("input/control_variables/calculation") != calculation:
            raise Died(f"{path}: pw.x ended without a result of this run")
        self.converged = self._text("convergence_info/scf_conv/convergence_achieved") == "true"
        if calculation == "scf" and self.output.find("convergence_info/scf_conv/convergence_achieved") is None:
            raise Ended("failed", f"{path} does not say whether the density converged: pw.x must be 6.4 or later")
        self.scf_steps = int(self._text("convergence_info/scf_conv/n_scf_steps"))
        if calculation == "scf" and self.scf_steps == 0:  # it was stopped while it set up, and calls that converged
            raise Died(f"{path}: pw.x ended before the cycle began")

    def _text(self, tag: str) -> str:
        assert self.output is not None
        return (self.output.findtext(tag) or "0").strip()

    def _array(self, tag: str) -> Any:
        return np.array(self._text(tag).split(), dtype=float)

    @property
    def energy(self) -> float:
        """Between the internal and the free energy, at half of -TS: where both go when the smearing goes to zero.

        https://doi.org/10.1088/0953-8984/1/4/005
        """
        return HARTREE * (float(self._text("total_energy/etot")) - 0.5 * float(self._text("total_energy/demet")))

    @property
    def forces(self) -> Any:
        """Of each atom, eV/Å, (n, 3)."""
        return self._array("forces").reshape(-1, 3) * HARTREE / BOHR

    @property
    def stress(self) -> Any:
        """Voigt, eV/Å³, positive where the cell wants to shrink."""
        tensor = -self._array("stress").reshape(3, 3) * HARTREE / BOHR**3
        return tensor.ravel()[[0, 4, 8, 5, 2, 1]]

    @property
    def fermi_level(self) -> float:
        """In eV."""
        return HARTREE * float(self._text("band_structure/fermi_energy"))

    @property
    def n_kpoints(self) -> int:
        """Irreducible ones."""
        return int(self._text("band_structure/nks"))

    @property
    def electrons(self) -> float:
        """Valence electrons in the cell."""
        return float(self._text("band_structure/nelec"))

    @property
    def magnetization(self) -> float:
        """Total moment of the cell, μB."""
        return float(self._text("magnetization/total"))

    def levels(self) -> Any:
        """Eigenvalues (eV) of each spin channel, (spins, k-points, bands)."""
        assert self.output is not None
        rows = [
            np.array((point.findtext("eigenvalues") or "").split(), dtype=float)
            for point in self.output.findall("band_structure/ks_energies")
        ]
        spins = 2 if self._text("band_structure/lsda") == "true" else 1
        return HARTREE * np.array(rows).reshape(len(rows), spins, -1).swapaxes(0, 1)


def site_moments(said: str) -> list[float]:
    """Moments within a sphere about each atom, μB, as they stood when the density had converged.

    Args:
        said: The standard output of pw.x: not every version has them in its XML file.
    """
    # "atom:    1    charge:    8.8027    magn:    0.2605", from 7.0 "atom   1 (R=0.411)  charge=  8.80  magn=  0.26".
    found = re.findall(r"^\s*atom:?\s+(\d+)\s.*magn[:=]\s*(\S+)", said, re.MULTILINE)
    return [float(moment) for _, moment in sorted({int(atom): moment for atom, moment in found}.items())]


def raise_refusal(said: str, errors: str) -> None:
    """Raise what pw.x said between its lines of percent signs, in a line of its own, or of a refused allocation.

    Args:
        said: Its standard output, and the file CRASH if it left one.
        errors: Its standard error.

    Raises:
        NotConverged: It lost its way in the cycle.
        Ended: It refused, or had not enough memory or time.
        Died: It could not read or write what it keeps in files: that is no property of the crystal.
    """
    match = re.search(r"%{20,}\s*\n(.*?)\n\s*%{20,}", said, re.DOTALL)
    words = " ".join(match[1].split()) if match else ""
    if lines := [line for line in (words, *errors.splitlines()) if NO_MEMORY.search(line)]:
        raise Ended("out_of_memory", lines[0])
    if match is None:
        for pattern, status in LINES.items():
            if found := re.search(f"^.*{pattern}.*$", said, re.MULTILINE):
                raise Ended(status, found[0].strip()) if status else NotConverged(found[0].strip())
        return
    named = re.search(r"(?:routine|from)\s+(\S+)", words)
    routine = named[1].lower() if named else ""
    if FILES.fullmatch(routine):
        raise Died(f"pw.x could not use its files: {words}")
    if (NUMERICAL.fullmatch(routine) and not SETTING.search(words)) or WRONG_CHARGE.search(words):
        raise NotConverged(words)
    raise Ended("failed", words)

"""What GPAW is asked in a calculation: the density, the band gap. driver.py loads it.

For whichever Python has GPAW: it needs nothing of ours installed, and runs with ASE and GPAW of Debian 12 too.
"""

from __future__ import annotations

import os
from typing import Any

from models.dft.course import Ended


def k_points(divisions: Any, shift: Any) -> Any:
    """Fractional coordinates of the whole mesh, folded to (-1/2, 1/2]."""
    import numpy as np

    axes = [(np.arange(n) + (0.5 if s else 0.0)) / n for n, s in zip(divisions, shift)]  # noqa: B905
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points - np.ceil(points - 0.5 - 1e-9)


def calculator(settings: Any, safer: bool, n_atoms: int) -> Any:
    """GPAW as the settings say; `safer` mixes little of the new density and takes its time."""
    from gpaw import GPAW, PW, FermiDirac

    more: dict[str, Any] = {}
    if safer:
        more["mixer"] = {"backend": "pulay", "beta": 0.02, "nmaxold": 5, "weight": 100.0}
        if settings["magnetic_moments"]:
            more["mixer"]["method"] = "sum"
    return GPAW(
        mode=PW(settings["cutoff_ev"]),
        xc=settings["functional"],
        kpts=k_points(settings["kpoints"], settings["kpoint_shift"]),
        occupations=FermiDirac(settings["smearing_ev"]),
        # Empty ones. Left alone, GPAW takes no more bands than there are atomic orbitals: none above the filled ones
        # of calcium, whose metal would then be computed as an insulator.
        nbands=-(4 + n_atoms // 2),
        convergence={
            "energy": settings["convergence_energy_ev"],
            "density": settings["convergence_density"],
        },
        maxiter=settings["max_scf_steps"] * (3 if safer else 1),
        txt="gpaw.txt",
        **more,
    )


def ground_state(atoms: Any, task: Any) -> tuple[Any, int]:
    """Converge the density, the second time with safer mixing; the calculator, and how many times it took."""
    from gpaw import KohnShamConvergenceError

    for attempt in (1, 2):
        atoms.calc = calculator(task["settings"], safer=attempt == 2, n_atoms=len(atoms))
        try:
            atoms.get_potential_energy()
            return atoms.calc, attempt
        except KohnShamConvergenceError as error:
            message = f"the density did not converge, with safer mixing neither: {error}"
            if os.path.exists("gpaw.txt"):
                os.replace("gpaw.txt", f"gpaw-attempt-{attempt}.txt")
    raise Ended("scf_not_converged", message)


def properties(calc: Any, settings: Any) -> dict[str, Any]:
    """What else the density says, by the Materials Project's names."""
    found = {"n_kpoints": len(calc.get_ibz_k_points()), "efermi": float(calc.get_fermi_level())}
    if settings["magnetic_moments"]:
        found["total_magnetization"] = float(calc.get_magnetic_moment())
    return found


def band_gap(calc: Any, settings: Any) -> float:
    """The gap (eV) by counting bands, over the mesh of the density and a Γ-centred one at fixed density.

    A shifted mesh holds no point of high symmetry, where most gaps are.
    """
    counts = occupied_bands(calc, settings)
    if counts is None:
        return 0.0
    top, bottom = edges(calc, counts)
    if top > bottom + 0.3:  # bands overlap so far that more k-points cannot open a gap
        return 0.0
    fixed = calc.fixed_density(
        kpts=k_points(settings["gap_kpoints"], (False, False, False)),
        nbands=max(counts) + 4,
        convergence={"bands": max(counts) + 1, "eigenstates": 1e-5},
        txt="gap.txt",
    )
    more_top, bottom = edges(fixed, counts)
    return float(max(0.0, bottom - max(top, more_top)))


def occupied_bands(calc: Any, settings: Any) -> list[int] | None:
    """Bands that are full in each spin channel, or None where a band must be partly full: a metal."""
    electrons = calc.get_number_of_electrons()
    moment = calc.get_magnetic_moment() if settings["magnetic_moments"] else 0.0
    counts = [(electrons + moment) / 2, (electrons - moment) / 2] if settings["magnetic_moments"] else [electrons / 2]
    if any(abs(count - round(count)) > 0.05 for count in counts):
        return None
    return [round(float(count)) for count in counts]


def edges(calc: Any, counts: list[int]) -> tuple[float, float]:
    """Highest full and lowest empty level (eV)."""
    full: list[float] = []
    empty: list[float] = []
    for spin, count in enumerate(counts):
        for k in range(len(calc.get_ibz_k_points())):
            levels = sorted(calc.get_eigenvalues(kpt=k, spin=spin))
            if count > 0:
                full.append(levels[count - 1])
            if count < len(levels):
                empty.append(levels[count])
    return max(full), min(empty)

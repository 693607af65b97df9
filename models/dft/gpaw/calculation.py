"""GPAW's part of a calculation: the density and the band gap. driver.py loads it.

For whichever Python has GPAW: it needs nothing of ours installed, and runs with ASE and GPAW of Debian 12 too.
"""

from __future__ import annotations

from typing import Any

from models.dft.runtime.calculation import NotConverged, climb, gap

LOG = "gpaw.txt"
# How the density is mixed: the next rung is climbed where the one before has not converged within its steps.
LADDER: dict[str, dict[str, Any]] = {
    "default": {},
    # Little of the new density, long waves damped, and time for it.
    "slow": {"mixer": {"backend": "pulay", "beta": 0.02, "nmaxold": 5, "weight": 100.0}, "patience": 3},
}


def k_points(divisions: Any, shift: Any) -> Any:
    """Fractional coordinates of the whole mesh, folded to (-1/2, 1/2]."""
    import numpy as np

    axes = [(np.arange(n) + (0.5 if s else 0.0)) / n for n, s in zip(divisions, shift)]  # noqa: B905
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points - np.ceil(points - 0.5 - 1e-9)


def hubbard_setups(hubbard: dict[str, float]) -> dict[str, str]:
    """U as GPAW takes it: "Mn-3d" -> 3.9 becomes {"Mn": ":d,3.9,0"}.

    The 0 leaves the electrons of a shell as the augmentation sphere holds them, without scaling them up to what the
    free atom has outside, as VASP does: https://gpaw.readthedocs.io/tutorialsexercises/magnetism/hubbardu/hubbardu.html
    """
    shells = {name.split("-")[0]: (name[-1], u) for name, u in hubbard.items()}
    return {symbol: f":{letter},{u},0" for symbol, (letter, u) in shells.items()}


def calculator(settings: Any, rung: dict[str, Any], n_atoms: int) -> Any:
    """GPAW as the settings say, its density mixed as a rung of the ladder says."""
    from gpaw import GPAW, PW, FermiDirac

    more: dict[str, Any] = {}
    if settings.get("hubbard"):
        more["setups"] = hubbard_setups(settings["hubbard"])
    if "mixer" in rung:
        more["mixer"] = {**rung["mixer"], **({"method": "sum"} if settings["magnetic_moments"] else {})}
    return GPAW(
        mode=PW(settings["cutoff_ev"]),
        xc=settings["functional"],
        kpts=k_points(settings["kpoints"], settings["kpoint_shift"]),
        # Screw axes and glide planes too: without them an hcp metal has twice the k-points, and a crystal of TiNiSi's
        # type four times. The grid that they map onto itself moves an energy by 0.02 meV/atom at most.
        symmetry={"symmorphic": False},
        occupations=FermiDirac(settings["smearing_ev"]),
        # Empty ones. Left alone, GPAW takes no more bands than there are atomic orbitals: none above the filled ones
        # of calcium, whose metal would then be computed as an insulator.
        nbands=-(4 + n_atoms // 2),
        convergence={
            "energy": settings["convergence_energy_ev"],
            "density": settings["convergence_density"],
        },
        maxiter=settings["max_scf_steps"] * rung.get("patience", 1),
        txt=LOG,
        **more,
    )


def ground_state(atoms: Any, task: Any) -> tuple[Any, list[str]]:
    """Converge the density, from rung to rung; the calculator, and the rungs that were tried, the last one served."""
    from gpaw import KohnShamConvergenceError

    def attempt(name: str) -> None:
        atoms.calc = calculator(task["settings"], LADDER[name], n_atoms=len(atoms))
        try:
            atoms.get_potential_energy()
        except KohnShamConvergenceError as error:
            raise NotConverged(str(error)) from None

    rungs = climb(LADDER, attempt, LOG)
    return atoms.calc, rungs


def convergence_errors() -> tuple[type[Exception], ...]:
    """What GPAW's calculator raises in the midst of a relaxation."""
    from gpaw import KohnShamConvergenceError

    return (KohnShamConvergenceError,)


def forget(calc: Any) -> None:
    """Nothing: what GPAW holds, it holds in memory."""


def properties(calc: Any, settings: Any) -> dict[str, Any]:
    """What else the density says, by the Materials Project's names."""
    found = {"n_kpoints": len(calc.get_ibz_k_points()), "efermi": float(calc.get_fermi_level())}
    if settings["magnetic_moments"]:
        found["total_magnetization"] = float(calc.get_magnetic_moment())
        found["magmoms"] = calc.get_magnetic_moments().tolist()
    return found


def band_gap(calc: Any, settings: Any) -> float:
    """The gap (eV), over the mesh of the density and a Γ-centred one."""

    def finer(n_bands: int) -> Any:
        return levels_on(calc, k_points(settings["gap_kpoints"], (False, False, False)), n_bands)

    # The SCF cycle converges the occupied bands alone. To have it converge empty ones would change what a metal costs,
    # and may never end where there are too few of them.
    def settled(n_bands: int, places: list[int]) -> Any:
        return levels_on(calc, calc.get_ibz_k_points()[places], n_bands, symmetry="off")

    moment = calc.get_magnetic_moment() if settings["magnetic_moments"] else None
    return gap(calc.get_number_of_electrons(), moment, levels(calc), finer, settled)


def levels_on(calc: Any, points: Any, n_bands: int, **more: Any) -> Any:
    """Eigenvalues (eV) at fixed density, of so many bands converged, [spin][k-point][band].

    The further bands are there for speed: without them, 25 steps instead of ten where the gap is narrow.
    """
    fixed = calc.fixed_density(
        kpts=points,
        nbands=n_bands + 3 + len(calc.atoms) // 2,
        convergence={"bands": n_bands, "eigenstates": 1e-3},  # eV² an electron: 3e-5 eV in a gap, at most
        txt="gap.txt",
        **more,
    )
    return levels(fixed)


def levels(calc: Any) -> Any:
    """Eigenvalues (eV), [spin][k-point][band]."""
    points = range(len(calc.get_ibz_k_points()))
    return [[calc.get_eigenvalues(kpt=k, spin=spin) for k in points] for spin in range(calc.get_number_of_spins())]

"""What GPAW is asked in a calculation: the density, the relaxation, the band gap. Loaded by gpaw_driver.py.

For whichever Python has GPAW: it needs nothing of ours, and runs with ASE and GPAW of Debian 12 too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import threading
import time
from typing import Any

GPA = 0.006241509125883258  # eV/Å³
# Two atoms nearer than this share of their covalent radii: GPAW would compute it, and the number would mean nothing.
TOO_CLOSE = 0.55
# A relaxation that ends above where it began went wrong, whatever its forces say. eV/atom.
MAY_RISE = 0.002
# How the density is mixed: the next rung is climbed where the one before has not converged within its steps.
LADDER: tuple[dict[str, Any], ...] = (
    {"name": "default", "mixer": None, "patience": 1},
    # Little of the new density, long waves damped, and time for it.
    {"name": "slow", "mixer": {"backend": "pulay", "beta": 0.02, "nmaxold": 5, "weight": 100.0}, "patience": 3},
)


class Ended(Exception):
    """The calculation has no result, and this is why."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def read(name: str) -> Any:
    """Read a JSON file."""
    with open(name) as file:
        return json.load(file)


def write(name: str, content: Any) -> None:
    """Write a JSON file so that nobody ever sees half of it, not even after the power failed."""
    new = f"{name}.{os.getpid()}.{threading.get_ident()}"
    with open(new, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, name)


def rank() -> int:
    """Which of the MPI processes this is, by whoever started it: Open MPI, MPICH, or Slurm's srun."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def compute(task: Any, started: float) -> dict[str, Any]:
    """Run the calculation that the task describes, and return what `result.json` will hold."""
    from ase import Atoms

    settings = task["settings"]
    atoms = Atoms(numbers=task["numbers"], scaled_positions=task["scaled_positions"], cell=task["cell"], pbc=True)
    check_geometry(atoms)
    if settings["magnetic_moments"]:
        atoms.set_initial_magnetic_moments([settings["magnetic_moments"].get(s, 0.0) for s in atoms.symbols])
    energies: list[float] = []
    n_steps, converged = 0, True
    if settings["mode"] == "relax":
        n_steps, converged = relax(atoms, task, energies, started)
    calc, rungs = ground_state(atoms, task)
    result: dict[str, Any] = {
        "status": "converged" if converged else "max_steps",
        "message": "" if converged else f"forces or stress still too large after {n_steps} steps",
        "energy": atoms.get_potential_energy(),
        "max_force": float(abs(atoms.get_forces()).max(initial=0.0)),
        "max_stress": float(abs(atoms.get_stress()).max()),
        "cell": atoms.cell.tolist(),
        "scaled_positions": atoms.get_scaled_positions().tolist(),
        "numbers": atoms.numbers.tolist(),
        "n_steps": n_steps,
        "attempts": len(rungs),
        "properties": {
            "n_kpoints": len(calc.get_ibz_k_points()),
            "efermi": float(calc.get_fermi_level()),
            "mixing": rungs[-1],
        },
    }
    if energies and result["energy"] > energies[0] + MAY_RISE * len(atoms):
        raise Ended("failed", f"the energy rose by {result['energy'] - energies[0]:.4f} eV in the relaxation")
    if settings["magnetic_moments"]:
        result["properties"]["total_magnetization"] = float(calc.get_magnetic_moment())
    result["band_gap"] = band_gap(calc, settings)
    return result


def check_geometry(atoms: Any) -> None:
    """Refuse what no code should be asked."""
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    first, second, distance = neighbor_list("ijd", atoms, 2.0)
    sums = covalent_radii[atoms.numbers[first]] + covalent_radii[atoms.numbers[second]]
    for i, j, d, s in zip(first, second, distance, sums):  # noqa: B905 - an older Python may run this
        if d < TOO_CLOSE * s:
            raise Ended("failed", f"{atoms.symbols[i]} and {atoms.symbols[j]} are {d:.2f} Å apart: not a crystal")


def k_points(divisions: Any, shift: Any) -> Any:
    """Fractional coordinates of the whole mesh, folded to (-1/2, 1/2]."""
    import numpy as np

    axes = [(np.arange(n) + (0.5 if s else 0.0)) / n for n, s in zip(divisions, shift)]  # noqa: B905
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points - np.ceil(points - 0.5 - 1e-9)


def calculator(settings: Any, rung: dict[str, Any], n_atoms: int) -> Any:
    """GPAW as the settings say, its density mixed as a rung of the ladder says."""
    from gpaw import GPAW, PW, FermiDirac

    more: dict[str, Any] = {}
    if rung["mixer"]:
        more["mixer"] = dict(rung["mixer"])
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
        maxiter=settings["max_scf_steps"] * rung["patience"],
        txt="gpaw.txt",
        **more,
    )


def failed_rungs() -> list[str]:
    """Names of the rungs that did not converge, in this attempt or an earlier one."""
    return list(read("rungs.json")) if os.path.exists("rungs.json") else []


def leave(rung: str) -> list[str]:
    """Write down that a rung did not converge, and keep its log; all that did not."""
    if rank() == 0:
        with contextlib.suppress(FileNotFoundError):
            os.replace("gpaw.txt", f"gpaw-{rung}.txt")
    failed = failed_rungs()
    if rung not in failed:
        failed.append(rung)
    write("rungs.json", failed)
    return failed


def ground_state(atoms: Any, task: Any) -> tuple[Any, list[str]]:
    """Converge the density, from rung to rung; the calculator, and the rungs that were tried, the last one served.

    A rung that failed is written down, so that no later attempt at this calculation climbs it again.
    """
    from gpaw import KohnShamConvergenceError

    failed, message = failed_rungs(), "no rung was left"
    for rung in LADDER:
        if rung["name"] in failed:
            continue
        atoms.calc = calculator(task["settings"], rung, n_atoms=len(atoms))
        try:
            atoms.get_potential_energy()
            return atoms.calc, [*failed, rung["name"]]
        except KohnShamConvergenceError as error:
            message = str(error)
            failed = leave(rung["name"])
    raise Ended("scf_not_converged", f"the density did not converge with mixing {', then '.join(failed)}: {message}")


def cell_filter(atoms: Any) -> Any:
    """Positions and the logarithm of the strain as one set of variables, by ASE's name for it."""
    try:
        return importlib.import_module("ase.filters").FrechetCellFilter(atoms)
    except ImportError:  # before ASE 3.23
        return importlib.import_module("ase.constraints").ExpCellFilter(atoms)


def relax(atoms: Any, task: Any, energies: list[float], started: float) -> tuple[int, bool]:
    """Relax positions and cell; steps taken, in all, and whether forces and stress are small enough."""
    from ase.optimize import BFGS
    from gpaw import KohnShamConvergenceError

    settings = task["settings"]
    done = 0
    if os.path.exists("checkpoint.json"):
        saved = read("checkpoint.json")
        atoms.set_cell(saved["cell"])
        atoms.set_scaled_positions(saved["scaled_positions"])
        done = saved["n_steps"]
        energies.extend(saved["energies"])
    rung = ground_state(atoms, task)[1][-1]
    optimizer = BFGS(cell_filter(atoms), logfile="relax.log", maxstep=0.1)

    def small_enough() -> bool:
        force = abs(atoms.get_forces()).max(initial=0.0)
        return bool(force <= settings["fmax"] and abs(atoms.get_stress()).max() <= settings["max_stress_gpa"] * GPA)

    while True:
        try:
            energies.append(atoms.get_potential_energy())
        except KohnShamConvergenceError:
            leave(rung)
            rung = ground_state(atoms, task)[1][-1]
            optimizer = BFGS(cell_filter(atoms), logfile="relax.log", maxstep=0.1)
            continue
        content = {
            "cell": atoms.cell.tolist(),
            "scaled_positions": atoms.get_scaled_positions().tolist(),
            "n_steps": done,
            "energies": energies,
            "wall_time_s": time.time() - started,
        }
        write("checkpoint.json", content)
        if small_enough():
            return done, True
        if done >= settings["max_steps"]:
            return done, False
        optimizer.step()
        done += 1


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

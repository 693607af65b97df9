"""Course of every DFT calculation, whichever code computes it: the crystal, its relaxation, its results.

For whichever Python has the code: it needs nothing of ours installed, and runs with ASE of Debian 12 too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

GPA = 0.006241509125883258  # eV/Å³
# Two atoms nearer than this share of their covalent radii: a code would compute it, and the number would mean nothing.
TOO_CLOSE = 0.55
# A relaxation that ends above where it began went wrong, whatever its forces say. eV/atom.
MAY_RISE = 0.002
# How much too high an empty level may lie that an SCF cycle was not asked to converge, at the very most. eV.
UNSETTLED = 0.2


class Ended(Exception):
    """The calculation has no result, and this is why."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class Died(Exception):
    """The code's program ended without a word: somebody may have killed it, and it deserves another chance."""


class NotConverged(Exception):
    """The density did not converge with one way of mixing it."""


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


def evaluate(atoms: Any, task: Any, started: float, physics: Any) -> dict[str, Any]:
    """Relax the atoms if the task asks for it, and return what `result.json` will hold.

    Args:
        atoms: With the moments to start from.
        task: The content of `task.json`.
        started: When it began, the time of earlier attempts taken off.
        physics: The module of the code. `ground_state(atoms, task)` converges the density, gives the atoms a
            calculator, and returns it and what `climb` returned; `band_gap(calc, settings)` is in eV;
            `properties(calc, settings)` is whatever else there is to say, with spin the `total_magnetization` and the
            `magmoms` of the sites; `forget(calc)` clears away what is no longer needed of it; `LOG` is where the code
            writes, and `convergence_errors()` are what its calculator raises if it does not climb by itself.
    """
    settings = task["settings"]
    energies: list[float] = []
    n_steps, converged = 0, True
    if settings["mode"] == "relax":
        n_steps, converged = relax(atoms, task, physics, energies, started)
    calc, rungs = physics.ground_state(atoms, task)
    energy = atoms.get_potential_energy()
    if energies and energy > energies[0] + MAY_RISE * len(atoms):
        raise Ended("failed", f"the energy rose by {energy - energies[0]:.4f} eV in the relaxation")
    result = result_of(atoms, calc, rungs, settings, physics)
    result["n_steps"] = n_steps
    if not converged:
        result["status"] = "max_steps"
        result["message"] = f"forces or stress still too large after {n_steps} steps"
    return result


def result_of(atoms: Any, calc: Any, rungs: list[str], settings: Any, physics: Any) -> dict[str, Any]:
    """The numbers of a converged density, its band gap among them."""
    return {
        "status": "converged",
        "message": "",
        "energy": atoms.get_potential_energy(),
        "max_force": largest_force(atoms.get_forces()),
        "max_stress": float(abs(atoms.get_stress()).max()),
        "cell": atoms.cell.tolist(),
        "scaled_positions": atoms.get_scaled_positions().tolist(),
        "numbers": atoms.numbers.tolist(),
        "n_steps": 0,
        "attempts": len(rungs),
        "properties": {
            "forces": atoms.get_forces().tolist(),
            "stress": atoms.get_stress(voigt=False).tolist(),
            **physics.properties(calc, settings),
            "mixing": rungs[-1],
        },
        "band_gap": physics.band_gap(calc, settings),
    }


def largest_force(forces: Any) -> float:
    """The length of the largest force, eV/Å, as ASE's `fmax` and VASP's EDIFFG have it.

    Args:
        forces: Of the atoms, shape (n, 3).
    """
    return float(((forces**2).sum(axis=1) ** 0.5).max(initial=0.0))


def check_geometry(atoms: Any) -> None:
    """Refuse what no code should be asked."""
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    first, second, distance = neighbor_list("ijd", atoms, 2.0)
    sums = covalent_radii[atoms.numbers[first]] + covalent_radii[atoms.numbers[second]]
    for i, j, d, s in zip(first, second, distance, sums):  # noqa: B905 - an older Python may run this
        if d < TOO_CLOSE * s:
            raise Ended("failed", f"{atoms.symbols[i]} and {atoms.symbols[j]} are {d:.2f} Å apart: not a crystal")


def cell_filter(atoms: Any) -> Any:
    """Positions and the logarithm of the strain as one set of variables, by ASE's name for it."""
    try:
        return importlib.import_module("ase.filters").FrechetCellFilter(atoms)
    except ImportError:  # before ASE 3.23
        return importlib.import_module("ase.constraints").ExpCellFilter(atoms)


def relax(atoms: Any, task: Any, physics: Any, energies: list[float], started: float) -> tuple[int, bool]:
    """Relax positions and cell; steps taken, in all, and whether forces and stress are small enough."""
    from ase.optimize import BFGS

    settings = task["settings"]
    done = 0
    if os.path.exists("checkpoint.json"):
        saved = read("checkpoint.json")
        atoms.set_cell(saved["cell"])
        atoms.set_scaled_positions(saved["scaled_positions"])
        done = saved["n_steps"]
        energies.extend(saved["energies"])
    rung = physics.ground_state(atoms, task)[1][-1]
    optimizer = BFGS(cell_filter(atoms), logfile="relax.log", maxstep=0.1)

    def small_enough() -> bool:
        force = largest_force(atoms.get_forces())
        return bool(force <= settings["fmax"] and abs(atoms.get_stress()).max() <= settings["max_stress_gpa"] * GPA)

    while True:
        try:
            energies.append(atoms.get_potential_energy())
        except physics.convergence_errors():
            leave(rung, physics.LOG)
            rung = physics.ground_state(atoms, task)[1][-1]
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


def climb(ladder: Iterable[str], attempt: Callable[[str], None], log: str) -> list[str]:
    """Try one way of mixing the density after another; those that were tried, the last one served.

    Args:
        ladder: The names of the ways, the quickest first.
        attempt: Called with a name; it raises `NotConverged` where that led nowhere.
        log: Where the code writes.
    """
    failed, words = failed_rungs(), "no rung was left"
    for rung in ladder:
        if rung in failed:
            continue
        try:
            attempt(rung)
            return [*failed, rung]
        except NotConverged as error:
            failed, words = leave(rung, log), str(error)
    raise Ended("scf_not_converged", f"the density did not converge with mixing {', then '.join(failed)}: {words}")


def failed_rungs() -> list[str]:
    """Names of the rungs that did not converge, in this attempt or an earlier one: none is climbed again."""
    return list(read("rungs.json")) if os.path.exists("rungs.json") else []


def forget_rungs() -> None:
    """Let all rungs be climbed again."""
    with contextlib.suppress(FileNotFoundError):
        os.remove("rungs.json")


def leave(rung: str, log: str) -> list[str]:
    """Write down that a rung did not converge, and keep its log; all that did not."""
    if rank() == 0:
        with contextlib.suppress(FileNotFoundError):
            os.replace(log, f"-{rung}".join(os.path.splitext(log)))
    failed = failed_rungs()
    if rung not in failed:
        failed.append(rung)
    write("rungs.json", failed)
    return failed


def gap(
    electrons: float,
    moment: float | None,
    levels: Any,
    finer: Callable[[int], Any],
    settled: Callable[[int, list[int]], Any] | None = None,
) -> float:
    """The band gap (eV): lowest empty less highest full level, by counting bands, over two meshes of k-points.

    A shifted mesh holds no point of high symmetry, where most band edges are, and a Γ-centred one may hold none where a
    band has its edge elsewhere: neither mesh's edge alone is the crystal's.

    Args:
        electrons: Valence electrons in the cell.
        moment: Total moment (μB), None without spin.
        levels: Eigenvalues (eV) on the mesh of the density, [spin][k-point][band].
        finer: Called with how many bands must have converged, for the same on the Γ-centred mesh.
        settled: Called with these bands and places of k-points in `levels`, for the converged levels there: the empty
            ones of `levels` may still lie up to `UNSETTLED` too high. None where they have converged.
    """
    counts = [electrons / 2] if moment is None else [(electrons + moment) / 2, (electrons - moment) / 2]
    if any(abs(count - round(count)) > 0.05 for count in counts):
        return 0.0  # a band must be partly full
    full = [round(float(count)) for count in counts]
    n_bands = max(full) + 1
    top, bottom = edges(levels, full)
    if top >= bottom:  # bands overlap, and more k-points cannot part them
        return 0.0
    more_top, more_bottom = edges(finer(n_bands), full)
    top, bottom = max(top, more_top), min(bottom, more_bottom)
    if settled is not None and top < bottom:
        # Levels only sink as they converge: a point that lies higher than this cannot come to hold the edge.
        near = [place for place, lowest in enumerate(lowest_empty(levels, full)) if lowest < bottom + UNSETTLED]
        if near:
            bottom = min(more_bottom, edges(settled(n_bands, near), full)[1])
    return float(max(0.0, bottom - top))


def lowest_empty(levels: Any, counts: list[int]) -> list[float]:
    """Lowest empty level of each k-point (eV); infinity where there is none."""
    points = range(len(levels[0]))
    return [edges([[spin[point]] for spin in levels], counts)[1] for point in points]


def edges(levels: Any, counts: list[int]) -> tuple[float, float]:
    """Highest full and lowest empty level (eV); ∓infinity where there is none."""
    full: list[float] = []
    empty: list[float] = []
    for spin, count in enumerate(counts):
        for unsorted in levels[spin]:
            point = sorted(unsorted)
            if count > 0:
                full.append(point[count - 1])
            if count < len(point):
                empty.append(point[count])
    return max(full, default=-math.inf), min(empty, default=math.inf)

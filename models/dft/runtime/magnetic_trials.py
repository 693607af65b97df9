"""Magnetic orders of one calculation, tried one after the other in the same cell.

For whichever Python has the code: it needs nothing of ours installed.
"""

from __future__ import annotations

import functools
import math
import os
import time
from typing import Any

from models.dft.runtime import calculation as course

FILE = "orders.json"  # the orders that have been tried
DIATOMIC = {1, 7, 8, 9, 17}  # atomic numbers of elements whose formula unit is a molecule of two
TINY = 0.05  # μB: a site with less has no moment
SAME = 1e-5  # eV/atom: an order must be lower than another by more, to be kept


def compute(task: Any, started: float, physics: Any) -> dict[str, Any]:
    """Run the calculation that the task describes, in each of its magnetic orders, and return what `result.json` holds.

    Args:
        task: The content of `task.json`.
        started: When it began, the time of earlier attempts taken off.
        physics: The module of the code, as `course.evaluate` has it.
    """
    from ase import Atoms

    settings = task["settings"]
    atoms = Atoms(numbers=task["numbers"], scaled_positions=task["scaled_positions"], cell=task["cell"], pbc=True)
    course.check_geometry(atoms)
    if settings.get("magnetic_orders"):
        return lowest(atoms, task, started, physics)
    moments = [settings["magnetic_moments"].get(symbol, 0.0) for symbol in atoms.symbols]
    if any(moments):
        atoms.set_initial_magnetic_moments(moments)
    result = course.evaluate(atoms, task, started, physics)
    result["properties"] |= moments_of(result["numbers"], result["properties"], moments, "ferromagnetic")
    return result


def lowest(atoms: Any, task: Any, started: float, physics: Any) -> dict[str, Any]:
    """Try the orders that the task asks for, and return the result of the lowest.

    A relaxation tries them on the geometry that it starts from, and relaxes the lowest. Orders that have been tried
    before the calculation was interrupted are not tried again; one whose density does not converge is left.

    Args:
        atoms: The supercell.
        task: The content of `task.json`.
        started: When the calculation began, the time of earlier attempts taken off.
        physics: As `course.evaluate` has it.

    Raises:
        course.Ended: None of them converged.
    """
    settings = task["settings"]
    relaxes = settings["mode"] == "relax"
    asked = dict(settings["magnetic_orders"]["tried"])
    kept = course.read(FILE) if os.path.exists(FILE) else {"tried": [], "lowest": None}
    known = {trial["order"] for trial in kept["tried"]}
    for name, moments in asked.items():
        if name in known:
            continue
        trial = atoms.copy()
        trial.set_initial_magnetic_moments(moments)
        said: dict[str, Any] = {"order": name}
        result = None
        try:
            calc, rungs = physics.ground_state(trial, task)
            found = physics.properties(calc, settings)
            said |= {
                "energy_per_atom": trial.get_potential_energy() / len(trial),
                "magnetic_order": order_found(found.get("magmoms"), found["total_magnetization"], moments, name),
                "total_magnetization": found["total_magnetization"],
            }
            if is_lower(said, kept["lowest"], kept["tried"]):
                result = {} if relaxes else course.result_of(trial, calc, rungs, settings, physics)
            physics.forget(calc)
        except course.Ended as end:
            if end.status != "scf_not_converged":
                raise
            said, result = {"order": name, "energy_per_atom": None, "message": str(end)}, None
        if result is not None:
            kept["lowest"] = {"order": name, "result": result}
        kept["tried"].append(said)
        kept["wall_time_s"] = time.time() - started
        # Another order may well converge with the mixing that this one did not. Killed in between, it is tried again.
        course.forget_rungs()
        course.write(FILE, kept)
    if kept["lowest"] is None:
        words = "; ".join(f"{trial['order']}: {trial['message']}" for trial in kept["tried"])
        raise course.Ended("scf_not_converged", f"no magnetic order converged: {words}")
    name, result = kept["lowest"]["order"], kept["lowest"]["result"]
    if relaxes:
        atoms.set_initial_magnetic_moments(asked[name])
        result = course.evaluate(atoms, task, started, physics)
    result["properties"] |= {
        **moments_of(result["numbers"], result["properties"], asked[name], name),
        "orders_tried": kept["tried"],
    }
    return dict(result)


def time_used() -> float:
    """Seconds that earlier attempts took, as far as they are written down."""
    files = [name for name in ("checkpoint.json", FILE) if os.path.exists(name)]
    return max((float(course.read(name).get("wall_time_s", 0.0)) for name in files), default=0.0)


def is_lower(trial: Any, lowest: Any, tried: Any) -> bool:
    """Whether an order lies below the lowest so far."""
    if lowest is None:
        return True
    energy = next(known["energy_per_atom"] for known in tried if known["order"] == lowest["order"])
    return bool(trial["energy_per_atom"] < energy - SAME)


def moments_of(numbers: Any, found: Any, started: Any, name: str) -> dict[str, Any]:
    """What there is to say of the moments of a result.

    Args:
        numbers: Atomic numbers of the cell.
        found: Its properties; `total_magnetization` is there with spin.
        started: Moments that it started from (μB); None where they are not known.
        name: Of the order that it started from.
    """
    total = found.get("total_magnetization")
    if total is None:
        return {"magnetic_order": "none"}
    units = float(functools.reduce(math.gcd, [list(numbers).count(number) for number in set(numbers)]))
    if len(set(numbers)) == 1 and set(numbers) <= DIATOMIC and units % 2 == 0:
        units /= 2
    return {
        "magnetic_order": order_found(found.get("magmoms"), total, started, name),
        "total_magnetization_per_formula_unit": abs(total) / units,
    }


def order_found(magmoms: Any, total: float, started: Any, name: str) -> str:
    """What became of an order when the density had converged: moments may have turned round, or vanished.

    Args:
        magmoms: Moments of the sites, μB; without them the total decides.
        total: Of the cell, μB.
        started: Moments that it started from, the sites without one do not count; None: all count.
        name: Of the order that it started from.
    """
    if not magmoms:
        return "ferromagnetic" if abs(total) > TINY else "none"
    pairs = [(found, start) for found, start in zip(magmoms, started or magmoms) if abs(start) > TINY]  # noqa: B905
    alive = [(found, start) for found, start in pairs if abs(found) > TINY]
    if not alive:
        return "none" if abs(total) < TINY * len(magmoms) else "ferromagnetic"
    if len({found > 0 for found, _ in alive}) == 1:
        return "ferromagnetic"
    if started and len({found * start > 0 for found, start in alive}) == 1:
        return name
    return "antiferromagnetic" if abs(total) < TINY * len(alive) else "ferrimagnetic"

"""Relaxes the same crystals with other programs and with ours, side by side, one thread, in one run.

    python -m tests.benchmarks.relaxation [--json F] [--crystals N] [--matgl FOLDER] [--level LEVEL]

Cells and positions, fmax 0.05 eV/Å in ASE's FrechetCellFilter, at most 500 steps. CPU seconds are of this process.
An energy excess is ours above the baseline's where StructureMatcher calls the two results one structure; the rest
are counted as other minima, lower or higher.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import optimize
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from models.potentials.interface import Potential
from models.potentials.load import load_potential
from models.relaxation import RelaxationSettings, relax
from tests.benchmarks.crystals import crystals

FMAX, MAX_STEPS = 0.05, 500


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one crystal ended. `calls` counts evaluations of the model."""

    structure: Structure
    energy: float  # eV
    calls: int
    converged: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """How one program did with all crystals."""

    name: str
    cpu_s: float
    outcomes: dict[str, Outcome]


def timed(
    name: str, act: Callable[[Mapping[str, Structure]], dict[str, Outcome]], found: Mapping[str, Structure]
) -> Run:
    """Run a program on all crystals and print its line."""
    start = time.process_time()
    outcomes = act(found)
    run = Run(name=name, cpu_s=time.process_time() - start, outcomes=outcomes)
    calls = sum(outcome.calls for outcome in outcomes.values())
    done = sum(outcome.converged for outcome in outcomes.values())
    print(f"{name:34s} {run.cpu_s:9.1f} CPU s {calls:7d} calls {done:4d} of {len(outcomes)} converged", flush=True)
    return run


def struct_optimizer(found: Mapping[str, Structure]) -> dict[str, Outcome]:
    """Chgnet's own StructOptimizer, as it comes: FIRE."""
    from chgnet.model import StructOptimizer

    outcomes = {}
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = StructOptimizer(use_device="cpu")
        for name, structure in found.items():
            result = optimizer.relax(structure.copy(), fmax=FMAX, steps=MAX_STEPS, verbose=False, assign_magmoms=False)
            path = result["trajectory"]
            atoms = AseAtomsAdaptor.get_atoms(result["final_structure"])
            outcomes[name] = Outcome(
                structure=result["final_structure"],
                energy=float(path.energies[-1]),
                calls=len(path.energies) - 1,  # the last step is logged twice
                converged=residual(atoms, optimizer.calculator) < FMAX * 1.02,
            )
    return outcomes


def ase_optimizer(calculator: Calculator, method: str) -> Callable[[Mapping[str, Structure]], dict[str, Outcome]]:
    """One of ASE's optimisers around a calculator."""

    def act(found: Mapping[str, Structure]) -> dict[str, Outcome]:
        outcomes = {}
        for name, structure in found.items():
            atoms = AseAtomsAdaptor.get_atoms(structure)
            atoms.calc = calculator
            optimizer = getattr(optimize, method)(FrechetCellFilter(atoms), logfile=None)
            converged = optimizer.run(fmax=FMAX, steps=MAX_STEPS)
            outcomes[name] = Outcome(
                structure=AseAtomsAdaptor.get_structure(atoms),
                energy=float(atoms.get_potential_energy()),
                calls=optimizer.nsteps + 1,
                converged=bool(converged),
            )
        return outcomes

    return act


def ours(potential: Potential) -> Callable[[Mapping[str, Structure]], dict[str, Outcome]]:
    """This program."""

    def act(found: Mapping[str, Structure]) -> dict[str, Outcome]:
        settings = RelaxationSettings(fmax=FMAX, max_steps=MAX_STEPS)
        names = list(found)
        return {
            names[index]: Outcome(
                structure=outcome.structure,
                energy=float("nan") if outcome.energy is None else outcome.energy,
                calls=outcome.n_steps + 1,
                converged=outcome.status == "converged",
            )
            for index, outcome in relax(potential, list(found.values()), settings)
        }

    return act


def residual(atoms: Any, calculator: Calculator) -> float:
    """The largest row of forces, virial included, that ASE sees on a structure as it is (eV/Å)."""
    atoms.calc = calculator
    return float(np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1).max())


def compared(baseline: Run, run: Run) -> dict[str, float]:
    """Set a run against a baseline, crystal by crystal."""
    matcher = StructureMatcher(ltol=0.2, stol=0.1, angle_tol=5)
    same, lower, higher = [], 0, 0
    for name, one in baseline.outcomes.items():
        other = run.outcomes[name]
        excess = 1000 * (other.energy - one.energy) / len(one.structure)
        if matcher.fit(one.structure, other.structure) and abs(excess) < 20:
            same.append((excess, name))
        elif excess < 0:
            lower += 1
        else:
            higher += 1
        if abs(excess) > 1:
            print(f"    {name}: {excess:+.1f} meV/atom, {one.calls} and {other.calls} calls")
    worst, where = max(same, default=(0.0, "none"))
    print(f"{run.name}: {baseline.cpu_s / run.cpu_s:.1f} times {baseline.name}; worst {worst:+.2f} meV/atom ({where})")
    return {
        "speedup_cpu": baseline.cpu_s / run.cpu_s,
        "worst_energy_excess_mev_per_atom": worst,
        "other_minimum_lower": lower,
        "other_minimum_higher": higher,
    }


def false_verdicts(run: Run, calculator: Calculator) -> list[str]:
    """Crystals that a run calls converged and ASE does not."""
    return [
        name
        for name, outcome in run.outcomes.items()
        if outcome.converged and residual(AseAtomsAdaptor.get_atoms(outcome.structure), calculator) > FMAX * 1.02
    ]


def main() -> None:
    """Run everything and print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the comparison there")
    parser.add_argument("--crystals", type=int, help="only the first N crystals")
    parser.add_argument("--matgl", help="folder or name of a matgl model to compare with ASE's FIRE and L-BFGS")
    parser.add_argument("--level", help="level of theory of the matgl model, where its name does not say it")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = dict(list(crystals().items())[: arguments.crystals])
    device = platform.processor() or platform.machine()
    print(f"{len(found)} crystals, {sum(map(len, found.values()))} atoms, one thread of {device}")
    from chgnet.model.dynamics import CHGNetCalculator

    result: dict[str, Any] = {"device": device, "crystals": len(found), "potentials": {}}
    mine = timed("assay, chgnet", ours(load_potential("chgnet")), found)
    theirs = timed("chgnet.StructOptimizer", struct_optimizer, found)
    result["potentials"]["chgnet"] = compared(theirs, mine)
    with contextlib.redirect_stdout(io.StringIO()):
        calculator = CHGNetCalculator(use_device="cpu")
    print("converged here, not for ASE:", false_verdicts(mine, calculator) or "none")
    if arguments.matgl:
        from matgl import load_model
        from matgl.ext.ase import PESCalculator

        potential = load_potential("matgl", model=arguments.matgl, level_of_theory=arguments.level)
        fit = {n: s for n, s in found.items() if {site.specie.symbol for site in s} <= potential.elements}
        mine = timed("assay, matgl", ours(potential), fit)
        pes = PESCalculator(load_model(arguments.matgl), stress_unit="eV/A3", use_voigt=True)
        for method in ("FIRE", "LBFGS"):
            theirs = timed(f"ASE {method}, matgl", ase_optimizer(pes, method), fit)
            result["potentials"][f"matgl against ASE {method}"] = compared(theirs, mine)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

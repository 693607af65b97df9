"""Relaxes the same crystals with other programs and with ours, side by side, one thread, in one run.

    python -m tests.benchmarks.relaxation                      # all: about a quarter of an hour
    python -m tests.benchmarks.relaxation --only chgnet        # ours beside chgnet.StructOptimizer: four minutes
    python -m tests.benchmarks.relaxation --only none --copies 20   # ours alone, on the GPU where there is one

Cells and positions, fmax 0.05 eV/Å in ASE's FrechetCellFilter, at most 500 steps. CPU seconds are of this process.
Every program has CHGNet 0.3.0: the package's, the same weights in matgl, or ours. An energy excess is ours above
StructOptimizer's where StructureMatcher calls the two results one structure; the rest are counted as other minima,
lower or higher.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
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

from models.potentials.base import Batch, Evaluation, Potential
from models.potentials.chgnet.identity import chgnet_path
from models.potentials.registry import load_potential
from models.relaxation.relax import relax
from models.relaxation.settings import RelaxationSettings
from tests.benchmarks.crystals import crystals

FMAX, MAX_STEPS = 0.05, 500
POTENTIALS: dict[str, dict[str, Any]] = {
    "chgnet": {},
    "matgl": {"model": "CHGNet-0.3.0"},
    "torchsim": {"model": "tests.peers.torchsim_chgnet:ChgnetModel", "level_of_theory": "PBE+U/MP2020"},
    "ase": {"model": "chgnet.model.dynamics:CHGNetCalculator", "level_of_theory": "PBE+U/MP2020"},
}


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
        one_structure = matcher.fit(one.structure, other.structure)
        if one_structure:
            same.append((excess, name))
        elif excess < 0:
            lower += 1
        else:
            higher += 1
        if not one_structure or abs(excess) > 1:
            which = "" if one_structure else ", another minimum"
            print(f"    {name}: {excess:+.1f} meV/atom, {one.calls} and {other.calls} calls{which}")
    worst, where = max(same, default=(0.0, "none"))
    print(f"{run.name}: {baseline.cpu_s / run.cpu_s:.1f} times {baseline.name}; worst {worst:+.2f} meV/atom ({where})")
    return {
        "speedup_cpu": baseline.cpu_s / run.cpu_s,
        "cpu_s": run.cpu_s,
        "calls": sum(outcome.calls for outcome in run.outcomes.values()),
        "converged": sum(outcome.converged for outcome in run.outcomes.values()),
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


@dataclass(kw_only=True)
class Watched:
    """A potential, and the seconds that the device spent on it."""

    inner: Potential
    busy_s: float = 0.0
    atom_steps: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def evaluate(self, batch: Batch) -> Evaluation:
        """Evaluate, and wait for the device."""
        start = self._now()
        answer = self.inner.evaluate(batch)
        self.busy_s += self._now() - start
        self.atom_steps += len(batch.numbers)
        return answer

    def _now(self) -> float:
        if self.inner.device.type == "cuda":
            torch.cuda.synchronize(self.inner.device)
        return time.perf_counter()


def throughput(potential: Potential, found: Mapping[str, Structure], copies: int) -> dict[str, float]:
    """Relax `copies` of each crystal, each a little shaken, and say what the device made of it."""
    pool = [structure.copy().perturb(0.01 * (k > 0)) for k in range(copies) for structure in found.values()]
    watched = Watched(inner=potential)
    on_gpu = potential.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(potential.device)
    start = time.perf_counter()
    statuses = [outcome.status for _, outcome in relax(watched, pool, RelaxationSettings(fmax=FMAX))]
    took = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(potential.device) if on_gpu else 1024 * _resident()
    numbers = {
        "structures": len(pool),
        "converged": statuses.count("converged"),
        "structures_per_s": len(pool) / took,
        "atom_steps_per_s": watched.atom_steps / took,
        "us_per_atom_step": 1e6 * took / watched.atom_steps,
        "peak_memory_gib": peak / 2**30,
        "busy_share": watched.busy_s / took,
    }
    print(
        f"{numbers['structures']} structures, {numbers['converged']} converged, {numbers['structures_per_s']:.1f}/s;"
        f" {numbers['atom_steps_per_s']:.0f} atoms x steps/s, {numbers['us_per_atom_step']:.0f} µs each;"
        f" peak memory {numbers['peak_memory_gib']:.2f} GiB; {numbers['busy_share']:.0%} of the time in the potential"
    )
    return numbers


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def name_of(device: str) -> str:
    """The device as its maker calls it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"one thread of {line.partition(':')[2].strip()}"
    return f"one thread of {platform.processor() or platform.machine()}"


def rivals(found: Mapping[str, Structure]) -> dict[str, Run]:
    """ASE's optimisers with matgl's calculator, and torch-sim's batched FIRE around our model."""
    from matgl.ext.ase import PESCalculator

    from models.potentials.matgl.chgnet_weights import chgnet_in_matgl
    from tests.benchmarks.torchsim_fire import torchsim_fire
    from tests.peers.torchsim_chgnet import ChgnetModel

    pes = PESCalculator(chgnet_in_matgl(chgnet_path("0.3.0")), stress_unit="eV/A3", use_voigt=True)
    model = ChgnetModel()
    acts = {
        "torch-sim FIRE, our chgnet": lambda these: torchsim_fire(these, FMAX, MAX_STEPS, model=model),
        "ASE LBFGS, matgl": ase_optimizer(pes, "LBFGS"),
        "ASE FIRE, matgl": ase_optimizer(pes, "FIRE"),
    }
    return {name: timed(name, act, found) for name, act in acts.items()}


def main() -> None:
    """Run everything and print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the comparison there")
    parser.add_argument("--crystals", type=int, help="only the first N crystals")
    parser.add_argument(
        "--only", choices=[*POTENTIALS, "none"], help="our engine with this potential beside StructOptimizer, no others"
    )
    found_here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument(
        "--device", default=found_here, help=f"of our engine's throughput; here by default {found_here}"
    )
    parser.add_argument("--copies", type=int, default=1, help="of each crystal, for the throughput")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = dict(list(crystals().items())[: arguments.crystals])
    device = name_of(arguments.device)
    print(f"{len(found)} crystals, {sum(map(len, found.values()))} atoms, {device}")
    result: dict[str, Any] = {"device": device, "crystals": len(found), "potentials": {}}
    result["throughput"] = throughput(load_potential("chgnet", device=arguments.device), found, arguments.copies)
    kinds = [kind for kind in POTENTIALS if arguments.only in (None, kind)]
    if kinds:
        compare(found, kinds, result, with_rivals=arguments.only is None)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def compare(found: Mapping[str, Structure], kinds: list[str], result: dict[str, Any], *, with_rivals: bool) -> None:
    """Run our engine with each potential, and the other programs, and set them against StructOptimizer."""
    from chgnet.model.dynamics import CHGNetCalculator

    with contextlib.redirect_stdout(io.StringIO()):
        potentials = {kind: load_potential(kind, **POTENTIALS[kind]) for kind in kinds}
        calculator = CHGNetCalculator(use_device="cpu")
    mine = {kind: timed(f"assay, {kind}", ours(potential), found) for kind, potential in potentials.items()}
    baseline = timed("chgnet.StructOptimizer", struct_optimizer, found)
    others = rivals(found) if with_rivals else {}
    result["potentials"] = {kind: compared(baseline, run) for kind, run in mine.items()}
    result["others"] = {name: compared(baseline, run) for name, run in others.items()}
    for run in (baseline, *mine.values(), *others.values()):
        print(f"{run.name} calls converged, ASE does not:", false_verdicts(run, calculator) or "none")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # matgl's import asks a hub otherwise
    main()

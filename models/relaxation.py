"""Relaxes many crystals at once: what is done leaves the batch, the next comes in.

A crystal has converged when ASE's `FrechetCellFilter`, put on it as it is, says so: no force and no row of the virial
divided by the number of atoms is longer than `fmax`. Sites that a structure's `selective_dynamics` hold stay where they
are in the cell, as under ASE's `FixAtoms`: they follow its strain, and their forces count for nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from materials.records import CalculationStatus
from models.descent import Descent, Point
from models.potentials.interface import Crystal, Evaluation, Potential, crystal_of, fixed_sites

if TYPE_CHECKING:
    from pymatgen.core import Structure

CellFreedom = Literal["free", "fixed", "fixed_shape", "fixed_volume"]


@dataclass(frozen=True, kw_only=True)
class RelaxationSettings:
    """How far and under which constraints to relax.

    `cell` says what of the cell may change: all, nothing, its volume only (`fixed_shape`) or its shape only
    (`fixed_volume`). `pressure` is in eV/Å³, positive for compression. With `keep_symmetry` forces and stress are
    symmetrised with the operations found at the start within `symprec` (Å). With `max_stress` (eV/Å³) the cell is
    judged by that: no component of the stress that may relax, less the pressure, is larger; the virial does not count.
    With `trajectory` the accepted steps are kept; the answer is the same.
    """

    fmax: float = 0.05  # eV/Å
    max_steps: int = 500
    cell: CellFreedom = "free"
    pressure: float = 0.0  # eV/Å³
    keep_symmetry: bool = False
    symprec: float = 0.01  # Å
    max_stress: float | None = None  # eV/Å³
    trajectory: bool = False

    def content(self) -> dict[str, Any]:
        """What makes two relaxations the same question, for a settings hash."""
        content = asdict(self)
        del content["trajectory"]
        if self.max_stress is None:  # as it was before there was such a criterion: old answers stay valid
            del content["max_stress"]
        return content


@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """How the relaxation of one crystal ended. `structure` is the last one that has an energy."""

    structure: Structure
    energy: float | None  # eV, total; None where the potential never answered
    max_force: float | None  # eV/Å, of the sites that may move
    max_stress: float | None  # eV/Å³, largest absolute component
    n_steps: int  # evaluations after the first
    status: CalculationStatus
    message: str
    wall_time_s: float  # its share of the batches it was in
    latent: np.ndarray | None  # (d,)
    magmoms: np.ndarray | None  # (n_atoms,) μB
    trajectory: tuple[Point, ...] = ()  # the accepted steps, where the settings ask for them


def relax(
    potential: Potential, structures: Sequence[Structure], settings: RelaxationSettings
) -> Iterator[tuple[int, Relaxed]]:
    """Relax `structures` in batches and yield each with its index as it ends, every one exactly once.

    Trouble with a structure is its status and message, never an exception.
    """
    active: list[_Run] = []
    following: _Run | None = None
    index = 0
    while index < len(structures) or following is not None or active:
        while index < len(structures) or following is not None:
            if following is None:
                begun = _begin(index, structures[index], potential, settings)
                index += 1
                if isinstance(begun, Relaxed):
                    yield index - 1, begun
                    continue
                following = begun
            if active and _cost(active) + following.cost > _room(potential):
                break
            active.append(following)
            following = None
        if active:
            _advance(potential, active)
        for run in active:
            if run.descent.status is not None:
                yield run.index, _ended(run)
        active = [run for run in active if run.descent.status is None]


_learned: dict[tuple[str, str], float] = {}  # potentials that ran out of memory in this process -> what had room


def _room(potential: Potential) -> float:
    """The most that a batch may cost here: an out-of-memory is not met again."""
    return min(potential.batch_cost, _learned.get((potential.method, potential.weights_hash), np.inf))


@dataclass(kw_only=True)
class _Run:
    index: int
    structure: Structure
    descent: Descent
    cost: float
    wall_time_s: float = 0.0
    trajectory: list[Point] = field(default_factory=list)


def _begin(index: int, structure: Structure, potential: Potential, settings: RelaxationSettings) -> _Run | Relaxed:
    try:
        crystal = crystal_of(structure)
        fixed = fixed_sites(structure)
        uncovered = {site.specie.symbol for site in structure} - potential.elements
        if uncovered:
            raise ValueError(f"{potential.method} does not cover {', '.join(sorted(uncovered))}")
    except ValueError as error:
        return _refused(structure, "unsupported", str(error))
    descent = Descent(crystal, settings, fixed)
    return _Run(index=index, structure=structure, descent=descent, cost=potential.cost(crystal))


def _advance(potential: Potential, runs: list[_Run]) -> None:
    """Evaluate every run where it stands and let it step."""
    start = time.perf_counter()
    points = [point for part in _within(_room(potential), runs) for point in _evaluated(potential, part)]
    for run, point in zip(runs, points, strict=True):
        accepted = run.descent.tell(point)
        if accepted and run.descent.settings.trajectory:
            run.trajectory.append(point)
    total = _cost(runs)
    elapsed = time.perf_counter() - start
    for run in runs:
        run.wall_time_s += elapsed * run.cost / total


def _within(limit: float, runs: Sequence[_Run]) -> list[list[_Run]]:
    """Part runs that came together when there seemed to be more room."""
    parts: list[list[_Run]] = [[]]
    for run in runs:
        if parts[-1] and _cost(parts[-1]) + run.cost > limit:
            parts.append([])
        parts[-1].append(run)
    return parts


def _cost(runs: Sequence[_Run]) -> float:
    return sum(run.cost for run in runs)


def _evaluated(potential: Potential, runs: Sequence[_Run]) -> list[Point]:
    """Evaluate a batch, in halves where that fails, down to the crystal at fault."""
    crystals = [run.descent.trial for run in runs]
    try:
        return _points(potential.evaluate(crystals), crystals)
    except Exception as error:  # noqa: BLE001 a potential may raise anything; it becomes the one crystal's record
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            _learned[potential.method, potential.weights_hash] = min(_room(potential), _cost(runs) / 2)
            _free_device_memory()
        if len(runs) == 1:
            return [_unanswered(crystals[0], f"{type(error).__name__}: {error}")]
    half = len(runs) // 2
    return [*_evaluated(potential, runs[:half]), *_evaluated(potential, runs[half:])]


def _free_device_memory() -> None:
    """Give back what torch holds of a GPU without using it, so that a smaller batch finds room in one piece."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _points(evaluation: Evaluation, crystals: Sequence[Crystal]) -> list[Point]:
    return [
        Point(
            crystal=crystal,
            energy=float(evaluation.energies[k]),
            forces=evaluation.forces[k],
            stress=evaluation.stresses[k],
            problem=evaluation.problems[k],
            latent=None if evaluation.latents is None else evaluation.latents[k],
            magmoms=None if evaluation.magmoms is None else evaluation.magmoms[k],
        )
        for k, crystal in enumerate(crystals)
    ]


def _unanswered(crystal: Crystal, problem: str) -> Point:
    nothing = np.full((len(crystal), 3), np.nan)
    return Point(crystal=crystal, energy=np.nan, forces=nothing, stress=nothing[:3], problem=problem, failed=True)


def _ended(run: _Run) -> Relaxed:
    descent, point = run.descent, run.descent.point
    assert descent.status is not None
    if point is None:
        return _refused(run.structure, descent.status, descent.message)
    return Relaxed(
        structure=_with_geometry(run.structure, point.crystal),
        energy=point.energy,
        max_force=float(np.linalg.norm(point.forces[~descent.fixed], axis=1).max(initial=0.0)),
        max_stress=float(np.abs(point.stress).max()),
        n_steps=descent.n_steps,
        status=descent.status,
        message=descent.message,
        wall_time_s=run.wall_time_s,
        latent=point.latent,
        magmoms=point.magmoms,
        trajectory=tuple(run.trajectory),
    )


def _refused(structure: Structure, status: CalculationStatus, message: str) -> Relaxed:
    return Relaxed(
        structure=structure,
        energy=None,
        max_force=None,
        max_stress=None,
        n_steps=0,
        status=status,
        message=message,
        wall_time_s=0.0,
        latent=None,
        magmoms=None,
    )


def _with_geometry(structure: Structure, crystal: Crystal) -> Structure:
    """The relaxed structure, with the species (oxidation states too) and the held sites of the first one."""
    from pymatgen.core import Lattice, Structure

    held = structure.site_properties.get("selective_dynamics")
    return Structure(
        Lattice(crystal.cell),
        structure.species,
        crystal.positions,
        coords_are_cartesian=True,
        site_properties=None if held is None else {"selective_dynamics": held},
    )

"""Relaxation of many crystals at once: the finished leave the batch, the next come in.

A crystal has converged when ASE's `FrechetCellFilter`, put on it as it is, says so: no force and no row of the virial
divided by the number of atoms is longer than `fmax`. Sites that a structure's `selective_dynamics` hold stay where they
are in the cell, as under ASE's `FixAtoms`: they follow its strain, and their forces count for nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pymatgen.core import Lattice, Structure

from materials.crystals.validation import too_close
from materials.records import CalculationStatus
from models.potentials.base import Crystal, FloatArray, Potential, batch_of, crystal_of, fixed_sites
from models.relaxation.autobatching import evaluated, room_for
from models.relaxation.optimizer_state import Descents, Ending
from models.relaxation.settings import RelaxationSettings
from models.relaxation.symmetry import Symmetry, symmetrised

INTAKE_ATOMS = 1000  # of crystals whose costs are worked out together


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An accepted step, as a fine-tuning takes it."""

    crystal: Crystal
    energy: float  # eV
    forces: FloatArray  # (n_atoms, 3) eV/Å
    stress: FloatArray  # (3, 3) eV/Å³
    magmoms: np.ndarray | None  # (n_atoms,) μB


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
    trajectory: tuple[Frame, ...] = ()  # the accepted steps, where the settings ask for them


def relax(
    potential: Potential, structures: Sequence[Structure], settings: RelaxationSettings
) -> Iterator[tuple[int, Relaxed]]:
    """Relax `structures` in batches and yield each with its index as it ends, every one exactly once.

    Trouble with a structure is its status and message, never an exception.

    Raises:
        DeviceLost: The GPU fails at every call.
    """
    waiting: deque[_Run] = deque()
    flight = _Flight(potential=potential, settings=settings)
    index = 0
    while index < len(structures) or waiting or flight.runs:
        while True:
            flight.board(waiting)
            if waiting or index == len(structures):
                break
            arrived, refused = _arrivals(index, structures, potential, settings)
            yield from refused
            waiting.extend(arrived)
            index += len(arrived) + len(refused)
        if flight.runs:
            yield from flight.advance()


@dataclass(kw_only=True)
class _Run:
    """A crystal that waits or is under way."""

    index: int
    structure: Structure
    crystal: Crystal
    fixed: np.ndarray
    symmetry: Symmetry | None
    cost: float = 0.0
    wall_time_s: float = 0.0
    trajectory: list[Frame] = field(default_factory=list)


@dataclass(kw_only=True)
class _Flight:
    """The crystals under way, in the order of their descents."""

    potential: Potential
    settings: RelaxationSettings
    runs: list[_Run] = field(default_factory=list)
    descents: Descents | None = None

    def board(self, waiting: deque[_Run]) -> None:
        """Take in what there is room for, one at least where there is nobody."""
        room = room_for(self.potential) - sum(run.cost for run in self.runs)
        entering: list[_Run] = []
        while waiting and (waiting[0].cost <= room or not (self.runs or entering)):
            room -= waiting[0].cost
            entering.append(waiting.popleft())
        if not entering:
            return
        device = self.potential.device
        fixed = torch.from_numpy(np.concatenate([run.fixed for run in entering])).to(device)
        batch = batch_of([run.crystal for run in entering], device)
        begun = Descents.begin(batch, fixed, self.settings, [run.symmetry for run in entering])
        self.descents = begun if self.descents is None else self.descents.join(begun)
        self.runs += entering

    def advance(self) -> list[tuple[int, Relaxed]]:
        """Evaluate every crystal where it is to be, let it step, and part with those that have ended."""
        assert self.descents is not None
        start = time.perf_counter()
        costs = [run.cost for run in self.runs]
        answer, raised = evaluated(self.potential, self.descents.trial, costs)
        endings = self.descents.tell(answer, raised)
        if self.settings.trajectory:
            self._keep_frames()
        share = (time.perf_counter() - start) / sum(costs)
        for run in self.runs:
            run.wall_time_s += share * run.cost
        return self._part(endings) if endings else []

    def _keep_frames(self) -> None:
        assert self.descents is not None
        accepted = torch.nonzero(self.descents.refused == 0)[:, 0]
        for k, frame in zip(accepted.tolist(), _frames(self.descents, accepted), strict=True):
            self.runs[k].trajectory.append(frame)

    def _part(self, endings: Mapping[int, Ending]) -> list[tuple[int, Relaxed]]:
        assert self.descents is not None
        device = self.potential.device
        gone = sorted(endings)
        left = [k for k in range(len(self.runs)) if k not in endings]
        ended = self.descents.select(torch.tensor(gone, device=device))
        steps, answered = ended.n_steps.tolist(), ended.point.answered.tolist()
        latents = None if ended.point.latents is None else ended.point.latents.cpu().numpy()
        found = []
        for position, (k, frame) in enumerate(
            zip(gone, _frames(ended, torch.arange(len(gone), device=device)), strict=True)
        ):
            run, ending = self.runs[k], endings[k]
            if not answered[position]:
                found.append((run.index, _without_energy(run.structure, ending.status, ending.message)))
                continue
            ending = _judged(ending, frame.crystal)
            relaxed = Relaxed(
                structure=_with_geometry(run.structure, frame.crystal),
                energy=frame.energy,
                max_force=float(np.linalg.norm(frame.forces[~run.fixed], axis=1).max(initial=0.0)),
                max_stress=float(np.abs(frame.stress).max()),
                n_steps=steps[position],
                status=ending.status,
                message=ending.message,
                wall_time_s=run.wall_time_s,
                latent=None if latents is None or np.isnan(latents[position]).any() else latents[position],
                magmoms=frame.magmoms,
                trajectory=tuple(run.trajectory),
            )
            found.append((run.index, relaxed))
        self.runs = [self.runs[k] for k in left]
        self.descents = self.descents.select(torch.tensor(left, device=device)) if left else None
        return found


def _judged(ending: Ending, crystal: Crystal) -> Ending:
    """Call collapsed what a potential pulled into one: far inside of what it was trained on, it has no repulsion."""
    if ending.status not in ("converged", "max_steps"):
        return ending
    found = too_close(crystal.cell, crystal.positions, crystal.numbers)
    return ending if found is None else Ending(status="exploded", message=f"collapsed: {found}")


def _frames(descents: Descents, crystals: torch.Tensor) -> list[Frame]:
    """What is accepted of some crystals, given by index."""
    point, atoms = descents.point, descents.trial.atoms_of(crystals)
    parts = point.batch.select(crystals).crystals()
    ends = np.cumsum([len(crystal) for crystal in parts])[:-1]
    forces = np.split(point.forces[atoms].cpu().numpy(), ends)
    magmoms = [None] * len(parts) if point.magmoms is None else np.split(point.magmoms[atoms].cpu().numpy(), ends)
    energies, stresses = point.energy[crystals].tolist(), point.stress[crystals].cpu().numpy()
    return [
        Frame(crystal=crystal, energy=energies[k], forces=forces[k], stress=stresses[k], magmoms=magmoms[k])
        for k, crystal in enumerate(parts)
    ]


def _arrivals(
    index: int, structures: Sequence[Structure], potential: Potential, settings: RelaxationSettings
) -> tuple[list[_Run], list[tuple[int, Relaxed]]]:
    """Take the next structures, from `index` on, apart into those that can begin and those that cannot."""
    arrived: list[_Run] = []
    refused = []
    n_atoms = 0
    for at in range(index, len(structures)):
        structure = structures[at]
        if n_atoms and n_atoms + len(structure) > INTAKE_ATOMS:
            break
        n_atoms += len(structure)
        try:
            crystal, fixed = crystal_of(structure), fixed_sites(structure)
            if settings.positions == "fixed":
                fixed = np.ones_like(fixed)
            uncovered = {site.specie.symbol for site in structure} - potential.elements
            if uncovered:
                raise ValueError(f"{potential.method} does not cover {', '.join(sorted(uncovered))}")
        except ValueError as error:
            refused.append((at, _without_energy(structure, "unsupported", str(error))))
            continue
        symmetry = None
        if settings.keep_symmetry and np.isfinite(crystal.positions).all() and np.isfinite(crystal.cell).all():
            try:
                crystal, symmetry = symmetrised(crystal, fixed, settings.symprec)
            except (ValueError, np.linalg.LinAlgError) as error:
                refused.append((at, _without_energy(structure, "failed", f"its symmetry cannot be kept: {error}")))
                continue
        arrived.append(_Run(index=at, structure=structure, crystal=crystal, fixed=fixed, symmetry=symmetry))
    try:
        costs = potential.costs(batch_of([run.crystal for run in arrived], potential.device)).tolist()
    except Exception:  # noqa: BLE001 what is wrong comes out in the evaluation, where each is tried alone
        costs = [potential.batch_cost] * len(arrived)
    for run, cost in zip(arrived, costs, strict=True):
        run.cost = cost
    return arrived, refused


def _without_energy(structure: Structure, status: CalculationStatus, message: str) -> Relaxed:
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
    """The relaxed structure, with the species (oxidation states too), held sites and moments of the first one."""

    properties = structure.site_properties
    kept = {name: properties[name] for name in ("selective_dynamics", "magmom") if name in properties}
    return Structure(
        Lattice(crystal.cell),
        structure.species,
        crystal.positions,
        coords_are_cartesian=True,
        site_properties=kept or None,
    )

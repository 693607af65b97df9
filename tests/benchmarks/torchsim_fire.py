"""Torch-sim's batched FIRE around our CHGNet: another engine, the same model, so that engines are compared.

As torch-sim 0.3.0 offers it: `ts.optimize` with `frechet_cell_fire` and its in-flight autobatcher. Of the CPU time less
than a tenth is torch-sim's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
import torch_sim as ts
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from torch import Tensor
from torch_sim.optimizers import FrechetCellFIREState

from models.potentials.base import batch_of, crystal_of
from models.potentials.torch_sim_model import state_of
from tests.benchmarks.relaxation import Outcome, residual
from tests.peers.torchsim_chgnet import ChgnetModel

SLACK = 1.02  # of fmax in the verdict, as for the others


def torchsim_fire(
    found: Mapping[str, Structure],
    fmax: float,
    max_steps: int,
    *,
    model: ChgnetModel | None = None,
    room: int | None = None,
) -> dict[str, Outcome]:
    """Relax all crystals, cells too.

    Args:
        found: The crystals by name.
        fmax: eV/Å, in the sense of ASE's `FrechetCellFilter`.
        max_steps: Most steps of each crystal; it is evaluated once more.
        model: The model; without one it is loaded here.
        room: Atoms in a batch. Without it all crystals are in one: in 0.3.0 every newcomer makes the others' FIRE
            skip a step's mixing, and no batch is too large for a CPU.
    """
    model = model or ChgnetModel()
    before = model.evaluated
    state = state_of(batch_of([crystal_of(structure) for structure in found.values()], model.device), model.dtype)
    batcher = ts.InFlightAutoBatcher(
        model=model, memory_scales_with="n_atoms", max_memory_scaler=(room or state.n_atoms) + 1, return_indices=True
    )
    with warnings.catch_warnings():
        # Its count of steps is of all batches; the batcher's, which ends a crystal, is of each.
        warnings.filterwarnings("ignore", "Optimize has reached max steps")
        final = ts.optimize(
            state,
            model,
            optimizer=ts.frechet_cell_fire,
            convergence_fn=_as_ase_judges(fmax),
            autobatcher=batcher,
            max_steps=max_steps,
            steps_between_swaps=1,  # a crystal leaves when it has converged, as it does in other programs
        )
    calls = [1 + steps for steps in batcher.swap_attempts]
    assert sum(calls) == model.evaluated - before
    return {
        name: _outcome(structure, end, fmax, n)
        for (name, structure), end, n in zip(found.items(), final.split(), calls, strict=True)
    }


def _as_ase_judges(fmax: float) -> Callable[[FrechetCellFIREState, Tensor | None], Tensor]:
    """Whether no force and no row of the virial by the number of atoms is longer than `fmax`, or all is lost."""

    def done(state: FrechetCellFIREState, _: Tensor | None = None) -> Tensor:
        sizes = torch.bincount(state.system_idx)
        virials = state.stress * state.volume[:, None, None] / sizes[:, None, None]
        forces = torch.zeros_like(state.energy).scatter_reduce_(
            0, state.system_idx, state.forces.norm(dim=1), "amax", include_self=True
        )
        largest = torch.maximum(forces, virials.norm(dim=2).amax(dim=1))
        return (largest <= fmax) | ~state.energy.isfinite()

    return done


def _outcome(structure: Structure, end: FrechetCellFIREState, fmax: float, calls: int) -> Outcome:
    """What ASE says of the last state; torch-sim counts what ran out of steps as converged."""
    relaxed = Structure(
        Lattice(end.row_vector_cell[0].cpu().numpy()),
        structure.species,
        end.positions.cpu().numpy(),
        coords_are_cartesian=True,
    )
    atoms = AseAtomsAdaptor.get_atoms(relaxed)
    energy = end.energy.item()
    answer = SinglePointCalculator(
        atoms, energy=energy, forces=end.forces.cpu().numpy(), stress=end.stress[0].cpu().numpy()
    )
    return Outcome(structure=relaxed, energy=energy, calls=calls, converged=residual(atoms, answer) <= fmax * SLACK)

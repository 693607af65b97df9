"""ASE calculators by import path, one crystal at a time: MACE, SevenNet, ORB, MatterSim and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from models.potentials.base import Batch, Evaluation, PotentialIdentity, filled, unanswered
from models.potentials.import_path import imported, made
from models.potentials.neighbor_list import CLOSEST, sound_pairs

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


@dataclass(frozen=True, kw_only=True)
class AsePotential(PotentialIdentity):
    """An ASE calculator as a potential. What it raises is raised: a relaxation pins it on its crystal."""

    calculator: Calculator
    covered: frozenset[int]  # atomic numbers
    device: torch.device  # of its batches; the calculator computes where it likes
    batch_cost: float = 1.0  # there is nothing to be gained from a batch

    def evaluate(self, batch: Batch) -> Evaluation:
        """Energies, forces and stresses, one crystal after the other; magnetic moments if the calculator has them."""
        from ase import Atoms

        sound, _, fit, problems = sound_pairs(batch, CLOSEST, self.covered, lonely=True)
        if not len(sound):
            return unanswered(batch, problems)
        energies, forces, stresses, magmoms = [], [], [], []
        for crystal in sound.crystals():
            atoms = Atoms(numbers=crystal.numbers, positions=crystal.positions, cell=crystal.cell, pbc=True)
            atoms.calc = self.calculator
            energies.append(float(atoms.get_potential_energy()))
            forces.append(np.array(atoms.get_forces(), dtype=float))
            stresses.append(np.array(atoms.get_stress(voigt=False), dtype=float))
            magmoms.append(np.abs(np.asarray(self.calculator.results.get("magmoms", np.full(len(atoms), np.nan)))))
        moments = np.concatenate(magmoms)
        answer = Evaluation(
            energies=torch.tensor(energies, dtype=torch.float64),
            forces=torch.from_numpy(np.concatenate(forces)),
            stresses=torch.from_numpy(np.stack(stresses)),
            magmoms=torch.from_numpy(moments).float() if np.isfinite(moments).all() else None,
        )
        return filled(answer, batch, fit, problems)

    def costs(self, batch: Batch) -> Tensor:
        """Its atoms."""
        return batch.sizes.clamp(min=1).double()


def load_ase(identity: PotentialIdentity, model: str, arguments: Mapping[str, Any]) -> AsePotential:
    """Import and make the calculator.

    Raises:
        PotentialNotInstalled: If it cannot be imported or made.
    """
    from pymatgen.core import Element

    calculator = made(model, imported(model), arguments)
    return AsePotential(
        **asdict(identity),
        calculator=calculator,
        covered=frozenset(Element(symbol).Z for symbol in identity.elements),
        device=torch.device("cpu"),
    )

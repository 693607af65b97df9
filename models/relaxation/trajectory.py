"""Trajectories of relaxations as extended XYZ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.relaxation.relax import Frame


def write_trajectory(folder: Path, material_id: str, frames: Sequence[Frame]) -> None:
    """Write the accepted steps of a relaxation as extended XYZ, with energies (eV), forces and stresses (eV/Å³).

    Programs that fine-tune potentials read it as it is.

    Args:
        folder: Made if it is not there.
        material_id: Names the file.
        frames: In order; energies are the potential's own, before any correction.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    images = []
    for frame in frames:
        crystal = frame.crystal
        atoms = Atoms(numbers=crystal.numbers, positions=crystal.positions, cell=crystal.cell, pbc=True)
        magmoms = {} if frame.magmoms is None else {"magmoms": frame.magmoms}
        atoms.calc = SinglePointCalculator(
            atoms, energy=frame.energy, forces=frame.forces, stress=frame.stress, **magmoms
        )
        images.append(atoms)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{material_id}.extxyz", images, format="extxyz")

"""Keeps a relaxing crystal in the space group that it started in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.potentials.interface import Crystal, FloatArray


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """Operations of a crystal, on Cartesian vectors (as columns) and on the numbering of its atoms.

    Operation `k` takes atom `a` onto atom `images[k, a]`. The rotations stay valid while atoms and cell move by
    symmetrised steps.
    """

    rotations: FloatArray  # (n_operations, 3, 3)
    images: NDArray[np.int64]  # (n_operations, n_atoms)

    def vectors(self, values: FloatArray) -> FloatArray:
        """Average one vector for each atom, `(n_atoms, 3)`, over all operations."""
        turned = np.einsum("kij,aj->kai", self.rotations, values)
        total = np.zeros_like(values)
        np.add.at(total, self.images, turned)
        return total / len(self.rotations)

    def tensor(self, value: FloatArray) -> FloatArray:
        """Average a `(3, 3)` tensor over all operations."""
        mean: FloatArray = np.einsum("kij,jl,kml->im", self.rotations, value, self.rotations) / len(self.rotations)
        return mean


def symmetry_of(crystal: Crystal, symprec: float) -> Symmetry:
    """Find the symmetry of `crystal` within `symprec` (Å).

    Raises:
        ValueError: If an operation does not map the atoms onto each other.
    """
    import moyopy

    fractional = crystal.positions @ np.linalg.inv(crystal.cell)
    cell = moyopy.Cell(crystal.cell.tolist(), fractional.tolist(), crystal.numbers.tolist())
    found = moyopy.MoyoDataset(cell, symprec=symprec).operations
    turns, shifts = np.array(found.rotations), np.array(found.translations)
    columns = crystal.cell.T
    rotations = columns @ turns @ np.linalg.inv(columns)
    mapped = fractional @ np.transpose(turns, (0, 2, 1)) + shifts[:, None, :]
    apart = mapped[:, :, None, :] - fractional[None, None, :, :]
    apart -= np.round(apart)
    distance = np.linalg.norm(apart @ crystal.cell, axis=3)
    distance[:, crystal.numbers[:, None] != crystal.numbers[None, :]] = np.inf
    images = distance.argmin(axis=2)
    if (np.sort(images, axis=1) != np.arange(len(crystal))).any():
        raise ValueError(f"operations found within {symprec} Å do not permute the atoms; lower symprec")
    return Symmetry(rotations=rotations, images=images)

"""Keeps relaxing crystals in the space groups that they started in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.potentials.interface import Batch, Crystal, FloatArray


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """Operations of a crystal, on Cartesian vectors (as columns) and on the numbering of its atoms.

    Operation `k` takes atom `a` onto atom `images[k, a]`. The rotations stay valid while atoms and cell move by
    symmetrised steps.
    """

    rotations: FloatArray  # (n_operations, 3, 3)
    images: NDArray[np.int64]  # (n_operations, n_atoms)


@dataclass(frozen=True, kw_only=True)
class Symmetries:
    """The operations of all crystals of a batch; a pair is an operation and an atom that it moves."""

    rotations: Tensor  # (n_operations, 3, 3)
    owner: Tensor  # (n_operations,) crystal
    count: Tensor  # (n,) operations of each crystal
    atom_count: Tensor  # (n_atoms,) operations of each atom's crystal
    operation: Tensor  # (n_pairs,)
    source: Tensor  # (n_pairs,) atom
    target: Tensor  # (n_pairs,) atom

    @staticmethod
    def of(symmetries: Sequence[Symmetry], batch: Batch) -> Symmetries:
        """Number operations and atoms through the batch."""
        device = batch.sizes.device
        counts = [len(symmetry.rotations) for symmetry in symmetries]
        starts = np.cumsum([0, *batch.sizes.tolist()])
        operations = np.cumsum([0, *counts])
        pairs = zip(symmetries, starts, operations, strict=False)
        numbered = [
            np.stack(
                np.broadcast_arrays(
                    np.arange(len(s.images))[:, None] + k, np.arange(s.images.shape[1]) + a, s.images + a
                )
            )
            for s, a, k in pairs
        ]
        table = np.concatenate([part.reshape(3, -1) for part in numbered], axis=1)
        operation, source, target = torch.from_numpy(table).to(device)
        count = torch.tensor(counts, device=device)
        return Symmetries(
            rotations=torch.from_numpy(np.concatenate([s.rotations for s in symmetries])).to(device),
            owner=torch.repeat_interleave(count),
            count=count,
            atom_count=count[batch.owner],
            operation=operation,
            source=source,
            target=target,
        )

    def vectors(self, values: Tensor) -> Tensor:
        """Average one vector for each atom, `(n_atoms, 3)`, over its crystal's operations."""
        turned = (self.rotations[self.operation] @ values[self.source][:, :, None])[:, :, 0]
        return torch.zeros_like(values).index_add_(0, self.target, turned) / self.atom_count[:, None]

    def tensors(self, values: Tensor) -> Tensor:
        """Average one tensor for each crystal, `(n, 3, 3)`, over its operations."""
        turned = self.rotations @ values[self.owner] @ self.rotations.mT
        return torch.zeros_like(values).index_add_(0, self.owner, turned) / self.count[:, None, None]


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

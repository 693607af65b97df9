"""Symmetry of relaxing crystals, kept as it was at the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from models.potentials.base import Batch, Crystal, FloatArray


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
    def of(found: Sequence[Symmetry | None], batch: Batch) -> Symmetries:
        """Number operations and atoms through the batch; where nothing was found there is the identity."""
        symmetries = [s or _identity(n) for s, n in zip(found, batch.sizes.tolist(), strict=True)]
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


def _identity(n_atoms: int) -> Symmetry:
    return Symmetry(rotations=np.eye(3)[None], images=np.arange(n_atoms)[None])


def symmetrised(crystal: Crystal, fixed: NDArray[np.bool_], symprec: float) -> tuple[Crystal, Symmetry]:
    """Put a crystal exactly onto the symmetry that it has within `symprec` (Å), and say which that is.

    What is averaged over the operations afterwards would not see a force that breaks them.

    Args:
        crystal: The crystal.
        fixed: Sites that are held, `(n_atoms,)`: no operation takes them onto free ones.
        symprec: Å.

    Raises:
        ValueError: If an operation does not map the atoms onto each other, or none can be found.
    """
    fractional = crystal.positions @ np.linalg.inv(crystal.cell)
    kinds = 2 * crystal.numbers + fixed
    turns, shifts = _operations(crystal.cell, fractional, kinds, symprec)
    mapped = fractional @ np.transpose(turns, (0, 2, 1)) + shifts[:, None, :]
    images = _nearest(mapped, fractional, kinds)
    if (np.sort(images, axis=1) != np.arange(len(crystal))).any():
        raise ValueError(f"operations found within {symprec} Å do not permute the atoms; lower symprec")
    off = mapped - fractional[images]
    mean = np.zeros_like(fractional)
    np.add.at(mean, images, off - np.round(off))
    metric = np.mean(np.transpose(turns, (0, 2, 1)) @ (crystal.cell @ crystal.cell.T) @ turns, axis=0)
    lower = np.linalg.cholesky(metric)
    left, _, right = np.linalg.svd(lower.T @ crystal.cell)  # turned so that it lies as the given cell does
    cell = lower @ left @ right
    columns = cell.T
    symmetry = Symmetry(rotations=columns @ turns @ np.linalg.inv(columns), images=images)
    return replace(crystal, positions=(fractional + mean / len(turns)) @ cell, cell=cell), symmetry


def _operations(
    cell: FloatArray, fractional: FloatArray, kinds: NDArray[np.int64], symprec: float
) -> tuple[NDArray[np.int64], FloatArray]:
    """Rotations `(n_operations, 3, 3)` and translations `(n_operations, 3)` on fractional coordinates as columns."""
    import moyopy

    _, labels = np.unique(kinds, return_inverse=True)
    lattice = moyopy.Cell(cell.tolist(), fractional.tolist(), (1 + labels).tolist())
    found = moyopy.MoyoDataset(lattice, symprec=symprec).operations
    return np.array(found.rotations), np.array(found.translations)


def _nearest(mapped: FloatArray, fractional: FloatArray, kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    """The atom of its own kind that each mapped one comes to lie on, `(n_operations, n_atoms)`."""

    def points(at: FloatArray) -> FloatArray:
        inside = at - np.floor(at)
        inside[inside >= 1.0] = 0.0
        return np.concatenate([inside, np.broadcast_to(10.0 * kinds[:, None], (*at.shape[:-1], 1))], axis=-1)

    tree = cKDTree(points(fractional), boxsize=[1.0, 1.0, 1.0, 0.0])
    _, images = tree.query(points(mapped).reshape(-1, 4))
    return np.asarray(images, dtype=np.int64).reshape(mapped.shape[:2])

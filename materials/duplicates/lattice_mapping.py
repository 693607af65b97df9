"""Lattice mappings: bases of lattices that are like given ones, for many lattices at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Bases:
    """Bases found, n of them in all.

    Attributes:
        owners: Number of the lattice that each belongs to, ascending, shape (n,).
        matrices: Its vectors in rows (Å), shape (n, 3, 3).
        inverses: Of the whole numbers that make the basis of the lattice's own vectors, shape (n, 3, 3).
        lengths: Of its vectors (Å), shape (n, 3).
        angles: Alpha, beta and gamma (degrees), shape (n, 3).
    """

    owners: np.ndarray
    matrices: np.ndarray
    inverses: np.ndarray
    lengths: np.ndarray
    angles: np.ndarray


def find_bases(
    matrices: np.ndarray,
    lengths: np.ndarray,
    angles: np.ndarray,
    *,
    length_tolerance: np.ndarray | float,
    angle_tolerance: float,
) -> Bases:
    """Find all primitive bases of lattices that have the lengths and angles of others, within tolerances.

    Args:
        matrices: Vectors of n lattices in rows (Å), shape (n, 3, 3); reduced, or there are very many to look at.
        lengths: Wanted (Å), shape (n, 3).
        angles: Wanted alpha, beta and gamma (degrees), shape (n, 3).
        length_tolerance: Largest ratio of two lengths, less 1; one for all, or one for each, shape (n, 1).
        angle_tolerance: Largest difference of two angles (degrees).
    """
    steps = _grid(n_steps(matrices, (lengths * (1 + length_tolerance)).max(axis=1)).max(axis=0, initial=0))
    points = steps @ matrices
    size = np.sqrt((points**2).sum(axis=2))
    sides = [_Side.of(points, size, lengths[:, [i]], length_tolerance) for i in range(3)]
    gamma, beta, alpha = (
        _between(sides[i], sides[j], angles[:, 3 - i - j], angle_tolerance) for i, j in ((0, 1), (0, 2), (1, 2))
    )
    owners, i, j = np.nonzero(gamma)
    rows, k = np.nonzero(beta[owners, i] & alpha[owners, j])
    owners, places = owners[rows], (i[rows], j[rows], k)
    chosen = np.stack([side.chosen[owners, place] for side, place in zip(sides, places, strict=True)], axis=1)
    transformations = steps[chosen]
    adjugates = np.cross(transformations[:, [1, 2, 0]], transformations[:, [2, 0, 1]])
    determinants = (transformations[:, 0] * adjugates[:, 0]).sum(axis=1)
    primitive = np.abs(determinants) == 1
    owners, chosen = owners[primitive], chosen[primitive]
    inverses = np.swapaxes(adjugates[primitive], 1, 2) * determinants[primitive, None, None]
    vectors = points[owners[:, None], chosen]
    found = size[owners[:, None], chosen]
    cosines = (vectors[:, [1, 2, 0]] * vectors[:, [2, 0, 1]]).sum(axis=2) / (found[:, [1, 2, 0]] * found[:, [2, 0, 1]])
    return Bases(
        owners=owners,
        matrices=vectors,
        inverses=inverses,
        lengths=found,
        angles=np.rad2deg(np.arccos(np.clip(cosines, -1, 1))),
    )


def n_steps(matrices: np.ndarray, reaches: np.ndarray) -> np.ndarray:
    """Steps along each vector of lattices `(n, 3, 3)` that are needed to go as far as `(n,)` in Å, shape (n, 3)."""
    spacings = 1 / np.sqrt((np.linalg.inv(matrices) ** 2).sum(axis=1))
    return np.floor(reaches[:, None] / spacings + 1e-6).astype(int)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """Lattice points as long as one vector of the wanted basis, padded to the longest list."""

    chosen: np.ndarray  # (n, most): which point
    real: np.ndarray  # (n, most): not padding
    directions: np.ndarray  # (n, most, 3)

    @classmethod
    def of(cls, points: np.ndarray, size: np.ndarray, wanted: np.ndarray, tolerance: np.ndarray | float) -> _Side:
        alike = (size < wanted * (1 + tolerance)) & (size > wanted / (1 + tolerance))
        places = np.nonzero(alike)[1]
        counts = alike.sum(axis=1)
        most = int(counts.max(initial=0))
        real = np.arange(most) < counts[:, None]
        chosen = np.zeros(real.shape, dtype=np.int64)
        chosen[real] = places
        rows = np.arange(len(points))[:, None]
        return cls(chosen=chosen, real=real, directions=points[rows, chosen] / size[rows, chosen, None])


def _between(one: _Side, other: _Side, angles: np.ndarray, tolerance: float) -> np.ndarray:
    """Which directions stand at an angle (degrees), shape (n, most, most)."""
    cosines = one.directions @ np.swapaxes(other.directions, 1, 2)
    most = np.cos(np.deg2rad(np.maximum(angles - tolerance, 0)))[:, None, None]
    least = np.cos(np.deg2rad(np.minimum(angles + tolerance, 180)))[:, None, None]
    return (cosines <= most) & (cosines >= least) & one.real[:, :, None] & other.real[:, None, :]


def _grid(most: np.ndarray) -> np.ndarray:
    """Whole-numbered steps, the origin left out, shape (m, 3)."""
    axes = [np.arange(-n, n + 1) for n in most]
    steps = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(float)
    return steps[steps.any(axis=1)]

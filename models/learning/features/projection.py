"""Projection of features to the few coordinates in which the surrogate measures distance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from materials.errors import InputError
from models.learning.features.array_file import RowFile

Rows = NDArray[np.floating] | RowFile
MOST_COMPONENTS = 20  # of a group of columns
LEAST_VARIANCE = 1e-6  # of a component, where a z-scored column has 1
FARTHEST = 10.0  # z-scores beyond it are cut: one odd cell must not set the scale of its neighbours
CHUNK = 8192  # rows worked on together: so many are in memory a few times over


@dataclass(frozen=True, kw_only=True)
class Projection:
    """z-scores, and of each group of columns principal components, all of a group scaled by one number.

    The components keep their proportions: whitened ones would give noise the say that chemistry has.

    Attributes:
        columns: Which columns vary, shape (d_kept,).
        mean: Of those columns, shape (d_kept,).
        std: Of those columns, shape (d_kept,).
        axes: Shape (d_kept, k): components as combinations of z-scores.
        widths: Components of each group, whose variances are 1 on average.
        n_features: Columns that a table must have.
    """

    columns: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    axes: NDArray[np.float64]
    widths: tuple[int, ...]
    n_features: int

    def transform(self, features: Rows) -> NDArray[np.float64]:
        """Project rows.

        Args:
            features: Shape (n, n_features); a missing number (NaN, infinity) counts as the column's mean.

        Returns:
            Shape (n, k), finite; of the frozen rows each column has mean 0, and each group variance 1 on average.

        Raises:
            InputError: The table has another number of columns than the one that was frozen.
        """
        if len(features.shape) != 2 or features.shape[1] != self.n_features:
            raise InputError(
                f"features: shape {features.shape}, but the campaign was frozen with {self.n_features} columns; "
                "describe new candidates as the first ones were described (with or without latents)."
            )
        projected = np.empty((len(features), self.axes.shape[1]))
        for part, z in self._scores(features):
            projected[part] = z @ self.axes
        return projected

    def _scores(self, features: Rows) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        for start in range(0, len(features), CHUNK):
            part = slice(start, start + CHUNK)
            z = (features[part][:, self.columns] - self.mean) / self.std
            yield part, np.clip(np.where(np.isfinite(z), z, 0.0), -FARTHEST, FARTHEST)

    @property
    def version(self) -> str:
        """Hash of the projection, to be kept with what was learned in it."""
        digest = hashlib.sha256(repr((self.n_features, self.columns.tolist())).encode())
        for part in (self.mean, self.std, self.axes):
            digest.update(np.array([f"{number:.5e}" for number in part.ravel()]).tobytes())
        return digest.hexdigest()[:16]


def freeze(
    features: Rows, *, groups: Sequence[Sequence[int]] | None = None, n_components: int = MOST_COMPONENTS
) -> Projection:
    """Learn the projection from the pool as it is at the start of a campaign.

    Frozen once, so that distances, and with them what was learned, mean the same in every round.

    Args:
        features: Shape (n, d); columns that never vary are dropped, missing numbers (NaN, infinity) left out.
        groups: Columns of each group that has principal components of its own; None: all are one group.
        n_components: Principal components of a group to keep at most.

    Raises:
        InputError: The table is empty or not two-dimensional.
    """
    if len(features.shape) != 2 or not len(features):
        raise InputError(f"features: shape {features.shape}; a projection needs at least one described candidate.")
    mean, std = _moments(features)
    columns = np.flatnonzero(std > 1e-9 * np.maximum(np.abs(mean), 1e-3))
    kept = {"columns": columns, "mean": mean[columns], "std": std[columns], "n_features": features.shape[1]}
    scored = Projection(axes=np.eye(len(columns)), widths=(), **kept)
    total, outer = np.zeros(len(columns)), np.zeros((len(columns), len(columns)))
    for _, z in scored._scores(features):
        total += z.sum(axis=0)
        outer += z.T @ z
    center = total / len(features)
    covariance = outer / len(features) - np.outer(center, center)
    members = [np.flatnonzero(np.isin(columns, group)) for group in groups or [columns.tolist()]]
    parts = [_components(covariance[np.ix_(of, of)], n_components) for of in members]
    widths = tuple(part.shape[1] for part in parts)
    axes = np.zeros((len(columns), sum(widths)))
    for of, part, end in zip(members, parts, np.cumsum(widths), strict=True):
        axes[of, end - part.shape[1] : end] = part
    return Projection(axes=axes, widths=widths, **kept)


def _components(covariance: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Principal axes of z-scores, shape (d, k), scaled so that the components' variances are 1 on average."""
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1][:most]
    order = order[values[order] > LEAST_VARIANCE]
    if not len(order):
        return np.empty((len(covariance), 0))
    axes = vectors[:, order] / np.sqrt(np.mean(values[order]))
    # Eigenvectors have no sign of their own: the largest part, of equal ones the first, is made positive.
    largest = np.argmax(np.round(np.abs(axes), 6), axis=0)
    return axes * np.sign(axes[largest, np.arange(len(order))])


def _moments(features: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of what is finite in each column; 0 and 0 where nothing is."""
    count, total = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for start in range(0, len(features), CHUNK):
        part = features[start : start + CHUNK]
        finite = np.isfinite(part)
        count += finite.sum(axis=0)
        total += np.where(finite, part, 0.0).sum(axis=0)
    mean = total / np.maximum(count, 1)
    square = np.zeros(features.shape[1])
    for start in range(0, len(features), CHUNK):
        part = features[start : start + CHUNK]
        square += (np.where(np.isfinite(part), part - mean, 0.0) ** 2).sum(axis=0)
    return mean, np.sqrt(square / np.maximum(count, 1))

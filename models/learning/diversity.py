"""Candidates apart from each other: no near-twins, no two of a group, and how digits are kept that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.learning.gaussian_process import squared_distances

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

TWIN = 0.1  # of the median distance in the pool: nearer than that, two candidates of a batch are one question
SAME = 0.01  # nearer than that to an answered one, there is nothing to ask: it is the same crystal
SAMPLE = 500  # rows by which distances in the pool are judged, and that are offered to be representatives
OF_ONE_GROUP = 5  # candidates of one group that compete for its place in a batch
DIGITS = 6  # that count in a decision: the last ones change with the machine


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The rows of a pool, and how near they are to each other.

    Attributes:
        features: Whitened, shape (n, k).
        groups: Number of each row's composition, shape (n,).
        free: Rows that may be picked.
        answered: Rows whose answer is known.
        median_distance: Of two rows, as `median_distance` has it.
    """

    features: NDArray[np.floating]
    groups: NDArray[np.int64]
    free: Rows
    answered: Rows
    median_distance: float

    def rows(self, indices: Sequence[int] | Rows) -> Floats:
        """Features of some rows."""
        return np.asarray(self.features[np.asarray(indices, dtype=np.int64)], dtype=np.float64)

    def apart(self, shortlist: Rows, taken: Sequence[int] | Rows) -> NDArray[np.bool_]:
        """Which rows share no group with those taken, are no near-twin of them, and not the same as an answered one.

        A near-twin of an answered one stays: what is known of it is in its odds, and the likeliest lie close together.
        """
        taken = np.asarray(taken, dtype=np.int64)
        apart = ~np.isin(self.groups[shortlist], self.groups[taken])
        for others, least in ((taken, TWIN), (self.answered, SAME)):
            if len(others):
                nearest = distances(self.rows(shortlist), self.rows(others)).min(axis=1)
                apart &= nearest > least * self.median_distance
        return apart

    def shortlist(self, values: Floats, length: int) -> Rows:
        """The best free rows, with no more than a few of one group."""
        order = self.free[np.argsort(-values[self.free], kind="stable")]
        by_group = np.argsort(self.groups[order], kind="stable")
        starts = np.unique(self.groups[order][by_group], return_index=True)[1]
        place = np.empty(len(order), dtype=np.int64)
        place[by_group] = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        first = order[place < OF_ONE_GROUP][:length]
        if len(first) == length:
            return first
        return np.concatenate([first, order[place >= OF_ONE_GROUP][: length - len(first)]])


def median_distance(features: NDArray[np.floating]) -> float:
    """Median distance of two candidates, of a sample that does not change; 0 where there are no two."""
    rows = np.unique(np.linspace(0, max(len(features) - 1, 0), SAMPLE).astype(np.int64))[: len(features)]
    sample = np.asarray(features[rows], dtype=np.float64)
    between = distances(sample, sample)[np.triu_indices(len(sample), 1)]
    return float(np.median(between)) if len(between) else 0.0


def distances(a: Floats, b: Floats) -> Floats:
    """Euclidean distances between the rows of two arrays, shape (len(a), len(b))."""
    return np.sqrt(squared_distances(a, b))


def rounded(values: Floats) -> Floats:
    """Keep the digits that count, relative to the largest."""
    largest = np.max(np.abs(values[np.isfinite(values)]), initial=0.0)
    if largest == 0:
        return values
    return np.round(values / largest, DIGITS) * largest

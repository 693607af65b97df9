"""Rival phases of one composition: probability that none lies too far below a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from models.learning.acquisition import TINY, probability_at_most

Floats = NDArray[np.float64]

COMMON, OWN = 16, 24  # points of the quadratures
NEGLIGIBLE = 1e-6  # odds of a rival that far below, or of a candidate that near to the hull
BLOCK = 4_000_000  # numbers held at once


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """Normal beliefs about phases of each row's composition, beside that about the row itself.

    Attributes:
        gaps: Shape (n, k), mean energy of each rival less that of the row, eV/atom; infinite where there are fewer.
        stds: Shape (n, k), standard deviation of each rival's energy.
        correlations: Shape (n, k), of each rival's energy with that of the row, from 0 to below 1.
        alike: Shape (n,), correlation of any two rivals' energies once that of the row is known, from 0 to below 1.
    """

    gaps: Floats
    stds: Floats
    correlations: Floats
    alike: Floats

    def of(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Rivals:
        """Those of some rows."""
        return Rivals(
            gaps=self.gaps[rows], stds=self.stds[rows], correlations=self.correlations[rows], alike=self.alike[rows]
        )

    def odds(self, mean: Floats, std: Floats, most: float) -> Floats:
        """P(y <= most, and y - each rival <= most): that a phase is at most so far above all that it competes with.

        By quadrature over the row's energy and, given that, over a part that its rivals have in common: then their odds
        multiply. Exact for one rival, and for more where their correlations given the row's energy are equal.

        Args:
            mean: Shape (n,), of the row's energy above the phases that are known.
            std: Shape (n,).
            most: eV/atom.

        Returns:
            Shape (n,).
        """
        alone = probability_at_most(mean, std, most)
        if not self.gaps.shape[1] or np.isinf(most):
            return alone
        below = ndtr((-self.gaps - most) / np.maximum(np.hypot(std[:, None], self.stds), TINY))
        counted = np.flatnonzero((alone > NEGLIGIBLE) & (below.max(axis=1) > NEGLIGIBLE))
        step = max(1, BLOCK // (COMMON * OWN * self.gaps.shape[1]))
        for start in range(0, len(counted), step):
            rows = counted[start : start + step]
            alone[rows] = self.of(rows)._quadrature(mean[rows], np.maximum(std[rows], TINY), most)
        return alone

    def _quadrature(self, mean: Floats, std: Floats, most: float) -> Floats:
        normal, weights, shares, parts = _points()
        reach = ndtr((most - mean) / std)  # (n,)
        own = ndtri(np.clip(reach[:, None] * shares, 1e-300, 1 - 1e-16))  # (n, OWN), in standard deviations
        together, apart = np.sqrt(self.alike), np.sqrt(1 - self.alike)
        shift = (together[:, None] * normal)[:, None, :]  # (n, 1, COMMON)
        spared = np.ones((len(mean), OWN, COMMON))
        for gap, rival, correlation in zip(
            self.gaps.T, np.maximum(self.stds, TINY).T, self.correlations.T, strict=True
        ):
            left = rival * np.sqrt(1 - correlation**2)  # of the rival's, once the row's energy is known
            level = (gap + most)[:, None] + ((rival * correlation) - std)[:, None] * own
            spared *= ndtr((level / left[:, None])[..., None] / apart[:, None, None] + shift / apart[:, None, None])
        return np.asarray(((spared @ weights) @ parts) * reach, dtype=np.float64)


@lru_cache(maxsize=1)
def _points() -> tuple[Floats, Floats, Floats, Floats]:
    """Points and weights for a standard normal number, and for one between 0 and 1."""
    normal, weights = np.polynomial.hermite_e.hermegauss(COMMON)
    uniform, parts = np.polynomial.legendre.leggauss(OWN)
    return normal, weights / weights.sum(), (uniform + 1) / 2, parts / 2

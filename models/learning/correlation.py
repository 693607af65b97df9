"""Do wishes come true together? Odds of several properties at once, correlated as far as the answers say so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from models.learning.surrogate import Posterior

Floats = NDArray[np.float64]

DOUBT = 10.0  # answers of both that no correlation weighs as much as
NEGLIGIBLE = 0.05  # correlation below which odds are multiplied
POINTS = 32  # of the quadrature, in each row


def correlations(posteriors: Sequence[Posterior]) -> Floats:
    """How what the surrogates miss of several properties hangs together, shape (k, k), shrunken towards nothing.

    What is left of each answer when all others have said what they expect of it is compared, where both are known.
    """
    found = np.eye(len(posteriors))
    for i, one in enumerate(posteriors):
        for j, other in enumerate(posteriors[:i]):
            _, here, there = np.intersect1d(one.observed, other.observed, return_indices=True)
            a, b = one.misfits[here], other.misfits[there]
            both = np.isfinite(a) & np.isfinite(b)
            a, b = a[both], b[both]
            spread = float(np.sqrt(np.sum(a**2) * np.sum(b**2))) + DOUBT
            found[i, j] = found[j, i] = float(a @ b) / spread
    # Shrunken pair by pair, three or more may contradict each other.
    lowest = float(np.linalg.eigvalsh(found)[0])
    if lowest < NEGLIGIBLE:
        keep = (1 - NEGLIGIBLE) / (1 - lowest)
        found = keep * found + (1 - keep) * np.eye(len(found))
    return found


def odds_together(low: Floats, high: Floats, correlation: Floats) -> Floats:
    """Probability that correlated standard normal numbers all lie within their bounds.

    One after the other, each given those before it, by quadrature over where those lie in their bounds (Genz,
    doi:10.1080/10618600.1992.10477010): Gauss and Legendre's for two numbers, a Sobol sequence for more.

    Args:
        low: Shape (k, n), in standard deviations from the mean.
        high: Shape (k, n).
        correlation: Shape (k, k), positive definite.

    Returns:
        Shape (n,).
    """
    k, n = low.shape
    factor = np.linalg.cholesky(correlation)
    points, weights = _quadrature(k - 1)
    odds = np.ones((n, len(weights)))
    drawn: list[Floats] = []
    for i in range(k):
        shift = sum((factor[i, j] * drawn[j] for j in range(i)), np.zeros((n, len(weights))))
        below = ndtr((low[i][:, None] - shift) / factor[i, i])
        share = np.maximum(ndtr((high[i][:, None] - shift) / factor[i, i]) - below, 0.0)
        odds *= share
        if i < k - 1:
            drawn.append(np.clip(ndtri(np.clip(below + points[i] * share, 1e-300, 1 - 1e-16)), -38, 38))
    return odds @ weights


def _quadrature(dimensions: int) -> tuple[Floats, Floats]:
    """Points in the unit cube, shape (dimensions, m), and their weights."""
    if dimensions <= 1:
        nodes, weights = np.polynomial.legendre.leggauss(POINTS)
        return (nodes[None, :] + 1) / 2, weights / 2
    from scipy.stats.qmc import Sobol

    points = Sobol(dimensions, scramble=True, seed=0).random_base2(6).T
    return points, np.full(points.shape[1], 1 / points.shape[1])

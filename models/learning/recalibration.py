"""Error bars as wide as the answers to random picks ask for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.learning.surrogate import Posterior

AUDIT_WEIGHT = 4.0  # random picks that what is expected of the scale weighs as much as
TILT = 0.3  # expected: a process fitted where answers crowd promises too much where there are few
FARTHEST = 4.0  # standard deviations that a random pick counts as, at most: it may be a mistake


def recalibrated(posterior: Posterior, audited: ArrayLike) -> Posterior:
    """Rescale standard deviations by how far off the answers of random picks are.

    What all other answers say of a random pick is what they say of any row that was not asked for. Candidates are
    chosen where the surrogate is sure, and there it errs less than among the rest: so there are two numbers to find,

        log(scale) = level + tilt x rank

    with the rank of the standard deviation among the rows without an answer, 0 to 1. They have normal priors, level
    about 0 and tilt about `TILT`, and take their likeliest values. As the scale is uncertain itself, an answer is
    Student-t distributed; the standard deviation is of the normal distribution with the same central 90 %.

    Args:
        posterior: To be rescaled; it comes back as it is where no random pick tells anything.
        audited: Rows that were picked at random; those without an answer are left out.
    """
    from scipy.stats import norm, t

    told = np.isin(posterior.observed, np.asarray(audited, dtype=np.int64)) & np.isfinite(posterior.misfits)
    if not np.any(told):
        return posterior
    others = np.sort(np.delete(posterior.std, posterior.observed))
    level, tilt = _likeliest(posterior.misfits[told], _ranks(posterior.left_out[told], others))
    student = float(t.ppf(0.95, AUDIT_WEIGHT + np.sum(told)) / norm.ppf(0.95))
    scale = student * np.exp(level + tilt * _ranks(posterior.std, others))
    return replace(posterior, std=posterior.std * scale)


def _ranks(stds: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.searchsorted(others, stds) / max(len(others), 1)


def _likeliest(misfits: NDArray[np.float64], ranks: NDArray[np.float64]) -> tuple[float, float]:
    """Level and tilt of largest posterior density: of a convex function, by Newton's method."""
    squares = np.clip(misfits, -FARTHEST, FARTHEST) ** 2
    basis = np.column_stack([np.ones(len(ranks)), ranks])
    expected, weight = np.array([0.0, TILT]), 2 * AUDIT_WEIGHT  # one random pick tells a logarithm to a variance of 1/2
    found = expected.copy()
    for _ in range(50):
        off = squares * np.exp(-2 * basis @ found)
        slope = basis.T @ (1 - off) + weight * (found - expected)
        step = np.linalg.solve(2 * (basis.T * off) @ basis + weight * np.eye(2), slope)
        found = found - step * min(1.0, 1.0 / max(float(np.max(np.abs(step))), 1e-12))
        if np.max(np.abs(step)) < 1e-10:
            break
    level, tilt = found
    return float(level), float(tilt)

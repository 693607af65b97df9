"""What is expected of an answer from the potential's value alone, and by how much that may be off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.learning.gaussian_process import Process

SLOPE_SPREAD = 0.5  # how far from 1, for the prior is the same quantity, its slope may well lie


@dataclass(frozen=True, kw_only=True)
class Trend:
    """What is expected without the process, and how it may be off."""

    expected: NDArray[np.float64]  # (n,)
    basis: NDArray[np.float64]  # (n, 1 or 2): level, and slope of the prior, each times its spread
    doubts: NDArray[np.float64]  # (n,): variance added where no prior is

    def slope(self, process: Process) -> float:
        """What the answers made of the slope."""
        if self.basis.shape[1] == 1:
            return 0.0
        return 1.0 + SLOPE_SPREAD * process.coefficient(1)


def trend_of(prior: NDArray[np.floating] | None, n: int, *, center: float, spread: float) -> Trend:
    """Say what is expected of n rows.

    Args:
        prior: The potential's value of each row, shape (n,); None where it has no say, NaN where it has none.
        n: Rows.
        center: Expected answer, less the prior.
        spread: Standard deviation of the level.
    """
    finite = np.zeros(0, dtype=bool) if prior is None else np.isfinite(prior)
    level = np.full((n, 1), spread)
    if prior is None or not finite.any():
        nothing = np.zeros(n)
        return Trend(expected=nothing + center, basis=level, doubts=nothing)
    middle, scale = float(np.mean(prior[finite])), max(float(np.std(prior[finite])), 1e-12)
    filled = np.where(finite, prior, middle)
    return Trend(
        expected=center + filled,
        basis=np.hstack([level, SLOPE_SPREAD * (filled - middle)[:, None]]),
        doubts=np.where(finite, 0.0, scale**2),
    )

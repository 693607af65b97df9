"""What is expected of an answer from the potential's value alone, and by how much that may be off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.gaussian_process import Process

SLOPE_SPREAD = 0.5  # how far from its expected value the slope of the prior may well lie


@dataclass(frozen=True, kw_only=True)
class Trend:
    """What is expected without the process, and how it may be off."""

    expected: NDArray[np.float64]  # (n,)
    basis: NDArray[np.float64]  # (n, 1 or 2): level, and slope of the prior, each times its spread
    doubts: NDArray[np.float64]  # (n,): variance added where no prior is
    towards: float
    slope_spread: float

    def slope(self, process: Process) -> float:
        """What the answers made of the slope."""
        if self.basis.shape[1] == 1:
            return 0.0
        return self.towards + self.slope_spread * process.coefficient(1)


def trend_of(prior: NDArray[np.floating] | None, n: int, *, towards: float, center: float, spread: float) -> Trend:
    """Say what is expected of n rows.

    Args:
        prior: The potential's value of each row, shape (n,); None where it has no say, NaN where it has none.
        n: Rows.
        towards: Expected slope of the prior: 1 for the same quantity, 0 for another one.
        center: Expected answer, less the prior.
        spread: Standard deviation of the level.
    """
    finite = np.zeros(0, dtype=bool) if prior is None else np.isfinite(prior)
    level = np.full((n, 1), spread)
    if prior is None or not finite.any():
        nothing = np.zeros(n)
        return Trend(expected=nothing + center, basis=level, doubts=nothing, towards=0.0, slope_spread=0.0)
    middle, scale = float(np.mean(prior[finite])), max(float(np.std(prior[finite])), 1e-12)
    filled = np.where(finite, prior, middle)
    # A slope towards 0 is in units of answer per unit of prior, of which only the scales are known.
    slope_spread = SLOPE_SPREAD if towards else spread / scale
    return Trend(
        expected=center + towards * filled,
        basis=np.hstack([level, slope_spread * (filled - middle)[:, None]]),
        doubts=np.where(finite, 0.0, max(towards, slope_spread) ** 2 * scale**2),
        towards=towards,
        slope_spread=slope_spread,
    )

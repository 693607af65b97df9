"""Answers that cannot lie below a floor: which of them lie at it, and normal beliefs that are known to lie below."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr


def at_floor(answers: ArrayLike, floor: float) -> NDArray[np.bool_]:
    """Tell which answers lie at the floor, but for rounding."""
    return np.asarray(answers, dtype=np.float64) <= floor + 1e-9


def inverse_mills(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Density over cumulative probability of the standard normal: -E[Z | Z < z], exact in both tails."""
    return np.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - log_ndtr(z))

"""Analytic acquisition functions for normally distributed predictions, vectorised.

A belief is a mean and a standard deviation; a standard deviation of 0 is certainty. All functions broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr

Array = NDArray[np.float64]
Numbers = float | NDArray[np.floating]

TINY = 1e-12  # a standard deviation below it is certainty


def probability_at_most(mean: Numbers, std: Numbers, value: Numbers) -> Array:
    """P(y <= value)."""
    return ndtr(_scores(value, mean, std))


def probability_at_least(mean: Numbers, std: Numbers, value: Numbers) -> Array:
    """P(y >= value)."""
    return ndtr(-_scores(value, mean, std, certain_at_value=-1.0))


def probability_near(mean: Numbers, std: Numbers, value: Numbers, tolerance: Numbers) -> Array:
    """P(|y - value| <= tolerance)."""
    # Mirrored so that the difference is taken in the lower tail, where it keeps its digits.
    distance = np.abs(_array(mean) - value)
    upper = _scores(tolerance, distance, std)
    lower = _scores(-_array(tolerance), distance, std, certain_at_value=-1.0)
    return np.maximum(ndtr(upper) - ndtr(lower), 0.0)


def expected_improvement(mean: Numbers, std: Numbers, best: Numbers, floor: float | None = None) -> Array:
    """E[max(0, best - y)]: how much lower than the best it is expected to come out, in units of y.

    Jones, Schonlau and Welch (doi:10.1023/A:1008306431147). For a maximum, negate mean and best.

    Args:
        mean: Of the belief.
        std: Of the belief.
        best: To be undercut.
        floor: What is believed below it comes out at it (a gap at 0); None: there is none.
    """
    lower = -_array(mean)
    gain = _mean_excess(-_array(best), lower, std)
    return gain if floor is None else gain - _mean_excess(-np.minimum(floor, best), lower, std)


def expected_improvement_near(
    mean: Numbers, std: Numbers, value: Numbers, best_distance: Numbers, floor: float | None = None
) -> Array:
    """E[max(0, best_distance - |y - value|)]: how much nearer to a value it is expected to come, in units of y.

    The tent max(0, d - |y - t|) is (y - t + d)⁺ - 2 (y - t)⁺ + (y - t - d)⁺, and each term has the closed form of
    expected improvement. The idea: Tian et al. (doi:10.1038/s41524-025-01704-4).

    Args:
        mean: Of the belief.
        std: Of the belief.
        value: To be hit.
        best_distance: Distance from it that is to be undercut, >= 0.
        floor: What is believed below it comes out at it (a gap at 0); None: there is none.
    """
    # Mirrored where the mean lies above, so that all three terms are small where the sum is small.
    above = _array(mean) > value
    off, d = -np.abs(_array(mean) - value), _array(best_distance)
    reach = np.inf if floor is None else _array(value) - floor
    # Below a floor the tent goes on level: kinks there lie at the floor (mirrored: a ceiling), and its height there is
    # what is certain.
    low, high = np.where(above, -np.inf, -reach), np.where(above, reach, np.inf)
    certain = np.where(above, 0.0, np.maximum(d - np.abs(reach), 0.0))
    rise, turn, end = (_mean_excess(np.clip(kink, low, high), off, std) for kink in (-d, 0.0, d))
    return np.clip(certain + rise - 2 * turn + end, 0.0, d)


def expected_within(mean: Numbers, std: Numbers, low: float, high: float, *, intercept: float, slope: float) -> Array:
    """E[intercept + slope x y where low < y < high, 0 elsewhere]: a piece of a gain that counts in a window only.

    Args:
        mean: Of the belief.
        std: Of the belief, > 0.
        low: Where the piece begins; may be infinite.
        high: Where it ends.
        intercept: Of the line.
        slope: Of the line.
    """
    if not low < high:
        return np.zeros(np.broadcast(_array(mean), _array(std)).shape)
    mean, std = _array(mean), np.maximum(_array(std), TINY)
    below, above = (low - mean) / std, (high - mean) / std
    density = np.exp(-0.5 * above**2) - np.exp(-0.5 * below**2)
    line = (intercept + slope * mean) * (ndtr(above) - ndtr(below))
    return line - slope * std * density / np.sqrt(2 * np.pi)


def lower_confidence_bound(mean: Numbers, std: Numbers, kappa: float = 1.0) -> Array:
    """Mean - kappa x std: the smaller, the better for a minimum.

    Srinivas et al. (doi:10.1109/TIT.2011.2182033).
    """
    return _array(mean) - kappa * _array(std)


def _array(numbers: Numbers) -> Array:
    return np.asarray(numbers, dtype=np.float64)


def _scores(value: Numbers, mean: Numbers, std: Numbers, certain_at_value: float = 1.0) -> Array:
    """(value - mean) / std; for a certainty plus or minus infinity, with its own sign where it is the value."""
    value, mean, std = np.broadcast_arrays(*(_array(part) for part in (value, mean, std)))
    gap = value - mean
    certain = np.where(gap == 0, certain_at_value, np.sign(gap)) * np.inf
    return np.where(std > TINY, gap / np.maximum(std, TINY), certain)


def _mean_excess(threshold: Numbers, mean: Numbers, std: Numbers) -> Array:
    """E[max(0, y - threshold)], accurate far in the tail."""
    threshold, mean, std = np.broadcast_arrays(*(_array(part) for part in (threshold, mean, std)))
    gap = threshold - mean
    z = np.where(std > TINY, gap / np.maximum(std, TINY), 0.0)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    # For z > 0: phi(z) (1 - z R(z)) with Mills' ratio R; the plain form loses all digits there.
    ratio = np.sqrt(np.pi / 2) * erfcx(np.abs(z) / np.sqrt(2))
    tail = std * density * np.maximum(1 - np.abs(z) * ratio, 0.0)
    spread = np.where(z > 0, tail, tail - gap)
    return np.where(std > TINY, spread, np.maximum(-gap, 0.0))

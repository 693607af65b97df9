"""How good is it to know this one: closed forms for normal beliefs, array in, array out.

A belief is a mean and a standard deviation; a standard deviation of 0 is certainty. All functions broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr, ndtr

Array = NDArray[np.float64]
Numbers = float | NDArray[np.floating]

TINY = 1e-12  # a standard deviation below it is certainty
FAR = 8.0  # standard deviations within which all of a belief lies
HOPELESS = 6.0  # standard deviations of luck that a candidate may need and still be counted
GRID = 512  # even steps of the quadrature over the best value


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


def expected_improvement(mean: Numbers, std: Numbers, best: Numbers) -> Array:
    """E[max(0, best - y)]: how much lower than the best it is expected to come out, in units of y.

    Jones, Schonlau and Welch (doi:10.1023/A:1008306431147). For a maximum, negate mean and best.
    """
    return _mean_excess(-_array(best), -_array(mean), std)


def expected_improvement_near(mean: Numbers, std: Numbers, value: Numbers, best_distance: Numbers) -> Array:
    """E[max(0, best_distance - |y - value|)]: how much nearer to a value it is expected to come, in units of y.

    The tent max(0, d - |y - t|) is (y - t + d)⁺ - 2 (y - t)⁺ + (y - t - d)⁺, and each term has the closed form of
    expected improvement. The idea: Tian et al. (doi:10.1038/s41524-025-01704-4).

    Args:
        mean: Of the belief.
        std: Of the belief.
        value: To be hit.
        best_distance: Distance from it of the best answer so far, >= 0.
    """
    # Mirrored so that all three terms are small where the sum is small.
    off = -np.abs(_array(mean) - value)
    d = _array(best_distance)
    tent = _mean_excess(-d, off, std) - 2 * _mean_excess(0.0, off, std) + _mean_excess(d, off, std)
    return np.clip(tent, 0.0, d)


def lower_confidence_bound(mean: Numbers, std: Numbers, kappa: float = 1.0) -> Array:
    """Mean - kappa x std: the smaller, the better for a minimum.

    Srinivas et al. (doi:10.1109/TIT.2011.2182033).
    """
    return _array(mean) - kappa * _array(std)


def probability_of_best(mean: NDArray[np.floating], std: NDArray[np.floating]) -> Array:
    """P(y is the lowest of all), the beliefs taken as independent; for the highest, negate the means.

    The integral over y of each one's density times the chance that all others lie above, by quadrature on
    cumulative distributions, so that narrow beliefs lose nothing. Candidates that cannot win cost nothing.

    Args:
        mean: Shape (n,).
        std: Shape (n,).

    Returns:
        Shape (n,), summing to 1; equal certainties share.
    """
    mean, std = _array(mean), _array(std)
    winners = np.zeros(len(mean))
    if not len(mean):
        return winners
    safe = np.maximum(std, TINY * max(1.0, float(np.max(np.abs(mean)))))
    ceiling = _ceiling(mean, safe)
    able = np.flatnonzero(mean - HOPELESS * safe <= ceiling)
    m, s = mean[able], safe[able]
    edges = _quadrature_edges(m, s, ceiling)
    above = np.zeros(len(edges) - 1)
    middles = (edges[1:] + edges[:-1]) / 2
    for i in range(len(able)):
        above += log_ndtr((m[i] - middles) / s[i])
    for i, row in enumerate(able):
        share = np.diff(ndtr((edges - m[i]) / s[i]))
        winners[row] = np.sum(share * np.exp(above - log_ndtr((m[i] - middles) / s[i])))
    return winners / np.sum(winners)


def _array(numbers: Numbers) -> Array:
    return np.asarray(numbers, dtype=np.float64)


def _ceiling(mean: Array, std: Array) -> float:
    """Value that the lowest of all exceeds with a probability below 1e-12."""
    low, high = float(np.min(mean - FAR * std)), float(np.min(mean + FAR * std))
    for _ in range(20):
        middle = (low + high) / 2
        if np.sum(log_ndtr((mean - middle) / std)) < np.log(1e-12):
            high = middle
        else:
            low = middle
    return high


def _quadrature_edges(mean: Array, std: Array, ceiling: float) -> Array:
    """Grid that resolves the narrowest of the likely winners as well as the whole range."""
    even = np.linspace(np.min(mean - FAR * std), ceiling, GRID)
    likely = np.argsort(mean - std)[:32]
    fine = (mean[likely, None] + std[likely, None] * np.linspace(-5, 5, 61)).ravel()
    return np.unique(np.concatenate([even, fine[fine < ceiling]]))


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

"""Calibration of predictions against later DFT results, and error bars rescaled by the random picks.

All functions take arrays of shape (n,) of predictions that were made before their answers were known. A surprise is
(answer - mean) / std; of calibrated predictions with normal errors it is standard normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.learning.censored import at_floor, inverse_mills
from models.learning.hyperparameters import FEWEST_TO_FIT
from models.learning.stopping import HitRate, hit_rate
from models.learning.surrogate import Posterior

Floats = NDArray[np.float64]

SHARES = (0.5, 0.9)  # of the central intervals whose coverage is told
FAR = 5.0  # standard deviations: beyond it the calculation is in doubt as much as the prediction
SHAKY = 20  # answers below which hyperparameters still change from round to round
ODDS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # edges of the bins of predicted odds
AUDIT_WEIGHT = 4.0  # random picks that what is expected of the scale weighs as much as
TILT = 0.3  # expected: a process fitted where answers crowd promises too much where there are few
FARTHEST = 4.0  # standard deviations that a random pick counts as, at most: it may be a mistake


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How answers came out beside predictions made before them.

    Attributes:
        n: Answers.
        bias: Mean of answer - prediction, in units of the answer.
        rmse: Root mean square of it.
        coverage: Share of a central interval -> answers inside it.
        stretch: Factor by which standard deviations would have to be multiplied: the root mean square surprise.
        stretch_low: Lower end of its 95 % interval.
        stretch_high: Upper end.
    """

    n: int
    bias: float
    rmse: float
    coverage: Mapping[float, HitRate]
    stretch: float
    stretch_low: float
    stretch_high: float


@dataclass(frozen=True, kw_only=True)
class OddsBin:
    """Picks whose predicted odds lay between two values, and how many of them hit."""

    low: float
    high: float
    expected: float  # hits: the sum of the odds
    seen: HitRate


def surprises(answers: ArrayLike, means: ArrayLike, stds: ArrayLike) -> Floats:
    """How far answers lay from their predictions, in standard deviations, positive where DFT's value is larger."""
    answers, means, stds = (np.asarray(part, dtype=np.float64) for part in (answers, means, stds))
    return (answers - means) / stds


def held(answers: ArrayLike, means: ArrayLike, stds: ArrayLike, *, share: float, floor: float | None = None) -> Floats:
    """Whether central intervals hold the answers: 1 or 0, and between them for an answer at a floor.

    There all of a normal belief that lies below is one answer, and its interval holds a part of it: so that beliefs
    that are right hold `share` of the answers on average, wherever the floor cuts them (the nonrandomized probability
    integral transform, doi:10.1111/j.1541-0420.2009.01191.x).

    Args:
        answers: NaN counts as 0.
        means: Of the belief before the floor cuts it.
        stds: Of it.
        share: Of the central interval.
        floor: Value below which no answer can lie.
    """
    from scipy.special import ndtr

    low, high = 0.5 - share / 2, 0.5 + share / 2
    below = ndtr(surprises(answers, means, stds))
    inside = ((low <= below) & (below <= high)).astype(np.float64)
    if floor is None:
        return inside
    part = np.clip(np.minimum(below, high) - low, 0.0, None) / np.maximum(below, 1e-300)
    return np.where(at_floor(answers, floor), part, inside)


def calibrate(
    answers: ArrayLike, means: ArrayLike, stds: ArrayLike, *, floor: float | None = None
) -> Calibration | None:
    """Compare answers with predictions; None without any.

    Coverage is that of central normal intervals, with Jeffreys' interval for the share. The interval of the stretch
    is the one of a normal standard deviation about a known mean, by chi-squared with n degrees of freedom. An answer
    at the floor counts in both as all that is believed to lie below it would on average.
    """
    from scipy.stats import chi2

    foretold = np.asarray(means, dtype=np.float64)
    errors = np.asarray(answers, dtype=np.float64) - (foretold if floor is None else np.maximum(foretold, floor))
    z = surprises(answers, means, stds)
    if not len(z):
        return None
    inside = {share: held(answers, means, stds, share=share, floor=floor) for share in SHARES}
    coverage = {share: hit_rate(round(float(np.sum(each))), len(z)) for share, each in inside.items()}
    squares = z**2
    if floor is not None:
        squares = np.where(at_floor(answers, floor), 1 - z * inverse_mills(z), squares)
    square = float(np.sum(squares))
    return Calibration(
        n=len(z),
        bias=float(np.mean(errors)),
        rmse=math.sqrt(float(np.mean(errors**2))),
        coverage={share: rate for share, rate in coverage.items() if rate is not None},
        stretch=math.sqrt(square / len(z)),
        stretch_low=math.sqrt(square / float(chi2.ppf(0.975, len(z)))),
        stretch_high=math.sqrt(square / float(chi2.ppf(0.025, len(z)))),
    )


def reliability(odds: ArrayLike, hits: ArrayLike) -> list[OddsBin]:
    """Set hits that predicted odds promised beside those that came, in bins of the odds; empty bins are left out."""
    odds, hits = np.asarray(odds, dtype=np.float64), np.asarray(hits, dtype=bool)
    # An edge belongs to the bin above it, 1 to the last.
    place = np.clip(np.searchsorted(ODDS, odds, side="right") - 1, 0, len(ODDS) - 2)
    bins = []
    for number, (low, high) in enumerate(pairwise(ODDS)):
        inside = place == number
        if (seen := hit_rate(int(hits[inside].sum()), int(inside.sum()))) is not None:
            bins.append(OddsBin(low=low, high=high, expected=float(odds[inside].sum()), seen=seen))
    return bins


def verdict(found: Calibration) -> str:
    """Say in words whether the error bars held, as far as so many answers can tell."""
    if any(rate.high < share for share, rate in found.coverage.items()):
        return "error bars too small: fewer answers lie inside than they say"
    if found.stretch_low > 1:
        return "error bars hold at least as often as they say, but a few answers lie far outside"
    if any(rate.low > share for share, rate in found.coverage.items()):
        return "error bars larger than needed: predictions are better than they say"
    return f"error bars agree with what came, as far as {found.n} answers can tell"


def few_answers(n: int) -> str | None:
    """Say in words why predictions from so few answers should not be trusted; None where there are enough."""
    if n == 0:
        return "DFT has not answered yet: predictions are the potential's own values, error bars are assumed"
    if n < FEWEST_TO_FIT:
        return (
            f"learned from {n} answers, too few to fit anything (that begins with {FEWEST_TO_FIT}):"
            " predictions are the potential's values, shifted; do not trust their error bars"
        )
    if n < SHAKY:
        return f"learned from {n} answers only: below {SHAKY} the fit still changes much with each of them"
    return None


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

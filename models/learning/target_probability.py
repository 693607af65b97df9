"""Probability that a candidate meets all targets, with correlated prediction errors.

`known` holds the answers so far: for each property an array over the pool, NaN where DFT has not answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from materials.errors import InputError
from materials.records import Target
from materials.targets import is_threshold
from models.learning.acquisition import (
    probability_at_least,
    probability_at_most,
    probability_near,
)
from models.learning.surrogate import Posterior

Floats = NDArray[np.float64]
Known = Mapping[str, NDArray[np.float64]]

DOUBT = 10.0  # answers of both that no correlation weighs as much as
NEGLIGIBLE = 0.05  # correlation below which odds are multiplied
POINTS = 32  # of the quadrature, in each row
MOST_CORRELATED = 20_000  # rows whose odds are worth the quadrature


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


def score_pool(posteriors: Mapping[str, Posterior], targets: Sequence[Target], known: Known) -> Floats:
    """Probability that each candidate meets every target.

    Beliefs about several properties are correlated as far as the answers say so. Where DFT has answered, a property
    counts 0 or 1.
    Targets that only order (minimize, maximize, near without tolerance) take no part, unless there are no others: then
    the score is the probability of coming out better than the best answer so far (without any: than the best that is
    expected).

    Args:
        posteriors: Of each property, all over the same pool.
        targets: At least one.
        known: Answers so far, each of shape (n,), NaN where there is none; a property without any may be absent.

    Returns:
        Shape (n,), from 0 to 1.

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    n = pool_size(posteriors, targets)
    nothing, score = np.full(n, np.nan), np.ones(n)
    bounds = windows(targets)
    for name, (low, high) in bounds.items():
        answers = known.get(name, nothing)
        odds = _between(posteriors[name], low, high)
        score *= np.where(np.isnan(answers), odds, (low <= answers) & (answers <= high))
    if bounds:
        unknown = np.all([np.isnan(known.get(name, nothing)) for name in bounds], axis=0)
        return np.where(unknown, _together(posteriors, bounds, score), score)
    best = best_value(targets, known)
    for target in targets:
        posterior, answers = posteriors[target.property], known.get(target.property, nothing)
        reached = best.get(target.property)
        told = posterior.expected if reached is None else np.array([reached])
        least = np.min(badness_of(target, told), initial=np.inf)
        odds = better_than(target, posterior, float(least))
        score *= np.where(np.isnan(answers), odds, badness_of(target, answers) <= least)
    return score


def odds_of_thresholds(posteriors: Mapping[str, Posterior], targets: Sequence[Target]) -> Floats:
    """Probability that each candidate meets every threshold, whatever DFT has answered; 1 where there is none."""
    odds, bounds = np.ones(pool_size(posteriors, targets)), windows(targets)
    for name, (low, high) in bounds.items():
        odds *= _between(posteriors[name], low, high)
    return _together(posteriors, bounds, odds)


def _together(posteriors: Mapping[str, Posterior], bounds: Mapping[str, tuple[float, float]], apart: Floats) -> Floats:
    """Correct the likeliest rows' odds, multiplied as if independent, by how the properties hang together."""

    beliefs = [posteriors[name] for name in bounds]
    if len(beliefs) < 2:
        return apart
    correlation = correlations(beliefs)
    if np.max(np.abs(correlation - np.eye(len(beliefs)))) < NEGLIGIBLE:
        return apart
    rows = np.argsort(-apart, kind="stable")[:MOST_CORRELATED]
    limits = np.empty((2, len(beliefs), len(rows)))
    for i, (posterior, (low, high)) in enumerate(zip(beliefs, bounds.values(), strict=True)):
        std = np.maximum(posterior.std[rows], 1e-12)
        if posterior.floor is not None and low <= posterior.floor:
            low = -math.inf
        limits[:, i] = (low - posterior.mean[rows]) / std, (high - posterior.mean[rows]) / std
    doubtful = np.all([posterior.std[rows] > 0 for posterior in beliefs], axis=0) & (apart[rows] > 0)
    together = odds_together(limits[0], limits[1], correlation)
    for posterior, (low, high) in zip(beliefs, bounds.values(), strict=True):
        if posterior.rivals is not None:
            without = _between(replace(posterior, rivals=None), low, high)[rows]
            together *= _between(posterior, low, high)[rows] / np.maximum(without, 1e-300)
    corrected = apart.copy()
    corrected[rows] = np.where(doubtful, np.minimum(together, 1.0), apart[rows])
    return corrected


def windows(targets: Sequence[Target]) -> dict[str, tuple[float, float]]:
    """Property -> lowest and highest value that meet all its thresholds, infinite where nothing bounds it."""
    bounds: dict[str, tuple[float, float]] = {}
    for target in targets:
        if is_threshold(target):
            low, high = bounds.get(target.property, (-math.inf, math.inf))
            least, most = _edges(target)
            bounds[target.property] = max(low, least), min(high, most)
    return bounds


def _edges(target: Target) -> tuple[float, float]:
    value = _value(target)
    low, high = (-math.inf, value) if target.goal == "at_most" else (value, math.inf)
    if target.goal == "near":
        # Rounding of the sum must not turn away an answer at the very edge.
        reach = (target.tolerance or 0.0) + 1e-12
        low, high = value - reach, value + reach
    if target.property == "energy_above_hull" and low <= 0:
        low = -math.inf  # what is stable counts below 0, by how much (`models.learning.polymorphs`)
    return low, high


def best_value(targets: Sequence[Target], known: Known) -> dict[str, float]:
    """Best answer for each target that orders, among the candidates that meet every threshold.

    A property without such an answer is absent.
    """
    best: dict[str, float] = {}
    meets = meeting(targets, known)
    for target in targets:
        answers = known.get(target.property)
        if is_threshold(target) or answers is None:
            continue
        rows = np.flatnonzero(np.isfinite(answers) & (meets if meets is not None else True))
        if len(rows):
            best[target.property] = float(answers[rows[np.argmin(badness_of(target, answers[rows]))]])
    return best


def meeting(targets: Sequence[Target], known: Known) -> NDArray[np.bool_] | None:
    """Which rows are known to meet every threshold, shape (n,); None where there is no threshold."""
    bounds = windows(targets)
    if not bounds:
        return None
    nothing = np.full(len(next(iter(known.values()), np.empty(0))), np.nan)
    answers = {name: known.get(name, nothing) for name in bounds}
    return np.all([(low <= answers[name]) & (answers[name] <= high) for name, (low, high) in bounds.items()], axis=0)


def answered_in_all(targets: Sequence[Target], known: Known) -> NDArray[np.int64]:
    """Rows that are known in all that the targets ask for."""
    names = {target.property for target in targets}
    if not names or not names <= known.keys():
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.all([np.isfinite(known[name]) for name in names], axis=0))


def pool_size(posteriors: Mapping[str, Posterior], targets: Sequence[Target]) -> int:
    """Rows of the pool; also checks that there is a belief about every target.

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    if not targets:
        raise InputError("targets: none given; say at least one property that is wished for.")
    for target in targets:
        if target.property not in posteriors:
            there = ", ".join(sorted(posteriors)) or "none"
            raise InputError(f"targets: no belief about {target.property!r} (there is: {there}); predict it first.")
        if target.value is None and target.goal not in ("minimize", "maximize"):
            raise InputError(f"targets: {target.property} {target.goal} needs a value.")
    return len(posteriors[targets[0].property].mean)


def _value(target: Target) -> float:
    return 0.0 if target.value is None else target.value


def badness_of(target: Target, values: Floats) -> Floats:
    """The smaller, the better."""
    if target.goal == "near":
        return np.abs(values - _value(target))
    return -values if target.goal == "maximize" else values


def at_most_as_bad(target: Target, posterior: Posterior, badness: float) -> Floats:
    """Probability of an answer that is no worse than a badness."""
    return _between(posterior, *_no_worse(target, badness))


def better_than(target: Target, posterior: Posterior, badness: float) -> Floats:
    """Probability of an answer that is better than a badness: one more at the floor is no better than the first."""
    return _between(posterior, *_no_worse(target, badness), edges=False)


def _no_worse(target: Target, badness: float) -> tuple[float, float]:
    match target.goal:
        case "near":
            return _value(target) - badness, _value(target) + badness
        case "maximize":
            return -badness, math.inf
        case _:
            return -math.inf, badness


def _between(posterior: Posterior, low: float, high: float, *, edges: bool = True) -> Floats:
    """Probability of an answer from `low` to `high`, with or without the edges.

    What is believed to lie below the floor lies at it.
    """
    mean, std, floor = posterior.mean, posterior.std, posterior.floor
    if posterior.rivals is not None:
        below = 0.0 if math.isinf(low) else posterior.rivals.odds(mean, std, low)
        return np.maximum(posterior.rivals.odds(mean, std, high) - below, 0.0)
    if floor is not None:
        if high < floor or (high == floor and not edges):
            return np.zeros(len(mean))
        if low < floor or (low == floor and edges):
            low = -math.inf
    if math.isinf(low):
        return probability_at_most(mean, std, high)
    if math.isinf(high):
        return probability_at_least(mean, std, low)
    return probability_near(mean, std, (low + high) / 2, (high - low) / 2)

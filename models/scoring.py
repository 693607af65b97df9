"""Several wishes, one number: the odds that a candidate meets them.

`known` holds the answers so far: for each property an array over the pool, NaN where DFT has not answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from materials.errors import InputError
from materials.records import Target
from models.acquisition import (
    probability_at_least,
    probability_at_most,
    probability_near,
)
from models.surrogate import Posterior

Floats = NDArray[np.float64]
Known = Mapping[str, NDArray[np.float64]]


def is_threshold(target: Target) -> bool:
    """Whether a target can be met or missed; the others only order."""
    return target.goal in ("at_most", "at_least") or (target.goal == "near" and target.tolerance is not None)


def score_pool(posteriors: Mapping[str, Posterior], targets: Sequence[Target], known: Known) -> Floats:
    """Probability that each candidate meets every target.

    The targets' beliefs are taken as independent. Where DFT has answered, a target counts 0 or 1. Targets that only
    order (minimize, maximize, near without tolerance) take no part, unless there are no others: then the score is
    the probability of coming out better than the best answer so far (without any: than the best that is expected).

    Args:
        posteriors: Of each property, all over the same pool.
        targets: At least one.
        known: Answers so far, each of shape (n,), NaN where there is none; a property without any may be absent.

    Returns:
        Shape (n,), from 0 to 1.

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    thresholds = [target for target in targets if is_threshold(target)]
    score = np.ones(pool_size(posteriors, targets))
    for target in thresholds or targets:
        posterior = posteriors[target.property]
        answers = known.get(target.property, np.full(len(score), np.nan))
        bar = None if thresholds else best_value([target], known).get(target.property)
        odds = odds_of(target, posterior, bar)
        score *= np.where(np.isnan(answers), odds, odds_of(target, _certain(posterior, answers), bar))
    return score


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
    met: NDArray[np.bool_] | None = None
    for target in targets:
        if not is_threshold(target):
            continue
        answers = known.get(target.property)
        if answers is None:
            answers = np.full(len(next(iter(known.values()), np.empty(0))), np.nan)
        holds = np.isfinite(answers) & (_distance_beyond(target, answers) <= 0)
        met = holds if met is None else met & holds
    return met


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


def _certain(posterior: Posterior, answers: Floats) -> Posterior:
    return replace(posterior, mean=np.where(np.isnan(answers), 0.0, answers), std=np.zeros(len(answers)))


def _value(target: Target) -> float:
    return 0.0 if target.value is None else target.value


def _distance_beyond(target: Target, answers: Floats) -> Floats:
    """How far answers lie beyond a threshold, 0 or less where it is met."""
    if target.goal == "near":
        # Rounding of the sum must not turn away an answer at the very edge.
        return np.abs(answers - _value(target)) - (target.tolerance or 0.0) - 1e-12
    return answers - _value(target) if target.goal == "at_most" else _value(target) - answers


def badness_of(target: Target, values: Floats) -> Floats:
    """The smaller, the better."""
    if target.goal == "near":
        return np.abs(values - _value(target))
    return -values if target.goal == "maximize" else values


def odds_of(target: Target, posterior: Posterior, bar: float | None) -> Floats:
    """Probability of meeting a threshold, or for an ordering target of coming out at least as good as the bar."""
    value = _value(target)
    if target.goal in ("at_most", "at_least"):
        return _between(posterior, None, value) if target.goal == "at_most" else _between(posterior, value, None)
    if target.goal == "near" and target.tolerance is not None:
        return at_most_as_bad(target, posterior, target.tolerance + 1e-12)
    answers = posterior.expected if bar is None else np.array([bar])
    return at_most_as_bad(target, posterior, float(np.min(badness_of(target, answers), initial=np.inf)))


def at_most_as_bad(target: Target, posterior: Posterior, badness: float) -> Floats:
    """Probability of an answer that is no worse than a badness."""
    match target.goal:
        case "near":
            return _between(posterior, _value(target) - badness, _value(target) + badness)
        case "maximize":
            return _between(posterior, -badness, None)
        case _:
            return _between(posterior, None, badness)


def _between(posterior: Posterior, low: float | None, high: float | None) -> Floats:
    """Probability of an answer from `low` to `high`; what is believed to lie below the floor lies at it."""
    mean, std, floor = posterior.mean, posterior.std, posterior.floor
    if floor is not None:
        if high is not None and high < floor:
            return np.zeros(len(mean))
        if low is not None and low <= floor:
            low = None
    if low is None:
        return np.ones(len(mean)) if high is None else probability_at_most(mean, std, high)
    if high is None:
        return probability_at_least(mean, std, low)
    return probability_near(mean, std, (low + high) / 2, (high - low) / 2)

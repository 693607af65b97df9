"""Several wishes, one number: the odds that a candidate meets them, and the value of asking DFT about it.

`known` holds the answers so far: for each property an array over the pool, NaN where DFT has not answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from materials.errors import InputError
from materials.records import Target
from models.acquisition import (
    expected_improvement,
    expected_improvement_near,
    lower_confidence_bound,
    probability_at_least,
    probability_at_most,
    probability_near,
)
from models.surrogate import Posterior

Floats = NDArray[np.float64]
Known = Mapping[str, NDArray[np.float64]]

KAPPA = 1.0  # standard deviations of optimism; did best in replays


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
        odds = _odds(target, posterior, bar)
        score *= np.where(np.isnan(answers), odds, _odds(target, _certain(posterior, answers), bar))
    return score


def acquire(
    posteriors: Mapping[str, Posterior], targets: Sequence[Target], best: Mapping[str, float]
) -> tuple[Floats, str]:
    """Value of asking DFT about each candidate, and the name of the rule.

    - `probability_of_all_targets`: thresholds only, or no candidate met them yet.
    - `lower_confidence_bound`: one property to minimize or maximize and no threshold; the bound is negated (for
      maximize: the upper bound), so that more is better.
    - `expected_improvement`: everything else: the improvement expected of the ordering targets, each in units of
      its scatter over the pool, times the probability of meeting the thresholds.

    Args:
        posteriors: Of each property, all over the same rows.
        targets: At least one.
        best: Answers to improve on, as `best_value` gives them.

    Returns:
        Values of shape (n,), more is better, and the rule.

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    size = pool_size(posteriors, targets)
    thresholds = [target for target in targets if is_threshold(target)]
    ordering = [target for target in targets if not is_threshold(target)]
    odds = np.ones(size)
    for target in thresholds:
        odds *= _odds(target, posteriors[target.property], None)
    if thresholds and not all(target.property in best for target in ordering if target.goal != "near"):
        ordering = []
    if not ordering:
        return odds, "probability_of_all_targets"
    if not thresholds and len(ordering) == 1 and ordering[0].goal != "near":
        posterior = posteriors[ordering[0].property]
        mean = posterior.mean if ordering[0].goal == "minimize" else -posterior.mean
        return -lower_confidence_bound(mean, posterior.std, KAPPA), "lower_confidence_bound"
    gain = np.zeros(size)
    for target in ordering:
        gain += _gain(target, posteriors[target.property], best.get(target.property))
    return odds * gain, "expected_improvement"


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
            best[target.property] = float(answers[rows[np.argmin(_badness(target, answers[rows]))]])
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
    from dataclasses import replace

    return replace(posterior, mean=np.where(np.isnan(answers), 0.0, answers), std=np.zeros(len(answers)))


def _value(target: Target) -> float:
    return 0.0 if target.value is None else target.value


def _distance_beyond(target: Target, answers: Floats) -> Floats:
    """How far answers lie beyond a threshold, 0 or less where it is met."""
    if target.goal == "near":
        # Rounding of the sum must not turn away an answer at the very edge.
        return np.abs(answers - _value(target)) - (target.tolerance or 0.0) - 1e-12
    return answers - _value(target) if target.goal == "at_most" else _value(target) - answers


def _badness(target: Target, values: Floats) -> Floats:
    """The smaller, the better."""
    if target.goal == "near":
        return np.abs(values - _value(target))
    return -values if target.goal == "maximize" else values


def _odds(target: Target, posterior: Posterior, bar: float | None) -> Floats:
    """Probability of meeting a threshold, or for an ordering target of coming out at least as good as the bar."""
    mean, std, value = posterior.mean, posterior.std, _value(target)
    if target.goal == "at_most":
        return probability_at_most(mean, std, value)
    if target.goal == "at_least":
        return probability_at_least(mean, std, value)
    if target.goal == "near" and target.tolerance is not None:
        return probability_near(mean, std, value, target.tolerance + 1e-12)
    bar = float(np.min(_badness(target, mean))) if bar is None else float(_badness(target, np.array([bar]))[0])
    if target.goal == "near":
        return probability_near(mean, std, value, bar)
    return probability_at_most(_badness(target, mean), std, bar)


def _gain(target: Target, posterior: Posterior, best: float | None) -> Floats:
    """Expected improvement on the best, in units of the scatter over the pool."""
    badness = _badness(target, posterior.mean)
    bar = float(np.median(badness)) if best is None else float(_badness(target, np.array([best]))[0])
    if target.goal == "near":
        gain = expected_improvement_near(posterior.mean, posterior.std, _value(target), bar)
    else:
        gain = expected_improvement(badness, posterior.std, bar)
    return gain / max(float(np.std(posterior.mean)), float(np.median(posterior.std)), 1e-12)

"""Objective of a batch, and the value of computing each candidate with DFT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from materials.records import Target
from materials.targets import is_threshold
from models.learning.acquisition import (
    expected_improvement,
    expected_improvement_near,
    expected_within,
    lower_confidence_bound,
    probability_at_most,
)
from models.learning.surrogate import Posterior
from models.learning.target_probability import (
    Floats,
    Known,
    at_most_as_bad,
    badness_of,
    best_value,
    odds_of_thresholds,
    pool_size,
    windows,
)

Rule = Literal["best_odds", "expected_improvement", "lower_confidence_bound"]

KAPPA = 1.0  # standard deviations of optimism; did best in replays
BEST_SHARE = 0.01  # of a pool, that count as the best of it
FEWEST_BEST = 5


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a batch is chosen for.

    Attributes:
        rule: Name of the acquisition: `probability_of_all_targets`, or one of `Rule`.
        bars: Of each target that orders, the badness to come out below
            (`models.learning.target_probability.badness_of`).
        units: Of each target that orders, the scatter over the pool, in which gains are added up.
    """

    rule: str
    bars: Sequence[float] = ()
    units: Sequence[float] = ()


def aim_at(
    posteriors: Mapping[str, Posterior], targets: Sequence[Target], known: Known, rule: Rule = "lower_confidence_bound"
) -> Aim:
    """Say what the next batch is chosen for.

    - `probability_of_all_targets`: thresholds only, or no candidate met them yet.
    - `lower_confidence_bound`: one property to minimize or maximize, and no threshold; the bound is negated (for
      maximize: the upper bound), so that more is better.
    - `best_odds`: one property that only orders, and no threshold, if asked for: the probability of being among the
      best 1 % of the pool (at least five), whose number is what the beliefs add up to.
    - `expected_improvement`: one property to come near to, several that order, or thresholds too; or asked for: the
      improvement expected of the ordering targets, each in units of its scatter over the pool, where the thresholds
      are met: times the probability of meeting those of other properties. To minimize or maximize is to improve on the
      best answer so far; to come near to a value is to come as near as the best 1 % of the pool are expected to: the
      single best answer soon lies at the value itself, where nothing is an improvement on it.

    Args:
        posteriors: Of each property, all over the same pool.
        targets: At least one.
        known: Answers so far, each of shape (n,), NaN where there is none.
        rule: The one that is preferred; the bound did best in replays.

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    pool_size(posteriors, targets)
    best = best_value(targets, known)
    ordering = [target for target in targets if not is_threshold(target)]
    thresholds = len(ordering) < len(targets)
    if not ordering or (thresholds and not all(t.property in best for t in ordering if t.goal != "near")):
        return Aim(rule="probability_of_all_targets")
    if thresholds or len(ordering) > 1 or (rule == "lower_confidence_bound" and ordering[0].goal == "near"):
        rule = "expected_improvement"
    bars = []
    for target in ordering:
        posterior = posteriors[target.property]
        if rule == "best_odds" or target.goal == "near":
            bars.append(_bar(target, posterior, known.get(target.property)))
        elif target.property in best:
            bars.append(_badness(target, best[target.property]))
        else:
            bars.append(float(np.median(badness_of(target, posterior.expected))))
    return Aim(rule=rule, bars=bars, units=[_scatter(posteriors[target.property]) for target in ordering])


def acquire(posteriors: Mapping[str, Posterior], targets: Sequence[Target], aim: Aim) -> Floats:
    """Value of asking DFT about each candidate, more is better.

    Args:
        posteriors: Of each property, all over the same rows: the pool, or a part of it.
        targets: At least one.
        aim: As `aim_at` gave it for the pool.

    Returns:
        Shape (n,).

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    ordering = [target for target in targets if not is_threshold(target)]
    match aim.rule:
        case "probability_of_all_targets":
            return odds_of_thresholds(posteriors, targets)
        case "best_odds":
            return at_most_as_bad(ordering[0], posteriors[ordering[0].property], aim.bars[0])
        case "lower_confidence_bound":
            posterior = posteriors[ordering[0].property]
            return -lower_confidence_bound(badness_of(ordering[0], posterior.mean), posterior.std, KAPPA)
        case _:
            bounds = windows(targets)
            value = np.zeros(pool_size(posteriors, targets))
            for target, bar, unit in zip(ordering, aim.bars, aim.units, strict=True):
                others = [other for other in targets if other.property != target.property]
                gain = _gain(target, posteriors[target.property], bar, bounds.get(target.property))
                value += gain / unit * (odds_of_thresholds(posteriors, others) if others else 1.0)
            return value


def _badness(target: Target, value: float) -> float:
    return float(badness_of(target, np.array([value]))[0])


def _bar(target: Target, posterior: Posterior, answers: Floats | None) -> float:
    """Badness at or below which as many rows are expected as count as the best."""
    answers = np.full(len(posterior.mean), np.nan) if answers is None else answers
    unknown = np.isnan(answers)
    wanted = min(max(math.ceil(BEST_SHARE * len(answers)), FEWEST_BEST), len(answers))
    found = badness_of(target, answers[~unknown])
    rivals = posterior.rivals and posterior.rivals.of(unknown)
    left = replace(posterior, mean=posterior.mean[unknown], std=posterior.std[unknown], rivals=rivals)
    badness = np.concatenate([found, badness_of(target, left.mean)])
    reach = 6 * float(np.max(left.std, initial=0.0))
    low, high = float(np.min(badness)) - reach, float(np.max(badness)) + reach
    for _ in range(40):
        middle = (low + high) / 2
        if np.sum(found <= middle) + np.sum(at_most_as_bad(target, left, middle)) < wanted:
            low = middle
        else:
            high = middle
    if left.floor is not None and low <= _badness(target, left.floor) <= high:
        # So many lie at the floor that the number jumps there: what lies above it is looked for, if there is anything.
        return low if np.any(at_most_as_bad(target, left, low) > 0) else high
    return high


def _scatter(posterior: Posterior) -> float:
    return max(float(np.std(posterior.mean)), float(np.median(posterior.std)), 1e-12)


def _gain(target: Target, posterior: Posterior, bar: float, window: tuple[float, float] | None) -> Floats:
    """Expected improvement on a bar, in the unit of the property; in its window only, where it has one."""
    if window is not None:
        return _gain_within(target, posterior, bar, window)
    mean, std, floor = posterior.mean, posterior.std, posterior.floor
    if target.goal == "near":
        return expected_improvement_near(mean, std, target.value or 0.0, bar, floor)
    # A maximum never falls below the floor: there is nothing to cut off.
    return expected_improvement(badness_of(target, mean), std, bar, floor if target.goal == "minimize" else None)


def _gain_within(target: Target, posterior: Posterior, bar: float, window: tuple[float, float]) -> Floats:
    """Expected improvement of answers in a window: of the lines that it consists of, and of what lies at the floor."""
    (low, high), floor, value = window, posterior.floor, target.value or 0.0
    match target.goal:  # from, to, intercept and slope
        case "near":
            lines = [(value - bar, value, bar - value, 1.0), (value, value + bar, bar + value, -1.0)]
        case "maximize":
            lines = [(-bar, math.inf, bar, 1.0)]
        case _:
            lines = [(-math.inf, bar, bar, -1.0)]
    gain = np.zeros(len(posterior.mean))
    if floor is not None:
        if low <= floor <= high:
            at_floor = max(bar - _badness(target, floor), 0.0)
            gain += at_floor * probability_at_most(posterior.mean, posterior.std, floor)
        low = max(low, floor)
    for start, end, intercept, slope in lines:
        gain += expected_within(
            posterior.mean, posterior.std, max(low, start), min(high, end), intercept=intercept, slope=slope
        )
    return np.maximum(gain, 0.0)

"""What a batch is chosen for, and the value of asking DFT about each candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from materials.records import Target
from models.acquisition import expected_improvement, expected_improvement_near, lower_confidence_bound
from models.scoring import (
    Floats,
    Known,
    at_most_as_bad,
    badness_of,
    best_value,
    is_threshold,
    odds_of_thresholds,
    pool_size,
)
from models.surrogate import Posterior

Rule = Literal["best_odds", "expected_improvement", "lower_confidence_bound"]

KAPPA = 1.0  # standard deviations of optimism; did best in replays
BEST_SHARE = 0.01  # of a pool, that count as the best of it
FEWEST_BEST = 5


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a batch is chosen for.

    Attributes:
        rule: Name of the acquisition: `probability_of_all_targets`, or one of `Rule`.
        best: Best answers so far, by property, as `best_value` gives them.
        bar: For `best_odds`: the badness that the best of the pool are expected not to exceed.
    """

    rule: str
    best: Mapping[str, float]
    bar: float = 0.0


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
      improvement expected of the ordering targets, each in units of its scatter over the pool, times the probability
      of meeting the thresholds.

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
        return Aim(rule="probability_of_all_targets", best=best)
    if thresholds or len(ordering) > 1:
        return Aim(rule="expected_improvement", best=best)
    (target,) = ordering
    if rule == "best_odds":
        bar = _bar(target, posteriors[target.property], known.get(target.property))
        return Aim(rule=rule, best=best, bar=bar)
    if rule == "lower_confidence_bound" and target.goal == "near":
        rule = "expected_improvement"
    return Aim(rule=rule, best=best)


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
    odds = odds_of_thresholds(posteriors, targets)
    ordering = [target for target in targets if not is_threshold(target)]
    match aim.rule:
        case "probability_of_all_targets":
            return odds
        case "best_odds":
            return at_most_as_bad(ordering[0], posteriors[ordering[0].property], aim.bar)
        case "lower_confidence_bound":
            posterior = posteriors[ordering[0].property]
            return -lower_confidence_bound(badness_of(ordering[0], posterior.mean), posterior.std, KAPPA)
        case _:
            gains = [_gain(t, posteriors[t.property], aim.best.get(t.property)) for t in ordering]
            return odds * np.sum(gains, axis=0)


def _bar(target: Target, posterior: Posterior, answers: Floats | None) -> float:
    """Badness at or below which as many rows are expected as count as the best."""
    answers = np.full(len(posterior.mean), np.nan) if answers is None else answers
    unknown = np.isnan(answers)
    wanted = min(max(math.ceil(BEST_SHARE * len(answers)), FEWEST_BEST), len(answers))
    found = badness_of(target, answers[~unknown])
    left = replace(posterior, mean=posterior.mean[unknown], std=posterior.std[unknown])
    badness = np.concatenate([found, badness_of(target, left.mean)])
    reach = 6 * float(np.max(left.std, initial=0.0))
    low, high = float(np.min(badness)) - reach, float(np.max(badness)) + reach
    for _ in range(40):
        middle = (low + high) / 2
        if np.sum(found <= middle) + np.sum(at_most_as_bad(target, left, middle)) < wanted:
            low = middle
        else:
            high = middle
    return high


def _gain(target: Target, posterior: Posterior, best: float | None) -> Floats:
    """Expected improvement on the best, in units of the scatter over the pool."""
    badness = badness_of(target, posterior.expected)
    bar = float(np.median(badness)) if best is None else float(badness_of(target, np.array([best]))[0])
    if target.goal == "near":
        gain = expected_improvement_near(posterior.mean, posterior.std, target.value or 0.0, bar)
    else:
        gain = expected_improvement(badness, posterior.std, bar)
    return gain / max(float(np.std(posterior.mean)), float(np.median(posterior.std)), 1e-12)

"""Is it worth going on, and was the choosing worth it: stop rule, and hit rates with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from materials.records import Target
from models.scoring import Known, best_value, is_threshold, score_pool
from models.surrogate import Posterior

LEAST_ANSWERS = 40  # before it, what the surrogate says of the rest is not worth that much
LEAST_ODDS = 0.01  # that anything left beats the best
LEAST_HITS = 0.05  # expected of the next batch


@dataclass(frozen=True, kw_only=True)
class HitRate:
    """Hits among trials, with a 95 % interval."""

    hits: int
    trials: int
    rate: float
    low: float
    high: float


def stop_rule(
    *,
    posteriors: Mapping[str, Posterior],
    targets: Sequence[Target],
    known: Known,
    available: NDArray[np.bool_],
    batch: int,
    least_answers: int = LEAST_ANSWERS,
    least_odds: float = LEAST_ODDS,
    least_hits: float = LEAST_HITS,
) -> str | None:
    """Say why to stop, in words, or None to go on.

    It stops when nothing is left; or, once enough answers are there, when the next batch can expect hardly a hit
    (targets that can be met or missed), or when hardly anything left can beat the best (targets that only order).

    Args:
        posteriors: Of each target's property, made with all answers so far.
        targets: At least one.
        known: Answers so far, each of shape (n,), NaN where there is none.
        available: Which rows may still be asked for, shape (n,).
        batch: Size of the next batch.
        least_answers: Answers without which it goes on.
        least_odds: Probability that anything left beats the best, below which it stops.
        least_hits: Hits expected of the next batch, below which it stops.

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    if not available.any():
        return "Nothing is left to validate."
    odds = score_pool(posteriors, targets, known)[available]
    answered = [np.isfinite(known[target.property]) for target in targets if target.property in known]
    count = int(np.sum(np.all(answered, axis=0))) if len(answered) == len(targets) else 0
    if count < least_answers:
        return None
    if any(is_threshold(target) for target in targets):
        hits = float(np.sum(np.sort(odds)[::-1][:batch]))
        if hits < least_hits:
            return f"After {count} answers the next {batch} can expect {hits:.3f} hits, fewer than {least_hits:g}."
        return None
    any_better = -float(np.expm1(np.sum(np.log1p(-np.minimum(odds, 1 - 1e-12)))))
    if any_better < least_odds:
        best = ", ".join(f"{name} {value:.3f}" for name, value in best_value(targets, known).items())
        return (
            f"After {count} answers the odds that any of the {len(odds)} left beats the best ({best}) are "
            f"{any_better:.4f}, below {least_odds:g}."
        )
    return None


def hit_rate(hits: int, trials: int) -> HitRate | None:
    """Rate with Jeffreys' 95 % interval; None without trials.

    Brown, Cai and DasGupta (doi:10.1214/ss/1009213286); the ends are 0 and 1 where no trial, or every one, hit.
    """
    from scipy.stats import beta

    if not trials:
        return None
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits + 0.5, trials - hits + 0.5))
    high = 1.0 if hits == trials else float(beta.ppf(0.975, hits + 0.5, trials - hits + 0.5))
    return HitRate(hits=hits, trials=trials, rate=hits / trials, low=low, high=high)


def hit_rate_among_random(acquisitions: Sequence[str], met: Sequence[bool | None]) -> HitRate | None:
    """Hit rate of the picks that were made at random, the yardstick for all others; None where there were none.

    Args:
        acquisitions: Why each candidate was chosen.
        met: Whether it met the targets; None where DFT has no answer, which leaves it out.
    """
    audits = [hit for why, hit in zip(acquisitions, met, strict=True) if why == "audit" and hit is not None]
    return hit_rate(sum(audits), len(audits))

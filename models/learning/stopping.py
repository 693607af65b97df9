"""Stop rule of a campaign, and hit rates with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from materials.records import Target
from materials.targets import is_threshold
from models.learning.surrogate import Posterior
from models.learning.target_probability import Known, answered_in_all, best_value, score_pool

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


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What going on can bring, and what it costs.

    Attributes:
        n_answers: Candidates that are known in all that the targets ask for.
        n_left: Candidates that may still be asked for.
        rows: The next batch, rows of the pool.
        hits: Expected among the next batch: candidates that meet the targets or, if targets only order, beat the best.
        odds_any: Probability that any of those left is such a hit, the beliefs taken as independent.
        best: Best answers so far, where targets only order.
        cost_s: Core seconds that the next batch will take; None where nothing tells.
    """

    n_answers: int
    n_left: int
    rows: NDArray[np.int64]
    hits: float
    odds_any: float
    best: Mapping[str, float] | None
    cost_s: float | None = None

    @property
    def batch(self) -> str:
        """Expected hits of the next batch, and its cost, as text."""
        if self.cost_s is None:
            cost = ""
        else:
            cost = f" for about {hours(self.cost_s)}" if self.cost_s else " at no cost: all is computed"
        return f"the next {len(self.rows)}: {self.hits:.2f} hits expected{cost}"

    @property
    def rest(self) -> str:
        """Probability of a hit among all that is left, as text."""
        best = ", ".join(f"{name} {value:.3f}" for name, value in (self.best or {}).items())
        hit = "meets the targets" if self.best is None else f"beats the best ({best or 'expected'})"
        return f"P(any of the {self.n_left} left {hit}) = {self.odds_any:.2f}"


def hours(core_s: float) -> str:
    """Write core seconds as a person would say them."""
    return f"{core_s / 3600:.2g} CPU hours"


def look_ahead(
    *,
    posteriors: Mapping[str, Posterior],
    targets: Sequence[Target],
    known: Known,
    available: NDArray[np.bool_],
    batch: int,
    rows: NDArray[np.int64] | None = None,
) -> Outlook:
    """Tell what the next batch, and all that is left, can be expected to bring.

    Args:
        posteriors: Of each target's property, made with all answers so far.
        targets: At least one.
        known: Answers so far, each of shape (n,), NaN where there is none.
        available: Which rows may still be asked for, shape (n,).
        batch: Size of the next batch.
        rows: The next batch; None: the likeliest.

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    scores = score_pool(posteriors, targets, known)
    odds = scores[available]
    if rows is None:
        left = np.flatnonzero(available)
        rows = left[np.argsort(-odds, kind="stable")[:batch]]
    return Outlook(
        n_answers=len(answered_in_all(targets, known)),
        n_left=len(odds),
        rows=rows,
        hits=float(np.sum(scores[rows])),
        odds_any=-float(np.expm1(np.sum(np.log1p(-np.minimum(odds, 1 - 1e-12))))),
        best=None if any(is_threshold(target) for target in targets) else best_value(targets, known),
    )


def stop_rule(
    outlook: Outlook,
    *,
    least_answers: int = LEAST_ANSWERS,
    least_odds: float = LEAST_ODDS,
    least_hits: float = LEAST_HITS,
    most_s_per_hit: float | None = None,
) -> str | None:
    """Say why to stop, in words and with the numbers, or None to go on.

    It stops when nothing is left; or, once enough answers are there, when the next batch can expect hardly a hit
    (targets that can be met or missed), when hardly anything left can beat the best (targets that only order), or when
    a hit would cost too much.

    Args:
        outlook: From `look_ahead`.
        least_answers: Answers without which it goes on.
        least_odds: Probability that anything left beats the best, below which it stops.
        least_hits: Hits expected of the next batch, below which it stops.
        most_s_per_hit: Core seconds that an expected hit may cost; None: whatever it costs.
    """
    if not outlook.n_left:
        return "Nothing is left to validate."
    if outlook.n_answers < least_answers:
        return None
    after = f"After {outlook.n_answers} DFT results"
    if outlook.best is None and outlook.hits < least_hits:
        return f"{after} {outlook.batch}, fewer than {least_hits:g}; {outlook.rest}."
    if outlook.best is not None and outlook.odds_any < least_odds:
        return f"{after} {outlook.rest}, below {least_odds:g}; {outlook.batch}."
    if most_s_per_hit is not None and outlook.cost_s is not None and outlook.cost_s > most_s_per_hit * outlook.hits:
        return f"{after} {outlook.batch}, more than {hours(most_s_per_hit)} a hit; {outlook.rest}."
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

"""Selection of the next DFT batch: acquisition, diversity, random picks; seeded, without repeats or near-twins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from materials.records import Target
from materials.targets import is_threshold
from models.learning.dft_cost import Bill
from models.learning.gaussian_process import squared_distances
from models.learning.hyperparameters import FEWEST_TO_FIT
from models.learning.objectives import Rule, acquire, aim_at
from models.learning.surrogate import Posterior, believe, certain_of, joint
from models.learning.target_probability import Known, answered_in_all, score_pool

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

TWIN = 0.1  # of the median distance in the pool: nearer than that, two candidates of a batch are one question
SAME = 0.01  # nearer than that to an answered one, there is nothing to ask: it is the same crystal
SAMPLE = 500  # rows by which distances in the pool are judged, and that are offered to be representatives
OF_ONE_GROUP = 5  # candidates of one group that compete for its place in a batch
DIGITS = 6  # that count in a decision: the last ones change with the machine
# Rules that do not look at what is believed: their picks tell how far off it is where nobody looked.
UNPICKED = ("audit", "spread")
LONGEST = 2000  # rows beyond the picks that compete for a batch


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The rows of a pool, and how near they are to each other.

    Attributes:
        features: Whitened, shape (n, k).
        groups: Number of each row's composition, shape (n,).
        free: Rows that may be picked.
        answered: Rows whose answer is known.
        median_distance: Of two rows, as `median_distance` has it.
    """

    features: NDArray[np.floating]
    groups: NDArray[np.int64]
    free: Rows
    answered: Rows
    median_distance: float

    def rows(self, indices: Sequence[int] | Rows) -> Floats:
        """Features of some rows."""
        return np.asarray(self.features[np.asarray(indices, dtype=np.int64)], dtype=np.float64)

    def apart(self, shortlist: Rows, taken: Sequence[int] | Rows) -> NDArray[np.bool_]:
        """Which rows share no group with those taken, are no near-twin of them, and not the same as an answered one.

        A near-twin of an answered one stays: what is known of it is in its odds, and the likeliest lie close together.
        """
        taken = np.asarray(taken, dtype=np.int64)
        apart = ~np.isin(self.groups[shortlist], self.groups[taken])
        for others, least in ((taken, TWIN), (self.answered, SAME)):
            if len(others):
                nearest = distances(self.rows(shortlist), self.rows(others)).min(axis=1)
                apart &= nearest > least * self.median_distance
        return apart

    def shortlist(self, values: Floats, length: int) -> Rows:
        """The best free rows, with no more than a few of one group."""
        order = self.free[np.argsort(-values[self.free], kind="stable")]
        by_group = np.argsort(self.groups[order], kind="stable")
        starts = np.unique(self.groups[order][by_group], return_index=True)[1]
        place = np.empty(len(order), dtype=np.int64)
        place[by_group] = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        first = order[place < OF_ONE_GROUP][:length]
        if len(first) == length:
            return first
        return np.concatenate([first, order[place >= OF_ONE_GROUP][: length - len(first)]])


def median_distance(features: NDArray[np.floating]) -> float:
    """Median distance of two candidates, of a sample that does not change; 0 where there are no two."""
    rows = np.unique(np.linspace(0, max(len(features) - 1, 0), SAMPLE).astype(np.int64))[: len(features)]
    sample = np.asarray(features[rows], dtype=np.float64)
    between = distances(sample, sample)[np.triu_indices(len(sample), 1)]
    return float(np.median(between)) if len(between) else 0.0


def distances(a: Floats, b: Floats) -> Floats:
    """Euclidean distances between the rows of two arrays, shape (len(a), len(b))."""
    return np.sqrt(squared_distances(a, b))


def rounded(values: Floats) -> Floats:
    """Keep the digits that count, relative to the largest."""
    largest = np.max(np.abs(values[np.isfinite(values)]), initial=0.0)
    if largest == 0:
        return values
    return np.round(values / largest, DIGITS) * largest


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One candidate of a batch.

    `acquisition` is the rule of `models.learning.objectives.aim_at`, or, in the first batch, `potential_ranking` and
    `spread` (over the pool), or `audit` (picked at random). `score` is what the rule gave it: for `spread` and
    `audit` the probability of meeting all targets. A rule that ends in `_per_cpu_hour` divided its value by what
    the candidate adds to the bill.
    """

    index: int  # row of the pool
    acquisition: str
    score: float


def select_batch(
    *,
    features: NDArray[np.floating],
    posteriors: Mapping[str, Posterior],
    targets: Sequence[Target],
    known: Known,
    available: NDArray[np.bool_],
    size: int,
    seed: int,
    round: int,
    groups: NDArray[np.int64] | None = None,
    n_audits: int = 0,
    rule: Rule = "lower_confidence_bound",
    bill_of: Callable[[Rows], Bill] | None = None,
) -> list[Pick]:
    """Choose the next batch.

    As long as nothing is known (of the pool, nor enough from before to fit by), half of the batch (rounded up) follows
    the potential and half is spread over the pool (over those at least half as likely as the likeliest, where targets
    can be met or missed). Later picks follow `acquire`, one at a time, for an objective to improve each as if those
    before it had been answered at their mean. Ties go to the lower row.

    With `bill_of` each pick is the best by marginal value per marginal cost: a competing phase that an earlier pick has
    paid is free for the next. Audits pay, and are drawn whatever they cost; so is what shall stand for the pool.

    Args:
        features: Shape (n, k), as the posteriors were made from.
        posteriors: Of each target's property.
        targets: At least one.
        known: Answers so far, each of shape (n,), NaN where there is none.
        available: Which rows may be asked for, shape (n,): screened, not asked before.
        size: Picks wanted; fewer are returned only if fewer are available.
        seed: Of the campaign.
        round: Of this batch; with the seed it fixes all that is random.
        groups: Number of each row's composition, shape (n,): a batch holds one of a group, unless none else is left.
        n_audits: How many of `size` are picked at random.
        rule: The acquisition for a single target that only orders. A confidence bound cannot be divided by a cost, for
            where its zero lies is arbitrary: with `bill_of` the expected improvement takes its place.
        bill_of: What some rows of the pool still cost; asked of a shortlist, once a batch. None: each costs the same.

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    score = rounded(score_pool(posteriors, targets, known))
    groups = np.arange(len(features)) if groups is None else groups
    free = np.flatnonzero(available)
    rng = np.random.default_rng([seed, round])
    audits = _audits(rng.permutation(free), groups, min(n_audits, size))
    pool = Pool(
        features=features,
        groups=groups,
        free=np.setdiff1d(free, audits),
        answered=answered_in_all(targets, known),  # one computed for another's sake may still be picked
        median_distance=median_distance(features),
    )
    wanted = min(size, len(free)) - len(audits)
    learned = min(len(posterior.process.answers) for posterior in posteriors.values())
    heard = any(np.isfinite(answers).any() for answers in known.values())
    if heard or learned >= FEWEST_TO_FIT:
        picks = _by_acquisition(pool, posteriors, targets, known, wanted, audits, rule, bill_of)
    else:
        picks = _by_potential(pool, score, (wanted + 1) // 2, audits, bill_of)
        likely = score if any(is_threshold(target) for target in targets) else np.ones(len(score))
        picks += _spread(pool, score, likely, wanted - len(picks), [*audits, *(pick.index for pick in picks)], rng)
    return picks + [Pick(index=int(row), acquisition="audit", score=float(score[row])) for row in audits]


def _by_acquisition(
    pool: Pool,
    posteriors: Mapping[str, Posterior],
    targets: Sequence[Target],
    known: Known,
    size: int,
    pending: Rows,
    rule: Rule,
    bill_of: Callable[[Rows], Bill] | None,
) -> list[Pick]:
    if bill_of is not None and rule == "lower_confidence_bound":
        rule = "expected_improvement"
    aim = aim_at(posteriors, targets, known, rule)
    counted = aim.rule in ("probability_of_all_targets", "best_odds")
    if not counted and not any(map(is_threshold, targets)):
        # Odds have to be right, optimism has not: wider error bars send it after what it knows little of.
        posteriors = {name: replace(posterior, std=posterior.fitted) for name, posterior in posteriors.items()}
    # A competing phase's gap is known, and whether it is the one wished for: no belief counts beside it.
    posteriors = {name: certain_of(p, known[name]) if name in known else p for name, p in posteriors.items()}
    values = acquire(posteriors, targets, aim)
    short = np.concatenate([pool.shortlist(values, _length(size)), pending])
    # The hits expected of a batch are the sum of its odds, whatever hangs together: nothing to update there.
    names = set() if counted else {target.property for target in targets}
    joints = {name: joint(posteriors[name], pool.features, short) for name in sorted(names)}
    taken = list(range(len(short) - len(pending), len(short)))
    for place in taken:
        joints = {name: (believe(*both, place), both[1]) for name, both in joints.items()}
    bill = _opened(bill_of, short, taken)
    picks: list[Pick] = []
    values = values[short]
    while len(picks) < size:
        if joints:
            beliefs = {name: _restricted(posteriors[name], short, *both) for name, both in joints.items()}
            values = acquire(beliefs, targets, aim)
        scores, said = _per_cost(values, aim.rule, bill)
        place = _best(pool, short, rounded(scores), taken)
        picks.append(Pick(index=int(short[place]), acquisition=said, score=float(scores[place])))
        taken.append(place)
        bill = bill and bill.paid(place)
        joints = {name: (believe(*both, place), both[1]) for name, both in joints.items()}
    return picks


def _length(size: int) -> int:
    """Of a shortlist for so many picks: covariances between all of it are kept."""
    return min(30 * size + 200, size + LONGEST)


def _opened(bill_of: Callable[[Rows], Bill] | None, short: Rows, taken: Sequence[int]) -> Bill | None:
    """The bill of a shortlist, on which those taken have paid."""
    bill = bill_of(short) if bill_of is not None else None
    for place in taken:
        bill = bill and bill.paid(place)
    return bill


def _per_cost(values: Floats, rule: str, bill: Bill | None) -> tuple[Floats, str]:
    return (values, rule) if bill is None else (3600.0 * values / bill.marginal(), f"{rule}_per_cpu_hour")


def _restricted(posterior: Posterior, rows: Rows, covariance: Floats, noise: Floats) -> Posterior:
    std = np.sqrt(np.maximum(np.diag(covariance), 0.0) + noise)
    rivals = posterior.rivals and posterior.rivals.of(rows)
    return replace(posterior, mean=posterior.mean[rows], std=std, rivals=rivals)


def _best(pool: Pool, short: Rows, values: Floats, taken: Sequence[int]) -> int:
    """Place of the best that is apart from those taken; if none is, of the best not taken. Ties: the lower row."""
    allowed = pool.apart(short, short[taken])
    allowed[taken] = False
    if not allowed.any():
        allowed = np.ones(len(short), dtype=bool)
        allowed[taken] = False
    places = np.flatnonzero(allowed)
    return int(places[np.lexsort((short[places], -values[places]))[0]])


def _by_potential(
    pool: Pool, ranking: Floats, size: int, pending: Rows, bill_of: Callable[[Rows], Bill] | None
) -> list[Pick]:
    short = np.concatenate([pool.shortlist(ranking, _length(size)), pending])
    taken = list(range(len(short) - len(pending), len(short)))
    bill = _opened(bill_of, short, taken)
    picks = []
    for _ in range(size):
        scores, said = _per_cost(ranking[short], "potential_ranking", bill)
        place = _best(pool, short, rounded(scores), taken)
        taken.append(place)
        bill = bill and bill.paid(place)
        picks.append(Pick(index=int(short[place]), acquisition=said, score=float(scores[place])))
    return picks


def _spread(
    pool: Pool, score: Floats, likely: Floats, size: int, taken: Sequence[int], rng: np.random.Generator
) -> list[Pick]:
    """Rows drawn by their squared distance to what is known or picked, as k-means++ (doi:10.5555/1283383.1283494)."""
    rows = np.setdiff1d(pool.free, taken)
    worthy = rows[likely[rows] >= 0.5 * np.max(likely[rows], initial=0.0)]
    if len(np.unique(pool.groups[worthy])) < size:
        worthy = rows
    sample = np.sort(rng.choice(worthy, min(SAMPLE, len(worthy)), replace=False))
    others = [*pool.answered, *taken]
    near = distances(pool.rows(sample), pool.rows(others)).min(axis=1) if others else np.ones(len(sample))
    chosen: list[int] = []
    for _ in range(size):
        left = ~np.isin(sample, chosen)
        allowed = left & pool.apart(sample, [*taken, *chosen])
        weights = np.where(allowed if allowed.any() else left, rounded(near) ** 2, 0.0)
        if not weights.any():
            weights = left.astype(np.float64)
        place = int(rng.choice(len(sample), p=weights / np.sum(weights)))
        chosen.append(int(sample[place]))
        near = np.minimum(near, distances(pool.rows(sample), pool.rows([chosen[-1]]))[:, 0])
    return [Pick(index=row, acquisition="spread", score=float(score[row])) for row in chosen]


def audits_due(before: int, size: int, share: float) -> int:
    """Audits of a batch of `size` after `before` picks, so that in all they are `share` of the picks, rounded down."""
    return int(share * (before + size) + 1e-9) - int(share * before + 1e-9)


def _audits(shuffled: Rows, groups: NDArray[np.int64], size: int) -> Rows:
    """The first of a shuffled pool, one of a group as far as there are so many."""
    first = np.sort(np.unique(groups[shuffled], return_index=True)[1])
    rest = np.setdiff1d(np.arange(len(shuffled)), first)
    return shuffled[np.concatenate([first, rest])[:size]]


def rank_of(scores: Floats, rows: Rows) -> NDArray[np.int64]:
    """Rank of some rows among all, 1 first, more is better; those that are equal share the better rank."""
    worse = -rounded(scores)
    return np.searchsorted(np.sort(worse), worse[rows]) + 1

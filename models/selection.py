"""The next batch for DFT: acquisition, diversity, audits; seeded, without repeats or near-twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from materials.records import Target
from models.aims import Rule, acquire, aim_at
from models.hyperparameters import FEWEST_TO_FIT
from models.scoring import Known, is_threshold, score_pool
from models.surrogate import Posterior, believe, joint

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

TWIN = 0.1  # of the median distance in the pool: nearer than that, two candidates are one question
SAMPLE = 500  # rows by which distances in the pool are judged, and that a first batch is drawn from
OF_ONE_GROUP = 5  # candidates of one group that compete for its place in a batch
DIGITS = 6  # that count in a decision: the last ones change with the machine


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One candidate of a batch.

    `acquisition` is the rule of `models.scoring.acquire`, or, in the first batch, `potential_ranking` and `spread`
    (over the pool), or `audit` (picked at random). `score` is what the rule gave it: for
    `spread` and `audit` the probability of meeting all targets.
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
    potential_score: Floats | None = None,
    groups: NDArray[np.int64] | None = None,
    n_audits: int = 0,
    rule: Rule = "best_odds",
) -> list[Pick]:
    """Choose the next batch.

    As long as nothing is known (of the pool, nor enough from before to fit by), half of the batch (rounded up) follows
    the potential and half is spread over the pool (over those at least half as likely as the likeliest, where targets
    can be met or missed). Later picks follow `acquire`, one at a time, for an objective to improve each as if those
    before it had been answered at their mean. Ties go to the lower row.

    Args:
        features: Shape (n, k), as the posteriors were made from.
        posteriors: Of each target's property.
        targets: At least one.
        known: Answers so far, each of shape (n,), NaN where there is none.
        available: Which rows may be asked for, shape (n,): screened, not asked before.
        size: Picks wanted; fewer are returned only if fewer are available.
        seed: Of the campaign.
        round: Of this batch; with the seed it fixes all that is random.
        potential_score: Ranking by the potential for the first batch, shape (n,), more is better; None: by the
            probability of meeting the targets as the priors have it.
        groups: Number of each row's composition, shape (n,): a batch holds one of a group, unless none else is left.
        n_audits: How many of `size` are picked at random.
        rule: The acquisition for a single target that only orders.

    Raises:
        InputError: There is no target, or no belief about a target's property.
    """
    score = _rounded(score_pool(posteriors, targets, known))
    groups = np.arange(len(features)) if groups is None else groups
    free = np.flatnonzero(available)
    rng = np.random.default_rng([seed, round])
    audits = _audits(rng.permutation(free), groups, min(n_audits, size))
    pool = _Pool(
        features=features,
        groups=groups,
        free=np.setdiff1d(free, audits),
        answered=_answered(known),
        twin_distance=TWIN * median_distance(features),
    )
    wanted = min(size, len(free)) - len(audits)
    learned = min(len(posterior.process.answers) for posterior in posteriors.values())
    if len(pool.answered) or learned >= FEWEST_TO_FIT:
        picks = _by_acquisition(pool, posteriors, targets, known, wanted, audits, rule)
    else:
        ranking = score if potential_score is None else _rounded(potential_score)
        ranking = np.where(np.isfinite(ranking), ranking, -np.inf)
        picks = _by_potential(pool, ranking, (wanted + 1) // 2, audits)
        likely = score if any(is_threshold(target) for target in targets) else np.ones(len(score))
        picks += _spread(pool, score, likely, wanted - len(picks), [*audits, *(pick.index for pick in picks)], rng)
    return picks + [Pick(index=int(row), acquisition="audit", score=float(score[row])) for row in audits]


@dataclass(frozen=True, kw_only=True)
class _Pool:
    features: NDArray[np.floating]
    groups: NDArray[np.int64]
    free: Rows  # may be picked
    answered: Rows
    twin_distance: float

    def rows(self, indices: Sequence[int] | Rows) -> Floats:
        return np.asarray(self.features[np.asarray(indices, dtype=np.int64)], dtype=np.float64)

    def apart(self, shortlist: Rows, taken: Sequence[int] | Rows) -> NDArray[np.bool_]:
        """Which rows share no group with those taken and are no near-twin of them or of an answered one."""
        taken = np.asarray(taken, dtype=np.int64)
        others = np.concatenate([self.answered, taken])
        apart = ~np.isin(self.groups[shortlist], self.groups[taken])
        if len(others):
            nearest = _distances(self.rows(shortlist), self.rows(others)).min(axis=1)
            apart &= nearest > self.twin_distance
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


def _by_acquisition(
    pool: _Pool,
    posteriors: Mapping[str, Posterior],
    targets: Sequence[Target],
    known: Known,
    size: int,
    pending: Rows,
    rule: Rule,
) -> list[Pick]:
    aim = aim_at(posteriors, targets, known, rule)
    values = acquire(posteriors, targets, aim)
    short = np.concatenate([pool.shortlist(values, 30 * size + 200), pending])
    # The hits expected of a batch are the sum of its odds, whatever hangs together: nothing to update there.
    counted = aim.rule in ("probability_of_all_targets", "best_odds")
    names = set() if counted else {target.property for target in targets}
    joints = {name: joint(posteriors[name], pool.features, short) for name in sorted(names)}
    taken = list(range(len(short) - len(pending), len(short)))
    for place in taken:
        joints = {name: (believe(*both, place), both[1]) for name, both in joints.items()}
    picks: list[Pick] = []
    values = values[short]
    while len(picks) < size:
        if joints:
            beliefs = {name: _restricted(posteriors[name], short, *both) for name, both in joints.items()}
            values = acquire(beliefs, targets, aim)
        place = _best(pool, short, _rounded(values), taken)
        picks.append(Pick(index=int(short[place]), acquisition=aim.rule, score=float(values[place])))
        taken.append(place)
        joints = {name: (believe(*both, place), both[1]) for name, both in joints.items()}
    return picks


def _restricted(posterior: Posterior, rows: Rows, covariance: Floats, noise: Floats) -> Posterior:
    std = np.sqrt(np.maximum(np.diag(covariance), 0.0) + noise)
    return replace(posterior, mean=posterior.mean[rows], std=std)


def _best(pool: _Pool, short: Rows, values: Floats, taken: Sequence[int]) -> int:
    """Place of the best that is apart from those taken; if none is, of the best not taken. Ties: the lower row."""
    allowed = pool.apart(short, short[taken])
    allowed[taken] = False
    if not allowed.any():
        allowed = np.ones(len(short), dtype=bool)
        allowed[taken] = False
    places = np.flatnonzero(allowed)
    return int(places[np.lexsort((short[places], -values[places]))[0]])


def _by_potential(pool: _Pool, ranking: Floats, size: int, pending: Rows) -> list[Pick]:
    short = np.concatenate([pool.shortlist(ranking, 30 * size + 200), pending])
    taken = list(range(len(short) - len(pending), len(short)))
    picks = []
    for _ in range(size):
        place = _best(pool, short, ranking[short], taken)
        taken.append(place)
        row = int(short[place])
        picks.append(Pick(index=row, acquisition="potential_ranking", score=float(ranking[row])))
    return picks


def _spread(
    pool: _Pool, score: Floats, likely: Floats, size: int, taken: Sequence[int], rng: np.random.Generator
) -> list[Pick]:
    """Rows drawn by their squared distance to what is known or picked, as k-means++ (doi:10.5555/1283383.1283494)."""
    rows = np.setdiff1d(pool.free, taken)
    worthy = rows[likely[rows] >= 0.5 * np.max(likely[rows], initial=0.0)]
    if len(np.unique(pool.groups[worthy])) < size:
        worthy = rows
    sample = np.sort(rng.choice(worthy, min(SAMPLE, len(worthy)), replace=False))
    others = [*pool.answered, *taken]
    near = _distances(pool.rows(sample), pool.rows(others)).min(axis=1) if others else np.ones(len(sample))
    chosen: list[int] = []
    for _ in range(size):
        left = ~np.isin(sample, chosen)
        allowed = left & pool.apart(sample, [*taken, *chosen])
        weights = np.where(allowed if allowed.any() else left, _rounded(near) ** 2, 0.0)
        if not weights.any():
            weights = left.astype(np.float64)
        place = int(rng.choice(len(sample), p=weights / np.sum(weights)))
        chosen.append(int(sample[place]))
        near = np.minimum(near, _distances(pool.rows(sample), pool.rows([chosen[-1]]))[:, 0])
    return [Pick(index=row, acquisition="spread", score=float(score[row])) for row in chosen]


def audits_due(before: int, size: int, share: float) -> int:
    """Audits of a batch of `size` after `before` picks, so that in all they are `share` of the picks, rounded down."""
    return int(share * (before + size) + 1e-9) - int(share * before + 1e-9)


def _audits(shuffled: Rows, groups: NDArray[np.int64], size: int) -> Rows:
    """The first of a shuffled pool, one of a group as far as there are so many."""
    first = np.sort(np.unique(groups[shuffled], return_index=True)[1])
    rest = np.setdiff1d(np.arange(len(shuffled)), first)
    return shuffled[np.concatenate([first, rest])[:size]]


def _answered(known: Known) -> Rows:
    if not known:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.any([np.isfinite(answers) for answers in known.values()], axis=0))


def rank_of(scores: Floats, rows: Rows) -> NDArray[np.int64]:
    """Rank of some rows among all, 1 first, more is better; those that are equal share the better rank."""
    worse = -_rounded(scores)
    return np.searchsorted(np.sort(worse), worse[rows]) + 1


def median_distance(features: NDArray[np.floating]) -> float:
    """Median distance of two candidates, of a sample that does not change; 0 where there are no two."""
    rows = np.unique(np.linspace(0, max(len(features) - 1, 0), SAMPLE).astype(np.int64))[: len(features)]
    sample = np.asarray(features[rows], dtype=np.float64)
    distances = _distances(sample, sample)[np.triu_indices(len(sample), 1)]
    return float(np.median(distances)) if len(distances) else 0.0


def _distances(a: Floats, b: Floats) -> Floats:
    squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0.0))


def _rounded(values: Floats) -> Floats:
    """Keep the digits that count, relative to the largest."""
    largest = np.max(np.abs(values[np.isfinite(values)]), initial=0.0)
    if largest == 0:
        return values
    return np.round(values / largest, DIGITS) * largest

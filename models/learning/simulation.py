"""Simulated campaigns on known DFT results: what each strategy would have found, with how many of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from materials.properties import learned_as
from materials.records import Target
from materials.targets import DIGITS, is_threshold
from models.learning.batch_selection import UNPICKED, audits_due, select_batch
from models.learning.calibration import held
from models.learning.fit import expectation_of, learn
from models.learning.objectives import Rule
from models.learning.polymorphs import against_all, wished

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

HULL, ABOVE = "decomposition_energy_per_atom", "energy_above_hull"
ENERGIES = (HULL, ABOVE, "formation_energy_per_atom")
COVERED = 0.9  # share of the central intervals whose coverage is told


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to choose.

    Attributes:
        title: For a person.
        features: Which ones the surrogate sees; None: nothing is learned.
        prior: Whether the surrogate starts from what the potential says; without features: the value to rank by.
        rule: The acquisition for a single target that only orders.
        audits: Whether a share of the picks is random.
        within: Rows further above the potential's hull (eV/atom), or without a value of it, are not asked for; None:
            all may be.
    """

    title: str
    features: str | None = None
    prior: str | None = None
    rule: Rule = "lower_confidence_bound"
    audits: bool = False
    within: float | None = None

    @property
    def determined(self) -> bool:
        """Whether no seed changes what it asks for: it ranks by the potential."""
        return self.features is None and self.prior is not None


STRATEGIES: Mapping[str, Strategy] = {
    "campaign": Strategy(title="as a campaign chooses", features="all", prior="all", audits=True),
    "random": Strategy(title="at random"),
    "potential": Strategy(
        title="by the potential's formation energy from the elements", prior="formation_energy_per_atom"
    ),
    "hull": Strategy(
        title="by the potential's energy against the competing phases", prior="decomposition_energy_per_atom"
    ),
    "composition": Strategy(
        title="learned from the composition alone, expected improvement",
        features="composition",
        rule="expected_improvement",
    ),
    "no_potential": Strategy(title="as a campaign, without the potential's energy", features="all", audits=True),
    "expected_improvement": Strategy(
        title="as a campaign, by expected improvement",
        features="all",
        prior="all",
        rule="expected_improvement",
        audits=True,
    ),
    "best_odds": Strategy(
        title="as a campaign, by the odds of being among the best 1 %",
        features="all",
        prior="all",
        rule="best_odds",
        audits=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a strategy measures distances in: a matrix of shape (n, k), and how many columns share a length scale."""

    matrix: Floats
    widths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A table whose answers are known, as arrays over its n rows.

    Attributes:
        features: By name: `all`, and `composition` alone.
        answers: Property -> what DFT said, NaN where it failed. Decomposition energies beside energies above the hull
            are what is learned for those, and rows of one composition are polymorphs.
        priors: What the potential says of each row: `formation_energy_per_atom` (from the elements),
            `decomposition_energy_per_atom` and `energy_above_hull` (against the competing phases), `volume_per_atom`.
        targets: What is wished for.
        wanted: Which rows are to be found, shape (n,).
        groups: Number of each row's composition, shape (n,).
        lost: Rows beside these n that are to be found too, and that nobody can ask for.
    """

    features: Mapping[str, Features]
    answers: Mapping[str, Floats]
    priors: Mapping[str, Floats]
    targets: Sequence[Target]
    wanted: NDArray[np.bool_]
    groups: Rows
    lost: int = 0

    @property
    def n_wanted(self) -> int:
        """How many are to be found."""
        return int(np.sum(self.wanted)) + self.lost


@dataclass(frozen=True, kw_only=True)
class Played:
    """One campaign that was played.

    Attributes:
        order: Rows in the order in which they were asked for.
        held: Property -> of each row of `order` whether the 90 % interval held the answer before it was known (between
            0 and 1 for an answer at a floor), NaN where nothing was believed yet.
        covered: Property -> the same, on average over all rows not asked for and all rounds.
        cpu_s: CPU seconds.
    """

    order: Rows
    held: Mapping[str, Floats]
    covered: Mapping[str, float]
    cpu_s: float


def reasons_against(question: Question, strategy: Strategy) -> str | None:
    """Say why a strategy cannot be played, or None."""
    if strategy.features is None and strategy.prior is not None:
        if not np.isfinite(question.priors.get(strategy.prior, np.nan)).any():
            return f"the potential has no {strategy.prior} here"
        if not any(target.property in ENERGIES for target in question.targets):
            return "the potential has no say in what is wished for"
    if strategy.features == "all" and strategy.prior is not None and strategy.rule != STRATEGIES["campaign"].rule:
        ordering = [target for target in question.targets if not is_threshold(target)]
        if len(ordering) != 1 or len(question.targets) > 1:
            return "where wishes can be met or missed, a campaign chooses so already"
        if strategy.rule == "expected_improvement" and ordering[0].goal == "near":
            return "near a value, a campaign chooses so already"
    guided = any(expectation_of(t.property, question.answers[t.property]).prior for t in question.targets)
    if strategy.features == "all" and strategy.prior is None and not guided:
        return "the potential has no say, and a campaign chooses so already"
    return None


def considered(question: Question, strategy: Strategy) -> NDArray[np.bool_]:
    """Which rows a strategy may ask for, shape (n,)."""
    if strategy.within is None:
        return np.ones(len(question.wanted), dtype=bool)
    return np.round(question.priors[ABOVE], DIGITS) <= strategy.within


def play(question: Question, strategy: Strategy, *, batch: int, budget: int, seed: int, audits: float = 0.1) -> Played:
    """Play a campaign.

    Args:
        question: The table.
        strategy: How to choose.
        batch: Answers asked for at a time.
        budget: Answers in all; fewer where fewer rows may be asked for.
        seed: Fixes all that is random.
        audits: Share of random picks, for strategies that have them.
    """
    start = time.process_time()
    budget = min(budget, int(np.sum(considered(question, strategy))))
    nothing = {_learned(question, target): np.full(budget, np.nan) for target in question.targets}
    if strategy.features is None:
        if strategy.prior is None:
            order = np.random.default_rng(seed).permutation(len(question.wanted))
        else:
            order = _ranked(question, strategy.prior)
        return Played(order=order[:budget], held=nothing, covered={}, cpu_s=time.process_time() - start)
    game = _Game(question=question, strategy=strategy, seed=seed)
    while len(game.order) < budget:
        size = min(batch, budget - len(game.order))
        game.round(size, audits_due(len(game.order), size, audits if strategy.audits else 0.0))
    return game.played(time.process_time() - start)


def _ranked(question: Question, prior: str) -> Rows:
    """Rows in the order in which the potential would ask for them, those that it has no value of last."""
    energies = [target for target in question.targets if target.property in ENERGIES]
    target = min(energies, key=lambda target: learned_as(target.property) != prior)
    badness = question.priors[prior]
    if target.property == ABOVE and prior == HULL:
        badness = against_all(badness, question.priors[ABOVE], question.groups)
    if target.goal == "near" and target.value is not None and learned_as(target.property) == prior:
        badness = np.abs(badness - target.value)
    elif target.goal in ("maximize", "at_least"):
        badness = -badness
    return np.argsort(np.where(np.isnan(badness), np.inf, badness), kind="stable")


def _learned(question: Question, target: Target) -> str:
    """Name what is learned for a target: its own answers where the table has no others."""
    name = learned_as(target.property)
    return name if name in question.answers else target.property


class _Game:
    def __init__(self, *, question: Question, strategy: Strategy, seed: int) -> None:
        self.question, self.strategy, self.seed = question, strategy, seed
        self.names = list(dict.fromkeys(_learned(question, target) for target in question.targets))
        self.order: list[int] = []
        self.known = {name: np.full(len(question.wanted), np.nan) for name in self.names}
        self.available = considered(question, strategy)
        self.held: dict[str, list[float]] = {name: [] for name in self.names}
        self.audited: list[int] = []
        self.covered: dict[str, list[float]] = {name: [] for name in self.names}
        self.number = 0

    def round(self, size: int, n_audits: int) -> None:
        """Choose a batch and hear its answers."""
        question = self.question
        assert self.strategy.features is not None
        features = question.features[self.strategy.features]
        self.number += 1
        posteriors = learn(
            features.matrix,
            features.widths,
            self.names,
            known=self.known,
            priors=question.priors if self.strategy.prior else {},
            audited=self.audited,
            seed=self.seed,
        )
        told = dict(self.known)
        if HULL in told:  # above the hull of what was asked for: of no more
            told[ABOVE] = np.maximum(told[HULL], 0.0)
        asked = wished(
            posteriors,
            question.targets,
            told,
            features=features.matrix,
            groups=question.groups,
            priors=question.priors if self.strategy.prior else {},
            computed=np.zeros(len(question.wanted), dtype=bool),
        )
        picks = select_batch(
            features=features.matrix,
            posteriors=asked.posteriors,
            targets=question.targets,
            known={target.property: asked.known[target.property] for target in question.targets},
            available=self.available,
            size=size,
            seed=self.seed,
            round=self.number,
            groups=question.groups,
            n_audits=n_audits,
            rule=self.strategy.rule,
        )
        rows = [pick.index for pick in picks]
        for name, posterior in posteriors.items():
            answers = question.answers[name]
            known = np.isfinite(answers)
            inside = held(answers, posterior.mean, posterior.std, share=COVERED, floor=posterior.floor)
            inside[~known | (self.number == 1)] = np.nan
            self.held[name] += inside[rows].tolist()
            if np.isfinite(inside[self.available]).any():
                self.covered[name].append(float(np.nanmean(inside[self.available])))
        for name in self.names:
            self.known[name][rows] = question.answers[name][rows]
        self.audited += [pick.index for pick in picks if pick.acquisition in UNPICKED]
        self.available[rows] = False
        self.order += rows

    def played(self, cpu_s: float) -> Played:
        return Played(
            order=np.array(self.order, dtype=np.int64),
            held={name: np.array(values) for name, values in self.held.items()},
            covered={name: _mean(values) for name, values in self.covered.items()},
            cpu_s=cpu_s,
        )


def recall(question: Question, played: Played) -> Floats:
    """Share of what is wanted that was found, after each answer, shape (budget,)."""
    return np.cumsum(question.wanted[played.order]) / max(question.n_wanted, 1)


def covered(played: Sequence[Played]) -> dict[str, tuple[float, float]]:
    """Share of 90 % intervals that held the answer, by property: of the picked, and of all rows that were not."""
    shares = {}
    for name in played[0].covered:
        inside = np.concatenate([p.held[name] for p in played])
        rest = [p.covered[name] for p in played if not np.isnan(p.covered[name])]
        shares[name] = (_mean(inside[np.isfinite(inside)]), _mean(rest))
    return shares


def _mean(values: Sequence[float] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def answers_needed(curve: Floats, share: float) -> int | None:
    """Answers until a share of what is wanted was found; None where it was not."""
    reached = np.flatnonzero(curve >= share - 1e-12)
    return int(reached[0]) + 1 if len(reached) else None

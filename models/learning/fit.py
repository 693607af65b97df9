"""Fit of the surrogate for each property, and what is expected of a property before any DFT result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from materials.properties import PROPERTIES
from models.learning.calibration import recalibrated
from models.learning.surrogate import Posterior, first_rows, predict

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What is expected of a DFT answer before any is known, in its unit.

    Attributes:
        prior: Which of the potential's values it is expected to follow; None where the potential has no say.
        center: Expected answer, less the prior.
        spread: Standard deviation about it.
        floor: Value that it cannot be below.
    """

    prior: str | None = None
    center: float = 0.0
    spread: float = 1.0
    floor: float | None = None


EXPECTATIONS: Mapping[str, Expectation] = {
    name: Expectation(prior=one.prior, center=one.center, spread=one.spread, floor=one.floor)
    for name, one in PROPERTIES.items()
}


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """Answers that earlier campaigns got, as e more rows beside the pool.

    Attributes:
        features: By the pool's own projection, shape (e, k).
        answers: Property -> answers, each of shape (e,), NaN where there is none.
        priors: What the potential says, each of shape (e,).
        rows: Which candidate of the pool each is about, shape (e,); -1: none.
        kinds: Shape (e,): 0 where the calculation is of the kind that the campaign makes; each other number is a
            kind of its own (another cut-off, preset or code).
    """

    features: NDArray[np.floating]
    answers: Mapping[str, Floats]
    priors: Mapping[str, Floats]
    rows: NDArray[np.int64]
    kinds: NDArray[np.int64]

    def beside(self, name: str, answers: Floats) -> Floats:
        """Answers about a property that the campaign does not have itself, shape (e,), NaN where it has.

        Told twice, one calculation would look like two that agree to the last digit: as an answer without any noise.
        """
        told_again = (self.kinds == 0) & (self.rows >= 0) & np.isfinite(answers[self.rows])
        return np.where(told_again, np.nan, self.answers[name])


def expectation_of(name: str, answers: Floats) -> Expectation:
    """Say what is expected of a property: as is known of it, else as its answers so far scatter.

    Args:
        name: Of the property.
        answers: Those that are known; NaN where none is.
    """
    if name in EXPECTATIONS:
        return EXPECTATIONS[name]
    known = answers[np.isfinite(answers)]
    spread = float(np.std(known)) if len(known) > 1 else 0.0
    return Expectation(center=float(np.mean(known)) if len(known) else 0.0, spread=spread or 1.0)


def learn(
    features: NDArray[np.floating],
    widths: Sequence[int],
    properties: Iterable[str],
    *,
    known: Mapping[str, Floats],
    priors: Mapping[str, Floats],
    audited: Sequence[int],
    seed: int,
    earlier: Earlier | None = None,
) -> dict[str, Posterior]:
    """Learn each property from the answers so far.

    Args:
        features: From `Projection.transform`, shape (n, k).
        widths: Of the projection.
        properties: What to learn; for an energy above the hull the decomposition energy, and
            `models.learning.polymorphs`.
        known: Answers, each of shape (n,), NaN where there is none.
        priors: What the potential says, each of shape (n,); those that are missing have no say.
        audited: Rows that were picked at random.
        seed: Of the campaign.
        earlier: What is known from before.

    Returns:
        A belief about each property.
    """
    n = len(features)
    if earlier is not None:
        features = np.concatenate([features, earlier.features])
    posteriors = {}
    for name in dict.fromkeys(properties):
        answers = known[name]
        expected = expectation_of(name, answers)
        prior = priors.get(expected.prior) if expected.prior else None
        kinds = np.zeros(len(features), dtype=np.int64)
        if earlier is not None:
            answers = np.concatenate([answers, earlier.beside(name, answers)])
            kinds[n:] = earlier.kinds
            if prior is not None and expected.prior:
                prior = np.concatenate([prior, earlier.priors[expected.prior]])
        rows = np.flatnonzero(np.isfinite(answers))
        posterior = predict(
            features,
            observed=rows,
            answers=answers[rows],
            widths=widths,
            prior=prior,
            center=expected.center,
            spread=expected.spread,
            floor=expected.floor,
            kinds=kinds[rows],
            seed=seed,
        )
        posteriors[name] = recalibrated(first_rows(posterior, n), audited)
    return posteriors

"""Applicability domain: how unlike a candidate is to those that the surrogate has learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from materials.properties import learned_as, spoken, unit_of
from materials.targets import DIGITS
from models.learning.batch_selection import median_distance
from models.learning.hyperparameters import FEWEST_TO_FIT
from models.learning.surrogate import Posterior
from models.learning.target_probability import Known

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def nearest_answered(
    features: NDArray[np.floating], rows: Rows, answered: Rows, count: int
) -> list[list[tuple[int, float]]]:
    """Find the nearest of the answered candidates for each row, itself left out, the nearest first.

    Args:
        features: Whitened, shape (n, k).
        rows: Whose neighbours, shape (r,).
        answered: Among which, shape (m,).
        count: Of neighbours, at most.

    Returns:
        For each row the rows of its neighbours, and how far they are; 1 is the median distance in the pool. Ties go
        to the lower row.
    """
    answered = np.sort(answered)
    unit = median_distance(features) or 1.0
    others = np.asarray(features[answered], dtype=np.float64)
    found = []
    for row in rows:
        # Rounded, so that ties are ties on every machine.
        distances = np.round(cdist(np.asarray(features[[row]], dtype=np.float64), others)[0] / unit, DIGITS)
        places = np.argsort(distances, kind="stable")[: count + 1]
        near = [(int(answered[i]), float(distances[i])) for i in places if answered[i] != row]
        found.append(near[:count])
    return found


def cautions(
    rows: Rows,
    *,
    features: NDArray[np.floating],
    elements: Mapping[int, Set[str]],
    posteriors: Mapping[str, Posterior],
    priors: Mapping[str, Floats],
    known: Known,
) -> list[list[str]]:
    """Say in words why each prediction should be trusted less than its error bar says; nothing where DFT is silent.

    An element that no answered candidate holds counts from the first answer on. Values outside the range of what was
    answered, and places farther from every answered candidate than those are from each other, count as soon as there
    are answers enough to fit the surrogate: before, it claims to know no more than the potential.

    Args:
        rows: Which candidates, shape (r,).
        features: Whitened, shape (n, k).
        elements: Of each of these rows, and of each that was answered.
        posteriors: Of each target's property.
        priors: The potential's value of a property, where it has one, shape (n,).
        known: Answers so far, each of shape (n,), NaN where there is none.
    """
    answers = {name: known[name] for name in posteriors}
    answered = np.flatnonzero(np.any([np.isfinite(values) for values in answers.values()], axis=0))
    if not len(answered):
        return [[] for _ in rows]
    seen = set().union(*(elements[int(row)] for row in answered))
    told = [_unseen(elements[int(row)] - seen) for row in rows]
    if len(answered) < FEWEST_TO_FIT:
        return told
    for words, beyond in zip(told, _beyond(rows, posteriors, priors, answers), strict=True):
        words += beyond
    reach = max(near[0][1] for near in nearest_answered(features, answered, answered, 1))
    for words, near in zip(told, nearest_answered(features, rows, answered, 1), strict=True):
        if near and round(near[0][1], DIGITS) > round(reach, DIGITS):
            words.append(
                f"unlike all that was computed: {near[0][1]:.2f} from the nearest, which are within {reach:.2f} of"
                " each other (1 is the median distance of two candidates)"
            )
    return told


def _beyond(
    rows: Rows, posteriors: Mapping[str, Posterior], priors: Mapping[str, Floats], answers: Mapping[str, Floats]
) -> list[list[str]]:
    """Say of each row which of its values lie outside the range of those computed."""
    told: list[list[str]] = [[] for _ in rows]
    for name, posterior in posteriors.items():
        there, prior, unit = np.isfinite(answers[name]), priors.get(learned_as(name)), unit_of(name)
        by_dft = answers[name][there]
        by_potential = None if prior is None else prior[there & np.isfinite(prior)]
        for words, row in zip(told, rows, strict=True):
            words += _outside(f"{spoken(name)} predicted", unit, posterior.expected[row], by_dft)
            if prior is not None and by_potential is not None:
                words += _outside(f"{spoken(name)} by the potential", unit, prior[row], by_potential)
    return told


def _unseen(elements: Set[str]) -> list[str]:
    return [f"holds {', '.join(sorted(elements))}, which no computed candidate does"] if elements else []


def _outside(what: str, unit: str, value: np.float64, others: Floats) -> Sequence[str]:
    if not len(others) or np.isnan(value):
        return []
    low, high = (round(float(end), DIGITS) for end in (np.min(others), np.max(others)))
    if low <= round(float(value), DIGITS) <= high:
        return []
    return [f"{what} {value:.3f} {unit}, outside {low:.3f} to {high:.3f} of those computed"]

"""Energy above the hull from decomposition energies: the effect of other phases of the same composition.

Phases of one composition decompose into the same others, so that their decomposition energies D differ as their
energies do. A phase is at most x above the hull where D <= x and D - D' <= x for each other phase of its composition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from materials.records import Target
from models.learning.rivals import Rivals
from models.learning.surrogate import Posterior, joint

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

ABOVE, DECOMPOSITION = "energy_above_hull", "decomposition_energy_per_atom"
MOST_RIVALS = 12  # of a row: those that are most likely to lie below it
MOST_JOINT = 1000  # rows whose covariances are worked out, of the compositions that are expected lowest
ALIKE, MOST_ALIKE = 0.5, 0.95  # correlation where nothing tells it, half of what is expected being common; and most


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Phases of the pool's compositions that nobody can ask for: competing phases.

    Attributes:
        groups: Shape (e,), number of the composition, as the pool's.
        priors: Shape (e,), the potential's decomposition energy.
        computed: Shape (e,), whether DFT has an energy of it.
    """

    groups: Rows
    priors: Floats
    computed: NDArray[np.bool_]


NOTHING = Beside(groups=np.empty(0, dtype=np.int64), priors=np.empty(0), computed=np.empty(0, dtype=bool))


@dataclass(frozen=True, kw_only=True)
class Wished:
    """What is believed and known of the properties that targets ask for."""

    posteriors: Mapping[str, Posterior]
    known: Mapping[str, Floats]


def wished(
    posteriors: Mapping[str, Posterior],
    targets: Sequence[Target],
    known: Mapping[str, Floats],
    *,
    features: NDArray[np.floating],
    groups: Rows,
    priors: Mapping[str, Floats],
    computed: NDArray[np.bool_],
    beside: Beside = NOTHING,
) -> Wished:
    """Turn what was learned into what the targets ask for: energies above the hull, all else is the same.

    Args:
        posteriors: Of what was learned, for each target `materials.targets.learned_as` names it.
        targets: At least one.
        known: DFT's answers, each of shape (n,), NaN where there is none.
        features: As `above_hull` takes it, and all that follows.
        groups: Number of the composition.
        priors: What the potential says, each of shape (n,).
        computed: Whether DFT has an energy.
        beside: Other phases.
    """
    asked, told = dict(posteriors), dict(known)
    if any(target.property == ABOVE for target in targets) and ABOVE not in posteriors:
        asked[ABOVE], told[ABOVE] = above_hull(
            posteriors[DECOMPOSITION],
            features=features,
            groups=groups,
            prior=priors.get(DECOMPOSITION),
            decomposition=known[DECOMPOSITION],
            above=known[ABOVE],
            computed=computed,
            beside=beside,
        )
    return Wished(posteriors=asked, known=told)


def above_hull(
    posterior: Posterior,
    *,
    features: NDArray[np.floating],
    groups: Rows,
    prior: Floats | None,
    decomposition: Floats,
    above: Floats,
    computed: NDArray[np.bool_],
    beside: Beside = NOTHING,
) -> tuple[Posterior, Floats]:
    """Tell from decomposition energies how far each candidate lies above the hull, below 0 how far it is stable.

    Polymorphs that DFT has an energy of count with it; the others with what is believed of them, as correlated as the
    surrogate has them in the compositions that are expected lowest, and as those are on average in the others. A
    competing phase that is no candidate is expected as far from a candidate of its composition as the potential has it
    (times the surrogate's slope), with that candidate's standard deviation. A candidate that DFT has answered for
    counts by what is known: phases that are not computed yet dethrone it no sooner than they are.

    Args:
        posterior: Of the decomposition energy, of n candidates.
        features: Shape (n, k), as the posterior was made from.
        groups: Shape (n,), number of the composition.
        prior: Shape (n,), the potential's decomposition energy; None where the potential has no say.
        decomposition: Shape (n,), DFT's decomposition energy, NaN where there is none.
        above: Shape (n,), DFT's energy above the hull, by all phases computed so far.
        computed: Shape (n,), whether DFT has an energy of the candidate, as a competing phase or for its own sake.
        beside: Other phases.

    Returns:
        Posterior of the energy above the phases that are known, with the unknown ones as its `rivals`; and the same
        where DFT has answered, shape (n,).
    """
    members = _members(groups)
    ceiling, known = np.zeros(len(groups)), np.full(len(groups), np.nan)
    for rows in members.values():
        ceiling[rows], known[rows] = _by_dft(decomposition[rows], above[rows])
    answered = np.isfinite(decomposition)
    # Where one of a composition is answered for, its hull holds all of them that are computed.
    unknown = ~answered & ~(computed & np.isin(groups, groups[answered]))
    left = ~(beside.computed & np.isin(beside.groups, groups[answered]))
    beside = replace(beside, groups=beside.groups[left], priors=beside.priors[left])
    rivals = _unknown(posterior, features, members, prior, unknown, answered, beside)
    return replace(posterior, mean=posterior.mean - ceiling, rivals=rivals), known


def against_all(decomposition: Floats, above: Floats, groups: Rows) -> Floats:
    """Energies above the hull, shape (n,), below 0 for what is stable, by how much; NaN where none is known.

    Args:
        decomposition: Shape (n,), decomposition energies.
        above: Shape (n,), energies above the hull of whatever else is known.
        groups: Shape (n,), number of the composition: the rows of one count against each other.
    """
    known = np.full(len(groups), np.nan)
    for rows in _members(groups).values():
        known[rows] = _by_dft(decomposition[rows], above[rows])[1]
    return known


def _members(groups: Rows) -> dict[int, Rows]:
    """Rows of each composition."""
    order = np.argsort(groups, kind="stable")
    numbers, starts = np.unique(groups[order], return_index=True)
    return {int(number): rows for number, rows in zip(numbers, np.split(order, starts)[1:], strict=True)}


def _by_dft(decomposition: Floats, above: Floats) -> tuple[Floats, Floats]:
    """Of the phases of one composition: how low the known ones among the others pull the hull, and what is known.

    A phase's decomposition energy less its energy above the hull is how low the lowest of its composition lies, or 0:
    competing phases that DFT has computed are in it.
    """
    n, there = len(decomposition), np.isfinite(decomposition)
    ceiling, known = np.zeros(n), np.full(n, np.nan)
    levels = np.where(there, np.minimum(decomposition - above, 0.0), 0.0)
    ceiling[~there] = levels.min(initial=0.0)
    for i in np.flatnonzero(there):
        others = np.delete(decomposition, i)
        lowest = min(0.0, float(np.min(others[np.isfinite(others)], initial=0.0)))
        known[i] = max(decomposition[i] - lowest, above[i]) if above[i] > 0 else decomposition[i] - lowest
        ceiling[i] = lowest
    return ceiling, known


def _unknown(
    posterior: Posterior,
    features: NDArray[np.floating],
    members: dict[int, Rows],
    prior: Floats | None,
    unknown: NDArray[np.bool_],
    answered: NDArray[np.bool_],
    beside: Beside,
) -> Rivals:
    """Gather what is believed of the phases that DFT has no energy of."""
    n = len(posterior.mean)
    gaps, stds, correlations = np.full((n, MOST_RIVALS), np.inf), np.ones((n, MOST_RIVALS)), np.zeros((n, MOST_RIVALS))
    alike = np.zeros(n)
    mates_of = _members(beside.groups)
    of_group = {number: rows[unknown[rows]] for number, rows in members.items()}
    correlated, usual = _correlations(posterior, features, of_group)
    for number, rows in members.items():
        others, asking = of_group[number], rows[~answered[rows]]
        mates = beside.priors[mates_of.get(number, [])] if prior is not None else np.empty(0)
        if len(others) + len(mates) < 2 and not len(mates):
            continue
        gap = posterior.mean[others] - posterior.mean[asking, None]
        gap[asking[:, None] == others] = np.inf
        std = np.broadcast_to(posterior.std[others], gap.shape)
        correlation = np.full(gap.shape, usual)
        alike[asking] = usual / (1 + usual)  # what is left between two that are so correlated with a third
        if number in correlated:
            correlation[np.isin(asking, others)] = correlated[number]
            alike[others] = _once_known(correlated[number])
        if prior is not None and len(mates):
            gap = np.hstack([gap, posterior.slope * (mates - prior[asking, None])])
            std = np.hstack([std, np.broadcast_to(posterior.std[asking, None], (len(asking), len(mates)))])
            correlation = np.hstack([correlation, np.full((len(asking), len(mates)), usual)])
        certainty = np.maximum(np.hypot(std, posterior.std[asking, None]), 1e-12)
        likeliest = np.argsort(gap / certainty, axis=1, kind="stable")[:, :MOST_RIVALS]
        for kept, found in ((gaps, gap), (stds, std), (correlations, correlation)):
            kept[asking, : likeliest.shape[1]] = np.take_along_axis(found, likeliest, axis=1)
    width = int(np.isfinite(gaps).sum(axis=1).max(initial=0))
    return Rivals(gaps=gaps[:, :width], stds=stds[:, :width], correlations=correlations[:, :width], alike=alike)


def _once_known(correlation: Floats) -> Floats:
    """Mean correlation, shape (r,), of any two of the others once one of r energies is known."""
    found = np.zeros(len(correlation))
    for i, row in enumerate(correlation):
        own = np.delete(row, i)
        left = np.delete(np.delete(correlation, i, axis=0), i, axis=1) - np.outer(own, own)
        pairs = (left / np.sqrt(np.outer(1 - own**2, 1 - own**2)))[np.triu_indices(len(own), 1)]
        found[i] = np.clip(np.mean(pairs), 0.0, MOST_ALIKE) if len(pairs) else 0.0
    return found


def _correlations(
    posterior: Posterior, features: NDArray[np.floating], groups: Mapping[int, Rows]
) -> tuple[dict[int, Floats], float]:
    """Correlations in the compositions that are expected lowest, shape (r, r) each; and their mean, for all else."""
    several = {number: rows for number, rows in groups.items() if len(rows) > 1}
    chosen: dict[int, Rows] = {}
    for number, rows in sorted(
        several.items(), key=lambda item: (round(float(posterior.mean[item[1]].min()), 4), item[0])
    ):
        if sum(map(len, chosen.values())) + len(rows) > MOST_JOINT:
            break
        chosen[number] = rows
    if not chosen:
        return {}, ALIKE
    covariance, noise = joint(posterior, features, np.concatenate(list(chosen.values())))
    std = np.sqrt(np.maximum(np.diag(covariance) + noise, 1e-24))
    whole = np.clip(covariance / np.outer(std, std), 0.0, MOST_ALIKE)
    ends = np.cumsum([len(rows) for rows in chosen.values()])
    found = {
        number: whole[end - len(rows) : end, end - len(rows) : end]
        for (number, rows), end in zip(chosen.items(), ends, strict=True)
    }
    return found, float(np.mean([np.mean(block[np.triu_indices(len(block), 1)]) for block in found.values()]))

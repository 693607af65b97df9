"""What is known -> which candidates DFT shall answer for next, and why; or why not to go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows.context import Run
from flows.reasons import pick_line
from flows.stages.assess import Screened
from flows.stages.explain import predictions, reasons, surprises
from flows.stages.validate import collect, first_needed
from materials.records import Selection

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from models.surrogate import Posterior


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What is expected of a DFT answer before any is known."""

    stability: str | None  # the field of Stability that the potential answers with; None where it has no say
    center: float
    spread: float


EXPECTATIONS = {
    "decomposition_energy_per_atom": Expectation(stability="decomposition_energy_per_atom", center=0.0, spread=0.07),
    # At most x above the hull is the same wish as a decomposition energy of at most x, and smoother to learn.
    "energy_above_hull": Expectation(stability="decomposition_energy_per_atom", center=0.0, spread=0.07),
    "formation_energy_per_atom": Expectation(stability="formation_energy_per_atom", center=0.0, spread=0.2),
    "band_gap": Expectation(stability=None, center=1.0, spread=1.0),
}


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The candidates that may be validated, as arrays in the order of their ids."""

    material_ids: tuple[str, ...]
    features: NDArray[np.float64]  # (n, k), whitened, frozen for the campaign; k = 0 where nothing is to be learned
    groups: NDArray[np.int64]  # (n,): number of the composition
    priors: Mapping[str, NDArray[np.float64]]  # field of Stability -> the potential's value, (n,)

    def row_of(self) -> dict[str, int]:
        """Find rows by id."""
        return {material_id: row for row, material_id in enumerate(self.material_ids)}


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is known and expected of every candidate of the pool."""

    known: Mapping[str, NDArray[np.float64]]  # property -> DFT's answer, NaN where there is none
    posteriors: Mapping[str, Posterior]
    scores: NDArray[np.float64]  # probability of meeting every target


def gather_pool(run: Run, screened: Screened) -> Pool:
    """Collect the candidates near the potential's hull, and describe them if there is something to learn."""
    with run.progress.timed("learning"):
        candidates = set(run.ledger.candidate_ids(run.campaign_id, "candidate"))
        ids = sorted(
            material_id
            for material_id, stability in screened.stabilities.items()
            if material_id in candidates
            and round(stability.decomposition_energy_per_atom, 4) <= run.campaign.learning.within
        )
        names = sorted({e.stability for e in EXPECTATIONS.values() if e.stability})
        formulas = [str(screened.outcomes[m].formula) for m in ids]
        return Pool(
            material_ids=tuple(ids),
            features=_features(run, screened, ids) if ids and _learns(run) else np.empty((len(ids), 0)),
            groups=np.unique(formulas, return_inverse=True)[1] if ids else np.empty(0, dtype=np.int64),
            priors={name: np.array([round(getattr(screened.stabilities[m], name), 4) for m in ids]) for name in names},
        )


def _learns(run: Run) -> bool:
    """Whether DFT has answered, or will: without an answer all predictions are the potential's."""
    return (run.use_dft and run.campaign.dft.budget > 0) or bool(run.ledger.selections(run.campaign_id))


def _features(run: Run, screened: Screened, material_ids: Sequence[str]) -> NDArray[np.float64]:
    """Describe candidates, by the potential's latent vectors too if each has one, and project what describes them."""
    from models.descriptors import CHUNK, describe, feature_names
    from models.projection import freeze
    from models.row_file import RowFile

    n_latent: int | None = None
    with closing(RowFile()) as features:
        for start in range(0, len(material_ids), CHUNK):
            structures, latents = _described_by(run, screened, material_ids[start : start + CHUNK])
            n_latent = len(latents[0]) if n_latent is None else n_latent
            if not all(latents):  # numbers that only some have would tell those from the others
                features.keep_first(len(feature_names()))
            filled = [latent if len(latent) == n_latent else [np.nan] * n_latent for latent in latents]
            features.append(np.hstack([describe(structures), np.array(filled, dtype=np.float32)]))
        return freeze(features).transform(features)


def _described_by(
    run: Run, screened: Screened, material_ids: Sequence[str]
) -> tuple[list[Structure], list[list[float]]]:
    """Read the structures and the latent vectors of some candidates; one without has an empty vector."""
    from materials.serialization import structure_from_json

    with run.progress.timed("ledger"):
        asked = [screened.outcomes[m].calculation_id for m in material_ids]
        found = list(run.ledger.written_calculations(asked))
    structures = [structure_from_json(str(calculation.structure)) for calculation in found]
    return structures, [json.loads(calculation.properties).get("latent") or [] for calculation in found]


def believe(run: Run, screened: Screened, pool: Pool) -> Belief:
    """Learn from every DFT answer there is."""
    from models.scoring import score_pool
    from models.surrogate import recalibrated

    with run.progress.timed("learning"):
        known = _known(run, screened, pool)
        found = surprises(run, pool, known)
        posteriors = {name: recalibrated(p, found[name]) for name, p in _learn(run, pool, known).items()}
        return Belief(known=known, posteriors=posteriors, scores=score_pool(posteriors, run.targets, known))


def _learn(run: Run, pool: Pool, known: Mapping[str, NDArray[np.float64]]) -> dict[str, Posterior]:
    from models.surrogate import predict

    posteriors = {}
    for name in dict.fromkeys(target.property for target in run.targets):
        expected = EXPECTATIONS[name]
        rows = np.flatnonzero(np.isfinite(known[name]))
        posteriors[name] = predict(
            pool.features,
            observed=rows,
            answers=known[name][rows],
            prior=pool.priors[expected.stability] if expected.stability else None,
            center=expected.center,
            spread=expected.spread,
            seed=run.campaign.learning.seed,
        )
    return posteriors


def _score_by_potential(run: Run, pool: Pool) -> NDArray[np.float64]:
    """How likely each candidate is to meet the targets as it was before DFT answered anything."""
    from models.scoring import score_pool

    unknown = {name: np.full(len(pool.material_ids), np.nan) for name in EXPECTATIONS}
    return score_pool(_learn(run, pool, unknown), run.targets, unknown)


def choose(run: Run, screened: Screened, pool: Pool, round_number: int) -> list[Selection]:
    """Choose the batch of a round, or read it where it was chosen before; an empty one ends the campaign.

    The picks of a round are in the ledger before any of them is computed, so that a killed campaign goes on with them.
    """
    chosen = run.ledger.selections(run.campaign_id)
    if earlier := [s for s in chosen if s.round == round_number]:
        return earlier
    size = min(run.campaign.learning.batch, run.campaign.dft.budget - len(chosen))
    if size <= 0:
        return []
    if not pool.material_ids:
        within = run.campaign.learning.within
        run.progress.say(f"No candidate within {within} eV/atom of the potential's hull: nothing to validate")
        return []
    belief = believe(run, screened, pool)
    with run.progress.timed("learning"):
        taken = {s.material_id for s in chosen}
        available = np.array([material_id not in taken for material_id in pool.material_ids])
        if reason := _reason_to_stop(run, belief, available, size):
            run.progress.say(f"Stopping before the budget is spent: {reason}")
            return []
        selections = _pick(run, pool, belief, available, size, round_number, len(chosen))
        row_of = pool.row_of()
        rows = [row_of[s.material_id] for s in selections]
        why = reasons(screened, pool, belief, _score_by_potential(run, pool), rows)
        needed = first_needed(run, screened, [s.material_id for s in selections])
        selections = [replace(s, why=w | {"calculations": n}) for s, w, n in zip(selections, why, needed, strict=True)]
        believed = predictions(pool, belief, round_number, rows)
    with run.progress.timed("ledger"):
        run.ledger.add_predictions(run.campaign_id, believed)
        run.ledger.add_selections(run.campaign_id, selections)
    for selection in selections:
        run.progress.say(pick_line(selection, [p for p in believed if p.material_id == selection.material_id]))
    return selections


def _reason_to_stop(run: Run, belief: Belief, available: NDArray[np.bool_], size: int) -> str | None:
    from models.stopping import stop_rule

    learning = run.campaign.learning
    return stop_rule(
        posteriors=belief.posteriors,
        targets=run.targets,
        known=belief.known,
        available=available,
        batch=size,
        least_answers=learning.stop_after,
        least_odds=learning.stop_odds,
        least_hits=learning.stop_hits,
    )


def _pick(
    run: Run, pool: Pool, belief: Belief, available: NDArray[np.bool_], size: int, round_number: int, before: int
) -> list[Selection]:
    from models.selection import select_batch

    learning = run.campaign.learning
    picks = select_batch(
        features=pool.features,
        posteriors=belief.posteriors,
        targets=run.targets,
        known=belief.known,
        available=available,
        size=size,
        seed=learning.seed,
        round=round_number,
        groups=pool.groups,
        n_audits=_audits_due(before, size, learning.audits),
    )
    return [
        Selection(
            material_id=pool.material_ids[pick.index],
            round=round_number,
            acquisition=pick.acquisition,
            score=pick.score,
            rank=rank,
            seed=learning.seed,
        )
        for rank, pick in enumerate(picks, start=1)
    ]


def _known(run: Run, screened: Screened, pool: Pool) -> dict[str, NDArray[np.float64]]:
    """Collect DFT's answers: gaps of whatever was computed, stabilities of what was validated."""
    row_of = pool.row_of()
    known = {name: np.full(len(row_of), np.nan) for name in EXPECTATIONS}
    for calculations in collect(run, screened).values():
        for material_id, calculation in calculations.items():
            gap = calculation.properties.get("band_gap")
            if material_id in row_of and gap is not None:
                known["band_gap"][row_of[material_id]] = gap
    for material_id, stability in run.ledger.stabilities(run.campaign_id, "dft").items():
        if material_id in row_of:
            row = row_of[material_id]
            known["decomposition_energy_per_atom"][row] = stability.decomposition_energy_per_atom
            known["energy_above_hull"][row] = stability.decomposition_energy_per_atom
            known["formation_energy_per_atom"][row] = stability.formation_energy_per_atom
    return known


def _audits_due(before: int, size: int, share: float) -> int:
    """Audits of this batch, so that over the campaign they are `share` of all picks, rounded down."""
    return int(share * (before + size) + 1e-9) - int(share * before + 1e-9)

"""Candidates that may be validated, as the arrays that selection works on."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flows.run.context import Run
from flows.stages.assess import Screened
from flows.stages.prior import own_settings, prior_stabilities
from flows.stages.transfer import earlier_answers
from materials.records import Stability
from materials.targets import DIGITS

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from models.learning.fit import Earlier


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Some of the potential's phases, as arrays in the order of their ids."""

    material_ids: tuple[str, ...]
    groups: NDArray[np.int64]  # (n,): number of the composition, among those of the pool
    priors: Mapping[str, NDArray[np.float64]]  # property -> the potential's value, (n,)


@dataclass(frozen=True, kw_only=True)
class Pool(Phases):
    """The candidates that may be validated."""

    features: NDArray[np.float64]  # (n, k), frozen for the campaign; k = 0 where nothing is to be learned
    widths: tuple[int, ...]  # columns of `features` that share a length scale
    beside: Phases  # others as near to the potential's hull that are polymorphs of candidates: competing phases
    earlier: Earlier | None = None  # what other campaigns' DFT said
    learned: dict[Hashable, Any] = field(default_factory=dict)  # the latest beliefs, by what they were learned from

    def row_of(self) -> dict[str, int]:
        """Find rows by id."""
        return {material_id: row for row, material_id in enumerate(self.material_ids)}


def gather_pool(run: Run, screened: Screened) -> Pool:
    """Collect the candidates near the potential's hull, and describe them if there is something to learn."""
    with run.progress.timed("learning"):
        candidates = set(run.ledger.candidate_ids(run.campaign_id, "candidate"))
        near = sorted(
            material_id
            for material_id, stability in screened.stabilities.items()
            if round(stability.energy_above_hull, 4) <= run.campaign.learning.within
        )
        ids = [material_id for material_id in near if material_id in candidates]
        number = {formula: i for i, formula in enumerate(sorted({_formula(screened, m) for m in ids}))}
        beside = [m for m in near if m not in candidates and _formula(screened, m) in number]
        learned = _describe(run, screened, ids) if ids and _learns(run) else _Described()
        # In DFT's convention if there is something to learn, else in the potential's own.
        found = prior_stabilities(run, screened, [*ids, *beside]) if _learns(run) else screened.stabilities
        return Pool(
            material_ids=tuple(ids),
            features=np.empty((len(ids), 0)) if learned.features is None else learned.features,
            widths=learned.widths,
            earlier=learned.earlier,
            groups=_groups(screened, ids, number),
            priors=_priors(screened, found, ids),
            beside=Phases(
                material_ids=tuple(beside),
                groups=_groups(screened, beside, number),
                priors=_priors(screened, found, beside),
            ),
        )


def _formula(screened: Screened, material_id: str) -> str:
    return str(screened.phase(material_id).formula)


def _groups(screened: Screened, material_ids: Sequence[str], number: Mapping[str, int]) -> NDArray[np.int64]:
    return np.array([number[_formula(screened, m)] for m in material_ids], dtype=np.int64)


def _priors(
    screened: Screened, found: Mapping[str, Stability], material_ids: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Give the potential's value of each property that it has one of, rounded as decisions take it, shape (n,)."""
    stabilities = [found[m] for m in material_ids]
    values = {
        "decomposition_energy_per_atom": [s.decomposition_energy_per_atom for s in stabilities],
        "formation_energy_per_atom": [s.formation_energy_per_atom for s in stabilities],
        "volume_per_atom": [screened.phase(m).volume_per_atom or np.nan for m in material_ids],
    }
    return {name: np.array([round(value, DIGITS) for value in told]) for name, told in values.items()}


def _learns(run: Run) -> bool:
    """Whether DFT has answered, or will: without an answer all predictions are the potential's."""
    return (run.use_dft and run.campaign.dft.budget > 0) or bool(run.ledger.selections(run.campaign_id))


@dataclass(frozen=True, kw_only=True)
class _Described:
    features: NDArray[np.float64] | None = None
    widths: tuple[int, ...] = ()
    earlier: Earlier | None = None


def _describe(run: Run, screened: Screened, material_ids: Sequence[str]) -> _Described:
    """Describe candidates, by the potential's latent vectors too if each has one, and project what describes them."""
    from models.learning.features.array_file import RowFile
    from models.learning.features.descriptors import CHUNK, column_groups, describe, feature_names
    from models.learning.features.projection import freeze

    n_latent: int | None = None
    with closing(RowFile()) as features:
        for start in range(0, len(material_ids), CHUNK):
            structures, latents = _described_by(run, screened, material_ids[start : start + CHUNK])
            n_latent = len(latents[0]) if n_latent is None else n_latent
            if not all(latents):  # numbers that only some have would tell those from the others
                features.keep_first(len(feature_names()))
            filled = [latent if len(latent) == n_latent else [np.nan] * n_latent for latent in latents]
            features.append(np.hstack([describe(structures), np.array(filled, dtype=np.float32)]))
        projection = freeze(features, groups=list(column_groups(features.shape[1]).values()))
        projected = projection.transform(features)

    def project(others: Sequence[Structure], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return projection.transform(np.hstack([describe(others), vectors]))

    n_used = projection.n_features - len(feature_names())
    earlier = None
    if run.use_dft:
        row_of = {material_id: row for row, material_id in enumerate(material_ids)}
        earlier = earlier_answers(run, own_settings(run, screened, material_ids[0]), project, n_used, row_of)
    return _Described(features=projected, widths=projection.widths, earlier=earlier)


def _described_by(
    run: Run, screened: Screened, material_ids: Sequence[str]
) -> tuple[list[Structure], list[list[float]]]:
    """Read the structures and the latent vectors of some candidates; one without has an empty vector."""
    from materials.crystals.serialization import structure_from_json

    with run.progress.timed("ledger"):
        asked = [screened.outcomes[m].calculation_id for m in material_ids]
        found = list(run.ledger.written_calculations(asked))
    structures = [structure_from_json(str(calculation.structure)) for calculation in found]
    return structures, [json.loads(calculation.properties).get("latent") or [] for calculation in found]

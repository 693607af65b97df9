"""Predictions for every candidate of the pool, learned from all DFT results."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows.run.context import Run
from flows.stages.assess import Screened, judged_by_dft
from flows.stages.dft_plan import absurd, collect
from flows.stages.pool import Pool
from materials.properties import learned_as
from materials.records import Calculation
from materials.targets import DIGITS

if TYPE_CHECKING:
    from models.learning.polymorphs import Wished
    from models.learning.stopping import Outlook
    from models.learning.surrogate import Posterior


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is known and expected of every candidate of the pool."""

    known: Mapping[str, NDArray[np.float64]]  # property -> DFT's answer, NaN where there is none
    posteriors: Mapping[str, Posterior]  # of what is learned: of decomposition energies, not of those above the hull
    wished: Wished  # the same of the targets' properties
    scores: NDArray[np.float64]  # probability of meeting every target
    outlooks: dict[Hashable, Outlook] = field(default_factory=dict)  # made of it, by what had been selected


def believe(run: Run, screened: Screened, pool: Pool) -> Belief:
    """Learn from every DFT answer there is."""
    from models.learning.batch_selection import UNPICKED

    with run.progress.timed("learning"):
        results = collect(run, screened)
        known = _known(run, screened, results, pool)
        row_of = pool.row_of()
        chosen = run.ledger.selections(run.campaign_id)
        unpicked = [s.material_id for s in chosen if s.acquisition in UNPICKED]
        computed = {material_id for calculations in results.values() for material_id in calculations}
        return _belief(run, pool, known, [row_of[m] for m in unpicked if m in row_of], computed)


def _belief(
    run: Run,
    pool: Pool,
    known: Mapping[str, NDArray[np.float64]],
    audited: Sequence[int],
    computed: Collection[str],
) -> Belief:
    """Learn from answers, unless these were learned from last: a round is published and the next one chosen by the
    same, and each explains its picks by the potential alone."""
    answers = tuple((name, values.tobytes()) for name, values in sorted(known.items()))
    key = (pool.earlier is None, answers, tuple(audited), frozenset(computed))
    belief = pool.learned.pop(key, None) or _learn(run, pool, known, audited, computed)
    pool.learned[key] = belief
    if len(pool.learned) > 2:
        del pool.learned[next(iter(pool.learned))]
    return belief


def _learn(
    run: Run,
    pool: Pool,
    known: Mapping[str, NDArray[np.float64]],
    audited: Sequence[int],
    computed: Collection[str],
) -> Belief:
    from models.learning.fit import learn
    from models.learning.polymorphs import Beside, wished
    from models.learning.target_probability import score_pool

    posteriors = learn(
        pool.features,
        pool.widths,
        [learned_as(target.property) for target in run.targets],
        known=known,
        priors=pool.priors,
        audited=audited,
        seed=run.campaign.learning.seed,
        earlier=pool.earlier,
    )
    asked = wished(
        posteriors,
        run.targets,
        known,
        features=pool.features,
        groups=pool.groups,
        priors=pool.priors,
        computed=np.array([material_id in computed for material_id in pool.material_ids], dtype=bool),
        beside=Beside(
            groups=pool.beside.groups,
            priors=pool.beside.priors["decomposition_energy_per_atom"],
            computed=np.array([material_id in computed for material_id in pool.beside.material_ids], dtype=bool),
        ),
    )
    return Belief(
        known=known,
        posteriors=posteriors,
        wished=asked,
        scores=score_pool(asked.posteriors, run.targets, asked.known),
    )


def score_by_potential(run: Run, pool: Pool) -> NDArray[np.float64]:
    """How likely each candidate is to meet the targets as it was before DFT answered anything."""
    from models.learning.fit import EXPECTATIONS

    unknown = {name: np.full(len(pool.material_ids), np.nan) for name in EXPECTATIONS}
    return _belief(run, replace(pool, earlier=None), unknown, [], ()).scores


def _known(
    run: Run, screened: Screened, results: Mapping[str, Mapping[str, Calculation]], pool: Pool
) -> dict[str, NDArray[np.float64]]:
    """Collect DFT's answers: gaps and volumes of whatever was computed, stabilities of what was validated.

    Of a material that was computed at several levels (hulls differ in their cut-off) the last level by name counts.
    Rounded as decisions take them: the digits behind differ from machine to machine.
    """
    from models.learning.fit import EXPECTATIONS

    row_of = pool.row_of()
    known = {name: np.full(len(row_of), np.nan) for name in EXPECTATIONS}
    for calculations in results.values():
        for material_id, calculation in calculations.items():
            if material_id in row_of:
                row, gap = row_of[material_id], calculation.properties.get("band_gap")
                known["band_gap"][row] = np.nan if gap is None else gap
                known["volume_per_atom"][row] = calculation.volume_per_atom or np.nan
    refused = absurd(run, screened)  # which an older version may have judged
    for material_id, stability in judged_by_dft(run, results).items():
        if material_id in row_of and material_id not in refused:
            row = row_of[material_id]
            known["decomposition_energy_per_atom"][row] = stability.decomposition_energy_per_atom
            known["energy_above_hull"][row] = stability.energy_above_hull
            known["formation_energy_per_atom"][row] = stability.formation_energy_per_atom
    return {name: np.round(values, DIGITS) for name, values in known.items()}

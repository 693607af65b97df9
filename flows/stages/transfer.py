"""DFT results of earlier campaigns in the ledger, to learn from before the first round."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flows.run.context import Run
from flows.stages.assess import hull_level
from flows.stages.prior import change_to_dft, changed_entries, changed_stabilities
from flows.stages.unsound import take_out_unsound
from materials.errors import MissingTerminals
from materials.records import Calculation, Stability, WrittenCalculation
from materials.stability.conventions import Change
from materials.stability.corrections import anion_corrected_level, is_raw_pbe
from materials.targets import DIGITS
from models.dft.base import DFTSettings
from models.dft.calculation_record import has_gap_of_before, level_of_theory

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    from models.learning.fit import Earlier

Project = Callable[[Sequence["Structure"], "NDArray[np.float64]"], "NDArray[np.float64]"]


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What one earlier campaign knows of one material."""

    dft: Calculation
    by_dft: Stability | None
    by_mlip: Stability | None
    mlip: WrittenCalculation


def earlier_answers(
    run: Run, own: DFTSettings, project: Project, n_latent: int, row_of: Mapping[str, int]
) -> Earlier | None:
    """Gather what other campaigns' DFT said at a comparable level of theory: of the same functional.

    Where the rest of the level, the corrections for anions or the preset differ, the answers are a kind of their own,
    with an offset and a noise that are learned. A material counts if this campaign's potential has relaxed it, so that
    it can be described; of several answers of a kind the latest campaign's word counts.

    Args:
        run: The campaign.
        own: How it computes its candidates.
        project: Structures and latent vectors -> features, as the pool's.
        n_latent: Length of the latent vectors that describe the pool; 0 where none do.
        row_of: The pool's materials.

    Returns:
        None where there is nothing.
    """
    from materials.crystals.serialization import structure_from_json
    from models.learning.fit import EXPECTATIONS, Earlier

    level = level_of_theory(own)
    corrected, change = hull_level(run, level) != level, change_to_dft(run, own)
    found = [
        answer
        for campaign_id in _others(run)
        for answer in _answers(run, campaign_id, change, functional=level.split("/")[0], corrected=corrected)
    ]
    kinds = _kinds(own, found, corrected=corrected)
    told = {(answer.dft.material_id, int(kind)): answer for answer, kind in zip(found, kinds, strict=True)}
    latents = {key: (json.loads(a.mlip.properties).get("latent") or [])[:n_latent] for key, a in told.items()}
    kept = [key for key, latent in latents.items() if len(latent) == n_latent]
    if not kept:
        return None
    answers = [told[key] for key in kept]
    _say_left_out(run, answers)
    structures = [structure_from_json(str(answer.mlip.structure)) for answer in answers]
    return Earlier(
        features=project(structures, np.array([latents[key] for key in kept], dtype=np.float64)),
        answers={name: np.array([_said(answer, name) for answer in answers]) for name in EXPECTATIONS},
        priors={
            name: np.array([_of(answer.by_mlip, name) for answer in answers])
            for name in ("decomposition_energy_per_atom", "formation_energy_per_atom")
        }
        | {"volume_per_atom": np.array([round(s.volume / len(s), DIGITS) for s in structures])},
        rows=np.array([row_of.get(material_id, -1) for material_id, _ in kept], dtype=np.int64),
        kinds=np.array([kind for _, kind in kept], dtype=np.int64),
    )


def _others(run: Run) -> list[str]:
    """Name the other campaigns that were run, the oldest first."""
    return [c["campaign_id"] for c in run.ledger.campaigns() if c["campaign_id"] != run.campaign_id and c["runs"]]


def _answers(run: Run, campaign_id: str, change: Change | None, *, functional: str, corrected: bool) -> list[_Answer]:
    best = run.ledger.calculations_by_id(set(run.ledger.best_calculations(campaign_id, fidelity="dft").values()))
    dft = {
        calculation.material_id: calculation
        for calculation in best.values()
        if calculation.status == "converged" and calculation.level_of_theory.split("/")[0] == functional
    }
    if not dft:
        return []
    identity = run.potential_identity
    by_mlip = run.ledger.best_calculations(
        campaign_id, fidelity="mlip", method=identity.method, level_of_theory=identity.level_of_theory
    )
    hull = _by_potential(run, campaign_id, by_mlip, change, sorted(dft))
    by_dft: dict[str, Stability] = {}
    for level in sorted({calculation.level_of_theory for calculation in dft.values()}):
        levels = [level, anion_corrected_level(level)] if is_raw_pbe(level) else [level]
        for one in levels if corrected else reversed(levels):  # the last counts: the campaign's own convention
            by_dft |= run.ledger.stabilities(campaign_id, "dft", one)
    relaxed = run.ledger.written_calculations(by_mlip[m] for m in sorted(dft) if m in by_mlip)
    return [
        _Answer(dft=dft[c.material_id], by_dft=by_dft.get(c.material_id), by_mlip=hull.get(c.material_id), mlip=c)
        for c in relaxed
        if c.status == "converged" and c.structure is not None
    ]


def _by_potential(
    run: Run, campaign_id: str, by_mlip: Mapping[str, str], change: Change | None, material_ids: Sequence[str]
) -> Mapping[str, Stability]:
    """Find where the potential puts a campaign's materials, in the convention in which this one's DFT answers."""
    hull = run.ledger.stabilities(campaign_id, "mlip")
    if change is None:
        return hull
    level = run.potential_identity.level_of_theory
    known = run.ledger.best_calculations(campaign_id, fidelity="dft", level_of_theory=level)
    phases = [calculation_id for m in hull if (calculation_id := by_mlip.get(m) or known.get(m))]
    entries = {entry.entry_id: entry for entry in changed_entries(run.ledger, change, phases)}
    with suppress(MissingTerminals):  # an older ledger may have lost an element: then there is nothing to start from
        take_out_unsound(entries)
    return changed_stabilities(entries, [m for m in material_ids if m in entries])


def _say_left_out(run: Run, answers: Sequence[_Answer]) -> None:
    n = sum(has_gap_of_before(answer.dft) for answer in answers)
    if n and any(target.property == "band_gap" for target in run.targets):
        run.progress.say(
            f"{n} band gaps of earlier campaigns are not learned from, their energies are: they were counted with the "
            "empty levels of one k-point mesh, and may be too wide"
        )


def _said(answer: _Answer, name: str) -> float:
    match name:
        case "band_gap":
            if has_gap_of_before(answer.dft):
                return float("nan")
            return float(answer.dft.properties.get("band_gap", np.nan))
        case "volume_per_atom":
            return answer.dft.volume_per_atom or float("nan")
        case _:
            return _of(answer.by_dft, name)


def _of(stability: Stability | None, name: str) -> float:
    return float("nan") if stability is None else round(getattr(stability, name), DIGITS)


def _kinds(own: DFTSettings, answers: Sequence[_Answer], *, corrected: bool) -> NDArray[np.int64]:
    """Number the kinds of answer: 0 is the campaign's own, whose cut-off may differ from hull to hull."""

    def key(code: str, level: str, preset: str, mode: str, corrected: bool) -> tuple[str | bool, ...]:
        return code, *level.split("/")[:2], preset, mode, corrected

    def key_of(answer: _Answer) -> tuple[str | bool, ...]:
        dft, judged = answer.dft, answer.by_dft
        preset, mode = (str(dft.properties.get(name)) for name in ("preset", "mode"))
        as_own = corrected if judged is None else judged.level_of_theory != dft.level_of_theory
        return key(dft.method.split("-")[0], dft.level_of_theory, preset, mode, as_own)

    numbers = {key(own.code, level_of_theory(own), own.preset, own.mode, corrected): 0}
    found = [key_of(answer) for answer in answers]
    return np.array([numbers.setdefault(kind, len(numbers)) for kind in found], dtype=np.int64)

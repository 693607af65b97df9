"""From evidence to the table: one row a material, in an order that is total and the same on every machine.

Pure functions. Decisions take energies and gaps rounded to 0.1 meV (meV/atom), for another batch size or processor
changes the digits behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from materials.records import (
    Calculation,
    Failure,
    Prediction,
    Proposed,
    RankedCandidate,
    Selection,
    Stability,
    Target,
)
from materials.targets import DIGITS, closeness, meets, rounded

Evidence = TypeVar("Evidence")

_SEPARATOR = "; "


def rank(
    candidates: Iterable[Proposed],
    *,
    mlip: Mapping[str, Calculation],
    mlip_stability: Mapping[str, Stability],
    dft: Mapping[str, Calculation],
    dft_stability: Mapping[str, Stability],
    predictions: Mapping[str, Mapping[str, Prediction]],
    selections: Mapping[str, Selection],
    failures: Mapping[str, Failure],
    duplicates: Mapping[str, str],
    targets: Sequence[Target],
    scores: Mapping[str, float] | None = None,
) -> list[RankedCandidate]:
    """Rank what is known.

    Validated candidates that meet all targets come first, then all by score, by closeness to the targets, by
    decomposition energy (hence by `energy_above_hull`, of the fidelity that the row shows), by `material_id`.
    What failed comes last.

    Args:
        candidates: All of a campaign; competing phases among them get no row unless a candidate is their duplicate.
        mlip: `material_id` -> the potential's calculation.
        mlip_stability: `material_id` -> stability by the potential.
        dft: `material_id` -> best DFT calculation, failed ones too.
        dft_stability: `material_id` -> stability by DFT.
        predictions: `material_id` -> target -> prediction.
        selections: `material_id` -> why it was chosen.
        failures: `material_id` -> what went wrong.
        duplicates: Duplicate -> the material that stands for it: no row of its own, but its parents and its evidence
            join the other's.
        targets: What is wished.
        scores: `material_id` -> probability of meeting all targets, for those that DFT has not judged.
    """
    evidence = _Evidence(
        mlip=mlip,
        mlip_stability=mlip_stability,
        dft=dft,
        dft_stability=dft_stability,
        predictions=predictions,
        selections=selections,
        failures=failures,
        targets=tuple(targets),
        scores=scores or {},
    )
    rows = [_row(group, evidence) for group in _groups(candidates, duplicates)]
    ordered = sorted(rows, key=lambda pair: pair[0])
    return [replace(row, rank=place) for place, (_, row) in enumerate(ordered, start=1)]


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    mlip: Mapping[str, Calculation]
    mlip_stability: Mapping[str, Stability]
    dft: Mapping[str, Calculation]
    dft_stability: Mapping[str, Stability]
    predictions: Mapping[str, Mapping[str, Prediction]]
    selections: Mapping[str, Selection]
    failures: Mapping[str, Failure]
    targets: tuple[Target, ...]
    scores: Mapping[str, float]


def _groups(candidates: Iterable[Proposed], duplicates: Mapping[str, str]) -> list[list[Proposed]]:
    """Each material with its duplicates behind it, those groups only that hold a candidate."""
    groups: dict[str, list[Proposed]] = {}
    for candidate in candidates:
        kept = duplicates.get(candidate.material_id, candidate.material_id)
        groups.setdefault(kept, []).append(candidate)
    ordered = [
        sorted(group, key=lambda candidate: (candidate.material_id != kept, candidate.material_id))
        for kept, group in groups.items()
    ]
    return [group for group in ordered if any(candidate.role == "candidate" for candidate in group)]


def _row(group: Sequence[Proposed], evidence: _Evidence) -> tuple[tuple[Any, ...], RankedCandidate]:
    candidate, ids = group[0], [member.material_id for member in group]
    dft, mlip = _first(evidence.dft, ids), _first(evidence.mlip, ids)
    by_dft, by_mlip = _first(evidence.dft_stability, ids), _first(evidence.mlip_stability, ids)
    selection, failure = _first(evidence.selections, ids), _first(evidence.failures, ids)
    stability = by_dft or by_mlip
    status = _status(dft, mlip, by_dft, by_mlip, selection, failure)
    values = _values(dft, by_dft)
    met = meets(evidence.targets, values) if status == "validated" else None
    score = float(met) if met is not None else _first(evidence.scores, ids)
    row = RankedCandidate(
        rank=0,
        material_id=candidate.material_id,
        formula=candidate.formula,
        chemsys=candidate.chemsys,
        n_sites=candidate.n_sites,
        parents=_joined(member.parents for member in group),
        status=status,
        fidelity=stability.fidelity if stability else None,
        level_of_theory=stability.level_of_theory if stability else None,
        energy_above_hull=stability.energy_above_hull if stability else None,
        decomposition_energy_per_atom=stability.decomposition_energy_per_atom if stability else None,
        formation_energy_per_atom=stability.formation_energy_per_atom if stability else None,
        band_gap=values.get("band_gap"),
        score=None if status == "failed" else score,
        meets_targets=met,
        energy_above_hull_mlip=by_mlip.energy_above_hull if by_mlip else None,
        decomposition_energy_mlip=by_mlip.decomposition_energy_per_atom if by_mlip else None,
        formation_energy_mlip=by_mlip.formation_energy_per_atom if by_mlip else None,
        predicted={
            target: (prediction.mean, prediction.std)
            for target, prediction in sorted((_first(evidence.predictions, ids) or {}).items())
        },
        round=selection.round if selection else None,
        acquisition=selection.acquisition if selection else None,
        volume_per_atom=_volume_per_atom(candidate, dft, mlip),
        known_as=_joined(member.known_as for member in group),
        message=_message(dft, by_dft, mlip, selection, failure),
    )
    return _order(row, closeness(evidence.targets, values) if status == "validated" else None), row


def _order(row: RankedCandidate, close: tuple[float, ...] | None) -> tuple[Any, ...]:
    energy = rounded(row.decomposition_energy_per_atom)
    return (
        not row.meets_targets,
        row.status == "failed",
        math.inf if row.score is None else -round(row.score, DIGITS),
        close is None,
        close or (),
        math.inf if energy is None else energy,
        row.material_id,
    )


def _status(
    dft: Calculation | None,
    mlip: Calculation | None,
    by_dft: Stability | None,
    by_mlip: Stability | None,
    selection: Selection | None,
    failure: Failure | None,
) -> str:
    """What became of it: `validated` needs its DFT hull too, of which a competing phase may still be missing."""
    if by_dft is not None and dft is not None and dft.status == "converged":
        return "validated"
    if dft is not None and dft.status == "converged":  # a competing phase of another, or its own hull has a hole
        return "selected" if selection is not None else "screened"
    if dft is not None or failure is not None or (mlip is not None and mlip.status != "converged"):
        return "failed"
    if selection is not None:
        return "selected"
    return "screened" if by_mlip is not None else "proposed"


def _values(dft: Calculation | None, by_dft: Stability | None) -> dict[str, float | None]:
    """Everything that DFT says and a target may ask for."""
    values: dict[str, float | None] = {}
    if dft is not None and dft.status == "converged":
        numbers = {name: value for name, value in dft.properties.items() if isinstance(value, (int, float))}
        values.update(numbers)
        values["volume_per_atom"] = _volume(dft)
    if by_dft is not None:
        values["energy_above_hull"] = by_dft.energy_above_hull
        values["decomposition_energy_per_atom"] = by_dft.decomposition_energy_per_atom
        values["formation_energy_per_atom"] = by_dft.formation_energy_per_atom
    return values


def _first(evidence: Mapping[str, Evidence], ids: Sequence[str]) -> Evidence | None:
    return next((evidence[name] for name in ids if name in evidence), None)


def _joined(names: Iterable[Sequence[str]]) -> str:
    return _SEPARATOR.join(dict.fromkeys(name for several in names for name in several))


def _message(
    dft: Calculation | None,
    by_dft: Stability | None,
    mlip: Calculation | None,
    selection: Selection | None,
    failure: Failure | None,
) -> str:
    if dft is not None and dft.status != "converged":
        return f"DFT {dft.status}: {dft.message}".rstrip(": ")
    if dft is not None and by_dft is None and selection is not None:
        return "DFT converged, its hull is incomplete: a competing phase has no DFT energy"
    if failure is not None:
        return f"{failure.stage}: {failure.error}: {failure.message}"
    if mlip is not None and mlip.status != "converged":
        return f"{mlip.method} {mlip.status}: {mlip.message}".rstrip(": ")
    return ""


def _volume_per_atom(candidate: Proposed, dft: Calculation | None, mlip: Calculation | None) -> float:
    for calculation in (dft, mlip):
        if calculation is not None and calculation.status == "converged":
            volume = _volume(calculation)
            if volume is not None:
                return volume
    return candidate.volume_per_atom


def _volume(calculation: Calculation) -> float | None:
    structure = calculation.structure
    return None if structure is None else float(structure.volume) / len(structure)

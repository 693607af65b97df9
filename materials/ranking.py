"""Ranked table from evidence: one row a material, in an order that is total and the same on every machine.

Pure functions. Decisions take energies and gaps rounded to 0.1 meV (meV/atom), for another batch size or processor
changes the digits behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from materials.records import (
    Calculation,
    Failure,
    Outcome,
    Prediction,
    Proposed,
    RankedCandidate,
    Role,
    Selection,
    Stability,
    Target,
)
from materials.targets import DIGITS, closeness, meets, pareto_front, rounded

Told = TypeVar("Told")
Answer = Calculation | Outcome  # of the potential

_SEPARATOR = "; "


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known of the materials of a campaign.

    Attributes:
        mlip: `material_id` -> the potential's calculation.
        mlip_stability: `material_id` -> stability by the potential.
        dft: `material_id` -> best DFT calculation, failed ones too.
        dft_stability: `material_id` -> stability by DFT.
        predictions: `material_id` -> target -> prediction.
        selections: `material_id` -> why it was chosen.
        failures: `material_id` -> what went wrong.
        targets: What is wished.
        scores: `material_id` -> probability of meeting all targets, for those that DFT has not judged.
    """

    mlip: Mapping[str, Answer]
    mlip_stability: Mapping[str, Stability]
    dft: Mapping[str, Calculation]
    dft_stability: Mapping[str, Stability]
    predictions: Mapping[str, Mapping[str, Prediction]]
    selections: Mapping[str, Selection]
    failures: Mapping[str, Failure]
    targets: Sequence[Target]
    scores: Mapping[str, float] = field(default_factory=dict)


def ranked_groups(
    roles: Mapping[str, Role], *, duplicates: Mapping[str, str], evidence: Evidence
) -> list[tuple[str, ...]]:
    """Order the materials of a campaign.

    Validated candidates that meet all targets come first, then all by score, by closeness to the targets, by energy
    above the hull, by decomposition energy (both of the fidelity that the row shows), by `material_id`. What failed
    comes last.

    Args:
        roles: `material_id` -> role; competing phases get no row unless a candidate is their duplicate.
        duplicates: Duplicate -> the material that stands for it: no row of its own, but its parents and its evidence
            join the other's.
        evidence: What is known of them.

    Returns:
        Of each row its material and the duplicates behind it, first rank first.
    """
    groups = _groups(roles, duplicates)
    return sorted(groups, key=lambda ids: _order(ids[0], _judge(ids, evidence), evidence.targets))


def ranked_rows(
    groups: Sequence[tuple[str, ...]],
    proposed: Callable[[Sequence[str]], Sequence[Proposed]],
    *,
    evidence: Evidence,
    chunk: int = 2_000,
) -> Iterator[RankedCandidate]:
    """Make the rows of the table, first rank first, `chunk` of them in memory at once.

    Args:
        groups: As `ranked_groups` gave them.
        proposed: Reads materials, in the order asked for.
        evidence: The same.
        chunk: How many to read together.
    """
    front = _front(groups, evidence)
    for start in range(0, len(groups), chunk):
        part = groups[start : start + chunk]
        members = iter(proposed([material_id for ids in part for material_id in ids]))
        for place, ids in enumerate(part, start=start + 1):
            row = _row(place, [next(members) for _ in ids], _judge(ids, evidence), evidence)
            yield replace(row, pareto_front=front[ids[0]]) if ids[0] in front else row


def _front(groups: Sequence[tuple[str, ...]], evidence: Evidence) -> dict[str, bool | None]:
    """Say of each validated material whether no other one outdoes it."""
    judged = {ids[0]: _judge(ids, evidence) for ids in groups if _first(evidence.dft, ids) is not None}
    validated = [material_id for material_id, told in judged.items() if told.status == "validated"]
    return dict(zip(validated, pareto_front(evidence.targets, [judged[m].values for m in validated]), strict=True))


def _groups(roles: Mapping[str, Role], duplicates: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Each material with its duplicates behind it, those groups only that hold a candidate."""
    behind: dict[str, list[str]] = {}
    for duplicate, kept in duplicates.items():
        if duplicate in roles and duplicate != kept:
            behind.setdefault(kept, []).append(duplicate)
    groups = []
    for kept in dict.fromkeys(duplicates.get(material_id, material_id) for material_id in roles):
        ids = (*([kept] if kept in roles else []), *sorted(behind.get(kept, ())))
        if any(roles[material_id] == "candidate" for material_id in ids):
            groups.append(ids)
    return groups


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """What the evidence for a material and its duplicates comes to."""

    dft: Calculation | None
    mlip: Answer | None
    by_dft: Stability | None
    by_mlip: Stability | None
    selection: Selection | None
    failure: Failure | None
    status: str
    values: Mapping[str, float | None]  # of DFT
    meets_targets: bool | None
    score: float | None

    @property
    def stability(self) -> Stability | None:
        """By DFT where there is a DFT hull, else by the potential."""
        return self.by_dft or self.by_mlip


def _judge(ids: Sequence[str], evidence: Evidence) -> _Judged:
    dft, mlip = _first(evidence.dft, ids), _first(evidence.mlip, ids)
    by_dft, by_mlip = _first(evidence.dft_stability, ids), _first(evidence.mlip_stability, ids)
    selection, failure = _first(evidence.selections, ids), _first(evidence.failures, ids)
    status = _status(dft, mlip, by_dft, by_mlip, selection, failure)
    values = _values(dft, by_dft)
    met = meets(evidence.targets, values) if status == "validated" else None
    score = float(met) if met is not None else _first(evidence.scores, ids)
    return _Judged(
        dft=dft,
        mlip=mlip,
        by_dft=by_dft,
        by_mlip=by_mlip,
        selection=selection,
        failure=failure,
        status=status,
        values=values,
        meets_targets=met,
        score=None if status == "failed" else score,
    )


def _row(place: int, group: Sequence[Proposed], judged: _Judged, evidence: Evidence) -> RankedCandidate:
    candidate = group[0]
    stability, by_mlip, selection = judged.stability, judged.by_mlip, judged.selection
    believed = _first(evidence.predictions, [member.material_id for member in group]) or {}
    return RankedCandidate(
        rank=place,
        material_id=candidate.material_id,
        formula=candidate.formula,
        chemsys=candidate.chemsys,
        n_sites=candidate.n_sites,
        parents=_joined(member.parents for member in group),
        status=judged.status,
        fidelity=stability.fidelity if stability else None,
        level_of_theory=stability.level_of_theory if stability else None,
        energy_above_hull=stability.energy_above_hull if stability else None,
        decomposition_energy_per_atom=stability.decomposition_energy_per_atom if stability else None,
        formation_energy_per_atom=stability.formation_energy_per_atom if stability else None,
        band_gap=judged.values.get("band_gap"),
        score=judged.score,
        meets_targets=judged.meets_targets,
        energy_above_hull_mlip=by_mlip.energy_above_hull if by_mlip else None,
        decomposition_energy_mlip=by_mlip.decomposition_energy_per_atom if by_mlip else None,
        formation_energy_mlip=by_mlip.formation_energy_per_atom if by_mlip else None,
        predicted={target: (prediction.mean, prediction.std) for target, prediction in sorted(believed.items())},
        round=selection.round if selection else None,
        acquisition=selection.acquisition if selection else None,
        volume_per_atom=_volume_per_atom(candidate, judged),
        known_as=_joined(member.known_as for member in group),
        message=_message(judged),
        magnetic_order=_magnetic_order(judged.dft),
        total_magnetization_per_formula_unit=judged.values.get("total_magnetization_per_formula_unit"),
    )


def _magnetic_order(dft: Calculation | None) -> str | None:
    order = dft.properties.get("magnetic_order") if dft is not None and dft.status == "converged" else None
    return None if order is None else str(order)


def _order(material_id: str, judged: _Judged, targets: Sequence[Target]) -> tuple[Any, ...]:
    close = closeness(targets, judged.values) if judged.status == "validated" else None
    stability = judged.stability
    energies = (stability.energy_above_hull, stability.decomposition_energy_per_atom) if stability else (None, None)
    return (
        not judged.meets_targets,
        judged.status == "failed",
        math.inf if judged.score is None else -round(judged.score, DIGITS),
        close is None,
        close or (),
        *(math.inf if energy is None else energy for energy in map(rounded, energies)),
        material_id,
    )


def _status(
    dft: Calculation | None,
    mlip: Answer | None,
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
        values["volume_per_atom"] = dft.volume_per_atom
    if by_dft is not None:
        values["energy_above_hull"] = by_dft.energy_above_hull
        values["decomposition_energy_per_atom"] = by_dft.decomposition_energy_per_atom
        values["formation_energy_per_atom"] = by_dft.formation_energy_per_atom
    return values


def _first(told: Mapping[str, Told], ids: Sequence[str]) -> Told | None:
    for name in ids:
        if name in told:
            return told[name]
    return None


def _joined(names: Iterable[Sequence[str]]) -> str:
    return _SEPARATOR.join(dict.fromkeys(name for several in names for name in several))


def _message(judged: _Judged) -> str:
    dft, mlip, failure = judged.dft, judged.mlip, judged.failure
    if dft is not None and dft.status != "converged":
        return f"DFT {dft.status}: {dft.message}".rstrip(": ")
    if dft is not None and judged.by_dft is None and judged.selection is not None:
        return "DFT converged, its hull is incomplete: a competing phase has no DFT energy"
    if failure is not None:
        return f"{failure.stage}: {failure.error}: {failure.message}"
    if mlip is not None and mlip.status != "converged":
        return f"{mlip.method} {mlip.status}: {mlip.message}".rstrip(": ")
    return ""


def _volume_per_atom(candidate: Proposed, judged: _Judged) -> float:
    for answer in (judged.dft, judged.mlip):
        if answer is not None and answer.status == "converged" and answer.volume_per_atom is not None:
            return answer.volume_per_atom
    return candidate.volume_per_atom

"""Which phases must be computed beside a candidate, so that its hull is of one level of theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from materials.hull import HullEntry, competing_phases


@dataclass(frozen=True, kw_only=True)
class ValidationPlan:
    """A candidate and the phases that are computed with it.

    Attributes:
        material_id: The candidate.
        phases: Competing phases to compute, elements among them, by material_id.
        stand_ins: A phase that is too large -> the smaller polymorph that stands for it.
        left_out: Phases that are too large and have no smaller polymorph.
    """

    material_id: str
    phases: tuple[str, ...]
    stand_ins: Mapping[str, str]
    left_out: tuple[str, ...]


def plan_validation(
    entries: Sequence[HullEntry], sizes: Mapping[str, int], material_id: str, *, within: float, max_sites: int
) -> ValidationPlan:
    """Choose the competing phases of a candidate.

    They are what it decomposes into, by the potential; all other phases within `within` eV/atom of that facet; and
    the elements, so that the hull has its corners.

    Args:
        entries: Of the potential's hull, one level of theory.
        sizes: Sites in the cell of each entry.
        material_id: The candidate's.
        within: eV/atom above the facet of its decomposition.
        max_sites: Phases with larger cells are left out; where one is among the nearest, its lowest polymorph that is
            small enough takes its place.
    """
    candidate = next(entry for entry in entries if entry.entry_id == material_id)
    inside = [entry for entry in entries if entry.elements <= candidate.elements]
    by_composition: dict[tuple[tuple[str, float], ...], list[HullEntry]] = {}
    for entry in sorted(inside, key=lambda e: (round(e.energy_per_atom, 4), e.entry_id)):
        if entry.entry_id != material_id:
            by_composition.setdefault(_composition(entry), []).append(entry)
    chosen: dict[str, None] = {}
    stand_ins: dict[str, str] = {}
    left_out: list[str] = []
    near = [entry_id for entry_id, _ in competing_phases(inside, candidate, within=within)]
    for entry_id in near:
        entry = next(e for e in inside if e.entry_id == entry_id)
        if sizes[entry_id] <= max_sites:
            chosen[entry_id] = None
            continue
        small = [e for e in by_composition[_composition(entry)] if sizes[e.entry_id] <= max_sites]
        if small:
            stand_ins[entry_id] = small[0].entry_id
            chosen[small[0].entry_id] = None
        else:
            left_out.append(entry_id)
    for element in sorted(candidate.elements):
        polymorphs = by_composition[((element, 1.0),)]
        fitting = [e for e in polymorphs if sizes[e.entry_id] <= max_sites] or polymorphs
        if not any(e.entry_id in chosen for e in polymorphs):
            chosen[fitting[0].entry_id] = None
    return ValidationPlan(
        material_id=material_id, phases=tuple(chosen), stand_ins=stand_ins, left_out=tuple(left_out)
    )


def _composition(entry: HullEntry) -> tuple[tuple[str, float], ...]:
    return tuple((element, round(entry.amounts[element] / entry.n_atoms, 6)) for element in sorted(entry.elements))

"""Competing phases that DFT must compute with a candidate, so that its hull has one level of theory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from materials.stability.stability import HullEntry, competing_phases

Composition = tuple[tuple[str, float], ...]  # element and atomic fraction, in alphabetical order


@dataclass(frozen=True, kw_only=True)
class ValidationPlan:
    """A candidate and the phases that are computed with it.

    Attributes:
        material_id: The candidate.
        phases: Competing phases to compute, elements among them, by material_id.
        stand_ins: A phase that is too large -> the smaller polymorph that stands for it.
        left_out: Phases that are too large and have no smaller polymorph.
        n_known: Phases of its chemical system that need not be computed: a database has their energies.
    """

    material_id: str
    phases: tuple[str, ...]
    stand_ins: Mapping[str, str]
    left_out: tuple[str, ...]
    n_known: int = 0


def plan_validation(
    entries: Sequence[HullEntry],
    sizes: Mapping[str, int],
    material_id: str,
    *,
    within: float,
    max_sites: int,
    polymorphs: int,
    known: Collection[str] = frozenset(),
) -> ValidationPlan:
    """Choose the competing phases of a candidate.

    They are what it decomposes into, by the potential: into its own polymorphs, and into other compositions as if it
    had none (a polymorph that DFT lifts off the hull would otherwise hide them); the other phases within `within`
    eV/atom of those facets; and the elements, so that the hull has its corners. Of each composition only the lowest
    polymorphs are taken.

    Args:
        entries: Of the potential's hull, one level of theory.
        sizes: Sites in the cell of each entry.
        material_id: The candidate's.
        within: eV/atom above the facet of its decomposition.
        max_sites: Phases with larger cells are left out; where a composition has none but larger ones within reach,
            its lowest polymorph that is small enough stands in, however high it lies.
        polymorphs: Most of one composition.
        known: Phases whose energy at the level of the calculations is at hand, so that they are not computed; none of
            them is too large.
    """
    candidate = next(entry for entry in entries if entry.entry_id == material_id)
    inside = {entry.entry_id: entry for entry in entries if entry.elements <= candidate.elements}
    by_composition = _by_composition(entry for entry in inside.values() if entry.entry_id != material_id)
    chosen: list[str] = []
    stand_ins: dict[str, str] = {}
    left_out: list[str] = []
    for composition, ids in _near(inside, candidate, by_composition, within).items():
        small = [
            e.entry_id for e in by_composition[composition] if e.entry_id in known or sizes[e.entry_id] <= max_sites
        ]
        reached = [entry_id for entry_id in small if entry_id in ids]
        chosen += reached[:polymorphs] or small[:1]
        lowest = ids[0]
        if lowest in small:
            continue
        if small:
            stand_ins[lowest] = small[0]
        elif len(composition) == 1:
            chosen.append(lowest)  # a hull cannot do without its corners
        else:
            left_out.append(lowest)
    return ValidationPlan(
        material_id=material_id,
        phases=tuple(phase for phase in chosen if phase not in known),
        stand_ins=stand_ins,
        left_out=tuple(left_out),
        n_known=sum(entry_id in known for entry_id in inside),
    )


def lost_corners(entries: Sequence[HullEntry], plan: ValidationPlan, computed: Collection[str]) -> list[str]:
    """List the phases of a plan without which its candidate's hull has a hole.

    Those are the elements, and what the candidate decomposes into by the potential, where no polymorph of the
    composition has been computed.

    Args:
        entries: Of the potential's hull, as for the plan.
        plan: The candidate's.
        computed: Phases that have an energy.
    """
    known = {entry.entry_id: entry for entry in entries}
    candidate = known[plan.material_id]
    own = _composition(candidate)
    others = [e for e in entries if e.elements <= candidate.elements and _composition(e) != own]
    corners: set[Composition] = {((element, 1.0),) for element in candidate.elements}
    corners |= {_composition(known[name]) for name, _ in competing_phases(others, candidate, within=0.0)}
    lost = []
    for composition in sorted(corners - {own}):
        asked = [phase for phase in plan.phases if _composition(known[phase]) == composition]
        if not any(phase in computed for phase in asked):
            lost += asked
    return lost


def _near(
    inside: Mapping[str, HullEntry],
    candidate: HullEntry,
    by_composition: Mapping[Composition, Sequence[HullEntry]],
    within: float,
) -> dict[Composition, list[str]]:
    """Collect the phases near the facets of the candidate's decomposition, by composition, the nearest first."""
    own = _composition(candidate)
    others = [entry for entry in inside.values() if _composition(entry) != own]
    near: dict[Composition, list[str]] = {}
    for entries in (list(inside.values()), others):
        for entry_id, _ in competing_phases(entries, candidate, within=within):
            known = near.setdefault(_composition(inside[entry_id]), [])
            if entry_id not in known:
                known.append(entry_id)
    for element in sorted(candidate.elements):
        corner = ((element, 1.0),)
        near.setdefault(corner, [by_composition[corner][0].entry_id])
    return near


def _by_composition(entries: Iterable[HullEntry]) -> dict[Composition, list[HullEntry]]:
    """Group phases by composition, the lowest in energy first; ties, at 0.1 meV/atom, go by id."""
    found: dict[Composition, list[HullEntry]] = {}
    for entry in sorted(entries, key=lambda e: (round(e.energy_per_atom, 4), e.entry_id)):
        found.setdefault(_composition(entry), []).append(entry)
    return found


def _composition(entry: HullEntry) -> Composition:
    return tuple((element, round(entry.amounts[element] / entry.n_atoms, 6)) for element in sorted(entry.elements))

"""Stability of materials: energy above the hull and decomposition energy against the competing phases.

Energies are of one level of theory, never mixed. They are exact here; whoever decides by them rounds to 0.1 meV/atom.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from materials.crystals.composition import amounts_of
from materials.errors import HullError
from materials.records import Calculation, Fidelity, Stability
from materials.stability.hull import Facet, Hull, HullEntry, check, check_level, fractions_of

_STEP = 1e-6  # of the atoms: small beside any facet, large beside rounding


def entry_from(calculation: Calculation) -> HullEntry:
    """Make a phase of a calculation that has an energy and a structure.

    Raises:
        HullError: it has none.
    """
    if calculation.energy is None or calculation.structure is None:
        raise HullError(
            f"{calculation.material_id} by {calculation.method} has no energy ({calculation.status}): leave it out"
        )
    return HullEntry(
        entry_id=calculation.material_id,
        amounts={element: float(amount) for element, amount in amounts_of(calculation.structure).items()},
        energy=calculation.energy,
        level_of_theory=calculation.level_of_theory,
        method=calculation.method,
    )


def assess(
    entries: Sequence[HullEntry], queries: Sequence[HullEntry] | None = None, *, fidelity: Fidelity
) -> list[Stability]:
    """Find where each phase stands: its energy above the hull of all entries, and its decomposition energy.

    The decomposition energy is that of falling apart into phases of other compositions: every phase of the same
    composition is left out, so that no polymorph changes it (Bartel et al., doi:10.1038/s41524-020-00362-y; pymatgen's
    `get_phase_separation_energy`). Polymorphs count in the energy above the hull, which is the largest of 0, the
    decomposition energy, and the energy above the lowest other phase of the same composition. An element cannot fall
    apart: its decomposition energy is its energy above its ground state, whose own is 0 and whose decomposition is
    empty.

    Args:
        entries: All competing phases, of one level of theory.
        queries: Phases to judge; None judges each entry.
        fidelity: For the record.

    Raises:
        LevelOfTheoryMismatch: entries and queries are of several levels.
        MissingTerminals: an element of a query has no entry.
        HullError: two entries have one id.
    """
    asked = entries if queries is None else queries
    found = dict(_assess(entries, asked, fidelity))
    return [found[i] for i in range(len(asked))]


def assess_by_system(entries: Sequence[HullEntry], *, fidelity: Fidelity) -> Iterator[Stability]:
    """Judge each entry as `assess` does, one chemical system after the other, with one hull in memory at once."""
    for _, judged in _assess(entries, entries, fidelity):
        yield judged


def _assess(
    entries: Sequence[HullEntry], queries: Sequence[HullEntry], fidelity: Fidelity
) -> Iterator[tuple[int, Stability]]:
    check(entries)
    check_level([*entries, *queries])
    systems = Systems(entries)
    groups: dict[frozenset[str], list[int]] = {}
    for i, query in enumerate(queries):
        groups.setdefault(query.elements, []).append(i)
    for elements, index in groups.items():
        judged = _judge(systems.hull(elements), [queries[i] for i in index], fidelity)
        yield from zip(index, judged, strict=True)


def competing_phases(
    entries: Sequence[HullEntry], candidate: HullEntry, *, within: float = 0.05
) -> list[tuple[str, float]]:
    """List the phases that decide whether a candidate is stable.

    A phase's distance says how far its energy would have to fall before it lowered the hull under the candidate:
    its height above the plane of the candidate's facet on the hull of all others. Where several facets meet under the
    candidate, as for any salt that is a sum of simpler salts, it is the lowest of their planes that counts.

    Args:
        entries: All phases known; the candidate itself, by its id, is left out.
        candidate: The one in question.
        within: How distant a phase may be, eV/atom.

    Returns:
        `entry_id` and distance, eV/atom: the products of the decomposition first, with 0, then the others in the
        candidate's chemical system by distance (rounded to 0.1 meV/atom) and id. Polymorphs are among them.

    Raises:
        LevelOfTheoryMismatch: the levels differ.
        MissingTerminals: an element of the candidate has no other entry.
    """
    check_level([*entries, candidate])
    hull = Hull([entry for entry in entries if entry.entry_id != candidate.entry_id], candidate.elements)
    point = fractions_of([candidate], hull.elements)
    products = hull.decompositions(point)[0]
    # A step away from each phase leads onto the facet whose plane is lowest at that phase.
    planes = hull.planes(point + _STEP * (point - hull.fractions))
    heights = hull.formation_energies - (planes * hull.fractions).sum(axis=1)
    others = [
        (entry.entry_id, max(float(height), 0.0))
        for entry, height in zip(hull.entries, heights, strict=True)
        if height <= within and entry.entry_id not in products
    ]
    return [(name, 0.0) for name in products] + sorted(others, key=lambda phase: (round(phase[1], 4), phase[0]))


class Systems:
    """The hulls of many chemical systems over one set of entries, each built when it is asked for."""

    def __init__(self, entries: Iterable[HullEntry]) -> None:
        self._by_elements: dict[frozenset[str], list[HullEntry]] = {}
        for entry in entries:
            self._by_elements.setdefault(entry.elements, []).append(entry)

    def hull(self, elements: Iterable[str]) -> Hull:
        """Build the hull of a chemical system.

        Raises:
            MissingTerminals: an element has no entry.
        """
        system = frozenset(elements)
        return Hull(self._inside(system), system)

    def _inside(self, system: frozenset[str]) -> list[HullEntry]:
        if 2 ** len(system) > len(self._by_elements):
            subsystems = [elements for elements in self._by_elements if elements <= system]
        else:
            sizes = range(1, len(system) + 1)
            subsystems = [frozenset(names) for size in sizes for names in combinations(system, size)]
        return [entry for elements in subsystems for entry in self._by_elements.get(elements, ())]


def _judge(hull: Hull, queries: Sequence[HullEntry], fidelity: Fidelity) -> list[Stability]:
    fractions = fractions_of(queries, hull.elements)
    energies = np.array([query.energy_per_atom for query in queries])
    formation = energies - fractions @ hull.reference_energies
    above = energies - hull.energies(fractions)
    judged = []
    for i, (query, (energy, products)) in enumerate(zip(queries, _decompositions(hull, fractions), strict=True)):
        judged.append(
            Stability(
                material_id=query.entry_id,
                fidelity=fidelity,
                level_of_theory=query.level_of_theory,
                energy_above_hull=max(float(above[i]), 0.0),
                decomposition_energy_per_atom=float(energies[i]) - energy,
                formation_energy_per_atom=float(formation[i]),
                decomposition={} if query.entry_id in products else products,
                reference_version=hull.version,
            )
        )
    return judged


def _decompositions(hull: Hull, fractions: np.ndarray) -> Iterator[tuple[float, dict[str, float]]]:
    """Give the lowest mixture of phases of other compositions: its energy, and its phases with their shares."""
    energies = hull.energies(fractions)
    # Only a phase of the hull is missed by it; all polymorphs miss the same one.
    missed = hull.has_vertex(fractions) & (len(hull.elements) > 1)
    facets: dict[bytes, Facet] = {}
    for i, products in enumerate(hull.decompositions(fractions)):
        if not missed[i]:
            yield float(energies[i]), products
            continue
        key = fractions[i].tobytes()
        if key not in facets:
            facets[key] = hull.facet(fractions[i], of_others=True)
        yield facets[key].energy, dict(facets[key].decomposition)

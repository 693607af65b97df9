"""Structure types: crystals without their elements, for prototypes to be decorated from.

A type is a primitive cell whose sites are divided into slots; each slot takes one element.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING, Literal

import numpy as np

from materials.crystals.composition import occupant
from materials.sources.prototypes.volume import shortest_contacts

if TYPE_CHECKING:
    from pymatgen.core import Structure

Kind = Literal["metal", "nonmetal", "salt", "alloy"]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Sites that one element takes together."""

    label: str  # the element of the example that sits here
    site: str  # how to speak of it: "4c", "2b+4f", "Cl site"
    count: int  # in the primitive cell
    anion_rank: int  # 0: not for anions; 1: first choice for an anion; 2: for a second one
    charge: float | None = None  # formal charge of an anion here, where it is not the ion's own
    larger: bool = False  # in an alloy, only for an atom larger than all others


@dataclass(frozen=True, kw_only=True, eq=False)
class StructureType:
    """A crystal structure without its elements.

    `matrix` (3, 3) holds the primitive lattice vectors of the example in rows (Å), `frac_coords` (n_sites, 3),
    `slot_of_site` (n_sites,), `contacts` (n_slots, n_slots) the shortest distance (Å) between two slots.
    `swaps` are the permutations of slots that give the same crystal again, the identity among them.
    """

    name: str
    example: str
    kinds: frozenset[Kind]
    slots: tuple[Slot, ...]
    matrix: np.ndarray
    frac_coords: np.ndarray
    slot_of_site: np.ndarray
    contacts: np.ndarray
    swaps: tuple[tuple[int, ...], ...]
    version: str  # of the collection that it is from

    def decorate(self, elements: tuple[str, ...], scale: float = 1.0) -> Structure:
        """Put an element on each slot.

        Args:
            elements: One symbol for each slot.
            scale: Factor on all lengths of the example's cell.
        """
        from pymatgen.core import Structure

        species = [occupant(elements[slot]) for slot in self.slot_of_site]
        return Structure(self.matrix * scale, species, self.frac_coords)


@cache
def element_kinds(symbol: str) -> frozenset[Kind]:
    """Which sorts of structure an element may take: a p-block metal such as Sn or Bi both."""
    from pymatgen.core import Element

    element = Element(symbol)
    kinds: list[Kind] = ["metal"] if element.is_metal else []
    return frozenset(kinds + (["nonmetal"] if not element.is_metal or element.block == "p" else []))


def assemble(
    *,
    name: str,
    example: str,
    kinds: Iterable[Kind],
    slots: tuple[Slot, ...],
    matrix: np.ndarray,
    frac: np.ndarray,
    labels: list[str],
    version: str,
) -> StructureType:
    """Make a type of a primitive cell whose sites carry the slots' labels; works out contacts and swaps."""
    order = {slot.label: i for i, slot in enumerate(slots)}
    slot_of_site = np.array([order[label] for label in labels])
    return StructureType(
        name=name,
        example=example,
        kinds=frozenset(kinds),
        slots=slots,
        matrix=matrix,
        frac_coords=frac,
        slot_of_site=slot_of_site,
        contacts=shortest_contacts(matrix, frac, slot_of_site, len(slots)),
        swaps=_swaps(matrix, frac, slot_of_site, [slot.count for slot in slots]),
        version=version,
    )


def _swaps(
    matrix: np.ndarray, frac: np.ndarray, slot_of_site: np.ndarray, counts: list[int]
) -> tuple[tuple[int, ...], ...]:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    identity = tuple(range(len(counts)))
    dummies = ["H", "He", "Li", "Be", "B", "C", "N", "O"]
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1, primitive_cell=False, scale=False)

    def coloured(order: tuple[int, ...]) -> Structure:
        return Structure(matrix, [dummies[order[slot]] for slot in slot_of_site], frac)

    alike = [p for p in permutations(identity) if p != identity and [counts[i] for i in p] == counts]
    return (identity, *(p for p in alike if matcher.fit(coloured(identity), coloured(p))))

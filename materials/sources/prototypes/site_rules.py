"""Elements that each site of a structure type can hold: by charge, by anion site, and by size."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Literal

from materials.sources.prototypes.structure_type import StructureType, element_kinds
from materials.sources.prototypes.volume import metallic_radius

Decorate = Literal["typical", "all"]


def accept(
    structure_type: StructureType,
    elements: tuple[str, ...],
    options: list[tuple[int, ...]],
    decorate: Decorate,
    charge_neutral: bool,
) -> frozenset[str] | None:
    """Say which elements are the anions in the first combination of charges that the type can hold.

    Args:
        structure_type: Whether it can hold them.
        elements: One for each slot.
        options: Charges that each may have, most common first.
        decorate: `typical` keeps anions on the sites where the type has them, and the larger atom of a packed alloy
            on the larger site; `all` does not mind.
        charge_neutral: Whether charges must add up to zero.

    Returns:
        The anions, none in an alloy or an element; None if it holds them in no way.
    """
    if len(elements) == 1:
        return frozenset() if structure_type.kinds & element_kinds(elements[0]) else None
    # An element that can be an anion makes a salt; without the charge rule it may make an alloy as well.
    alloy = (
        "alloy" in structure_type.kinds
        and not (charge_neutral and any(min(o) < 0 for o in options))
        and (decorate == "all" or _has_room(structure_type, elements))
    )
    anions = _anion_slots(structure_type, tuple(options), decorate, charge_neutral, alloy)
    return None if anions is None else frozenset(elements[i] for i in anions)


@lru_cache(maxsize=10_000)
def _anion_slots(
    structure_type: StructureType,
    options: tuple[tuple[int, ...], ...],
    decorate: Decorate,
    charge_neutral: bool,
    alloy: bool,
) -> tuple[int, ...] | None:
    """The slots of the anions in the first combination of charges that the type can hold, or None.

    Many elements have the same charges to choose from, so that few of the calls for one type are new.
    """
    for charges in product(*options):
        salt = any(q < 0 for q in charges)
        if _holds_salt(structure_type, charges, decorate, charge_neutral) if salt else alloy:
            return tuple(i for i, q in enumerate(charges) if q < 0)
    return None


def _holds_salt(
    structure_type: StructureType, charges: tuple[int, ...], decorate: Decorate, charge_neutral: bool
) -> bool:
    slots = structure_type.slots
    n_anions = sum(q < 0 for q in charges)
    if n_anions == len(charges) or "salt" not in structure_type.kinds:
        return False
    if decorate == "typical" and not all(
        1 <= slot.anion_rank <= n_anions for slot, q in zip(slots, charges, strict=True) if q < 0
    ):
        return False
    if not charge_neutral:
        return True
    total = sum(
        slot.count * (slot.charge if q < 0 and slot.charge is not None else q)
        for slot, q in zip(slots, charges, strict=True)
    )
    return abs(total) < 1e-6


def _has_room(structure_type: StructureType, elements: tuple[str, ...]) -> bool:
    """Whether the slots that need the larger atom have it."""
    radii = [metallic_radius(e) for e in elements]
    return all(
        radii[i] > max(r for j, r in enumerate(radii) if j != i)
        for i, slot in enumerate(structure_type.slots)
        if slot.larger
    )

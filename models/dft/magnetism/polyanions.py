"""Charges of anions that are bonded to each other: S2 in pyrite is 2-, As4 in skutterudites 4-."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.dft.magnetism.radicals import SUPEROXIDE, electrons_wanted

if TYPE_CHECKING:
    from pymatgen.core import Structure

PNICTOGENS = frozenset(["P", "As", "Sb"])
CHALCOGENS = frozenset(["S", "Se", "Te"])
ANIONS = PNICTOGENS | CHALCOGENS | {"N", "O", "F", "Cl", "Br", "I"}
# Beside these, or with multiple bonds, an anion's charge does not follow from the number of its bonds.
OTHERS = frozenset(["H", "B", "C", "Si"])
TETRAHEDRAL = frozenset(["P", "As"])  # four bonds of two electrons each, one of them with both of its own
BONDED = 0.3  # Å above the sum of covalent radii: layers of tellurides and square nets of antimony are further apart


@dataclass(frozen=True, kw_only=True)
class Polyanions:
    """What bonds between anions say of a crystal.

    Attributes:
        charge: Of all anions of the cell together, those without such bonds too.
        strong_field: Whether pnictogens or chalcogens that are bonded to each other are what the metals have about
            them, and not oxygen of a peroxide, or sulfur about a pair of phosphorus (FePS3).
    """

    charge: int
    strong_field: bool


def polyanions_of(structure: Structure) -> Polyanions | None:
    """Count the anions of a crystal by their bonds where pnictogens, chalcogens or oxygens are bonded to their like.

    A bond gives each of its two atoms one of the electrons that fill its shell (the 8 - N rule of Zintl phases); the
    oxygens of a superoxide share one electron more.

    Args:
        structure: Ordered crystal.

    Returns:
        None where there are no such bonds, or the rule does not hold: the composition has to tell then.
    """
    from ase.data import covalent_radii

    symbols = [site.specie.symbol for site in structure]
    radii = {k: float(covalent_radii[structure[k].specie.Z]) for k, symbol in enumerate(symbols) if symbol in ANIONS}
    if not radii or OTHERS & set(symbols):
        return None
    first, second, _, distances = structure.get_neighbor_list(2 * max(radii.values()) + BONDED)
    bonds = [
        (i, j, distance)
        for i, j, distance in zip(first.tolist(), second.tolist(), distances.tolist(), strict=True)
        if i in radii and j in radii and distance < radii[i] + radii[j] + BONDED
    ]
    made = Counter(i for i, _, _ in bonds)
    wanted = {k: electrons_wanted(structure[k].specie.Z) for k in radii}
    if any(n > (4 if symbols[k] in TETRAHEDRAL else wanted[k]) or symbols[k] == "N" for k, n in made.items()):
        return None

    def are_alike(i: int, j: int) -> bool:
        both = {symbols[i], symbols[j]}
        if any(both <= alike for alike in (PNICTOGENS, CHALCOGENS, {"O"})):
            return True
        # AsS in cobaltite; a pnictogen with three of its bonds to sulfur is a cation by any other name.
        return both <= PNICTOGENS | CHALCOGENS and symbols[i] in PNICTOGENS and made[i] < wanted[i]

    pairs = [(i, j) for i, j, _ in bonds if are_alike(i, j)]
    if not pairs:
        return None
    in_superoxides = sum(symbols[i] == symbols[j] == "O" and distance < SUPEROXIDE for i, j, distance in bonds)
    return Polyanions(
        charge=len(bonds) + in_superoxides // 2 - sum(wanted.values()),
        strong_field=any(symbols[i] != "O" and all(made[k] <= wanted[k] for k in (i, j)) for i, j in pairs),
    )

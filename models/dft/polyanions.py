"""The charge of anions that are bonded to each other, by their bonds: S2 in pyrite is 2-, As4 in skutterudites 4-."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from models.dft.radicals import SUPEROXIDE, electrons_wanted

if TYPE_CHECKING:
    from pymatgen.core import Structure

PNICTOGENS = frozenset(["P", "As", "Sb"])
CHALCOGENS = frozenset(["S", "Se", "Te"])
ANIONS = PNICTOGENS | CHALCOGENS | {"N", "O", "F", "Cl", "Br", "I"}
# Beside these, or with multiple bonds, an anion's charge does not follow from the number of its bonds.
OTHERS = frozenset(["H", "B", "C", "Si"])
BONDED = 0.3  # Å above the sum of covalent radii: layers of tellurides and square nets of antimony are further apart


def polyanion_charge(structure: Structure) -> int | None:
    """Charge of all anions of a cell where some pnictogens, chalcogens or oxygens are bonded to each other.

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
    if any(n > wanted[k] or symbols[k] == "N" for k, n in made.items()):
        return None

    def is_polyanion(i: int, j: int) -> bool:
        both = {symbols[i], symbols[j]}
        if any(both <= alike for alike in (PNICTOGENS, CHALCOGENS, {"O"})):
            return True
        # AsS in cobaltite; a pnictogen with three of its bonds to sulfur is a cation by any other name.
        return both <= PNICTOGENS | CHALCOGENS and symbols[i] in PNICTOGENS and made[i] < wanted[i]

    if not any(is_polyanion(i, j) for i, j, _ in bonds):
        return None
    in_superoxides = sum(symbols[i] == symbols[j] == "O" and distance < SUPEROXIDE for i, j, distance in bonds)
    return -(sum(wanted.values()) - len(bonds) - in_superoxides // 2)

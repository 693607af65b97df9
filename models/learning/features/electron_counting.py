"""Electron counting: how well a composition can close its shells, and so whether it may have a gap.

A salt whose ions can all have closed shells, by charges that add up to zero, may be an insulator; an odd number of
electrons in the formula unit cannot be one without magnetism. Pauling's and Zintl's rule, as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, lru_cache

from pymatgen.core import Element

from materials.crystals.elements import SYMBOLS

FEATURES = ("closed_shell_imbalance", "charge_imbalance", "odd_electrons")
ANION = 2.0  # Pauling electronegativity above which an atom fills its shell rather than empties it
LOW_SPIN = (8, 9, 10)  # groups of the metals that are often found as low-spin d6
SQUARE_PLANAR = ("Ni", "Pd", "Pt", "Au")  # and as d8
HIGHEST_CHARGE = 8


@lru_cache(maxsize=100_000)
def count_electrons(amounts: tuple[tuple[int, int], ...]) -> tuple[float, float, float]:
    """Count the electrons of a composition.

    Args:
        amounts: Atomic number and number of atoms of each element; the size of the cell does not matter.

    Returns:
        What is missing to a balance of closed-shell ions, and to one of common oxidation states, in electrons an
        atom (0 where one balances); and 1.0 for an odd number of electrons in the reduced formula, else 0.0.
    """
    units = math.gcd(*(count for _, count in amounts))
    reduced = {SYMBOLS[number - 1]: count // units for number, count in amounts}
    odd = sum(number * count // units for number, count in amounts) % 2
    return _imbalance(reduced, closed_shell_charges), _imbalance(reduced, _common_charges), float(odd)


@cache
def closed_shell_charges(symbol: str) -> tuple[int, ...]:
    """Charges (e) with which an element is left with closed shells.

    Empty or full s, p and d shells, the lone pair (s2) of the p block, a filled octet for the electronegative ones,
    low-spin d6, square-planar d8. The f block, whose f electrons are as good as core, has its common charges.
    """

    element = Element(symbol)
    group, negativity = element.group, element.X
    if symbol == "H":
        return (-1, 1)
    if element.is_lanthanoid or element.is_actinoid:
        return _common_charges(symbol)
    if group <= 2:
        return (group,)
    if group == 18:
        return (0,)
    if group <= 12:
        charges = {group, group - 10}
        if group in LOW_SPIN:
            charges.add(group - 6)
        if symbol in SQUARE_PLANAR:
            charges.add(group - 8)
        return tuple(sorted(q for q in charges if 0 < q <= HIGHEST_CHARGE))
    valence = group - 10
    charges = {valence, valence - 2}
    if group >= 14 and negativity > ANION:
        charges.add(group - 18)
    if symbol in ("O", "F"):
        charges = {group - 18}
    return tuple(sorted(charges - {0}))


@cache
def _common_charges(symbol: str) -> tuple[int, ...]:

    return tuple(Element(symbol).common_oxidation_states) or (0,)


def _imbalance(amounts: Mapping[str, int], charges: Callable[[str], tuple[int, ...]]) -> float:
    """Smallest absolute charge that one state for each element can come to, e an atom."""
    sums = {0}
    for symbol, amount in amounts.items():
        sums = {total + amount * charge for total in sums for charge in charges(symbol) or (0,)}
    return min(map(abs, sums)) / sum(amounts.values())

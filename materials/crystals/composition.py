"""Compositions of structures, counted once, where pymatgen makes a new one at each call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pymatgen.core import Composition, Element, Species, Structure

Answer = TypeVar("Answer")


def per_site(structure: Structure, read: Callable[[Composition], Answer]) -> list[Answer]:
    """Ask what is on each site something, once for all sites that share it."""
    answers: dict[int, Answer] = {}
    found = []
    for site in structure:
        species = site.species
        if id(species) not in answers:
            answers[id(species)] = read(species)
        found.append(answers[id(species)])
    return found


def species_of(structure: Structure) -> list[Element | Species]:
    """Name what sits on each site of an ordered structure."""
    return per_site(structure, _only)


def _only(species: Composition) -> Element | Species:
    (only,) = species
    return only


def amounts_of(structure: Structure) -> dict[str, float]:
    """Count the atoms of each element in the cell; oxidation states are left aside."""
    amounts: dict[str, float] = {}
    for parts in per_site(structure, _parts):
        for symbol, amount in parts:
            amounts[symbol] = amounts.get(symbol, 0) + amount
    return amounts


def _parts(species: Composition) -> list[tuple[str, float]]:
    return [(part.symbol, amount) for part, amount in species.items()]


def reduced_formula(structure: Structure) -> str:
    """Write the reduced formula as pymatgen does: `LiFePO4`."""
    return formula_of(amounts_of(structure))


def formula_of(amounts: Mapping[str, float]) -> str:
    """Write the reduced formula of so many atoms of each element."""
    counts = sorted(amounts.items())
    if all(amount == int(amount) for _, amount in counts):
        units = math.gcd(*(int(amount) for _, amount in counts)) or 1
        return _formula(tuple((symbol, int(amount) // units) for symbol, amount in counts))
    return _formula(tuple(counts))


@lru_cache(maxsize=100_000)
def _formula(amounts: tuple[tuple[str, float], ...]) -> str:
    from pymatgen.core import Composition

    return str(Composition(dict(amounts)).reduced_formula)


@lru_cache(maxsize=1_000)
def occupant(symbol: str) -> Composition:
    """Make what pymatgen puts on a site, once for all sites: `Fe`, `Fe2+`."""
    from pymatgen.core import Composition
    from pymatgen.core.periodic_table import get_el_sp

    return Composition({get_el_sp(symbol): 1})


@lru_cache(maxsize=1_000)
def symbol_of(name: str) -> str:
    """Say which element a species is of: `Fe2+` of `Fe`."""
    return str(_only(occupant(name)).symbol)

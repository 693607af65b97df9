"""Phases: what stands in a hull, and what may stand in one together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from materials.errors import HullError, LevelOfTheoryMismatch

SAME_COMPOSITION = 1e-8  # by which atomic fractions of one composition may differ, as in pymatgen


@dataclass(frozen=True, kw_only=True, slots=True)
class HullEntry:
    """A phase: what it is made of, and its total energy.

    Attributes:
        n_atoms: Atoms in the cell.
        energy_per_atom: Total energy in eV/atom.
        elements: The elements of which it holds any.
    """

    entry_id: str  # the material_id
    amounts: Mapping[str, float]  # element -> atoms in the cell
    energy: float  # eV, total, in the convention of level_of_theory
    level_of_theory: str
    method: str
    n_atoms: float = field(init=False, repr=False, compare=False)
    energy_per_atom: float = field(init=False, repr=False, compare=False)
    elements: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n_atoms = float(sum(self.amounts.values()))
        object.__setattr__(self, "n_atoms", n_atoms)
        object.__setattr__(self, "energy_per_atom", self.energy / n_atoms)
        object.__setattr__(self, "elements", _elements(tuple(e for e, amount in self.amounts.items() if amount > 0)))


@lru_cache(maxsize=100_000)
def _elements(symbols: tuple[str, ...]) -> frozenset[str]:
    return frozenset(symbols)  # one for all phases of a chemical system


def fractions_of(entries: Sequence[HullEntry], elements: Sequence[str]) -> np.ndarray:
    """Give atomic fractions `(n_entries, n_elements)`, columns in the order of `elements`."""
    amounts = np.array([[entry.amounts.get(element, 0.0) for element in elements] for entry in entries], dtype=float)
    return amounts.reshape(len(entries), len(elements)) / np.array([[entry.n_atoms] for entry in entries])


def of_composition(fractions: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Tell which rows `(n,)` of atomic fractions `(n, n_elements)` have the composition `point`."""
    found = np.ones(len(fractions), dtype=bool)
    for column, share in zip(fractions.T, point, strict=True):  # a reduction over so few columns takes thrice as long
        found &= np.abs(column - share) <= SAME_COMPOSITION
    return found


def check(entries: Sequence[HullEntry]) -> None:
    """Refuse entries that cannot stand in one hull.

    Raises:
        LevelOfTheoryMismatch: they are of several levels.
        HullError: two have one id, or an energy is no number.
    """
    check_level(entries)
    seen: set[str] = set()
    for entry in entries:
        if entry.entry_id in seen:
            raise HullError(f"Two phases of one hull are called {entry.entry_id}: give each material one energy")
        if not np.isfinite(entry.energy):
            raise HullError(f"The energy of {entry.entry_id} by {entry.method} is {entry.energy}: leave it out")
        seen.add(entry.entry_id)


def check_level(entries: Iterable[HullEntry]) -> None:
    """Refuse to mix levels of theory.

    Raises:
        LevelOfTheoryMismatch: there are several.
    """
    levels = {entry.level_of_theory: f"{entry.entry_id} by {entry.method}" for entry in entries}
    if len(levels) > 1:
        found = ", ".join(f"{level} ({example})" for level, example in sorted(levels.items()))
        raise LevelOfTheoryMismatch(f"Energies of one hull must mean the same; found {found}")

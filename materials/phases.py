"""Phases: what stands in a hull, and what may stand in one together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from materials.errors import HullError, LevelOfTheoryMismatch


@dataclass(frozen=True, kw_only=True)
class HullEntry:
    """A phase: what it is made of, and its total energy."""

    entry_id: str  # the material_id
    amounts: Mapping[str, float]  # element -> atoms in the cell
    energy: float  # eV, total, in the convention of level_of_theory
    level_of_theory: str
    method: str

    @cached_property
    def n_atoms(self) -> float:
        """Atoms in the cell."""
        return float(sum(self.amounts.values()))

    @cached_property
    def energy_per_atom(self) -> float:
        """Total energy in eV/atom."""
        return self.energy / self.n_atoms

    @cached_property
    def elements(self) -> frozenset[str]:
        """The elements of which it holds any."""
        return frozenset(element for element, amount in self.amounts.items() if amount > 0)


def fractions_of(entries: Sequence[HullEntry], elements: Sequence[str]) -> np.ndarray:
    """Give atomic fractions `(n_entries, n_elements)`, columns in the order of `elements`."""
    amounts = np.array([[entry.amounts.get(element, 0.0) for element in elements] for entry in entries], dtype=float)
    return amounts.reshape(len(entries), len(elements)) / np.array([[entry.n_atoms] for entry in entries])


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

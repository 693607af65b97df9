"""Crystals as arrays and labels, for code that looks at thousands without making sites of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers

from materials.crystals.composition import species_of, symbol_of
from materials.crystals.serialization import structure_from_json

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Crystal:
    """An ordered crystal.

    Attributes:
        matrix: Lattice vectors in rows (Å), shape (3, 3).
        frac_coords: Shape (n_sites, 3).
        species: What is on each site, as pymatgen writes it: `Fe`, `Fe2+`.
        structure: Gives it as pymatgen's structure.
    """

    matrix: np.ndarray
    frac_coords: np.ndarray
    species: tuple[str, ...]
    structure: Callable[[], Structure]

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers, shape (n_sites,)."""

        return np.array([atomic_numbers[symbol_of(name)] for name in self.species])

    @property
    def amounts(self) -> dict[str, float]:
        """Count the atoms of each element in the cell; oxidation states are left aside."""
        amounts: dict[str, float] = {}
        for name in self.species:
            symbol = symbol_of(name)
            amounts[symbol] = amounts.get(symbol, 0.0) + 1.0
        return amounts

    @property
    def volume(self) -> float:
        """Of the cell, Å³."""
        (a, b, c), (d, e, f), _ = self.matrix.tolist()
        # numpy's cross product, which takes ten times as long for a single one.
        return float(abs(np.dot(np.array([b * f - c * e, c * d - a * f, a * e - b * d]), self.matrix[2])))


def crystal_of(structure: Structure) -> Crystal:
    """Take what there is to know of an ordered structure."""
    return Crystal(
        matrix=structure.lattice.matrix,
        frac_coords=structure.frac_coords,
        species=tuple(map(str, species_of(structure))),
        structure=lambda: structure,
    )


def crystal_from_json(text: str) -> Crystal:
    """Read an ordered structure as `structure_to_json` wrote it, equal bit by bit."""
    content = json.loads(text)
    return Crystal(
        matrix=np.array(content["lattice"], dtype=np.float64),
        frac_coords=np.array(content["coords"], dtype=np.float64),
        species=tuple(content["species"]),
        structure=partial(structure_from_json, text),
    )

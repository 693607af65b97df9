"""What every interatomic potential offers: many crystals in, energies, forces and stresses out.

Units: eV, Å, eV/Å, eV/Å³. A cell holds its vectors as rows. Stress has ASE's sign, the derivative of the energy
with respect to strain divided by the volume: a crystal that wants to expand has a negative one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pymatgen.core import Structure

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Crystal:
    """A crystal as arrays, periodic in three directions.

    `numbers` are atomic numbers `(n_atoms,)`, `positions` are in Å `(n_atoms, 3)`, `cell` in Å `(3, 3)` with its
    vectors as rows.
    """

    numbers: NDArray[np.int64]
    positions: FloatArray
    cell: FloatArray

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, kw_only=True)
class PotentialIdentity:
    """What a potential is, without its model in memory.

    `correction` names the correction scheme that raw energies still need to reach `level_of_theory`; None where
    they are there already.
    """

    method: str  # "chgnet-0.3.0"
    level_of_theory: str  # "PBE+U/MP2020"
    correction: str | None
    weights_hash: str  # of the content of the weights' files
    elements: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a potential says of a batch of `n` crystals.

    A crystal that the potential has no answer for has NaN in all its numbers and a sentence in `problems`; the
    others are as if it had not been there.
    """

    energies: FloatArray  # (n,) eV, total
    forces: list[FloatArray]  # each (n_atoms, 3) eV/Å
    stresses: FloatArray  # (n, 3, 3) eV/Å³
    problems: list[str | None]
    latents: NDArray[np.float32] | None = None  # (n, d), a mean over the atoms
    magmoms: list[NDArray[np.float32]] | None = None  # each (n_atoms,) μB, absolute values


def no_answer(crystals: Sequence[Crystal], problems: Sequence[str | None]) -> Evaluation:
    """An evaluation full of NaN, to be filled in where there is an answer."""
    return Evaluation(
        energies=np.full(len(crystals), np.nan),
        forces=[np.full((len(crystal), 3), np.nan) for crystal in crystals],
        stresses=np.full((len(crystals), 3, 3), np.nan),
        problems=list(problems),
    )


class Potential(Protocol):
    """An interatomic potential: an identity that can evaluate crystals."""

    @property
    def method(self) -> str:
        """As `PotentialIdentity` says."""
        ...

    @property
    def level_of_theory(self) -> str:
        """As `PotentialIdentity` says."""
        ...

    @property
    def correction(self) -> str | None:
        """As `PotentialIdentity` says."""
        ...

    @property
    def weights_hash(self) -> str:
        """As `PotentialIdentity` says."""
        ...

    @property
    def elements(self) -> frozenset[str]:
        """As `PotentialIdentity` says."""
        ...

    @property
    def batch_cost(self) -> float:
        """The sum of costs at which a batch is full: where a larger one would be no faster, or would not fit."""
        ...

    def evaluate(self, crystals: Sequence[Crystal]) -> Evaluation:
        """Energies, forces and stresses of all `crystals`, which may be none."""
        ...

    def cost(self, crystal: Crystal) -> float:
        """How much of a batch `crystal` takes, in the potential's own unit."""
        ...


def crystal_of(structure: Structure) -> Crystal:
    """Turn an ordered pymatgen structure into arrays.

    Raises:
        ValueError: If a site is disordered or holds something that is not an element.
    """
    numbers = []
    for site in structure:
        number = getattr(site.specie, "Z", None) if site.is_ordered else None
        if not number:
            raise ValueError(f"site {site.species_string} is not one atom of one element")
        numbers.append(number)
    return Crystal(
        numbers=np.array(numbers, dtype=np.int64),
        positions=np.ascontiguousarray(structure.cart_coords, dtype=np.float64).reshape(-1, 3),
        cell=np.array(structure.lattice.matrix, dtype=np.float64),
    )


def fixed_sites(structure: Structure) -> NDArray[np.bool_]:
    """Read which sites a structure holds, `(n_sites,)`, from pymatgen's `selective_dynamics`.

    Raises:
        ValueError: If a site may move along some lattice vectors only.
    """
    flags = structure.site_properties.get("selective_dynamics")
    if flags is None:
        return np.zeros(len(structure), dtype=bool)
    free = np.array([(True,) * 3 if flag is None else tuple(flag) for flag in flags], dtype=bool)
    partly = np.flatnonzero(free.any(axis=1) != free.all(axis=1))
    if len(partly):
        raise ValueError(
            f"selective_dynamics of site {partly[0]} hold it along some lattice vectors only: give T T T or F F F"
        )
    return np.asarray(~free.any(axis=1), dtype=bool)


def structure_of(crystal: Crystal) -> Structure:
    """Turn arrays into a pymatgen structure, its atoms left in the periodic images where they are."""
    from pymatgen.core import Element, Lattice, Structure

    return Structure(
        Lattice(crystal.cell),
        [Element.from_Z(int(number)) for number in crystal.numbers],
        crystal.positions,
        coords_are_cartesian=True,
    )

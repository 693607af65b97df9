"""Structures that potentials are tested on."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Lattice, Structure


def half_heusler() -> Structure:
    sites = [[0.0] * 3, [0.25] * 3, [0.5] * 3]
    return Structure.from_spacegroup("F-43m", Lattice.cubic(5.7), ["Li", "P", "Zn"], sites).get_primitive_structure()


def spinel() -> Structure:
    sites = [[0.0] * 3, [0.625] * 3, [0.3872] * 3]
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(8.1), ["Mg", "Al", "O"], sites).get_primitive_structure()


def perovskite() -> Structure:
    return Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.95), ["Sr", "Ti", "O"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]]
    )


def copper() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]]).get_primitive_structure()


def hematite() -> Structure:
    sites = [[0, 0, 0.3553], [0.3059, 0, 0.25]]
    return Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(5.03, 13.75), ["Fe", "O"], sites
    ).get_primitive_structure()


def layered() -> Structure:
    sites = [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.2395]]
    return Structure.from_spacegroup(
        "R-3m", Lattice.hexagonal(2.82, 14.05), ["Li", "Co", "O"], sites
    ).get_primitive_structure()


def molecule() -> Structure:
    """A water molecule in a box."""
    atoms = [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]
    return Structure(Lattice.cubic(9.0), ["O", "H", "H"], atoms, coords_are_cartesian=True)


def skewed() -> Structure:
    """Rock salt in a cell with angles of 31 and 148 degrees."""
    cell = half_heusler().lattice.matrix
    structure = half_heusler()
    turned = np.array([cell[0], cell[1] + 2 * cell[0], cell[2] - cell[1] - cell[0]])
    return Structure(Lattice(turned), structure.species, structure.cart_coords, coords_are_cartesian=True)


def shaken(structure: Structure, seed: int, *, moves: float = 0.08, strain: float = 0.03) -> Structure:
    """Without symmetry: every atom moved and the cell strained at random."""
    rng = np.random.default_rng(seed)
    deformation = np.eye(3) + rng.uniform(-strain, strain, (3, 3))
    return Structure(
        Lattice(structure.lattice.matrix @ deformation),
        structure.species,
        structure.cart_coords @ deformation + rng.normal(scale=moves, size=(len(structure), 3)),
        coords_are_cartesian=True,
    )

"""Rough classical exchange model, which ranks the antiferromagnetic orders of a crystal and no more.

Bridges M–X–M through an anion couple the stronger the straighter they are (Goodenough, Kanamori, Anderson:
https://doi.org/10.1103/PhysRev.100.564); what lies near each other without a bridge couples weakly.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.dft.magnetism.moments import Magnetism

if TYPE_CHECKING:
    from pymatgen.core import Structure

NEIGHBOURS = 5.5  # Å, beyond which moments do not see each other
BONDED = 1.3  # of the sum of covalent radii, a cation and the anion that bridges it to others
DIRECT = 0.1  # strength of the shortest distance without a bridge, a straight bridge being 1
DECAY = 0.5  # Å
GRID = 2


def couplings(cell: Structure, magnetism: Magnetism) -> NDArray[np.float64]:
    """How strongly each two centres want to be antiparallel, those of one phase on two cells along each axis added up.

    Args:
        cell: Primitive.
        magnetism: Its moments.

    Returns:
        Between a centre of the first cell and one of each cell, shape (n_centres, n_centres, 2, 2, 2); all 0 where no
        two moments neighbour each other.
    """
    n = len(magnetism.centres)
    found = np.zeros((n, n, GRID, GRID, GRID))
    bonds = [*_direct(cell, magnetism), *_bridges(cell, magnetism)]
    for a, b, image, strength in bonds:
        x, y, z = image % GRID
        found[a, b, x, y, z] += strength
    return found


Bond = tuple[int, int, NDArray[np.int64], float]


def _direct(cell: Structure, magnetism: Magnetism) -> list[Bond]:
    from pymatgen.core import DummySpecies, Structure

    places = [np.mean([cell[k].frac_coords + np.array(r) for k, r in unit], axis=0) for unit in magnetism.centres]
    centres = Structure(cell.lattice, [DummySpecies("X")] * len(places), places)
    first, second, images, distances = centres.get_neighbor_list(NEIGHBOURS)
    if not len(distances):
        return []
    strengths = DIRECT * np.exp(-(distances - distances.min()) / DECAY)
    return [
        (int(a), int(b), np.round(image).astype(np.int64), float(strength))
        for a, b, image, strength in zip(first, second, images, strengths, strict=True)
    ]


def _bridges(cell: Structure, magnetism: Magnetism) -> list[Bond]:
    from ase.data import covalent_radii

    owners = {k: (c, np.array(r)) for c, unit in enumerate(magnetism.centres) for k, r in unit}
    radii = covalent_radii[[site.specie.Z for site in cell]]
    first, second, images, distances = cell.get_neighbor_list(BONDED * 2 * float(radii.max()))
    legs: dict[int, list[tuple[int, NDArray[np.int64], float]]] = {}
    for x, m, image, distance in zip(first.tolist(), second.tolist(), images, distances, strict=True):
        anion = x not in owners and not cell[x].specie.is_metal
        if anion and m in owners and distance < BONDED * (radii[x] + radii[m]):
            legs.setdefault(x, []).append((m, np.round(image).astype(np.int64), float(distance)))
    shortest = min((distance for ends in legs.values() for _, _, distance in ends), default=0.0)
    bonds: list[Bond] = []
    for x, ends in legs.items():
        for (m, r, p), (other, s, q) in combinations(ends, 2):
            arms = [
                cell.lattice.get_cartesian_coords(cell[k].frac_coords + t - cell[x].frac_coords)
                for k, t in ((m, r), (other, s))
            ]
            cosine = float(arms[0] @ arms[1]) / (p * q)
            strength = max(0.0, -cosine) ** 2 * float(np.exp(-(p + q - 2 * shortest) / DECAY))
            (a, at), (b, bt) = owners[m], owners[other]
            image = (s - bt) - (r - at)
            if strength > 1e-6 and (a != b or image.any()):
                bonds += [(a, b, image, strength), (b, a, -image, strength)]
    return bonds

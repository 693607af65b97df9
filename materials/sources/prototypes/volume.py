"""Volume of a cell for the atoms put into it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import numpy as np

# How near two atoms may stand, as a fraction of the sum of their covalent radii (Cordero, DOI 10.1039/b801115j) or, in
# metals, metallic radii. Chosen so that volumes after relaxation with CHGNet are met best over I-II-V compounds, their
# binaries and elements: root mean square of ln(V / V relaxed) 0.20. Cation and anion touch; ions of one sort only
# must not overlap; an alloy is a little denser than its elements.
_CATION_ANION = 1.0
_LIKE_IONS = 0.80
_ALLOY = 0.95


def shortest_contacts(
    matrix: np.ndarray, frac_coords: np.ndarray, slot_of_site: np.ndarray, n_slots: int
) -> np.ndarray:
    """Shortest distance (Å) between atoms of each two slots, images of one atom included.

    Args:
        matrix: Lattice vectors in rows (Å), shape (3, 3).
        frac_coords: Shape (n_sites, 3).
        slot_of_site: Which slot each site belongs to, shape (n_sites,).
        n_slots: How many slots there are.

    Returns:
        Symmetric, shape (n_slots, n_slots).
    """
    from pymatgen.core import Structure

    structure = Structure(matrix, ["H"] * len(frac_coords), frac_coords)
    # An atom's own images are a lattice vector away, and no other atom is farther from its nearest image of any slot
    # than the cell is wide.
    reach = max(3.5 * (structure.volume / len(frac_coords)) ** (1 / 3), *structure.lattice.abc)
    centres, points, _, distances = structure.get_neighbor_list(reach)
    contacts = np.full((n_slots, n_slots), np.inf)
    np.minimum.at(contacts, (slot_of_site[centres], slot_of_site[points]), distances)
    return contacts


def radius_sums(elements: Sequence[str], anions: Collection[str]) -> np.ndarray:
    """Shortest distances (Å) to allow between elements, from their radii, shape (n_elements, n_elements)."""
    sums = np.empty((len(elements), len(elements)))
    for i, a in enumerate(elements):
        for j, b in enumerate(elements):
            if anions:
                factor = _CATION_ANION if (a in anions) != (b in anions) else _LIKE_IONS
                sums[i, j] = factor * (covalent_radius(a) + covalent_radius(b))
            else:
                sums[i, j] = _ALLOY * (metallic_radius(a) + metallic_radius(b))
    return sums


def mined_lengths(elements: Sequence[str], counts: Sequence[int]) -> np.ndarray:
    """Bond lengths (Å) as pymatgen's DLSVolumePredictor expects them.

    Args:
        elements: Symbols.
        counts: How many atoms there are of each; their spread in electronegativity shifts the lengths.

    Returns:
        Symmetric, shape (n_elements, n_elements).
    """
    from pymatgen.core import Element
    from pymatgen.core.structure_prediction.volume_predictor import bond_params

    spread = float(np.std(np.repeat([Element(e).X for e in elements], counts)))
    radii = [
        float(bond_params[e]["r"]) + float(bond_params[e]["k"]) * spread
        if e in bond_params
        else float(Element(e).atomic_radius or covalent_radius(e))
        for e in elements
    ]
    return np.add.outer(radii, radii)


@cache
def covalent_radius(symbol: str) -> float:
    """Covalent radius in Å (Cordero, DOI 10.1039/b801115j)."""
    from ase.data import atomic_numbers, covalent_radii

    return float(covalent_radii[atomic_numbers[symbol]])


@cache
def metallic_radius(symbol: str) -> float:
    """Metallic radius in Å; the covalent radius of what is no metal."""
    from pymatgen.core import Element

    # The table of data, for the attribute warns where there is no value.
    return float(Element(symbol).data.get("Metallic radius") or covalent_radius(symbol))

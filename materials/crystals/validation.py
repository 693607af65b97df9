"""Validation of structures before anything is spent on them: distances, volume, elements."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from materials.crystals.composition import amounts_of, per_site, species_of

if TYPE_CHECKING:
    from pymatgen.core import Composition, Element, Species, Structure

MIN_DISTANCE_RATIO = 0.55
# Å, whatever the radii: no bond is shorter than NO+'s, 1.06 Å, and none with hydrogen than H2's, 0.74 Å.
MIN_DISTANCE = 1.0
MIN_DISTANCE_OF_HYDROGEN = 0.6
MIN_VOLUME_RATIO = 0.4
MAX_VOLUME_RATIO = 25.0

_ITSELF = 1e-8  # Å, within which an atom is no neighbour of its own


def check(
    structure: Structure,
    *,
    elements: Collection[str] | None = None,
    max_sites: int | None = None,
    min_distance_ratio: float = MIN_DISTANCE_RATIO,
    charge_balance: bool = False,
) -> tuple[str, str] | None:
    """Find the first thing that is wrong with a structure.

    Args:
        structure: What was proposed.
        elements: Symbols that the potential covers; None: any.
        max_sites: Largest number of sites in the cell; None: any.
        min_distance_ratio: Least distance of two atoms, as `too_close` takes it.
        charge_balance: Whether known oxidation states must be able to add up to zero (`charges_balance`).

    Returns:
        A short, countable code and a sentence with what was found and what to do; None if all is well. The volume
        must lie between 0.4 and 25 times that of spheres of covalent radius, codes `TooDense` and `TooSparse`.
    """
    if not all(per_site(structure, _is_one)):
        return "Disordered", "sites are partly or jointly occupied; order them first (one element on each site)"
    species = species_of(structure)
    missing = sorted({s.symbol for s in species} - set(elements)) if elements is not None else []
    if missing:
        return (
            "UncoveredElement",
            f"the potential knows no {', '.join(missing)}; leave it out, or take another potential",
        )
    if max_sites is not None and len(structure) > max_sites:
        return (
            "TooManySites",
            f"{len(structure)} sites in the cell, more than {max_sites}; reduce it, or raise max_sites",
        )
    radii = _covalent_radii()[[s.Z for s in species]]
    return (
        _bad_geometry(structure, radii)
        or _bad_distance(structure, species, min_distance_ratio)
        or (_bad_charges(tuple(sorted(amounts_of(structure).items()))) if charge_balance else None)
    )


def _is_one(species: Composition) -> bool:
    return len(species) == 1 and species.num_atoms == 1


def charges_balance(composition: Composition) -> bool:
    """Whether known oxidation states can add up to zero.

    Each element has one state, save that one of them may mix two of the same sign (Fe3O4). Elements and compounds of
    metals alone count as balanced: nothing in them needs a charge. States are those of pymatgen's tables (textbook
    and ICSD).
    """
    elements = composition.elements
    if len(elements) == 1 or all(e.is_metal for e in elements):
        return True
    amounts = [composition[e] for e in elements]
    states = [oxidation_states(e.symbol) for e in elements]
    for chosen in product(*states):
        total = float(np.dot(amounts, chosen))
        if abs(total) < 1e-6 or any(
            _between(q - total / n, q, known) for q, n, known in zip(chosen, amounts, states, strict=True)
        ):
            return True
    return False


@cache
def oxidation_states(symbol: str) -> tuple[int, ...]:
    """States that an element is known in, most common first; (0,) where none is."""
    from pymatgen.core import Element

    element = Element(symbol)
    return tuple(dict.fromkeys([*element.common_oxidation_states, *element.icsd_oxidation_states])) or (0,)


def _between(wanted: float, chosen: int, states: tuple[int, ...]) -> bool:
    """Whether an average charge lies between the chosen state and another of its sign."""
    return any(q * chosen > 0 and min(q, chosen) <= wanted <= max(q, chosen) for q in states)


def _bad_geometry(structure: Structure, radii: np.ndarray) -> tuple[str, str] | None:
    matrix = structure.lattice.matrix
    if not (np.isfinite(matrix).all() and np.isfinite(structure.frac_coords).all()):
        return "NotFinite", "the cell or a coordinate is not a finite number; look at the file that it came from"
    volume = abs(float(np.linalg.det(matrix)))
    ratio = volume / float((4 / 3 * np.pi * radii**3).sum())
    found = f"{volume / len(structure):.3g} Å³ an atom, {ratio:.2g} times its covalent spheres"
    if ratio < MIN_VOLUME_RATIO:
        return "TooDense", f"{found}; at least {MIN_VOLUME_RATIO} times are needed: check the unit of the cell"
    if ratio > MAX_VOLUME_RATIO:
        return "TooSparse", f"{found}; at most {MAX_VOLUME_RATIO:g} times are a crystal: check the unit of the cell"
    return None


def _bad_distance(structure: Structure, species: Sequence[Element | Species], least: float) -> tuple[str, str] | None:
    numbers = np.array([s.Z for s in species])
    found = too_close(structure.lattice.matrix, structure.cart_coords, numbers, least=least, pbc=structure.lattice.pbc)
    return None if found is None else ("TooClose", found)


def too_close(
    cell: np.ndarray,
    positions: np.ndarray,
    numbers: np.ndarray,
    *,
    least: float = MIN_DISTANCE_RATIO,
    pbc: Sequence[bool] = (True, True, True),
) -> str | None:
    """Find two atoms that are closer than atoms come: an overlap in a proposal, a collapse in what was relaxed.

    Args:
        cell: Lattice vectors in rows (Å), shape (3, 3).
        positions: Cartesian (Å), shape (n_atoms, 3).
        numbers: Atomic numbers, shape (n_atoms,).
        least: Least distance in sums of covalent radii (Cordero, DOI 10.1039/b801115j). No pair may come closer than
            1 Å, or 0.6 Å where one is hydrogen, whatever their radii.
        pbc: Along which vectors the crystal repeats.

    Returns:
        A sentence about the pair that is closest by that measure; None if none is too close.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    # What get_neighbor_list(exclude_self=True) comes to, in a third of the time.
    coords, radii = np.ascontiguousarray(positions), _covalent_radii()[numbers]
    centres, points, _, distances = find_points_in_spheres(
        all_coords=coords,
        center_coords=coords,
        r=max(least * 2 * float(radii.max()), MIN_DISTANCE),
        pbc=np.array(pbc, dtype=np.int64),
        lattice=np.ascontiguousarray(cell),
        tol=_ITSELF,
    )
    sums = radii[centres] + radii[points]
    floors = np.where(np.minimum(numbers[centres], numbers[points]) == 1, MIN_DISTANCE_OF_HYDROGEN, MIN_DISTANCE)
    limits = np.maximum(least * sums, floors)
    ratios = distances / limits
    ratios[(centres == points) & (distances <= _ITSELF)] = np.inf
    if not len(ratios):
        return None
    worst = int(ratios.argmin())
    if ratios[worst] >= 1:
        return None
    a, b = (_symbols()[numbers[i[worst]]] for i in (centres, points))
    return (
        f"{a} and {b} are {distances[worst]:.2f} Å apart, {distances[worst] / sums[worst]:.2f} of the sum of their "
        f"covalent radii; at least {limits[worst]:.2f} Å is asked for"
    )


@lru_cache(maxsize=100_000)
def _bad_charges(amounts: tuple[tuple[str, float], ...]) -> tuple[str, str] | None:
    from pymatgen.core import Composition

    plain = Composition(dict(amounts))
    if charges_balance(plain):
        return None
    return (
        "ChargesUnbalanced",
        f"no known oxidation states of {plain.reduced_formula} add up to zero; set charge_balance: false to keep it",
    )


@cache
def _covalent_radii() -> np.ndarray:
    from ase.data import covalent_radii

    return covalent_radii


@cache
def _symbols() -> list[str]:
    from ase.data import chemical_symbols

    return chemical_symbols

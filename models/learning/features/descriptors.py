"""Descriptors of structures: the feature vectors that the surrogate learns from.

Every feature is intensive and ignores the order of sites, the choice of cell and its orientation, so a supercell
has the features of its primitive cell. Nothing here is fitted: one structure gets the same numbers in any company.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from pymatgen.core import Element
from vesin import NeighborList

from materials.errors import InputError
from models.learning.features.electron_counting import FEATURES as ELECTRONS
from models.learning.features.electron_counting import count_electrons

if TYPE_CHECKING:  # pymatgen takes a second to import
    from pymatgen.core import Structure

ELEMENT_PROPERTIES = (
    "electronegativity",  # Pauling
    "row",
    "group",
    "mendeleev_number",
    "covalent_radius",  # Å
    "ionization_energy",  # eV
    "electron_affinity",  # eV
    "melting_point",  # K
    "molar_volume",  # cm³/mol
    "s_electrons",  # outside the noble-gas core
    "p_electrons",
    "d_electrons",
    "f_electrons",
    "valence_electrons",
)
# Which differences across a bond are described: charge transfer, misfit in size, chemical kinship, filling.
BOND_PROPERTIES = ("electronegativity", "covalent_radius", "mendeleev_number", "valence_electrons")
STATISTICS = ("mean", "std", "min", "max")  # over the atoms
NEIGHBOUR_CUTOFF = 6.0  # Å; an atom without a neighbour so near counts as having one just there
HEAVIEST = 103
CHUNK = 1000  # structures whose pairs are held in memory together


def describe(structures: Sequence[Structure], latents: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
    """Describe crystals by numbers.

    Mean, standard deviation, minimum and maximum over the atoms of element properties, of the effective
    coordination number, of neighbour distances (absolute, and relative to the sum of covalent radii) and of
    differences across bonds; covariances that tell which element sits on which kind of site; volume, packing and
    mixing. Before all of them comes what shells the composition can close
    (`models.learning.features.electron_counting`). Coordination is Hoppe's effective number
    (doi:10.1524/zkri.1979.150.14.23).

    Args:
        structures: Ordered crystals, n of them.
        latents: The potential's own vectors, shape (n, n_latent), appended as they are; a missing number (NaN)
            becomes the mean of its column.

    Returns:
        Shape (n, n_features), without NaN or infinity. The columns are those that `feature_names` lists.

    Raises:
        InputError: A structure is empty or disordered, or holds an element beyond lawrencium; `latents` has another
            length.
    """
    chunks = [_describe_chunk(structures[start : start + CHUNK]) for start in range(0, len(structures), CHUNK)]
    features = np.concatenate(chunks) if chunks else np.empty((0, len(feature_names())))
    if latents is None:
        return features
    if latents.ndim != 2 or len(latents) != len(structures):
        raise InputError(
            f"latents: shape {latents.shape} for {len(structures)} structures; give one row for each structure."
        )
    return np.hstack([features, _filled(latents.astype(np.float64))])


def feature_names(n_latent: int = 0) -> tuple[str, ...]:
    """Name the columns of `describe`.

    Args:
        n_latent: Length of the latent vector that was appended.
    """
    per_atom = (
        *ELEMENT_PROPERTIES,
        "effective_coordination",
        "neighbour_distance",
        "relative_neighbour_distance",
        *(f"bond_difference_{name}" for name in BOND_PROPERTIES),
    )
    statistics = [f"{statistic}_{name}" for statistic in STATISTICS for name in per_atom]
    sites = [f"{kind}_{name}" for kind in ("coordination_of", "distance_of") for name in BOND_PROPERTIES]
    latent = [f"latent_{number}" for number in range(n_latent)]
    return (*ELECTRONS, *statistics, *sites, "volume_per_atom", "packing", "n_elements", "mixing_entropy", *latent)


def column_groups(n_features: int) -> dict[str, list[int]]:
    """Columns of `describe` by what they know: two crystals may be alike in one respect and not in another.

    Args:
        n_features: Of the table; those beyond the names that `feature_names` lists are a latent vector.
    """
    of_elements = {f"{statistic}_{name}" for statistic in STATISTICS for name in ELEMENT_PROPERTIES}
    of_elements |= {"n_elements", "mixing_entropy"}
    groups: dict[str, list[int]] = {"closed shells": [], "composition": [], "structure": [], "latent vector": []}
    for column, name in enumerate(feature_names(n_features - len(feature_names()))):
        if name in ELECTRONS:
            groups["closed shells"].append(column)
        elif name in of_elements:
            groups["composition"].append(column)
        else:
            groups["latent vector" if name.startswith("latent_") else "structure"].append(column)
    return groups


def _describe_chunk(structures: Sequence[Structure]) -> NDArray[np.float64]:
    numbers = [_atomic_numbers(structure) for structure in structures]
    counts = np.array([len(z) for z in numbers])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    z = np.concatenate(numbers)
    elements = _element_table()[z]
    i, j, distance = _pairs(structures, starts)
    coordination, nearest, weight = _coordination(i, distance, len(z))
    radius = elements[:, ELEMENT_PROPERTIES.index("covalent_radius")]
    relative = _weighted_mean(distance / (radius[i] + radius[j]), weight, i, len(z))
    relative = np.where(coordination > 0, relative, NEIGHBOUR_CUTOFF / (2 * radius))
    columns = [ELEMENT_PROPERTIES.index(name) for name in BOND_PROPERTIES]
    chosen = elements[:, columns]
    differences = [_weighted_mean(np.abs(p[i] - p[j]), weight, i, len(z)) for p in chosen.T]
    per_atom = np.column_stack([elements, coordination, nearest, relative, *differences])
    owner = np.repeat(np.arange(len(counts)), counts)
    statistics = _statistics(per_atom, owner, starts, counts)
    sites = [_covariance(p, environment, owner, counts) for environment in (coordination, nearest) for p in chosen.T]
    counted = [count_electrons(tuple(sorted(Counter(z.tolist()).items()))) for z in numbers]
    return np.column_stack([np.array(counted), statistics, *sites, _whole_cell(structures, numbers)])


def _atomic_numbers(structure: Structure) -> NDArray[np.int64]:
    if len(structure) == 0 or not structure.is_ordered:
        raise InputError(
            f"{structure.formula or 'a structure'}: no sites, or disordered ones, which cannot be described; "
            "choose one ordering before it enters the pool."
        )
    numbers = np.array([site.specie.Z for site in structure])
    if numbers.max() > HEAVIEST:
        raise InputError(f"element {numbers.max()}: there are no data beyond lawrencium ({HEAVIEST}); leave it out.")
    return numbers


@cache
def _element_table() -> NDArray[np.float64]:
    """Properties of the elements, shape (104, n_properties), row 0 unused; gaps hold the property's median."""

    table = np.full((HEAVIEST + 1, len(ELEMENT_PROPERTIES)), np.nan)
    with warnings.catch_warnings():
        # pymatgen warns for each number that nobody measured; the gap is filled below.
        warnings.simplefilter("ignore", UserWarning)
        for z in range(1, HEAVIEST + 1):
            element = Element.from_Z(z)
            shells = _outer_electrons(element.electronic_structure)
            table[z] = [
                element.X,
                element.row,
                element.group,
                element.mendeleev_no,
                covalent_radii[z],
                element.ionization_energy,
                element.electron_affinity,
                float(element.melting_point or np.nan),
                float(element.molar_volume or np.nan),
                *shells,
                sum(shells),
            ]
    median = np.nanmedian(table, axis=0)
    return np.where(np.isnan(table), median, table)


def _outer_electrons(configuration: str) -> tuple[int, int, int, int]:
    """Count s, p, d and f electrons in a configuration such as `[Ar].3d6.4s2`."""
    counts = dict.fromkeys("spdf", 0)
    for shell in configuration.split("."):
        if not shell.startswith("["):
            counts[shell[1]] += int(shell[2:])
    return counts["s"], counts["p"], counts["d"], counts["f"]


def _pairs(
    structures: Sequence[Structure], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """List all ordered pairs of atoms within the cutoff, numbered through the chunk, and their distances in Å."""

    search = NeighborList(cutoff=NEIGHBOUR_CUTOFF, full_list=True)
    first, second, distances = [], [], []
    for structure, start in zip(structures, starts, strict=True):
        i, j, d = search.compute(
            points=structure.cart_coords, box=structure.lattice.matrix, periodic=True, quantities="ijd"
        )
        first.append(i.astype(np.int64) + start)
        second.append(j.astype(np.int64) + start)
        distances.append(np.maximum(d, 0.1))  # coincident atoms are somebody else's to refuse
    return np.concatenate(first), np.concatenate(second), np.concatenate(distances)


def _coordination(
    i: NDArray[np.int64], distance: NDArray[np.float64], n_atoms: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Hoppe's effective coordination number and mean neighbour distance of each atom, and each pair's weight."""
    shortest = np.full(n_atoms, NEIGHBOUR_CUTOFF)
    np.minimum.at(shortest, i, distance)
    weight = np.exp(1 - (distance / shortest[i]) ** 6)
    average = _weighted_mean(distance, weight, i, n_atoms)
    average[average == 0] = NEIGHBOUR_CUTOFF
    weight = np.exp(1 - (distance / average[i]) ** 6)
    return np.bincount(i, weight, minlength=n_atoms).astype(np.float64), average, weight


def _weighted_mean(
    values: NDArray[np.float64], weight: NDArray[np.float64], i: NDArray[np.int64], n_atoms: int
) -> NDArray[np.float64]:
    """Average pair values over each atom's neighbours; 0 for an atom without any."""
    total = np.bincount(i, weight, minlength=n_atoms)
    mean = np.bincount(i, weight * values, minlength=n_atoms)
    return np.divide(mean, total, out=np.zeros(n_atoms), where=total > 0)


def _statistics(
    values: NDArray[np.float64], owner: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    mean = np.add.reduceat(values, starts) / counts[:, None]
    variance = np.add.reduceat((values - mean[owner]) ** 2, starts) / counts[:, None]
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return np.hstack([mean, np.sqrt(variance), low, high])


def _covariance(
    a: NDArray[np.float64], b: NDArray[np.float64], owner: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(owner, values, minlength=len(counts)) / counts

    return mean((a - mean(a)[owner]) * (b - mean(b)[owner]))


def _whole_cell(structures: Sequence[Structure], numbers: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    radii = _element_table()[:, ELEMENT_PROPERTIES.index("covalent_radius")]
    rows = []
    for structure, z in zip(structures, numbers, strict=True):
        fractions = np.unique(z, return_counts=True)[1] / len(z)
        spheres = 4 / 3 * np.pi * np.sum(radii[z] ** 3)
        volume = structure.volume
        rows.append((volume / len(z), spheres / volume, len(fractions), -np.sum(fractions * np.log(fractions))))
    return np.array(rows, dtype=np.float64).reshape(len(structures), 4)


def _filled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put the mean of what is known of a column where it is missing; 0 where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    mean = total / np.maximum(known.sum(axis=0), 1)
    return np.where(known, values, mean)

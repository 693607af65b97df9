"""Reduced cells in which crystals are compared: primitive, Niggli-reduced, of one volume an atom.

It is the cell that pymatgen's StructureMatcher makes, in a tenth of its time: the steps below are its own, on bare
arrays. Where sites might repeat within the cell, pymatgen itself finds the primitive one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pymatgen.core import Lattice

from materials.crystals.composition import species_of, symbol_of
from materials.crystals.crystal import Crystal
from materials.duplicates.lattice_mapping import find_bases, n_steps
from materials.duplicates.tolerances import ALIKE

VOLUME_PER_ATOM = 20.0  # Å³, to which all are scaled: the matcher compares at one volume

_NIGGLI = 1e-5  # tolerance of get_niggli_reduced_lattice, in units of the cube root of the volume
_ALIKE = 1e-6  # relative difference of lengths, or of angles in degrees, that is rounding noise
_MOST_STEPS = 4  # along a vector; a cell that needs more to be reduced is too skewed to go with others
_CHUNK = 500  # cells held in memory at once
_SLACK = 1 + 1e-6  # beyond rounding noise


@dataclass(frozen=True, kw_only=True, eq=False)
class ReducedCell:
    """A crystal in its reduced cell.

    Attributes:
        matrix: Lattice vectors in rows (Å), shape (3, 3).
        frac_coords: Shape (n_sites, 3).
        symbols: Of the sites, as many.
        volume: That the crystal has an atom (Å³), before all are scaled to one.
    """

    matrix: np.ndarray
    frac_coords: np.ndarray
    symbols: tuple[str, ...]
    volume: float

    @cached_property
    def lengths(self) -> np.ndarray:
        """Of the lattice vectors (Å), shape (3,)."""
        return np.sqrt((self.matrix**2).sum(axis=1))

    @cached_property
    def angles(self) -> np.ndarray:
        """Alpha, beta and gamma (degrees), shape (3,)."""
        unit = self.matrix / self.lengths[:, None]
        cosines = (unit[[1, 2, 0]] * unit[[2, 0, 1]]).sum(axis=1)
        return np.rad2deg(np.arccos(np.clip(cosines, -1, 1)))

    @cached_property
    def sites(self) -> dict[str, list[int]]:
        """Element -> its sites; the rarest element first, and of equally rare ones the one that comes first."""
        found: dict[str, list[int]] = {}
        for i, symbol in enumerate(self.symbols):
            found.setdefault(symbol, []).append(i)
        return dict(sorted(found.items(), key=lambda item: len(item[1])))

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """The elements in the order of `sites`."""
        return tuple(self.sites)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Sites of each of the `elements`."""
        return tuple(map(len, self.sites.values()))

    @cached_property
    def _own(self) -> np.ndarray:
        return self.frac_coords[[i for sites in self.sites.values() for i in sites]]

    def arranged(self, elements: tuple[str, ...]) -> np.ndarray:
        """Fractional coordinates, shape (n_sites, 3), element by element."""
        if elements == self.elements:
            return self._own
        return self.frac_coords[[i for element in elements for i in self.sites[element]]]


def reduced_cells(
    crystals: Sequence[Crystal], *, repeat: float = ALIKE.repeat, check_stop: Callable[[], None] = lambda: None
) -> list[ReducedCell]:
    """Reduce crystals to their primitive Niggli cells.

    Args:
        crystals: Ordered.
        repeat: By how much sites that repeat within a cell may be off (Å).
        check_stop: Is called before each, and may raise.
    """
    cells = []
    for start in range(0, len(crystals), _CHUNK):
        part = crystals[start : start + _CHUNK]
        matrices = niggli_matrices(np.array([crystal.matrix for crystal in part]))
        for crystal, matrix in zip(part, matrices, strict=True):
            check_stop()
            cells.append(_reduced(crystal, matrix, repeat))
    return cells


def _reduced(crystal: Crystal, matrix: np.ndarray, repeat: float) -> ReducedCell:
    symbols = tuple(map(symbol_of, crystal.species))
    frac = crystal.frac_coords @ (crystal.matrix @ np.linalg.inv(matrix))
    if not _is_primitive(matrix, frac, list(crystal.species), repeat):
        primitive = crystal.structure().get_reduced_structure().get_primitive_structure(tolerance=repeat)
        symbols = tuple(species.symbol for species in species_of(primitive))
        matrix, frac = primitive.lattice.matrix, primitive.frac_coords
    volume = abs(float(np.linalg.det(matrix))) / len(symbols)
    scale = (VOLUME_PER_ATOM / volume) ** (1 / 3)
    return ReducedCell(matrix=matrix * scale, frac_coords=frac, symbols=symbols, volume=volume)


def niggli_matrices(matrices: np.ndarray) -> np.ndarray:
    """Give the lattice vectors that pymatgen's `get_niggli_reduced_lattice` gives.

    It takes the first right-handed basis that it meets with the lengths of the Niggli cell, and its angles within
    1 degree: next to right angles these can be several. Where they are all alike, it does not matter which.

    Args:
        matrices: Vectors of n lattices in rows (Å), shape (n, 3, 3).

    Returns:
        As many.
    """

    tolerances = _NIGGLI * np.abs(np.linalg.det(matrices)) ** (1 / 3)
    lengths, angles = _niggli_parameters(matrices, tolerances)
    found = np.full_like(matrices, np.nan)
    plain = np.flatnonzero(np.isfinite(lengths).all(axis=1))
    plain = plain[(n_steps(matrices[plain], lengths[plain].max(axis=1)) <= _MOST_STEPS).all(axis=1)]
    bases = find_bases(
        matrices[plain], lengths[plain], angles[plain], length_tolerance=tolerances[plain, None], angle_tolerance=1.0
    )
    off = np.maximum(
        np.abs(bases.lengths / lengths[plain[bases.owners]] - 1).max(axis=1),
        np.abs(bases.angles - angles[plain[bases.owners]]).max(axis=1),
    )
    certain = np.ones(len(matrices), dtype=bool)
    certain[plain[bases.owners[off > _ALIKE]]] = False
    proper = np.linalg.det(bases.matrices) > 0
    found[plain[bases.owners[proper]]] = bases.matrices[proper]
    for i in np.flatnonzero(np.isnan(found[:, 0, 0]) | ~certain):
        found[i] = Lattice(matrices[i]).get_niggli_reduced_lattice().matrix
    return found


def _niggli_parameters(matrices: np.ndarray, tolerances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (Å) and angles (degrees) of Niggli cells, each of shape (n, 3); NaN where the search does not end."""
    metrics = matrices @ np.swapaxes(matrices, 1, 2)
    tensors = np.array([_niggli_metric(G, e) for G, e in zip(metrics.tolist(), tolerances.tolist(), strict=True)])
    tensors = tensors.reshape(-1, 6)
    lengths = np.sqrt(tensors[:, :3])
    cosines = tensors[:, 3:] / 2 / (lengths[:, [1, 0, 0]] * lengths[:, [2, 2, 1]])
    return lengths, np.rad2deg(np.arccos(cosines))


def _niggli_metric(metric: list[list[float]], e: float) -> tuple[float, float, float, float, float, float]:
    """The steps A1 to A8 of DOI 10.1107/S010876730302186X, as pymatgen has them.

    The letters are the paper's: the metric tensor's diagonal, and twice what lies beside it (xi, eta, zeta).
    """
    (A, Y, N), (_, B, E), (_, _, C) = metric
    E, N, Y = 2 * E, 2 * N, 2 * Y
    for _ in range(100):
        if B + e < A or (abs(A - B) < e and abs(E) > abs(N) + e):
            A, B, E, N = B, A, N, E
        if C + e < B or (abs(B - C) < e and abs(N) > abs(Y) + e):
            B, C, N, Y = C, B, Y, N
            continue
        E, N, Y = _one_sign(E, N, Y, e)
        if abs(E) > B + e or (abs(E - B) < e and Y - e > 2 * N) or (abs(E + B) < e and -e > Y):
            s = math.copysign(1.0, E)
            C, E, N = C + B - s * E, E - 2 * s * B, N - s * Y
        elif abs(N) > A + e or (abs(A - N) < e and Y - e > 2 * E) or (abs(A + N) < e and -e > Y):
            s = math.copysign(1.0, N)
            C, N, E = C + A - s * N, N - 2 * s * A, E - s * Y
        elif abs(Y) > A + e or (abs(A - Y) < e and N - e > 2 * E) or (abs(A + Y) < e and -e > N):
            s = math.copysign(1.0, Y)
            B, Y, E = B + A - s * Y, Y - 2 * s * A, E - s * N
        elif -e > E + N + Y + A + B or (abs(E + N + Y + A + B) < e < Y + (A + N) * 2):
            C, E, N = A + B + C + E + N + Y, E + 2 * B + Y, N + 2 * A + Y
        else:
            return A, B, C, E, N, Y
    return (math.nan,) * 6


def _one_sign(E: float, N: float, Y: float, e: float) -> tuple[float, float, float]:
    """Steps A3 and A4: turn the vectors round until all angles are acute, or none is."""
    signs = [0 if abs(value) < e else (1 if value > 0 else -1) for value in (E, N, Y)]
    product = signs[0] * signs[1] * signs[2]
    if product == 1:
        i, j, k = (-1 if sign == -1 else 1 for sign in signs)
    else:
        i, j, k = (-1 if sign == 1 else 1 for sign in signs)
        if i * j * k == -1:
            if signs[2] == 0:
                k = -1
            elif signs[1] == 0:
                j = -1
            elif signs[0] == 0:
                i = -1
    return E * j * k, N * i * k, Y * i * j


def _is_primitive(matrix: np.ndarray, frac: np.ndarray, labels: list[str], repeat: float) -> bool:
    """Whether pymatgen's search for a smaller cell would surely find none.

    A smaller cell repeats each element, and its vectors take each site to one like it, within twice the tolerance.
    """
    counts = Counter(labels)
    n_units = math.gcd(*counts.values())
    if n_units == 1:
        return True
    tolerance = repeat / np.sqrt((matrix**2).sum(axis=1))
    if tolerance.max() * _SLACK >= 1 / n_units:
        return False  # it would take no vector at all for a fraction of one
    names = np.array(labels)
    groups = [frac[names == label] for label in sorted(counts, key=lambda label: (counts[label], label))]
    vectors = groups[0][1:] - groups[0][0]
    for group in groups:
        gaps = group - group[:, None]
        off = gaps - vectors[:, None, None]
        off -= np.round(off)
        repeats = (np.abs(off) <= 2 * tolerance * _SLACK).all(axis=-1).any(axis=2).all(axis=1)
        vectors = vectors[repeats]
        if not len(vectors):
            return True
    return False

"""Moments given with a structure (magnetic CIF, `magmom` of its sites), as an order of the computed cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.dft.magnetism.orders import FERROMAGNETIC, Order

if TYPE_CHECKING:
    from pymatgen.core import Structure

Floats = NDArray[np.float64]

LEAST_MOMENT = 0.1  # μB: a structure with none above it came without
LEAST = 0.25  # of the largest moment: what is smaller, a ligand's, follows from the others
COLLINEAR = 0.05  # of a moment may lie across the axis of the others
BALANCED = 0.05  # of all moments together may be left in an antiferromagnet
MOST_CELLS = 8  # primitive cells along an axis after which the moments repeat


def has_moments(structure: Structure) -> bool:
    """Whether a structure came with moments, of whatever use they are."""
    moments = along_one_axis(structure.site_properties.get("magmom") or [])
    return moments is None or bool(np.abs(moments).max(initial=0.0) > LEAST_MOMENT)


def given_order(structure: Structure, cell: Structure, symprec: float) -> tuple[Order | None, str]:
    """Find the order that a structure's own moments make in the cell that is computed.

    Args:
        structure: With site property `magmom` (μB; numbers, or vectors along one axis), or without.
        cell: Its symmetrised primitive cell.
        symprec: Å by which atoms were allowed to be off when that was found.

    Returns:
        The order, None where there are no moments or they cannot be used; and in the second case why.
    """
    said = structure.site_properties.get("magmom")
    if said is None:
        return None, ""
    moments = along_one_axis(said)
    if moments is None:
        return None, "the moments that the structure came with: they are not collinear"
    if not np.abs(moments).max(initial=0.0) > LEAST_MOMENT:
        return None, ""
    moments = np.where(np.abs(moments) < LEAST * np.abs(moments).max(), 0.0, moments)
    placed = _placed(structure, cell, moments, symprec)
    if placed is None:
        return None, "the moments that the structure came with: its cell does not fit onto the one that is computed"
    signs = set(np.sign(placed[placed != 0]).tolist())
    if len(signs) == 1:
        kind = FERROMAGNETIC
    else:
        total = abs(float(placed.sum())) / float(np.abs(placed).sum())
        kind = "antiferromagnetic" if total < BALANCED else "ferrimagnetic"
    return Order(name=f"{kind} (as given)", moments=placed), ""


def along_one_axis(said: Sequence[Any]) -> Floats | None:
    """Moments as numbers along their common axis, shape (n,); None where they have none.

    Args:
        said: Numbers, vectors of three, or None, of each site.
    """
    vectors = np.zeros((len(said), 3))
    for vector, moment in zip(vectors, said, strict=True):
        if moment is not None:
            vector[-1 if np.ndim(moment) == 0 else slice(None)] = moment
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.any():
        return lengths
    axis = vectors[lengths.argmax()] / lengths.max()
    axis *= np.sign(axis[np.abs(axis).argmax()])
    along: Floats = vectors @ axis
    across = np.linalg.norm(vectors - np.outer(along, axis), axis=1)
    return along if (across <= COLLINEAR * lengths.max()).all() else None


def _placed(structure: Structure, cell: Structure, moments: Floats, symprec: float) -> Floats | None:
    """The moments on the sites of the primitive cell, shape (n_sites, N, N, N)."""
    import moyopy

    numbers = [int(site.specie.Z) for site in structure]
    asked = moyopy.Cell(structure.lattice.matrix.tolist(), structure.frac_coords.tolist(), numbers)
    try:
        found = moyopy.MoyoDataset(asked, symprec=symprec)
        to_cell, shift = np.linalg.inv(np.array(found.prim_std_linear)), np.array(found.prim_std_origin_shift)
        owners = list(found.mapping_std_prim)
    except ValueError:  # the cell is the structure as it is
        to_cell, shift, owners = np.eye(3), np.zeros(3), list(range(len(structure)))
    repeats = np.round(to_cell.T).astype(int)  # the structure's lattice vectors, in rows
    if np.abs(repeats - to_cell.T).max() > 1e-3:
        return None
    n = _period(repeats)
    if n > MOST_CELLS:
        return None
    coords = np.array([site.frac_coords for site in cell])
    place = (structure.frac_coords - shift) @ to_cell.T
    off = place - coords[owners]
    off -= np.mean([o - np.round(o - off[0]) for o in off], axis=0)  # the symmetrised cell may lie a little beside
    images = np.round(off).astype(int)
    if np.abs((off - images) @ cell.lattice.matrix).max() > 5 * symprec:
        return None
    grid = np.full((len(cell), n, n, n), np.nan)
    for steps in product(range(n), repeat=3):
        a, b, c = ((images + np.array(steps) @ repeats) % n).T
        grid[owners, a, b, c] = moments
    return None if np.isnan(grid).any() else _shortened(grid)


def _shortened(grid: Floats) -> Floats:
    """The moments on as few cells as they repeat after; of the structure's cell that is often fewer."""
    n = grid.shape[1]
    for fewer in (m for m in range(1, n) if n % m == 0):
        if all(np.allclose(np.roll(grid, fewer, axis=axis), grid, atol=0.1) for axis in (1, 2, 3)):
            return grid[:, :fewer, :fewer, :fewer]
    return grid


def _period(repeats: NDArray[np.int64]) -> int:
    """After how many primitive cells along each axis a lattice of whole cells surely repeats."""
    inverse = np.linalg.inv(repeats)
    for n in range(1, MOST_CELLS + 1):
        if np.abs(n * inverse - np.round(n * inverse)).max() < 1e-6:
            return n
    return MOST_CELLS + 1

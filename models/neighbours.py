"""Periodic neighbour lists of many crystals at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from models.potentials.interface import Crystal


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of atoms closer than a cut-off, each pair once, atoms numbered through the batch.

    The vector of a pair goes from atom `first` to the image of atom `second` in the cell `shift`. The pairs of one
    crystal stand together, in the order of the crystals.
    """

    first: NDArray[np.int64]  # (n_pairs,)
    second: NDArray[np.int64]  # (n_pairs,)
    shift: NDArray[np.int64]  # (n_pairs, 3)
    vector: NDArray[np.float64]  # (n_pairs, 3) Å
    counts: NDArray[np.int64]  # (n_crystals,) pairs in each crystal


def half_list(crystals: Sequence[Crystal], cutoff: float) -> Pairs:
    """Find all pairs within `cutoff` (Å), each once, an atom with its own images too."""
    from vesin import NeighborList

    finder = NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    found = [finder.compute(crystal.positions, crystal.cell, True, "PSD") for crystal in crystals]
    starts = np.cumsum([0, *(len(crystal) for crystal in crystals)])
    atoms = [pair.astype(np.int64) + start for (pair, _, _), start in zip(found, starts, strict=False)]
    pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *atoms])
    return Pairs(
        first=np.ascontiguousarray(pairs[:, 0]),
        second=np.ascontiguousarray(pairs[:, 1]),
        shift=np.concatenate([np.zeros((0, 3), dtype=np.int64), *(shift for _, shift, _ in found)]).astype(np.int64),
        vector=np.concatenate([np.zeros((0, 3)), *(vector for _, _, vector in found)]),
        counts=np.array([len(pair) for pair, _, _ in found], dtype=np.int64),
    )

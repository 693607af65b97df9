"""Periodic neighbour lists of many crystals at once, and which crystals must not come near one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

CLOSEST = 0.3  # Å; no two atoms of any crystal come so near
LEAST_VOLUME = 1.0  # Å³ an atom; a denser cell has more neighbours than memory

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


def sound_pairs(
    crystals: Sequence[Crystal], cutoff: float, covered: frozenset[int]
) -> tuple[list[str | None], list[int], Pairs]:
    """Find the pairs of all crystals that a potential can have an answer for.

    Args:
        crystals: The batch.
        cutoff: Å.
        covered: Atomic numbers that the potential knows.

    Returns:
        For each crystal, what is wrong with it, or None; the indices of those with nothing wrong; their pairs.
    """
    problems = [unfit(crystal, covered) for crystal in crystals]
    fit = [k for k, problem in enumerate(problems) if problem is None]
    pairs = half_list([crystals[k] for k in fit], cutoff)
    found = _trouble([crystals[k] for k in fit], pairs, cutoff)
    if found:
        for position, problem in found.items():
            problems[fit[position]] = problem
        fit = [k for k in fit if problems[k] is None]
        pairs = half_list([crystals[k] for k in fit], cutoff)
    return problems, fit, pairs


def unfit(crystal: Crystal, covered: frozenset[int]) -> str | None:
    """Say why a crystal must not reach the neighbour list, or None."""
    if not len(crystal):
        return "no atoms"
    if not (np.isfinite(crystal.positions).all() and np.isfinite(crystal.cell).all()):
        return "a coordinate is not a finite number"
    foreign = set(crystal.numbers.tolist()) - covered
    if foreign:
        return f"holds atomic numbers {sorted(foreign)}, which the potential does not cover"
    volume = abs(np.linalg.det(crystal.cell)) / len(crystal)
    if volume < LEAST_VOLUME:
        return f"{volume:.2g} Å³ an atom: the cell is nearly flat or its atoms overlap"
    return None


def _trouble(crystals: Sequence[Crystal], pairs: Pairs, cutoff: float) -> dict[int, str]:
    """Crystals whose atoms coincide or have no neighbours, by position in the batch."""
    sizes = [len(crystal) for crystal in crystals]
    met = np.bincount(pairs.first, minlength=sum(sizes)) + np.bincount(pairs.second, minlength=sum(sizes))
    lonely = np.repeat(np.arange(len(sizes)), sizes)[met == 0]
    found = {int(crystal): f"an atom has no neighbour within {cutoff} Å, the potential's cut-off" for crystal in lonely}
    close = (pairs.vector**2).sum(1) < CLOSEST**2
    for crystal in np.repeat(np.arange(len(sizes)), pairs.counts)[close]:
        found[int(crystal)] = f"two atoms are closer than {CLOSEST} Å"
    return found

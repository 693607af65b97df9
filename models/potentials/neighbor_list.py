"""Periodic neighbour lists of many crystals at once, and which crystals must not come near one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from vesin import NeighborList

from models.potentials.base import Batch

CLOSEST = 0.3  # Å; no two atoms of any crystal come so near
LEAST_VOLUME = 1.0  # Å³ an atom; a denser cell has more neighbours than memory
MOST_CANDIDATES = 1 << 23  # pairs whose distance is worked out at once on a GPU


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of atoms closer than a cut-off, each pair once, atoms numbered through the batch.

    The vector of a pair goes from atom `first` to the image of atom `second` in the cell `shift`. The pairs of one
    crystal stand together, in the order of the crystals.
    """

    first: Tensor  # (n_pairs,)
    second: Tensor  # (n_pairs,)
    shift: Tensor  # (n_pairs, 3) integers
    vector: Tensor  # (n_pairs, 3) Å, double precision


def half_list(batch: Batch, cutoff: float) -> Pairs:
    """Find all pairs within `cutoff` (Å), each once, an atom with its own images too."""
    if batch.positions.device.type == "cpu":
        return _by_cells(batch, cutoff)
    return _by_trial(batch, cutoff)


def sound_pairs(
    batch: Batch, cutoff: float, covered: frozenset[int], *, lonely: bool = False
) -> tuple[Batch, Pairs, Tensor, dict[int, str]]:
    """Find the pairs of all crystals that a potential can have an answer for.

    Args:
        batch: The crystals.
        cutoff: Å.
        covered: Atomic numbers that the potential knows.
        lonely: Whether it has an answer for an atom without neighbours.

    Returns:
        The crystals with nothing wrong and their pairs; their indices in the batch; what is wrong with the others.
    """
    problems = unfit(batch, covered)
    sound, fit = _without(batch, problems)
    pairs = half_list(sound, cutoff)
    found = _trouble(sound, pairs, None if lonely else cutoff)
    if found:
        places = fit.tolist()
        problems |= {places[position]: problem for position, problem in found.items()}
        sound, fit = _without(batch, problems)
        pairs = half_list(sound, cutoff)
    return sound, pairs, fit, problems


def unfit(batch: Batch, covered: frozenset[int]) -> dict[int, str]:
    """Say which crystals must not reach the neighbour list, and why."""
    device = batch.numbers.device
    known = torch.zeros(256, dtype=torch.bool, device=device)
    known[sorted(covered)] = True
    lost = batch.of_crystals((~batch.positions.isfinite()).any(1).long()) + (~batch.cells.isfinite()).flatten(1).any(1)
    foreign = batch.of_crystals((~known[batch.numbers.clamp(0, 255)]).long())
    flat = (batch.volumes / batch.sizes < LEAST_VOLUME) | (batch.cells.norm(dim=2).amin(1) < CLOSEST)
    troubled = (batch.sizes == 0) | (lost > 0) | (foreign > 0) | flat
    problems = {}
    for k in torch.nonzero(troubled)[:, 0].tolist():
        if not batch.sizes[k]:
            problems[k] = "no atoms"
        elif lost[k]:
            problems[k] = "a coordinate is not a finite number"
        elif foreign[k]:
            strange = sorted(set(batch.numbers[batch.owner == k].tolist()) - covered)
            problems[k] = f"holds atomic numbers {strange}, which the potential does not cover"
        else:
            volume = float(batch.volumes[k] / batch.sizes[k])
            shortest = float(batch.cells[k].norm(dim=1).min())
            problems[k] = (
                f"{volume:.2g} Å³ an atom, lattice vectors down to {shortest:.2g} Å: nearly flat, or atoms overlap"
            )
    return problems


def _without(batch: Batch, problems: dict[int, str]) -> tuple[Batch, Tensor]:
    fit = torch.tensor(
        [k for k in range(len(batch)) if k not in problems], dtype=torch.int64, device=batch.sizes.device
    )
    return (batch.select(fit) if problems else batch), fit


def _trouble(batch: Batch, pairs: Pairs, cutoff: float | None) -> dict[int, str]:
    """Crystals whose atoms coincide or, with a cut-off, have no neighbours, by position in the batch."""
    close = pairs.first[(pairs.vector**2).sum(1) < CLOSEST**2]
    found = dict.fromkeys(batch.owner[close].tolist(), f"two atoms are closer than {CLOSEST} Å")
    if cutoff is None:
        return found
    met = torch.bincount(torch.cat([pairs.first, pairs.second]), minlength=len(batch.numbers))
    lonely = torch.nonzero(met == 0)[:, 0]
    alone = f"an atom has no neighbour within {cutoff} Å, the potential's cut-off"
    return dict.fromkeys(batch.owner[lonely].tolist(), alone) | found


def _by_cells(batch: Batch, cutoff: float) -> Pairs:
    """One crystal after the other with vesin, whose time goes with the number of atoms."""

    finder = NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    crystals = batch.crystals()
    found = [finder.compute(crystal.positions, crystal.cell, True, "PSD") for crystal in crystals]
    starts = np.cumsum([0, *(len(crystal) for crystal in crystals)])
    atoms = [pair.astype(np.int64) + start for (pair, _, _), start in zip(found, starts, strict=False)]
    pairs = torch.from_numpy(np.concatenate([np.zeros((0, 2), dtype=np.int64), *atoms]))
    shifts = np.concatenate([np.zeros((0, 3), dtype=np.int64), *(shift for _, shift, _ in found)]).astype(np.int64)
    return Pairs(
        first=pairs[:, 0].contiguous(),
        second=pairs[:, 1].contiguous(),
        shift=torch.from_numpy(shifts),
        vector=torch.from_numpy(np.concatenate([np.zeros((0, 3)), *(vector for _, _, vector in found)])),
    )


def _by_trial(batch: Batch, cutoff: float) -> Pairs:
    """All crystals at once by trying every pair in every image that can matter: what a GPU does at once."""
    fractional = torch.linalg.solve(batch.cells[batch.owner].mT, batch.positions[:, :, None])[:, :, 0]
    home = fractional.floor().long()
    inside = batch.positions - (home.double()[:, None] @ batch.cells[batch.owner])[:, 0]
    a, b, c = batch.cells.unbind(1)
    faces = torch.stack([b.cross(c, dim=1), c.cross(a, dim=1), a.cross(b, dim=1)], 1).norm(dim=2)
    reach = torch.ceil(cutoff * faces / batch.volumes[:, None]).long()  # images on either side, (n, 3)
    images = ((2 * reach + 1).prod(1) + 1) // 2  # one of each two opposite ones, and the cell itself
    candidates = images * batch.sizes**2
    starts = torch.cumsum(batch.sizes, 0) - batch.sizes
    found = []
    for some in _shares(candidates):
        count = candidates[some]
        crystal = torch.repeat_interleave(some, count)
        at = torch.arange(len(crystal), device=crystal.device)
        at = at - torch.repeat_interleave(torch.cumsum(count, 0) - count, count)
        size = batch.sizes[crystal]
        image, pair = at // size**2, at % size**2
        first, second = pair // size, pair % size
        kept = (image > 0) | (first < second)
        crystal, image = crystal[kept], image[kept]
        first, second = first[kept] + starts[crystal], second[kept] + starts[crystal]
        around = reach[crystal]
        span = 2 * around + 1
        place = image + images[crystal] - 1
        shift = torch.stack(
            [place // (span[:, 1] * span[:, 2]), place // span[:, 2] % span[:, 1], place % span[:, 2]], 1
        )
        shift -= around
        vector = inside[second] - inside[first] + (shift.double()[:, None] @ batch.cells[crystal])[:, 0]
        near = (vector**2).sum(1) <= cutoff**2
        first, second = first[near], second[near]
        found.append((first, second, shift[near] - home[second] + home[first], vector[near]))
    first, second, shift, vector = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Pairs(first=first, second=second, shift=shift, vector=vector)


def _shares(candidates: Tensor) -> Iterator[Tensor]:
    """Part the crystals so that no part has more candidates than memory has room for, unless it is one crystal."""
    counts = candidates.tolist()
    start = total = 0
    for k, count in enumerate(counts):
        if k > start and total + count > MOST_CANDIDATES:
            yield torch.arange(start, k, device=candidates.device)
            start, total = k, 0
        total += count
    yield torch.arange(start, len(counts), device=candidates.device)

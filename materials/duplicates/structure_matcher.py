"""Structure matching as pymatgen's StructureMatcher does it, for many pairs of reduced cells at once.

The matcher tries each mapping of one lattice onto the other, and in each of them every shift of an atom onto one like
it. So does this, on arrays that hold all of them for all pairs; where atoms come to lie close enough, the matcher
itself measures the distances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from materials.duplicates.lattice_mapping import find_bases
from materials.duplicates.niggli import ReducedCell
from materials.duplicates.tolerances import ALIKE, Tolerances

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher

_MOST_PAIRS = 200  # held in memory at once, fewer where the cells are large:
_MOST_GAPS = 5_000  # between sites of one element, for one basis of each pair; there are a few dozen bases
_SLACK = 1 + 1e-6  # beyond rounding noise

Pair = tuple[ReducedCell, ReducedCell]


def fits(
    pairs: Sequence[Pair], tolerances: Tolerances = ALIKE, *, check_stop: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Whether `StructureMatcher(ltol, stol, angle_tol, primitive_cell, scale).fit(first, second)`, volumes alike too.

    Args:
        pairs: Cells of one reduced formula. The second is laid onto the first; the matcher may say otherwise of the
            two exchanged.
        tolerances: ltol, angle_tol and stol are its `length`, `angle` and `site`.
        check_stop: Is called before each few of them, and may raise.

    Returns:
        Booleans, shape (n_pairs,).
    """
    found = np.zeros(len(pairs), dtype=bool)
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, (first, second) in enumerate(pairs):
        if len(first.symbols) == len(second.symbols) and _ratio(first.volume, second.volume) <= tolerances.volume:
            alike.setdefault(second.counts, []).append(i)
    for counts, numbers in alike.items():
        step = max(1, min(_MOST_PAIRS, _MOST_GAPS // ((counts[0] + max(counts)) * max(counts))))
        for start in range(0, len(numbers), step):
            check_stop()
            chosen = numbers[start : start + step]
            found[chosen] = _fits([pairs[i] for i in chosen], counts, tolerances)
    return found


def _ratio(one: float, other: float) -> float:
    """Ratio of the larger to the smaller, less 1."""
    return max(one, other) / min(one, other) - 1


def _fits(pairs: list[Pair], counts: tuple[int, ...], tolerances: Tolerances) -> np.ndarray:
    """The same for pairs that all have as many sites of their rarest element, of the next one, and so on."""
    lengths, angles = np.array([b.lengths for _, b in pairs]), np.array([b.angles for _, b in pairs])
    bases = find_bases(
        np.array([a.matrix for a, _ in pairs]),
        lengths,
        angles,
        length_tolerance=tolerances.length,
        angle_tolerance=tolerances.angle,
    )
    found = np.zeros(len(pairs), dtype=bool)
    if not len(bases.owners):
        return found
    average = _Averages.of(
        (bases.lengths + lengths[bases.owners]) / 2, (bases.angles + angles[bases.owners]) / 2, tolerances.site
    )
    # Most pairs of different crystals have no basis in common.
    alive, rows = np.unique(bases.owners, return_inverse=True)
    like = [pairs[i] for i in alive.tolist()]
    first = np.array([a.arranged(b.elements) for a, b in like])[rows] @ bases.inverses
    second = np.array([b.arranged(b.elements) for _, b in like])[rows]
    trials = _promising(first, second, average, counts)
    for basis, shift in zip(trials.bases.tolist(), trials.shifts, strict=True):
        owner = bases.owners[basis]
        if not found[owner]:
            found[owner] = _is_close(
                first[basis], second[basis] + shift, average.parameters[basis], counts, tolerances.site
            )
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Averages:
    """Lattices halfway between the two of a pair, n of them, as the matcher measures in them.

    Attributes:
        parameters: Lengths (Å) and angles (degrees), shape (n, 6).
        matrices: Vectors in rows (Å), shape (n, 3, 3).
        skewness: Product of the lengths by the volume, shape (n,).
        reciprocal: Lengths of the reciprocal vectors (1/Å), shape (n, 3).
        site: Tolerance of a site, in units of the cube root of the volume per atom.
    """

    parameters: np.ndarray
    matrices: np.ndarray
    skewness: np.ndarray
    reciprocal: np.ndarray
    site: float

    @classmethod
    def of(cls, lengths: np.ndarray, angles: np.ndarray, site: float) -> _Averages:
        cosines = np.cos(np.deg2rad(angles))
        metric = np.ones((len(angles), 3, 3))
        for place, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
            metric[:, i, j] = metric[:, j, i] = cosines[:, place]
        metric *= lengths[:, :, None] * lengths[:, None, :]
        matrices = np.linalg.cholesky(metric)
        volumes = matrices[:, [0, 1, 2], [0, 1, 2]].prod(axis=1)
        return cls(
            parameters=np.concatenate([lengths, angles], axis=1),
            matrices=matrices,
            skewness=lengths.prod(axis=1) / volumes,
            reciprocal=np.sqrt((np.linalg.inv(matrices) ** 2).sum(axis=1)),
            site=site,
        )

    def reach(self, n_sites: int) -> np.ndarray:
        """Twice the tolerance of a site (Å), shape (n,): as far as two may be apart before the best shift is found."""
        volumes = self.parameters[:, :3].prod(axis=1) / self.skewness
        return 2 * self.site * (volumes / n_sites) ** (1 / 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trials:
    """Shifts of the second cell of a pair, n of them: which basis each is of, (n,), and the shift itself, (n, 3)."""

    bases: np.ndarray
    shifts: np.ndarray

    def only(self, chosen: np.ndarray) -> _Trials:
        return _Trials(bases=self.bases[chosen], shifts=self.shifts[chosen])


def _promising(first: np.ndarray, second: np.ndarray, average: _Averages, counts: tuple[int, ...]) -> _Trials:
    """Find the shifts that bring each atom of the second cell near one like it in the first.

    The matcher lays the first site of the rarest element onto each site of this element. It goes on if fractional
    coordinates are off by no more than planes are apart at the tolerance; if so, `_too_far` may still exclude it.
    """
    tolerances = average.reach(sum(counts))[:, None] * average.reciprocal
    trials = _Trials(
        bases=np.repeat(np.arange(len(first)), counts[0]),
        shifts=(first[:, : counts[0]] - second[:, :1]).reshape(-1, 3),
    )
    blocks = _blocks(counts)
    # Most shifts fail for the first atom of an element already.
    parts = [(slice(block.start, block.start + 1), block) for block in blocks[1:]]
    parts += [(slice(block.start + 1, block.stop), block) for block in blocks if block.stop - block.start > 1]
    for part, block in parts:
        gaps = _gaps(first, second, trials, part, block)
        near = np.abs(gaps) <= tolerances[trials.bases, None, None]
        trials = trials.only(near.all(axis=-1).any(axis=2).all(axis=1))
    return trials.only(~_too_far(first, second, average, trials, counts))


def _blocks(counts: tuple[int, ...]) -> list[slice]:
    """Where the sites of each element stand."""
    stops = np.cumsum(counts).tolist()
    return [slice(stop - count, stop) for stop, count in zip(stops, counts, strict=True)]


def _gaps(first: np.ndarray, second: np.ndarray, trials: _Trials, part: slice, block: slice) -> np.ndarray:
    """Fractional coordinates from sites of the first cell to sites of the second, the nearest image's."""
    atoms = second[trials.bases, part] + trials.shifts[:, None]
    gaps = atoms[:, :, None] - first[trials.bases, None, block]
    return gaps - np.round(gaps)


def _too_far(
    first: np.ndarray, second: np.ndarray, average: _Averages, trials: _Trials, counts: tuple[int, ...]
) -> np.ndarray:
    """For which shifts the matcher would surely find an atom farther from its partner than the tolerance.

    It pairs atoms that are near one another, moves all by the mean of the vectors between them, and then none may be
    off by the tolerance or more. The anchor sits on its partner, so none may have been off by twice as much before;
    where that leaves each atom one partner, these are the pairs.
    """
    bases = trials.bases
    reach = average.reach(sum(counts))[bases]
    tolerances = reach[:, None] * average.reciprocal[bases]
    # The anchor could be paired with another atom if it were within the matcher's box around it. Its corners are at
    # most this much farther off than its planes, for the reduced basis that it is made in is no skewer than this one.
    box = tolerances * 3 * average.skewness[bases, None]
    at_anchor = _gaps(first, second, trials, slice(0, 1), slice(0, counts[0]))[:, 0]
    certain = (np.abs(at_anchor) <= box[:, None]).all(axis=2).sum(axis=1) == 1
    certain &= (tolerances < 0.5).all(axis=1)  # no other image of a partner is within reach
    alone = np.ones(len(bases), dtype=bool)
    none = np.zeros(len(bases), dtype=bool)
    vectors = []
    for block in _blocks(counts):
        between = _gaps(first, second, trials, block, block) @ average.matrices[bases, None]
        within = (between**2).sum(axis=3) < (reach[:, None, None] * _SLACK) ** 2
        partners = within.sum(axis=2)
        none |= (partners == 0).any(axis=1)
        alone &= (partners == 1).all(axis=1)
        vectors.append((between * within[..., None]).sum(axis=2))
    moved = np.concatenate(vectors, axis=1)
    moved -= moved.mean(axis=1, keepdims=True)
    off = np.sqrt((moved**2).sum(axis=2)).max(axis=1) >= reach / 2 * _SLACK
    return certain & (none | (alone & off))


def _is_close(
    first: np.ndarray, second: np.ndarray, average: np.ndarray, counts: tuple[int, ...], tolerance: float
) -> bool:
    """Whether no atom is farther from its partner than the tolerance, once the best shift is found."""
    from pymatgen.core import Lattice

    lattice = Lattice.from_parameters(*average)
    unit = (lattice.volume / len(first)) ** (1 / 3)
    inverse = np.array(lattice.get_lll_reduced_lattice().reciprocal_lattice.abc)
    kinds = np.repeat(np.arange(len(counts)), counts)
    distances, _, _ = _matcher()._cart_dists(
        first - np.floor(first),
        second,
        lattice,
        (kinds[:, None] != kinds).astype(np.int64),
        1 / unit,
        inverse * tolerance * unit / np.pi,
    )
    return bool(max(distances) < tolerance)


@lru_cache(maxsize=1)
def _matcher() -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import ElementComparator, StructureMatcher

    # For its measure of distances, which is told the tolerance.
    return StructureMatcher(primitive_cell=True, scale=True, comparator=ElementComparator())

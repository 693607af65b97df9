"""Duplicates among structures, and the identifier of a crystal."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from materials.crystals.composition import per_site, reduced_formula
from materials.crystals.crystal import Crystal, crystal_from_json, crystal_of
from materials.duplicates.niggli import ReducedCell, reduced_cells
from materials.duplicates.structure_matcher import fits
from materials.duplicates.tolerances import ALIKE, ROUNDED, Tolerances
from materials.records import Candidate, WrittenCandidate

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure

Proposal = TypeVar("Proposal", Candidate, WrittenCandidate)
Crystals = Callable[[Sequence[int]], Sequence[Crystal]]  # gives those of some indices
CheckStop = Callable[[], None]  # raises where somebody asked to stop

# Fractional coordinates, lattice lengths (Å) and angles (degrees) go into bins before they are hashed. The bins'
# edges lie where no simple fraction does, so that rounding noise in 1/3, 1/8 or 0.99999 cannot change a bin.
_BINS_PER_UNIT = 10_000
_EDGE = 0.2928932188

BLOCK = 5_000  # crystals that are compared at once: the more pairs the matcher has, the less each of them costs


def material_id(structure: Structure) -> str:
    """Name a structure by its content, as it was proposed: `KMgSb-3f2a91c07d`.

    The same on every machine; independent of the order of the sites, of the orientation of the lattice and of
    oxidation states. Another cell of the same crystal has another id: `group_duplicates` finds those. Mirror
    images share an id (their energies are equal).

    Args:
        structure: Ordered or not.
    """
    cell = np.floor(_parameters(structure.lattice.matrix) * _BINS_PER_UNIT + _EDGE).astype(int)
    coords = np.floor(structure.frac_coords * _BINS_PER_UNIT + _EDGE).astype(int) % _BINS_PER_UNIT
    occupants = per_site(structure, _occupants)
    sites = sorted(f"{who}:{x},{y},{z}" for who, (x, y, z) in zip(occupants, coords.tolist(), strict=True))
    text = ";".join([",".join(map(str, cell.tolist())), *sites])
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{reduced_formula(structure)}-{digest}"


def group_duplicates(structures: Sequence[Structure], tolerances: Tolerances = ALIKE) -> list[list[int]]:
    """Group structures that are the same crystal, up to cell choice and what the tolerances allow.

    The groups are those of `StructureMatcher(primitive_cell=True, scale=True)` with the same tolerances compared one by
    one: each structure joins the first group whose first member it fits, or founds its own. (Fitting is not transitive;
    this is the rule of `StructureMatcher.group_structures`.)

    Args:
        structures: Ordered structures, of any formulas.
        tolerances: Volume and small distortions do not matter by default.

    Returns:
        Groups of indices into `structures`, each in order of appearance, ordered by their first members.
    """
    return group_alike(
        [reduced_formula(structure) for structure in structures],
        lambda indices: [crystal_of(structures[index]) for index in indices],
        tolerances,
    )


def group_alike(
    formulas: Sequence[str],
    crystals: Crystals,
    tolerances: Tolerances = ALIKE,
    *,
    check_stop: CheckStop = lambda: None,
) -> list[list[int]]:
    """Group as `group_duplicates` does, with a few thousand crystals in memory at once.

    Args:
        formulas: Reduced formula of each crystal.
        crystals: Gives those of some indices.
        tolerances: What does not matter.
        check_stop: Is called every few milliseconds, and may raise.
    """
    by_formula: dict[str, list[int]] = {}
    for index, formula in enumerate(formulas):
        by_formula.setdefault(formula, []).append(index)
    groups = [indices for indices in by_formula.values() if len(indices) == 1]
    block: list[list[int]] = []
    size = 0
    for indices in by_formula.values():
        if len(indices) == 1:
            continue
        if size + len(indices) > BLOCK:
            groups += _block(block, crystals, tolerances, check_stop)
            block, size = [], 0
        block.append(indices)
        size += len(indices)
    groups += _block(block, crystals, tolerances, check_stop)
    return sorted(groups)


def _block(
    alike: Sequence[Sequence[int]], crystals: Crystals, tolerances: Tolerances, check_stop: CheckStop
) -> list[list[int]]:
    """Group crystals, given as the indices of each formula."""
    told = crystals([index for indices in alike for index in indices])
    cells = iter(reduced_cells(told, repeat=tolerances.repeat, check_stop=check_stop))
    # Cells of different sizes are never the same crystal to the matcher.
    waiting: dict[tuple[int, int], list[tuple[int, ReducedCell]]] = {}
    for number, indices in enumerate(alike):
        for index in indices:
            cell = next(cells)
            waiting.setdefault((number, len(cell.symbols)), []).append((index, cell))
    groups = []
    queues = list(waiting.values())
    while queues:
        check_stop()
        found, queues = _round(queues, tolerances, check_stop)
        groups += found
    return groups


def _round(
    queues: list[list[tuple[int, ReducedCell]]], tolerances: Tolerances, check_stop: CheckStop
) -> tuple[list[list[int]], list[list[tuple[int, ReducedCell]]]]:
    """Found a group with the first of each queue, and find its members.

    All queues at once: the more pairs the matcher has, the less each of them costs.

    Returns:
        The groups, and what is left of the queues.
    """
    pairs = [(queue[0][1], cell) for queue in queues for _, cell in queue[1:]]
    held = iter(fits(pairs, tolerances, check_stop=check_stop).tolist())
    groups, left = [], []
    for (founder, _), *others in queues:
        fitting = [next(held) for _ in others]
        groups.append([founder, *(index for (index, _), fit in zip(others, fitting, strict=True) if fit)])
        rest = [member for member, fit in zip(others, fitting, strict=True) if not fit]
        if rest:
            left.append(rest)
    return groups, left


class Merged(Generic[Proposal]):
    """One candidate of all that propose the same crystal, in the order in which they came.

    Before a relaxation that is the same but for cell, origin and rounding: what is distorted may relax into another
    crystal. Equal ids are one without a look at their structures.

    The first proposal stands for its group, with the parents and the known ids of all. It is a "candidate" as
    soon as one of them is, even if the others are only "competing". What is merged is made anew each time it is gone
    through.
    """

    def __init__(self, pool: Sequence[Proposal], *, check_stop: CheckStop = lambda: None) -> None:
        """Compare them, a few thousand at once; `check_stop` is called in between, and may raise."""
        same: dict[str, list[int]] = {}
        formulas: list[str] = []
        for index, candidate in enumerate(pool):
            check_stop()
            if candidate.material_id not in same:
                formulas.append(sys.intern(candidate.formula))
            same.setdefault(candidate.material_id, []).append(index)
        members = list(same.values())

        def crystals(indices: Sequence[int]) -> list[Crystal]:
            return [_crystal(pool[members[i][0]].structure) for i in indices]

        groups = group_alike(formulas, crystals, ROUNDED, check_stop=check_stop)
        self._pool: Sequence[Proposal] = pool
        self._groups = [sorted(index for i in group for index in members[i]) for group in groups]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Proposal]:
        return (_merged([self._pool[i] for i in group]) for group in self._groups)


def _crystal(structure: Structure | str) -> Crystal:
    return crystal_from_json(structure) if isinstance(structure, str) else crystal_of(structure)


def mark_known(candidates: Sequence[Candidate], known: Sequence[tuple[str, Structure]]) -> list[Candidate]:
    """Write into `known_as` the ids of known structures that are the same crystal.

    Args:
        candidates: What was proposed; the order is kept.
        known: Pairs of a source's own id and its structure.
    """
    formulas = {c.formula for c in candidates}
    relevant = [(name, s) for name, s in known if reduced_formula(s) in formulas]
    names: dict[int, list[str]] = {}
    # The known come first, so that each candidate is compared with them and not with its fellows.
    n_known = len(relevant)
    for group in group_duplicates([*(s for _, s in relevant), *(c.structure for c in candidates)]):
        twins = [relevant[i][0] for i in group if i < n_known]
        for index in group:
            if index >= n_known and twins:
                names[index - n_known] = twins
    return [
        replace(c, known_as=_unique([*c.known_as, *names[i]])) if i in names else c for i, c in enumerate(candidates)
    ]


def _merged(group: list[Proposal]) -> Proposal:
    first = group[0]
    if len(group) == 1:
        return first
    return replace(
        first,
        parents=_unique(p for c in group for p in c.parents),
        known_as=_unique(k for c in group for k in c.known_as),
        role="candidate" if any(c.role == "candidate" for c in group) else "competing",
    )


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _parameters(matrix: np.ndarray) -> np.ndarray:
    """Lengths (Å) and angles (degrees) of a cell, shape (6,)."""
    lengths = np.sqrt((matrix**2).sum(axis=1))
    cosines = (matrix[[1, 2, 0]] * matrix[[2, 0, 1]]).sum(axis=1) / (lengths[[1, 2, 0]] * lengths[[2, 0, 1]])
    return np.concatenate([lengths, np.rad2deg(np.arccos(np.minimum(np.maximum(cosines, -1), 1)))])


def _occupants(species: Composition) -> str:
    parts = sorted((element.symbol, round(amount, 4)) for element, amount in species.element_composition.items())
    return "+".join(symbol if amount == 1 else f"{symbol}{amount:g}" for symbol, amount in parts)

"""Which structures are one and the same crystal, and what a crystal is called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from materials.records import Candidate

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

# The loose default of pymatgen (stol=0.3) merges crystals that are different.
LENGTH_TOLERANCE = 0.2
SITE_TOLERANCE = 0.1
ANGLE_TOLERANCE = 5.0  # degrees

# Fractional coordinates, lattice lengths (Å) and angles (degrees) go into bins before they are hashed. The bins'
# edges lie where no simple fraction does, so that rounding noise in 1/3, 1/8 or 0.99999 cannot change a bin.
_BINS_PER_UNIT = 10_000
_EDGE = 0.2928932188

_VOLUME_PER_ATOM = 20.0  # Å³, to which all are scaled before they are compared
_NEIGHBOURS = 8  # distances kept for each pair of species
_CUTOFF = 2.2  # in units of the cube root of the volume per atom
_RADIUS = 0.4  # largest component by which fingerprints of one crystal may differ, in the same units; 0.3 would just do


def material_id(structure: Structure) -> str:
    """Name a structure by its content, as it was proposed: `KMgSb-3f2a91c07d`.

    The same on every machine; independent of the order of the sites, of the orientation of the lattice and of
    oxidation states. Another cell of the same crystal has another id: `group_duplicates` finds those. Mirror
    images share an id (their energies are equal).

    Args:
        structure: Ordered or not.
    """
    lengths, angles = structure.lattice.abc, structure.lattice.angles
    cell = np.floor(np.array([*lengths, *angles]) * _BINS_PER_UNIT + _EDGE).astype(int)
    coords = np.floor(structure.frac_coords * _BINS_PER_UNIT + _EDGE).astype(int) % _BINS_PER_UNIT
    sites = sorted(f"{_species(site)}:{x},{y},{z}" for site, (x, y, z) in zip(structure, coords.tolist(), strict=True))
    text = ";".join([",".join(map(str, cell.tolist())), *sites])
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{_reduced_formula(structure)}-{digest}"


def group_duplicates(structures: Sequence[Structure]) -> list[list[int]]:
    """Group structures that are the same crystal, up to volume, cell choice and small distortions.

    The groups are those of `StructureMatcher(ltol=0.2, stol=0.1, angle_tol=5, primitive_cell=True, scale=True)`
    compared one by one: each structure joins the first group whose first member it fits, or founds its own.
    (Fitting is not transitive; this is the rule of `StructureMatcher.group_structures`.) A fingerprint proposes
    the members to compare with, the matcher decides.

    Args:
        structures: Ordered structures, of any formulas.

    Returns:
        Groups of indices into `structures`, each in order of appearance, ordered by their first members.
    """
    by_formula: dict[str, list[int]] = {}
    for index, structure in enumerate(structures):
        by_formula.setdefault(_reduced_formula(structure), []).append(index)
    matcher = _matcher()
    groups: list[list[int]] = []
    for indices in by_formula.values():
        if len(indices) == 1:
            groups.append(indices)
        else:
            groups.extend(_group([_Crystal(index=i, structure=structures[i]) for i in indices], matcher))
    return sorted(groups)


def merge(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Make one candidate of all that propose the same crystal, in the order in which they came.

    The first proposal stands for its group, with the parents and the known ids of all. It is a "candidate" as
    soon as one of them is, even if the others are only "competing".
    """
    pool = list(candidates)
    return [_merged([pool[i] for i in group]) for group in group_duplicates([c.structure for c in pool])]


def mark_known(candidates: Sequence[Candidate], known: Sequence[tuple[str, Structure]]) -> list[Candidate]:
    """Write into `known_as` the ids of known structures that are the same crystal.

    Args:
        candidates: What was proposed; the order is kept.
        known: Pairs of a source's own id and its structure.
    """
    formulas = {c.formula for c in candidates}
    relevant = [(name, s) for name, s in known if _reduced_formula(s) in formulas]
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


def fingerprint(structure: Structure) -> np.ndarray:
    """Describe a crystal by its mean sorted neighbour distances, pair of species by pair of species.

    Independent of cell choice, site order, orientation and volume. Different orderings on one lattice can have
    equal fingerprints: it proposes, it does not decide.

    Args:
        structure: Ordered.

    Returns:
        Shape `(n_pairs * 8,)`, pairs of species in alphabetical order; lengths in units of the cube root of the
        volume per atom, cut at 2.2.
    """
    unit = (structure.volume / len(structure)) ** (1 / 3)
    symbols = np.array([site.specie.symbol for site in structure])
    kinds = sorted(set(symbols))
    centres, points, _, distances = structure.get_neighbor_list(_CUTOFF * unit)
    order = np.lexsort((distances, centres))
    centres, points, distances = centres[order], points[order], distances[order] / unit
    features = []
    for first, a in enumerate(kinds):
        members = np.flatnonzero(symbols == a)
        for b in kinds[first:]:
            chosen = (symbols[centres] == a) & (symbols[points] == b)
            features.append(_mean_sorted(centres[chosen], distances[chosen], members, len(structure)))
    return np.concatenate(features)


def _mean_sorted(centres: np.ndarray, distances: np.ndarray, members: np.ndarray, n_sites: int) -> np.ndarray:
    """Average the first sorted distances over the centres; `centres` is sorted, `distances` within each."""
    counts = np.bincount(centres, minlength=n_sites)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(centres)) - starts[centres]
    near = rank < _NEIGHBOURS
    table = np.full((n_sites, _NEIGHBOURS), _CUTOFF)
    table[centres[near], rank[near]] = distances[near]
    return table[members].mean(axis=0)


@dataclass(kw_only=True, eq=False)
class _Crystal:
    """A structure with what is only worked out if somebody asks."""

    index: int
    structure: Structure

    @cached_property
    def fingerprint(self) -> np.ndarray:
        return fingerprint(self.structure)

    @cached_property
    def reduced(self) -> Structure:
        # The matcher's own reduction, and its scaling to one volume, once for a crystal and not once for a pair.
        reduced = _matcher()._get_reduced_structure(self.structure, primitive_cell=True, niggli=True)
        reduced.scale_lattice(_VOLUME_PER_ATOM * len(reduced))
        return reduced


@dataclass(kw_only=True)
class _Founders:
    """The first members of the groups so far, searchable by fingerprint."""

    crystals: list[_Crystal] = field(default_factory=list)
    indexed: int = 0
    tree: object = None

    def add(self, crystal: _Crystal) -> None:
        """Remember a new group; the tree is made anew each time that the number has grown by half."""
        from scipy.spatial import cKDTree

        self.crystals.append(crystal)
        if len(self.crystals) > 64 + 1.5 * self.indexed:
            self.tree = cKDTree(np.array([c.fingerprint for c in self.crystals]))
            self.indexed = len(self.crystals)

    def near(self, crystal: _Crystal) -> list[int]:
        """Positions of the groups that the crystal could belong to, first founded first."""
        found: list[int] = []
        if self.tree is not None:
            found = sorted(self.tree.query_ball_point(crystal.fingerprint, _RADIUS, p=np.inf))  # type: ignore[attr-defined]
        late = self.crystals[self.indexed :]
        if late:
            gaps = np.abs(np.array([c.fingerprint for c in late]) - crystal.fingerprint).max(axis=1)
            found += (np.flatnonzero(gaps <= _RADIUS) + self.indexed).tolist()
        return found


def _group(crystals: list[_Crystal], matcher: StructureMatcher) -> list[list[int]]:
    """Group crystals of one formula by the first-fit rule."""
    founders = _Founders()
    groups: list[list[int]] = []
    of_content: dict[str, int] = {}
    for crystal in crystals:
        content = material_id(crystal.structure)
        if content not in of_content:
            of_content[content] = next(
                (k for k in founders.near(crystal) if _fits(founders.crystals[k], crystal, matcher)), len(groups)
            )
        home = of_content[content]
        if home == len(groups):
            groups.append([])
            founders.add(crystal)
        groups[home].append(crystal.index)
    return groups


def _fits(founder: _Crystal, crystal: _Crystal, matcher: StructureMatcher) -> bool:
    if len(founder.reduced) != len(crystal.reduced):
        return False
    # What `matcher.fit` comes to for cells that are reduced and scaled already; it would copy both for each pair.
    match = matcher._strict_match(founder.reduced, crystal.reduced, 1, s1_supercell=True, break_on_match=True)
    return match is not None and bool(match[0] <= matcher.stol)


@lru_cache(maxsize=1)
def _matcher() -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import ElementComparator, StructureMatcher

    return StructureMatcher(
        ltol=LENGTH_TOLERANCE,
        stol=SITE_TOLERANCE,
        angle_tol=ANGLE_TOLERANCE,
        primitive_cell=True,
        scale=True,
        comparator=ElementComparator(),
    )


def _merged(group: list[Candidate]) -> Candidate:
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


def _reduced_formula(structure: Structure) -> str:
    return structure.composition.element_composition.reduced_formula


def _species(site) -> str:  # type: ignore[no-untyped-def]
    parts = sorted((element.symbol, round(amount, 4)) for element, amount in site.species.element_composition.items())
    return "+".join(symbol if amount == 1 else f"{symbol}{amount:g}" for symbol, amount in parts)

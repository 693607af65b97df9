"""Convex hull of formation energy over composition, for one phase diagram.

Built by qhull (Ong et al., https://doi.org/10.1021/cm702327g). Each lower facet is a plane of chemical potentials mu
(eV/atom), and the hull's energy at the atomic fractions x is `max over facets of mu · x`: one matrix product for any
number of questions. Energies are exact here; whoever decides by them rounds to 0.1 meV/atom first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from scipy.spatial import ConvexHull, cKDTree

from materials.errors import HullError, LevelOfTheoryMismatch, MissingTerminals
from materials.records import content_hash

SAME_COMPOSITION = 1e-8  # by which atomic fractions of one composition may differ, as in pymatgen
_DECIMALS = 8  # of an atomic fraction: entries that agree in them are told apart by their energy alone
_ZERO = 1e-10  # of an atomic fraction in a decomposition
_BLOCK = 100_000  # questions times facets held at once: what a core's cache takes


@dataclass(frozen=True, kw_only=True, slots=True)
class HullEntry:
    """A phase: what it is made of, and its total energy.

    Attributes:
        n_atoms: Atoms in the cell.
        energy_per_atom: Total energy in eV/atom.
        elements: The elements of which it holds any.
    """

    entry_id: str  # the material_id
    amounts: Mapping[str, float]  # element -> atoms in the cell
    energy: float  # eV, total, in the convention of level_of_theory
    level_of_theory: str
    method: str
    n_atoms: float = field(init=False, repr=False, compare=False)
    energy_per_atom: float = field(init=False, repr=False, compare=False)
    elements: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n_atoms = float(sum(self.amounts.values()))
        object.__setattr__(self, "n_atoms", n_atoms)
        object.__setattr__(self, "energy_per_atom", self.energy / n_atoms)
        object.__setattr__(self, "elements", _elements(tuple(e for e, amount in self.amounts.items() if amount > 0)))


@lru_cache(maxsize=100_000)
def _elements(symbols: tuple[str, ...]) -> frozenset[str]:
    return frozenset(symbols)  # one for all phases of a chemical system


def fractions_of(entries: Sequence[HullEntry], elements: Sequence[str]) -> np.ndarray:
    """Give atomic fractions `(n_entries, n_elements)`, columns in the order of `elements`."""
    amounts = np.array([[entry.amounts.get(element, 0.0) for element in elements] for entry in entries], dtype=float)
    return amounts.reshape(len(entries), len(elements)) / np.array([[entry.n_atoms] for entry in entries])


def of_composition(fractions: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Tell which rows `(n,)` of atomic fractions `(n, n_elements)` have the composition `point`."""
    found = np.ones(len(fractions), dtype=bool)
    for column, share in zip(fractions.T, point, strict=True):  # a reduction over so few columns takes thrice as long
        found &= np.abs(column - share) <= SAME_COMPOSITION
    return found


def check(entries: Sequence[HullEntry]) -> None:
    """Refuse entries that cannot stand in one hull.

    Raises:
        LevelOfTheoryMismatch: they are of several levels.
        HullError: two have one id, or an energy is no number.
    """
    check_level(entries)
    seen: set[str] = set()
    for entry in entries:
        if entry.entry_id in seen:
            raise HullError(f"Two phases of one hull are called {entry.entry_id}: give each material one energy")
        if not np.isfinite(entry.energy):
            raise HullError(f"The energy of {entry.entry_id} by {entry.method} is {entry.energy}: leave it out")
        seen.add(entry.entry_id)


def check_level(entries: Iterable[HullEntry]) -> None:
    """Refuse to mix levels of theory.

    Raises:
        LevelOfTheoryMismatch: there are several.
    """
    levels = {entry.level_of_theory: f"{entry.entry_id} by {entry.method}" for entry in entries}
    if len(levels) > 1:
        found = ", ".join(f"{level} ({example})" for level, example in sorted(levels.items()))
        raise LevelOfTheoryMismatch(f"Energies of one hull must mean the same; found {found}")


@dataclass(frozen=True, kw_only=True)
class Facet:
    """The piece of a hull under one composition.

    Attributes:
        energy: Of the hull there, eV/atom.
        decomposition: `entry_id` of each phase that it consists of -> fraction of the atoms.
        potentials: `(n_elements,)` chemical potentials, eV/atom.
    """

    energy: float
    decomposition: Mapping[str, float]
    potentials: np.ndarray


class Hull:
    """The lower hull of one chemical system.

    Attributes:
        elements: Symbols in alphabetical order: the columns of every array of atomic fractions.
        entries: Those in the system, by id.
        fractions: `(n_entries, n_elements)`, atomic fractions.
        energies_per_atom: `(n_entries,)`, eV/atom.
        reference_energies: `(n_elements,)`, energy of each element's ground state, eV/atom.
        formation_energies: `(n_entries,)`, from those, eV/atom.
    """

    def __init__(self, entries: Iterable[HullEntry], elements: Iterable[str]) -> None:
        """Gather the entries; the facets are built when they are first asked for.

        Args:
            entries: Phases, of one level of theory; those with other elements are left out.
            elements: Of the chemical system.

        Raises:
            LevelOfTheoryMismatch: the entries are of several levels.
            MissingTerminals: an element has no entry.
            HullError: two entries have one id.
        """
        self.elements = tuple(sorted(elements))
        system = set(self.elements)
        self.entries = sorted((entry for entry in entries if entry.elements <= system), key=_by_id)
        check(self.entries)
        self.fractions = fractions_of(self.entries, self.elements)
        self.energies_per_atom = np.array([entry.energy_per_atom for entry in self.entries])
        self._terminals = _terminals(self.fractions, self.energies_per_atom, self.elements)
        self.reference_energies = self.energies_per_atom[self._terminals]
        self.formation_energies = self.energies_per_atom - self.fractions @ self.reference_energies

    @cached_property
    def version(self) -> str:
        """Hash of the entries: level, ids, methods, and energies rounded to 0.1 meV/atom."""
        told = [[entry.entry_id, entry.method, round(entry.energy_per_atom, 4) + 0.0] for entry in self.entries]
        return content_hash([self.entries[0].level_of_theory, told])

    @cached_property
    def simplices(self) -> np.ndarray:
        """`(n_facets, n_elements)` indices of the entries that span each facet."""
        low = self._lowest()
        if len(self.elements) == 1 or not len(low):
            return self._terminals[None, :]
        index = np.concatenate([self._terminals, low])
        heights = self.formation_energies[index]
        # Compounds bound by a few µeV are no reason to lose digits: qhull sees the depth scaled to one. A point high
        # above the middle gives the hull a volume, whatever lies in one plane.
        points = np.column_stack([self.fractions[index, 1:], heights / max(-heights.min(), 1e-6)])
        hull = ConvexHull(np.vstack([points, [*[1 / len(self.elements)] * (len(self.elements) - 1), 1.0]]))
        simplices = hull.simplices[(hull.simplices < len(index)).all(axis=1) & (hull.equations[:, -2] < -1e-12)]
        return self._sound(index[simplices])

    @cached_property
    def potentials(self) -> np.ndarray:
        """`(n_facets, n_elements)` formation energies of the elements on the plane of each facet, eV/atom."""
        return self._planes(self.simplices)

    @cached_property
    def vertices(self) -> frozenset[str]:
        """Ids of the entries that span the hull."""
        return frozenset(self.entries[i].entry_id for i in np.unique(self.simplices))

    def energies(self, fractions: np.ndarray) -> np.ndarray:
        """Give the hull's energy, `(n,)` in eV/atom, at atomic fractions `(n, n_elements)`."""
        return self._facets_under(fractions)[0] + fractions @ self.reference_energies

    def planes(self, fractions: np.ndarray) -> np.ndarray:
        """Give the planes of the facets under atomic fractions `(n, n_elements)`.

        Returns:
            `(n, n_elements)`, formation energy of each element on the plane, eV/atom.
        """
        return self.potentials[self._facets_under(fractions)[1]]

    def decompositions(self, fractions: np.ndarray) -> list[dict[str, float]]:
        """Say what the hull consists of at atomic fractions `(n, n_elements)`: `entry_id` -> fraction of the atoms."""
        facets = self._facets_under(fractions)[1]
        corners = np.swapaxes(self.fractions[self.simplices], 1, 2)
        shares = np.linalg.solve(corners[facets], fractions[..., None])[..., 0]
        # Facets of one plane tie, and only one of them lies under the point.
        return [
            self._named(self.simplices[facet], share) if share.min() > -_ZERO else dict(self.facet(point).decomposition)
            for point, facet, share in zip(fractions, facets, shares, strict=True)
        ]

    def has_vertex(self, fractions: np.ndarray) -> np.ndarray:
        """Tell, `(n,)`, which atomic fractions `(n, n_elements)` are those of a phase on the hull, or all but those."""
        return self._vertex_tree.query(fractions, p=np.inf, distance_upper_bound=2 * SAME_COMPOSITION)[0] < np.inf

    @cached_property
    def _vertex_tree(self) -> cKDTree:
        return cKDTree(self.fractions[np.unique(self.simplices)])

    def facet(self, point: np.ndarray, *, of_others: bool = False) -> Facet:
        """Find the facet under one composition.

        The simplex method from the elements up: exact, and no second hull has to be built for it.

        Args:
            point: `(n_elements,)` atomic fractions.
            of_others: Of the hull of all phases of other compositions.

        Raises:
            MissingTerminals: without those of the composition an element has no entry.
        """
        left_out = of_composition(self.fractions, point) if of_others else np.zeros(len(self.entries), dtype=bool)
        kept = np.flatnonzero(~left_out)
        fractions, energies = self.fractions[kept], self.energies_per_atom[kept]
        terminals = _terminals(fractions, energies, self.elements)
        formation = energies - fractions @ energies[terminals]
        basis, shares, slopes = _descend(fractions, formation, point, terminals.copy())
        potentials = slopes + energies[terminals]
        return Facet(
            energy=float(potentials @ point),
            decomposition=self._named(kept[basis], shares),
            potentials=potentials,
        )

    def _named(self, index: np.ndarray, shares: np.ndarray) -> dict[str, float]:
        named = sorted((self.entries[i].entry_id, float(share)) for i, share in zip(index, shares, strict=True))
        return {name: share for name, share in named if share > _ZERO}

    def _lowest(self) -> np.ndarray:
        """Entries below the tie lines of the elements, one a composition: no other can be a vertex."""
        best: dict[bytes, int] = {}
        order = np.lexsort((np.arange(len(self.entries)), self.formation_energies))
        keys = np.round(self.fractions, _DECIMALS) + 0.0
        for i in order[self.formation_energies[order] < 0]:
            best.setdefault(keys[i].tobytes(), int(i))
        return np.array(sorted(best.values()), dtype=int)

    def _planes(self, simplices: np.ndarray) -> np.ndarray:
        return np.linalg.solve(self.fractions[simplices], self.formation_energies[simplices][..., None])[..., 0]

    def _sound(self, simplices: np.ndarray) -> np.ndarray:
        """Drop slivers: simplices without a volume, whose plane would not support the hull."""
        simplices = simplices[np.abs(np.linalg.det(self.fractions[simplices])) > 1e-12]
        corners = np.unique(simplices)
        planes = self._planes(simplices)
        supports = np.empty(len(planes), dtype=bool)
        for start in range(0, len(planes), 512):
            part = slice(start, start + 512)
            excess = planes[part] @ self.fractions[corners].T - self.formation_energies[corners]
            supports[part] = excess.max(axis=1) < 1e-9
        return simplices[supports]

    def _facets_under(self, fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Formation energy of the hull `(n,)`, and the facet that gives it `(n,)`."""
        potentials = np.ascontiguousarray(self.potentials.T)
        heights, facets = np.empty(len(fractions)), np.empty(len(fractions), dtype=int)
        step = max(1, _BLOCK // potentials.shape[1])
        for start in range(0, len(fractions), step):
            part = slice(start, start + step)
            products = fractions[part] @ potentials
            facets[part] = products.argmax(axis=1)
            heights[part] = np.take_along_axis(products, facets[part, None], axis=1)[:, 0]
        return heights, facets


def _by_id(entry: HullEntry) -> str:
    return entry.entry_id


def _terminals(fractions: np.ndarray, energies: np.ndarray, elements: Sequence[str]) -> np.ndarray:
    """Index of the lowest entry of each element, `(n_elements,)`."""
    found = []
    for column, element in enumerate(elements):
        pure = np.flatnonzero(fractions[:, column] == 1.0) if len(fractions) else np.array([], dtype=int)
        if not len(pure):
            raise MissingTerminals(
                f"The hull of {'-'.join(elements)} has no phase of the element {element}: compute or pull one"
            )
        found.append(pure[np.argmin(energies[pure])])
    return np.array(found)


def _descend(
    fractions: np.ndarray, formation: np.ndarray, point: np.ndarray, basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimise the formation energy of a mixture with the composition `point`, by the primal simplex method.

    Returns:
        The phases of the best mixture `(n_elements,)`, the share of each, and the slopes of its plane (eV/atom).

    Raises:
        HullError: it does not end (it always does).
    """
    for step in range(100 + 10 * len(fractions)):
        slopes = np.linalg.solve(fractions[basis], formation[basis])
        shares = np.linalg.solve(fractions[basis].T, point)
        depths = formation - fractions @ slopes
        below = np.flatnonzero(depths < -1e-11)
        if not len(below):
            return basis, shares, slopes
        # The steepest first; after many steps Bland's rule, which cannot go round in circles.
        entering = below[np.argmin(depths[below])] if step < 100 else below[0]
        direction = np.linalg.solve(fractions[basis].T, fractions[entering])
        rows = np.flatnonzero(direction > 1e-12)
        ratios = np.maximum(shares[rows], 0.0) / direction[rows]
        tied = rows[ratios <= ratios.min() + 1e-14]
        basis[tied[np.argmin(basis[tied])]] = entering
    raise HullError(f"The facet under {point.tolist()} was not found among {len(fractions)} phases")

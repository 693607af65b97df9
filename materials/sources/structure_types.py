"""Structure types: the crystals that prototypes are decorated from.

Two collections: our own library (`prototypes.yaml` beside this file) and the AFLOW prototypes that pymatgen carries
(DOI 10.1016/j.commatsci.2017.01.017). A type is a primitive cell whose sites are divided into slots; each slot takes
one element.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib import metadata, resources
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from materials.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Lattice, Structure

Kind = Literal["metal", "nonmetal", "salt", "alloy"]

# Rows are primitive vectors in terms of the conventional ones (International Tables A, obverse setting for R).
_PRIMITIVE = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
    "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    "A": [[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]],
    "C": [[0.5, -0.5, 0], [0.5, 0.5, 0], [0, 0, 1]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Sites that one element takes together."""

    label: str  # the element of the example that sits here
    site: str  # how to speak of it: "4c", "2b+4f", "Cl site"
    count: int  # in the primitive cell
    anion_rank: int  # 0: not for anions; 1: first choice for an anion; 2: for a second one
    charge: float | None = None  # formal charge of an anion here, where it is not the ion's own
    larger: bool = False  # in an alloy, only for an atom larger than all others


@dataclass(frozen=True, kw_only=True, eq=False)
class StructureType:
    """A crystal structure without its elements.

    `matrix` (3, 3) holds the primitive lattice vectors of the example in rows (Å), `frac_coords` (n_sites, 3),
    `slot_of_site` (n_sites,), `contacts` (n_slots, n_slots) the shortest distance (Å) between two slots.
    `swaps` are the permutations of slots that give the same crystal again, the identity among them.
    """

    name: str
    example: str
    kinds: frozenset[Kind]
    slots: tuple[Slot, ...]
    matrix: np.ndarray
    frac_coords: np.ndarray
    slot_of_site: np.ndarray
    contacts: np.ndarray
    swaps: tuple[tuple[int, ...], ...]
    version: str  # of the collection that it is from

    def decorate(self, elements: tuple[str, ...], scale: float = 1.0) -> Structure:
        """Put an element on each slot.

        Args:
            elements: One symbol for each slot.
            scale: Factor on all lengths of the example's cell.
        """
        from pymatgen.core import Structure

        species = [elements[slot] for slot in self.slot_of_site]
        return Structure(self.matrix * scale, species, self.frac_coords)


def find(name: str) -> list[StructureType]:
    """Look up structure types by name.

    Args:
        name: Of a type of the library (`half-Heusler`), an AFLOW label (`AB_cF8_225_a_b`; several AFLOW types can
            share one), or `library` or `aflow` for all of a collection.

    Raises:
        InputError: No type has this name.
    """
    own = _specification()
    if name == "library":
        return [structure_type(n) for n in own]
    if name in own:
        return [structure_type(name)]
    aflow = _aflow_names()
    if name == "aflow":
        return [structure_type(n) for n in aflow]
    found = [n for n in aflow if n == name or n.rpartition(":")[0] == name]
    if not found:
        close = difflib.get_close_matches(name, [*own, *aflow], n=3, cutoff=0.4)
        raise InputError(f"prototypes: no structure type is called {name!r}; nearest: {', '.join(close) or 'none'}")
    return [structure_type(n) for n in found]


def library_names() -> tuple[str, ...]:
    """Names of the library's types, in the order of the file."""
    return tuple(_specification())


@lru_cache(maxsize=None)
def structure_type(name: str) -> StructureType:
    """Build a type, once for a process, by its exact name."""
    if name in _specification():
        return _from_library(name, _specification()[name])
    return _from_aflow(name, _aflow_names()[name])


@lru_cache(maxsize=None)
def _specification() -> Mapping[str, Mapping[str, Any]]:
    import yaml

    return yaml.safe_load(_library_text())


def _library_text() -> str:
    return resources.files("materials.sources").joinpath("prototypes.yaml").read_text(encoding="utf-8")


@lru_cache(maxsize=None)
def _library_version() -> str:
    return f"library-{hashlib.sha256(_library_text().encode()).hexdigest()[:10]}"


def example(name: str) -> Structure:
    """The compound that gives a library type its numbers, in its conventional cell, lengths as measured."""
    from pymatgen.core import Structure

    entry = _specification()[name]
    orbits = [site.split() for site in entry["sites"]]
    xyz = [[float(Fraction(v)) for v in orbit[2:]] for orbit in orbits]
    species: list[str] = []
    coords: list[np.ndarray] = []
    for orbit, point in zip(orbits, xyz, strict=True):
        points = _orbit(entry["group"], np.array(point))
        species += [orbit[0]] * len(points)
        coords += list(points)
    return Structure(_lattice(entry["group"], entry["cell"]), species, coords)


def _orbit(group: int, point: np.ndarray) -> np.ndarray:
    """All points in the conventional cell that the space group makes of one, shape (n, 3)."""
    import moyopy

    # A table look-up (origin choice 1, hexagonal axes, unique axis b): pymatgen composes the 192 operations of an
    # F-centred cubic group anew each time, in more than a second.
    operations = moyopy.operations_from_number(group, setting=moyopy.Setting.spglib())
    points = (np.array(operations.rotations) @ point + np.array(operations.translations)) % 1
    return points[_distinct(points)]


def _lattice(group: int, cell: list[float]) -> Lattice:
    from pymatgen.core import Lattice

    if len(cell) == 1:
        return Lattice.cubic(*cell)
    if len(cell) == 2:
        return Lattice.hexagonal(*cell) if 143 <= group <= 194 else Lattice.tetragonal(*cell)
    return Lattice.orthorhombic(*cell) if len(cell) == 3 else Lattice.monoclinic(*cell)


def _from_library(name: str, entry: Mapping[str, Any]) -> StructureType:
    import moyopy

    crystal = example(name)
    symbol = moyopy.SpaceGroupType(entry["group"]).hm_short
    centring = np.array(_PRIMITIVE[symbol[0]])
    frac = crystal.frac_coords @ np.linalg.inv(centring)
    keep = _distinct(frac)
    labels = [crystal[i].specie.symbol for i in keep]
    sites: dict[str, list[str]] = {}
    for orbit in entry["sites"]:
        element, wyckoff = orbit.split()[:2]
        sites.setdefault(element, []).append(wyckoff)
    slots = tuple(
        Slot(
            label=label,
            site="+".join(sites[label]),
            count=labels.count(label),
            anion_rank=entry.get("anions", {}).get(label, 0),
            charge=entry.get("charges", {}).get(label),
            larger=entry.get("larger") == label,
        )
        for label in sites
    )
    return _assemble(
        name=name,
        example=entry["example"],
        kinds=entry["for"],
        slots=slots,
        matrix=centring @ crystal.lattice.matrix,
        frac=frac[keep] % 1,
        labels=labels,
        version=_library_version(),
    )


def _distinct(frac: np.ndarray) -> list[int]:
    """Indices of the first of each set of points that differ by whole numbers."""
    keep: list[int] = []
    for i, point in enumerate(frac):
        gap = frac[keep] - point
        if not len(keep) or np.abs(gap - np.round(gap)).max(axis=1).min() > 1e-4:
            keep.append(i)
    return keep


@lru_cache(maxsize=None)
def _aflow_entries() -> tuple[tuple[str, str, Structure], ...]:
    """Label, Strukturbericht symbol and structure of each AFLOW type that is ordered."""
    from pymatgen.core import Structure

    # The file itself: importing the package parses a bibliography for every entry, for four seconds and with warnings.
    package = importlib.util.find_spec("pymatgen.analysis.prototypes")
    if package is None or package.origin is None:
        raise InputError("prototypes: this pymatgen carries no AFLOW prototypes; install pymatgen>=2026.10")
    with gzip.open(Path(package.origin).with_name("aflow_prototypes.json.gz"), "rt", encoding="utf-8") as file:
        entries = json.load(file)
    found = ((e["tags"]["aflow"], e["tags"]["strukturbericht"], Structure.from_dict(e["snl"])) for e in entries)
    return tuple(entry for entry in found if entry[2].is_ordered)


@lru_cache(maxsize=None)
def _aflow_names() -> Mapping[str, int]:
    """Unique name of each AFLOW type -> its place among the entries."""
    labels = Counter(label for label, _, _ in _aflow_entries())
    names: dict[str, int] = {}
    for place, (label, symbol, structure) in enumerate(_aflow_entries()):
        name = label if labels[label] == 1 else f"{label}:{structure.composition.reduced_formula}"
        # Some elements stand there twice with one label.
        name = name if name not in names else f"{name}:{symbol}"
        if name in names:
            raise InputError(f"prototypes: two AFLOW types are both called {name}; name one by its place")
        names[name] = place
    return names


def _from_aflow(name: str, place: int) -> StructureType:
    crystal = _aflow_entries()[place][2]
    elements = sorted(crystal.composition.elements, key=lambda e: (e.X, e.symbol))
    labels = [site.specie.symbol for site in crystal]
    slots = tuple(
        Slot(
            label=e.symbol,
            site=f"{e.symbol} site",
            count=labels.count(e.symbol),
            anion_rank=len(elements) - i if i or len(elements) == 1 else 0,
        )
        for i, e in enumerate(elements)
    )
    kinds: Iterable[Kind] = ("salt", "alloy") if len(elements) > 1 else element_kinds(elements[0].symbol)
    return _assemble(
        name=name,
        example=crystal.composition.reduced_formula,
        kinds=kinds,
        slots=slots,
        matrix=np.array(crystal.lattice.matrix),
        frac=np.array(crystal.frac_coords) % 1,
        labels=labels,
        version=f"pymatgen-{metadata.version('pymatgen')}",
    )


@lru_cache(maxsize=None)
def element_kinds(symbol: str) -> frozenset[Kind]:
    """Which sorts of structure an element may take: a p-block metal such as Sn or Bi both."""
    from pymatgen.core import Element

    element = Element(symbol)
    kinds: list[Kind] = ["metal"] if element.is_metal else []
    return frozenset(kinds + (["nonmetal"] if not element.is_metal or element.block == "p" else []))


def _assemble(
    *,
    name: str,
    example: str,
    kinds: Iterable[Kind],
    slots: tuple[Slot, ...],
    matrix: np.ndarray,
    frac: np.ndarray,
    labels: list[str],
    version: str,
) -> StructureType:
    order = {slot.label: i for i, slot in enumerate(slots)}
    slot_of_site = np.array([order[label] for label in labels])
    return StructureType(
        name=name,
        example=example,
        kinds=frozenset(kinds),
        slots=slots,
        matrix=matrix,
        frac_coords=frac,
        slot_of_site=slot_of_site,
        contacts=_contacts(matrix, frac, slot_of_site, len(slots)),
        swaps=_swaps(matrix, frac, slot_of_site, [slot.count for slot in slots]),
        version=version,
    )


def _contacts(matrix: np.ndarray, frac: np.ndarray, slot_of_site: np.ndarray, n_slots: int) -> np.ndarray:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice(matrix), ["H"] * len(frac), frac)
    # No two slots are farther apart than the cell is wide; 3.5 times the mean spacing also finds each first neighbour.
    reach = max(3.5 * (structure.volume / len(frac)) ** (1 / 3), *structure.lattice.abc)
    centres, points, _, distances = structure.get_neighbor_list(reach)
    contacts = np.full((n_slots, n_slots), np.inf)
    np.minimum.at(contacts, (slot_of_site[centres], slot_of_site[points]), distances)
    return contacts


def _swaps(
    matrix: np.ndarray, frac: np.ndarray, slot_of_site: np.ndarray, counts: list[int]
) -> tuple[tuple[int, ...], ...]:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    identity = tuple(range(len(counts)))
    dummies = ["H", "He", "Li", "Be", "B", "C", "N", "O"]
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1, primitive_cell=False, scale=False)

    def coloured(order: tuple[int, ...]) -> Structure:
        return Structure(matrix, [dummies[order[slot]] for slot in slot_of_site], frac)

    alike = [p for p in permutations(identity) if p != identity and [counts[i] for i in p] == counts]
    return (identity, *(p for p in alike if matcher.fit(coloured(identity), coloured(p))))

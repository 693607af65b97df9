"""Libraries of structure types: our own, and the AFLOW prototypes that pymatgen carries.

Ours is `library.yaml` beside this file; for AFLOW see DOI 10.1016/j.commatsci.2017.01.017.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pymatgen.core import Lattice, Structure

from materials.errors import InputError
from materials.sources.prototypes.structure_type import Kind, Slot, StructureType, assemble, element_kinds

# Rows are primitive vectors in terms of the conventional ones (International Tables A, obverse setting for R).
_PRIMITIVE = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
    "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    "A": [[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]],
    "C": [[0.5, -0.5, 0], [0.5, 0.5, 0], [0, 0, 1]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}


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


@cache
def structure_type(name: str) -> StructureType:
    """Build a type, once for a process, by its exact name."""
    if name in _specification():
        return _from_library(name, _specification()[name])
    return _from_aflow(name, _aflow_names()[name])


@cache
def _specification() -> Mapping[str, Mapping[str, Any]]:

    return yaml.safe_load(_library_text())


def _library_text() -> str:
    return resources.files("materials.sources.prototypes").joinpath("library.yaml").read_text(encoding="utf-8")


@cache
def _library_version() -> str:
    return f"library-{hashlib.sha256(_library_text().encode()).hexdigest()[:10]}"


def example(name: str) -> Structure:
    """The compound that gives a library type its numbers, in its conventional cell, lengths as measured."""

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

    a, b, c = cell[0], cell[1] if len(cell) > 2 else cell[0], cell[min(2, len(cell) - 1)]
    gamma = 120.0 if 143 <= group <= 194 else 90.0
    return Lattice.from_parameters(a, b, c, 90.0, cell[3] if len(cell) > 3 else 90.0, gamma)


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
    return assemble(
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


@cache
def _aflow_entries() -> tuple[tuple[str, str, Structure], ...]:
    """Label, Strukturbericht symbol and structure of each AFLOW type that is ordered."""

    # The file itself: importing the package parses a bibliography for every entry, for four seconds and with warnings.
    package = importlib.util.find_spec("pymatgen.analysis.prototypes")
    if package is None or package.origin is None:
        raise InputError("prototypes: this pymatgen carries no AFLOW prototypes; install pymatgen>=2026.10")
    with gzip.open(Path(package.origin).with_name("aflow_prototypes.json.gz"), "rt", encoding="utf-8") as file:
        entries = json.load(file)
    found = ((e["tags"]["aflow"], e["tags"]["strukturbericht"], Structure.from_dict(e["snl"])) for e in entries)
    return tuple(entry for entry in found if entry[2].is_ordered)


@cache
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
    return assemble(
        name=name,
        example=crystal.composition.reduced_formula,
        kinds=kinds,
        slots=slots,
        matrix=np.array(crystal.lattice.matrix),
        frac=np.array(crystal.frac_coords) % 1,
        labels=labels,
        version=f"pymatgen-{metadata.version('pymatgen')}",
    )

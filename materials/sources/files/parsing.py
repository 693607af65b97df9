"""Text and JSON to structures. Nothing that is read is ever run or unpickled.

pymatgen's own JSON decoder imports whatever module the file names, so JSON structures are built here from their
lattice, species and coordinates alone.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np

from materials.sources.files.cif import parse_cif
from materials.sources.files.poscar import parse_poscar
from materials.sources.files.unpacking import PICKLE, is_pickle
from materials.sources.files.usable import (
    StructureTrouble,
    check_size,
    held_sites,
    moments_of,
    shown,
    sound,
    unreadable,
    with_moments,
)

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

WRITE = "write structure.to(fmt='cif') or structure.to_json() into the column"


def parse_structure(content: Any) -> Structure:
    """Read one crystal from CIF text, POSCAR text, or a structure as JSON text or as a mapping.

    Raises:
        StructureTrouble: it is none of these, damaged, disordered, or not periodic in three dimensions.
    """
    if isinstance(content, Mapping):
        return structure_from_mapping(content)
    if isinstance(content, bytes) and is_pickle(content):
        raise StructureTrouble("UnreadableStructure", f"holds {PICKLE}")
    if isinstance(content, bytes):
        content = content.decode("utf-8", errors="replace")
    if not isinstance(content, str) or not content.strip():
        raise StructureTrouble("UnreadableStructure", f"holds {shown(content)} where a structure was due")
    text = content.lstrip("\ufeff")
    if text.lstrip().startswith("{"):
        return structure_from_mapping(_parse_mapping(text))
    if re.search(r"(?i)_cell[_.]length_a|_atom_site[_.]fract_x", text):
        structures = parse_cif(text)
        if len(structures) != 1:
            raise StructureTrouble("UnreadableStructure", f"holds {len(structures)} crystals where one was due")
        if isinstance(structures[0], StructureTrouble):
            raise structures[0]
        return structures[0]
    if text.lstrip().startswith("Full Formula ("):
        raise StructureTrouble(
            "UnreadableStructure", f"holds a Structure as it is printed, which is not all of it; {WRITE}"
        )
    return parse_poscar(text)


def _parse_mapping(text: str) -> Any:
    """Read JSON, or a dictionary as Python prints it: what pandas makes of one in a CSV."""
    try:
        return parse_json(text)
    except StructureTrouble as trouble:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise trouble from None


def parse_json(text: str) -> Any:
    """Read JSON into plain values.

    Raises:
        StructureTrouble: it is broken, or nested without end.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StructureTrouble("UnreadableStructure", f"holds broken JSON: {error}") from error


def parse_json_or_lines(text: str) -> Any:
    """Read JSON, or JSON of one value a line as a list.

    Raises:
        StructureTrouble: It is neither.
    """
    try:
        return parse_json(text)
    except StructureTrouble:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) < 2 or not lines[0].rstrip().endswith(("}", "]")):
            raise
        return [parse_json(line) for line in lines]


def is_structure(content: Any) -> bool:
    """Whether JSON is a structure, as pymatgen's `as_dict` writes it."""
    return isinstance(content, Mapping) and {"lattice", "sites"} <= content.keys()


def is_crystal(content: Any) -> bool:
    """Whether JSON is a structure, or an entry with one."""
    if isinstance(content, Mapping) and isinstance(content.get("structure"), Mapping):
        content = content["structure"]
    return is_structure(content)


def attempt(content: Any) -> Structure | StructureTrouble:
    """`parse_structure`, its trouble handed back instead of raised."""
    try:
        return parse_structure(content)
    except StructureTrouble as trouble:
        return trouble


def structure_from_mapping(content: Any) -> Structure:
    """Build a structure from pymatgen's `Structure.as_dict` or a `ComputedStructureEntry.as_dict`.

    Site properties but `magmom` and `selective_dynamics` are left out: to decode them could run what the file names.
    """
    from pymatgen.core import Lattice, Structure

    if isinstance(content, Mapping) and isinstance(content.get("structure"), Mapping):
        content = content["structure"]
    if not isinstance(content, Mapping) or not {"lattice", "sites"} <= content.keys():
        raise StructureTrouble("UnreadableStructure", f"holds {shown(content)}, not a pymatgen structure")
    check_size(len(content["sites"]) if isinstance(content["sites"], Sized) else 0)
    try:
        # Parquet gives arrays of arrays.
        matrix, pbc = [list(row) for row in content["lattice"]["matrix"]], content["lattice"].get("pbc")
        a, b, c = (True, True, True) if pbc is None else map(bool, pbc)
        lattice = Lattice(matrix, pbc=(a, b, c))
        species = [_species(site["species"]) for site in content["sites"]]
        coords = [list(site["abc"]) for site in content["sites"]]
        properties = [site.get("properties") or {} for site in content["sites"]]
        structure = with_moments(Structure(lattice, species, coords), [p.get("magmom") for p in properties])
        structure = held_sites(structure, _flags([p.get("selective_dynamics") for p in properties]))
    except StructureTrouble:
        raise
    except Exception as error:
        raise unreadable("pymatgen JSON", error) from error
    return sound(structure)


def structure_from_atoms(atoms: Atoms) -> Structure:
    """Take the crystal out of ASE's `Atoms`.

    Raises:
        StructureTrouble: It is not periodic, has sites that are shared or partly empty, or is no crystal at all.
    """
    from pymatgen.core import Structure

    _refuse_part_sites(atoms)
    if not all(atoms.pbc):
        raise StructureTrouble("NotPeriodic", "is not periodic in three dimensions (no Lattice, or pbc is not T T T)")
    try:
        structure = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions(wrap=False))
        structure = with_moments(structure, moments_of(atoms))
        structure = held_sites(structure, _free_axes(atoms))
    except StructureTrouble:
        raise
    except Exception as error:
        raise unreadable("ASE", error) from error
    return sound(structure)


def _refuse_part_sites(atoms: Atoms) -> None:
    """Refuse occupancies other than 1: as a column of an extended XYZ, or as ASE keeps those of a CIF."""
    for name, column in atoms.arrays.items():
        if name.lower() in ("occupancy", "occupancies", "occ"):
            for value in np.ravel(column):
                if not _is_one(value):
                    raise StructureTrouble("Disordered", f"has a site shared or partly empty: its {name} is {value}")
    kept = atoms.info.get("occupancy")
    if isinstance(kept, str):  # JSON that does not say that it is, as ASE's older versions wrote it
        with contextlib.suppress(StructureTrouble):
            kept = parse_json(kept)
    for species in kept.values() if isinstance(kept, Mapping) else ():
        if not isinstance(species, Mapping) or len(species) != 1 or not all(map(_is_one, species.values())):
            raise StructureTrouble("Disordered", f"has a site shared or partly empty: its occupancy is {species!s:.80}")


def _is_one(value: Any) -> bool:
    try:
        return abs(float(value) - 1) < 1e-3
    except (TypeError, ValueError):
        return False


def _free_axes(atoms: Atoms) -> list[list[bool]]:
    """Along which of the cell's axes each atom may move, by ASE's constraints on single atoms.

    Raises:
        StructureTrouble: One is held along some Cartesian axes only, and the cell has others.
    """
    from ase.constraints import FixAtoms, FixCartesian, FixScaled

    free = np.ones((len(atoms), 3), bool)
    aligned = not np.any(atoms.cell.array[~np.eye(3, dtype=bool)])
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, (FixCartesian, FixScaled)):
            held = np.asarray(constraint.mask, bool)
            if isinstance(constraint, FixCartesian) and held.any() and not held.all() and not aligned:
                raise StructureTrouble(
                    "UnreadableStructure",
                    f"holds atom {constraint.index[0]} (counted from 0) along some of the axes x, y, z only"
                    " (move_mask, FixCartesian), which are not the axes of its cell; hold it along all of them or none",
                )
            free[constraint.index] &= ~held
    return [[bool(flag) for flag in flags] for flags in free]


def _flags(said: Sequence[Any]) -> list[list[bool]] | None:
    """Read `selective_dynamics`, three flags a site."""
    if all(flags is None for flags in said):
        return None
    found = [[True] * 3 if flags is None else list(flags) for flags in said]
    if not all(len(flags) == 3 and all(isinstance(flag, (bool, np.bool_)) for flag in flags) for flags in found):
        raise StructureTrouble("UnreadableStructure", "has selective_dynamics that are not three flags a site")
    return found


def _species(content: Any) -> dict[str, float] | str:
    """One site's species as pymatgen takes them, from `[{"element": "Fe", "occu": 1, "oxidation_state": 3}]`."""
    from pymatgen.core import Species

    occupancy = {}
    for item in content:
        charge = item.get("oxidation_state")
        name = item["element"] if charge is None else str(Species(item["element"], charge))
        occupancy[name] = float(item.get("occu", 1))
    return next(iter(occupancy)) if list(occupancy.values()) == [1.0] else occupancy

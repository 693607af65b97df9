"""Text and JSON that hold a crystal, into a structure. Nothing that is read is ever run or unpickled.

pymatgen's own JSON decoder imports whatever module the file names, so JSON structures are built here from their
lattice, species and coordinates alone.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


LEAST_MOMENT = 0.1  # μB: a calculation's moments of atoms that have none are not zero either


class StructureTrouble(Exception):
    """One structure cannot be used; `error` is the short, countable name of why."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


def parse_structure(content: Any) -> Structure:
    """Read one crystal from CIF text, POSCAR text, or a structure as JSON text or as a mapping.

    Raises:
        StructureTrouble: it is none of these, damaged, disordered, or not periodic in three dimensions.
    """
    if isinstance(content, Mapping):
        return structure_from_mapping(content)
    if not isinstance(content, str) or not content.strip():
        raise StructureTrouble("UnreadableStructure", f"holds {_shown(content)} where a structure was due")
    text = content.lstrip("\ufeff")
    if text.lstrip().startswith("{"):
        return structure_from_mapping(parse_json(text))
    if "_cell_length_a" in text:
        structures = parse_cif(text)
        if len(structures) != 1:
            raise StructureTrouble("UnreadableStructure", f"holds {len(structures)} crystals where one was due")
        if isinstance(structures[0], StructureTrouble):
            raise structures[0]
        return structures[0]
    return parse_poscar(text)


def parse_json(text: str) -> Any:
    """Read JSON into plain values.

    Raises:
        StructureTrouble: it is broken, or nested without end.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StructureTrouble("UnreadableStructure", f"holds broken JSON: {error}") from error


def attempt(content: Any) -> Structure | StructureTrouble:
    """`parse_structure`, its trouble handed back instead of raised."""
    try:
        return parse_structure(content)
    except StructureTrouble as trouble:
        return trouble


def parse_cif(text: str) -> list[Structure | StructureTrouble]:
    """Read each crystal of a CIF, as it stands there (not reduced to its primitive cell); trouble takes its place.

    A CIF whose sites do not add up to the formula it states, with its hydrogen left out for example, is trouble too.
    """
    from pymatgen.io.cif import CifFile, CifParser

    found: list[Structure | StructureTrouble] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            blocks = [block for block in CifFile.from_str(text).data.values() if "_cell_length_a" in block.data]
        except Exception as error:
            raise _unreadable("CIF", error) from error
        for block in blocks:
            try:
                parser = CifParser.from_str(str(block))
                structure = parser.parse_structures(primitive=False, on_error="raise")[0]
                sound(structure)
                structure = with_moments(structure, structure.site_properties.get("magmom"))
                _refuse_lost_atoms(parser, structure)
                found.append(structure)
            except StructureTrouble as trouble:
                found.append(trouble)
            except Exception as error:  # noqa: BLE001 - as above, and the other blocks go on
                found.append(_unreadable("CIF", error))
    if not found:
        raise StructureTrouble("UnreadableStructure", "holds no crystal: no CIF block with a unit cell")
    return found


def parse_poscar(text: str) -> Structure:
    """Read a POSCAR or CONTCAR.

    Raises:
        StructureTrouble: it is damaged, or does not name its elements (VASP 4), which pymatgen would invent.
    """
    from pymatgen.io.vasp import Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            poscar = Poscar.from_str(text)
        except Exception as error:
            raise _unreadable("CIF or POSCAR", error) from error
    if not poscar.true_names:
        raise StructureTrouble("UnreadableStructure", "names no elements (a VASP 4 POSCAR); add the line of symbols")
    return sound(bare(poscar.structure))


def structure_from_mapping(content: Any) -> Structure:
    """Build a structure from pymatgen's `Structure.as_dict` or a `ComputedStructureEntry.as_dict`.

    Site properties but `magmom` are left out: decoding them could run code that the file names.
    """
    from pymatgen.core import Lattice, Structure

    if isinstance(content, Mapping) and isinstance(content.get("structure"), Mapping):
        content = content["structure"]
    if not isinstance(content, Mapping) or not {"lattice", "sites"} <= content.keys():
        raise StructureTrouble("UnreadableStructure", f"holds {_shown(content)}, not a pymatgen structure")
    try:
        lattice = Lattice(content["lattice"]["matrix"], pbc=tuple(content["lattice"].get("pbc", (True, True, True))))
        species = [_species(site["species"]) for site in content["sites"]]
        coords = [site["abc"] for site in content["sites"]]
        moments = [(site.get("properties") or {}).get("magmom") for site in content["sites"]]
        structure = with_moments(Structure(lattice, species, coords), moments)
    except StructureTrouble:
        raise
    except Exception as error:
        raise _unreadable("pymatgen JSON", error) from error
    return sound(structure)


def structure_from_atoms(atoms: Atoms) -> Structure:
    """Take the crystal out of ASE's `Atoms`."""
    from pymatgen.core import Structure

    if not all(atoms.pbc):
        raise StructureTrouble("NotPeriodic", "is not periodic in three dimensions (no Lattice, or pbc is not T T T)")
    try:
        structure = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions(wrap=False))
        structure = with_moments(structure, _moments_of(atoms))
    except Exception as error:
        raise _unreadable("ASE", error) from error
    return sound(structure)


def with_moments(structure: Structure, moments: Sequence[Any] | None) -> Structure:
    """Give a crystal start moments (μB) as its one site property `magmom`, without any where they all vanish.

    Args:
        structure: The crystal; it is changed.
        moments: Of each site a number, a vector of three, pymatgen's `Magmom` or what it is written as, or None.

    Raises:
        StructureTrouble: One is none of these.
    """
    if "magmom" in structure.site_properties:
        structure.remove_site_property("magmom")
    if moments is not None and any(moment is not None for moment in moments):
        plain = [_moment(moment) for moment in moments]
        if any(np.any(np.abs(moment) > LEAST_MOMENT) for moment in plain):
            structure.add_site_property("magmom", plain)
    return structure


def _moment(said: Any) -> float | list[float]:
    """One moment as a number or a vector."""
    if isinstance(said, Mapping):  # a Magmom's as_dict, with an array in it
        said = said.get("moment")
        said = said.get("data") if isinstance(said, Mapping) else said
    elif hasattr(said, "saxis"):
        said = said.get_moment()  # along the axes of the cell's frame
    if said is None or (isinstance(said, float) and math.isnan(said)):  # as tables write what is not known
        said = 0.0
    try:
        found = np.asarray(said, dtype=float)
    except (TypeError, ValueError):
        found = np.full(2, np.nan)
    if found.shape not in ((), (3,)) or not np.isfinite(found).all():
        raise StructureTrouble("UnreadableStructure", f"has {_shown(said)} as a magnetic moment")
    return [float(x) for x in found] if found.ndim else float(found)


def _moments_of(atoms: Atoms) -> Sequence[Any] | None:
    """Moments of extended XYZ: those that it names as a start, or as a result."""
    if atoms.has("initial_magmoms"):
        return list(atoms.get_initial_magnetic_moments())
    results = atoms.calc.results if atoms.calc is not None else {}
    return list(results["magmoms"]) if "magmoms" in results else None


def sound(structure: Structure) -> Structure:
    """Hand back a structure that is an ordered crystal with finite numbers.

    Raises:
        StructureTrouble: it is not; the message says what it is instead.
    """
    from pymatgen.core import Element, Species

    if len(structure) == 0:
        raise StructureTrouble("UnreadableStructure", "holds no atoms")
    numbers = [*structure.lattice.matrix.ravel(), *structure.frac_coords.ravel()]
    if not all(math.isfinite(number) for number in numbers):
        raise StructureTrouble("UnreadableStructure", "holds a coordinate that is no finite number")
    if not structure.lattice.volume > 0.1:
        raise StructureTrouble("UnreadableStructure", f"has a cell of {structure.lattice.volume:.3g} Å³")
    if not all(structure.lattice.pbc):
        raise StructureTrouble("NotPeriodic", "is not periodic in three dimensions")
    for site in structure:
        if not site.is_ordered:
            raise StructureTrouble("Disordered", f"has a site shared or partly empty: {site.species_string}")
        if not isinstance(site.specie, (Element, Species)):
            raise StructureTrouble("UnreadableStructure", f"has {site.specie} on a site, which is no element")
    return structure


def bare(structure: Structure) -> Structure:
    """The same crystal without velocities, selective dynamics and other site properties."""
    from pymatgen.core import Structure

    return Structure(structure.lattice, structure.species_and_occu, structure.frac_coords)


def _species(content: Any) -> dict[str, float] | str:
    """One site's species as pymatgen takes them, from `[{"element": "Fe", "occu": 1, "oxidation_state": 3}]`."""
    from pymatgen.core import Species

    occupancy = {}
    for item in content:
        charge = item.get("oxidation_state")
        name = item["element"] if charge is None else str(Species(item["element"], charge))
        occupancy[name] = float(item.get("occu", 1))
    return next(iter(occupancy)) if list(occupancy.values()) == [1.0] else occupancy


def _refuse_lost_atoms(parser: Any, structure: Structure) -> None:
    """Compare the sites with the formula that the CIF itself states, where it states one."""
    block = next(iter(parser.as_dict().values()))
    if block.get("_chemical_formula_sum") and (reason := parser.check(structure)):
        raise StructureTrouble(
            "UnreadableStructure", f"its sites do not add up to its formula: {' '.join(reason.split())}"
        )


def _unreadable(what: str, error: Exception) -> StructureTrouble:
    said = " ".join(str(error).split())[:300]
    return StructureTrouble("UnreadableStructure", f"cannot be read as {what}: {type(error).__name__}: {said}")


def _shown(content: Any) -> str:
    return "nothing" if content is None or content == "" else f"a {type(content).__name__}"

"""Checks that a structure can be used: an ordered crystal of elements, with finite numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

LEAST_MOMENT = 0.1  # μB: a calculation's moments of atoms that have none are not zero either
FARTHEST = 1e10  # cells from the origin: beyond, a double says little of the place in the cell
THINNEST = 0.1  # Å
MOST_SITES = 20_000


class StructureTrouble(Exception):
    """One structure cannot be used; `error` is the short, countable name of why."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


def unreadable(what: str, error: Exception) -> StructureTrouble:
    """Tell what a library said of a structure that it could not read."""
    said = " ".join(str(error).split())[:300]
    return StructureTrouble("UnreadableStructure", f"cannot be read as {what}: {type(error).__name__}: {said}")


def sound(structure: Structure) -> Structure:
    """Hand back a structure that is an ordered crystal with finite numbers, sites in the cell, isotopes as elements.

    Raises:
        StructureTrouble: it is not; the message says what it is instead.
    """
    from pymatgen.core import DummySpecies, Element, Species

    if len(structure) == 0:
        raise StructureTrouble("UnreadableStructure", "holds no atoms")
    check_size(len(structure))
    lattice, coords = structure.lattice, structure.frac_coords
    if not (np.isfinite(lattice.matrix).all() and np.isfinite(coords).all()):
        raise StructureTrouble("UnreadableStructure", "holds a coordinate that is no finite number")
    if not lattice.volume > 0.1:
        raise StructureTrouble("UnreadableStructure", f"has a cell of {lattice.volume:.3g} Å³")
    if (thickness := float(np.min(lattice.volume / _faces(lattice.matrix)))) < THINNEST:
        raise StructureTrouble("UnreadableStructure", f"has a cell {thickness:.2g} Å thick: look at its vectors")
    check_distance(float(np.abs(coords).max()))
    if not all(lattice.pbc):
        raise StructureTrouble("NotPeriodic", "is not periodic in three dimensions")
    for site in structure:
        if not site.is_ordered:
            raise StructureTrouble("Disordered", f"has a site shared or partly empty: {site.species_string}")
        # X is a site without an atom; to pymatgen its kind is a kind of Species.
        if isinstance(site.specie, DummySpecies) or not isinstance(site.specie, (Element, Species)):
            raise StructureTrouble("UnreadableStructure", f"has {site.specie} on a site, which is no element")
    return _plain_elements(_in_cell(structure))


def check_size(n_sites: int) -> None:
    """Refuse a crystal before it is built: a thousand sites take a megabyte, a mistyped count all there is.

    Raises:
        StructureTrouble: It has more sites than can be used.
    """
    if n_sites > MOST_SITES:
        raise StructureTrouble("TooManySites", f"has {n_sites} sites, more than the {MOST_SITES} that are read")


def check_distance(cells: float) -> None:
    """Refuse a fractional coordinate that says nothing of the place in the cell.

    Raises:
        StructureTrouble: It is too large.
    """
    if not cells <= FARTHEST:
        raise StructureTrouble("UnreadableStructure", f"has a site {cells:.1g} cells away")


def _faces(matrix: np.ndarray) -> np.ndarray:
    """Areas of a cell's three faces."""
    return np.linalg.norm(np.cross(np.roll(matrix, 1, axis=0), np.roll(matrix, 2, axis=0)), axis=1)


def _in_cell(structure: Structure) -> Structure:
    """Take every site into the cell: neighbours are looked for in all cells between the farthest two sites."""
    from pymatgen.core import Structure

    coords = structure.frac_coords
    if ((coords >= 0) & (coords < 1)).all():
        return structure
    coords = coords - np.floor(coords)
    coords[coords >= 1] = 0.0  # from -1e-17
    return Structure(
        structure.lattice,
        structure.species_and_occu,
        coords,
        charge=structure._charge,
        site_properties=structure.site_properties,
    )


def _plain_elements(structure: Structure) -> Structure:
    """Take deuterium and tritium for hydrogen: their energies are the same here."""
    from pymatgen.core import Element, Species

    for species in structure.elements:
        plain = Element(species.symbol)
        charge = species.oxi_state if isinstance(species, Species) else None
        hydrogen: Element | Species = plain if charge is None else Species(plain.symbol, charge)
        if species.symbol == "H" and species != hydrogen:
            structure.replace_species({species: hydrogen})
    return structure


def bare(structure: Structure) -> Structure:
    """The same crystal without velocities, selective dynamics and other site properties."""
    from pymatgen.core import Structure

    return Structure(structure.lattice, structure.species_and_occu, structure.frac_coords)


def held_sites(structure: Structure, flags: Sequence[Sequence[bool]] | None) -> Structure:
    """Note which sites stay where they are, as pymatgen does: three flags a site, false where it is held.

    Args:
        structure: The crystal; it is changed.
        flags: None, or all true, where no site is held.
    """
    if flags is not None and not all(all(flag) for flag in flags):
        structure.add_site_property("selective_dynamics", [[bool(free) for free in flag] for flag in flags])
    return structure


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
        raise StructureTrouble("UnreadableStructure", f"has {shown(said)} as a magnetic moment")
    return [float(x) for x in found] if found.ndim else float(found)


def moments_of(atoms: Atoms) -> Sequence[Any] | None:
    """Moments of extended XYZ: those that it names as a start, or as a result."""
    if atoms.has("initial_magmoms"):
        return list(atoms.get_initial_magnetic_moments())
    results = atoms.calc.results if atoms.calc is not None else {}
    return list(results["magmoms"]) if "magmoms" in results else None


def shown(content: Any) -> str:
    """Say of what kind something is that was no structure."""
    return "nothing" if content is None or content == "" else f"a {type(content).__name__}"


def printable(text: str) -> str:
    """Write what names and files hold so that every terminal and database takes it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)

"""Tolerances within which two structures count as one crystal."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How much two cells may differ.

    Attributes:
        length: Largest ratio of two lattice vectors, less 1, once both cells have one volume an atom.
        angle: Largest difference of two angles (degrees).
        site: Largest distance of two sites, once the best shift is found, in units of the cube root of the volume per
            atom.
        repeat: By how much sites that repeat within a cell may be off for a smaller cell to be taken (Å).
        volume: Largest ratio of the volumes per atom, less 1.
    """

    length: float
    angle: float
    site: float
    repeat: float
    volume: float


# What relaxed into one crystal: pymatgen's `StructureMatcher(ltol=0.2, stol=0.1, angle_tol=5, primitive_cell, scale)`.
# Its loose default of stol=0.3 merges crystals that are different.
ALIKE = Tolerances(length=0.2, angle=5.0, site=0.1, repeat=0.25, volume=math.inf)

# One crystal in two files, whatever cell and origin: what is left by coordinates to three decimals, lengths to two and
# angles to one, about 0.01 Å. A tilt of half a degree, an ion 0.02 Å off its centre, or c/a = 1.005 is another crystal:
# a relaxation may keep it, and then its energy is another.
ROUNDED = Tolerances(length=0.002, angle=0.1, site=0.004, repeat=0.02, volume=0.006)

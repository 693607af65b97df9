"""POSCAR to crystal: pymatgen reads it, and what VASP would read differently is refused before."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from materials.sources.files.usable import StructureTrouble, bare, check_size, held_sites, sound, unreadable

if TYPE_CHECKING:
    from pymatgen.core import Structure

_FLAG = re.compile(r"(?i)\.?[tf](rue|alse)?\.?")


def parse_poscar(text: str) -> Structure:
    """Read a POSCAR or CONTCAR; the sites that its selective dynamics hold are the site property of that name.

    Raises:
        StructureTrouble: It is damaged, does not name its elements (VASP 4), which pymatgen would invent, or has flags
            that nothing announces, which pymatgen takes for fluorine.
    """
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.vasp import Poscar

    lines = [line.split("#")[0] for line in text.splitlines()]
    try:
        counts, mode, selective = _head(lines)
    except (IndexError, ValueError) as error:
        raise unreadable("CIF or POSCAR", error) from error
    check_size(sum(counts))
    rows = [line.split() for line in lines[mode + 1 : mode + 1 + sum(counts)]]
    _check_rows(lines, rows, mode, sum(counts), selective)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            poscar = Poscar.from_str(text, read_velocities=False)
        except Exception as error:
            raise unreadable("CIF or POSCAR", error) from error
    if not poscar.true_names:
        raise StructureTrouble("UnreadableStructure", "names no elements (a VASP 4 POSCAR); add the line of symbols")
    structure = bare(poscar.structure)
    scale = float(lines[1].split()[0])
    if scale < 0 and lines[mode].split()[0][0] in "cCkK":
        # A volume, which pymatgen multiplies positions with.
        length = float(np.cbrt(-scale / abs(np.linalg.det(_vectors(lines)))))
        coords = np.array([[float(word) for word in row[:3]] for row in rows]) * length
        structure = Structure(
            Lattice(structure.lattice.matrix), structure.species_and_occu, coords, coords_are_cartesian=True
        )
    flags = [[_is_true(word) for word in row[3:6]] for row in rows] if selective else None
    return sound(held_sites(structure, flags))


def _vectors(lines: Sequence[str]) -> np.ndarray:
    return np.array([[float(word) for word in line.split()[:3]] for line in lines[2:5]])


def _head(lines: Sequence[str]) -> tuple[list[int], int, bool]:
    """Counts of atoms, the line that says Direct or Cartesian, and whether flags are announced."""
    at = 5
    while not _whole_numbers(lines[at]):  # symbols, on several lines where there are many
        at += 1
    n_symbols = at - 5
    counts = [int(word) for line in lines[at : at + max(n_symbols, 1)] for word in line.split()]
    symbols = [word for line in lines[5:at] for word in line.split("!")[0].split()]
    if symbols and len(symbols) != len(counts):
        raise StructureTrouble(
            "UnreadableStructure", f"names {len(symbols)} elements and counts the atoms of {len(counts)}"
        )
    at += max(n_symbols, 1)
    selective = lines[at].split()[0][0] in "sS"
    at += selective
    if not lines[at].split()[0][0].isalpha():
        raise ValueError(f"line {at + 1} should say Direct or Cartesian")
    return counts, at, selective


def _whole_numbers(line: str) -> bool:
    words = line.split()
    return bool(words) and all(re.fullmatch(r"[0-9]{1,9}", word) for word in words)


def _check_rows(lines: Sequence[str], rows: Sequence[Sequence[str]], mode: int, n_sites: int, selective: bool) -> None:
    if len(rows) < n_sites or not all(rows):
        raise StructureTrouble(
            "UnreadableStructure", f"has fewer lines of positions than the {n_sites} atoms it counts"
        )
    after = lines[mode + 1 + n_sites].split() if len(lines) > mode + 1 + n_sites else []
    if len(after) >= 3 and all(re.fullmatch(r"[+-]?[0-9.]+([eEdD][+-]?[0-9]+)?", word) for word in after[:3]):
        raise StructureTrouble("UnreadableStructure", f"has more lines of positions than the {n_sites} atoms it counts")
    flagged = [len(row) >= 6 and all(_FLAG.fullmatch(word) for word in row[3:6]) for row in rows]
    if selective and not all(flagged):
        raise StructureTrouble(
            "UnreadableStructure", f"announces selective dynamics, and atom {flagged.index(False) + 1} has no T or F"
        )
    if not selective and any(flagged):
        raise StructureTrouble(
            "UnreadableStructure",
            "has flags T or F behind its positions, and no line Selective dynamics before Direct or Cartesian",
        )


def _is_true(word: str) -> bool:
    return word.strip(".")[0] in "tT"

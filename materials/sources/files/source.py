"""Structure files of the user: CIF, POSCAR, extxyz, pymatgen JSON and others, a folder, a glob, a table.

One unreadable structure among a thousand is a `Failure`; the others go on.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materials.errors import InputError
from materials.records import Candidate, Failure
from materials.sources.files.cif import parse_cif
from materials.sources.files.parsing import (
    attempt,
    is_crystal,
    is_structure,
    parse_json_or_lines,
    structure_from_atoms,
    structure_from_mapping,
)
from materials.sources.files.poscar import parse_poscar
from materials.sources.files.tables import (
    ID_COLUMNS,
    TABLE_SUFFIXES,
    read_rows,
    read_table,
    structure_column_of,
    table_of_json,
)
from materials.sources.files.unpacking import PICKLE, content_suffix, expanded, packed, unpacked_text
from materials.sources.files.usable import StructureTrouble, check_size, printable, unreadable

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Read through ASE. Only formats that are data: ASE's `.py` would be run, its oldest `.traj` is pickled.
ASE_FORMATS = {".xsf": "xsf", ".gen": "gen"}
STRUCTURE_SUFFIXES = (".cif", ".mcif", ".vasp", ".poscar", ".xyz", ".extxyz", ".json", *ASE_FORMATS)

_Found = tuple[str, "Structure | StructureTrouble"]  # "" or "#3" or "#mp-1265": where in the file


def read(
    *, path: str | Path, structure_column: str | None = None, id_column: str | None = None
) -> Iterator[Candidate | Failure]:
    """Read the structures of a file, a folder with all below it, a glob, or a table.

    Args:
        path: A file, a folder, or a pattern such as `set/**/*.cif`. Files may be gzipped. A folder yields its
            structure files; tables (CSV, JSON lines, Parquet) are read when named, or matched by a pattern.
        structure_column: The table's column of CIF text, POSCAR text or pymatgen JSON; found if not given.
        id_column: The table's column that names its rows in `parents`; found if not given.

    Yields:
        A `Candidate` for each crystal, sorted by path and then in the file's order, or a `Failure` of stage
        `propose` for each that cannot be used. `source_version` is a hash of the file's content.

    Raises:
        InputError: nothing is there, or nothing of it is a structure file, or a table lacks the column.
    """
    try:
        files = _files(str(path))
    except OSError as error:  # a path that no file can have
        raise InputError(f"{str(path)[:100]!r} cannot be read: {error.strerror}") from None
    for file, shown in files:
        yield from _read_file(file, shown, structure_column, id_column)


def _files(path: str) -> list[tuple[Path, str]]:
    """The files to read, sorted, each with the name that messages and parents show."""
    root = expanded(path)
    if os.path.lexists(root) and not root.is_dir():
        return [(root, root.name)]
    if root.is_dir():
        found = sorted(_below(root))
        if not found:
            raise InputError(f"{root} holds no structure file ({', '.join(STRUCTURE_SUFFIXES)}, POSCAR, CONTCAR)")
        return [(file, file.relative_to(root.parent).as_posix()) for file in found]
    if glob.has_magic(path):
        matches = sorted(Path(match) for match in glob.glob(str(root), recursive=True))
        files = [match for match in matches if not match.is_dir()]
        if not files:
            raise InputError(f"{path} matches no file; check the pattern and the folder you are in")
        return [(file, file.as_posix()) for file in files]
    raise InputError(f"{path} does not exist; check the path and the folder you are in")


def _below(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if not name.startswith(".") and (_is_poscar(file) or content_suffix(file) in STRUCTURE_SUFFIXES):
                yield file


def _read_file(
    file: Path, shown: str, structure_column: str | None, id_column: str | None
) -> Iterator[Candidate | Failure]:
    version = ""
    try:
        version = hashlib.sha256(packed(file)).hexdigest()[:16]
        found: Iterator[_Found] = _from_structure_file(file)
        if content_suffix(file) in TABLE_SUFFIXES:
            rows = read_rows(file, read_table(file), structure_column, id_column)
            found = ((f"#{row}", result) for row, result in rows)
        elif content_suffix(file) == ".json":
            found = _from_json(file, structure_column, id_column)
        for place, result in found:
            yield _record(result, f"{shown}{place}", version)
    except (StructureTrouble, OSError) as error:
        trouble = error if isinstance(error, StructureTrouble) else StructureTrouble("UnreadableStructure", str(error))
        yield _record(trouble, shown, version)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file raises anything; it is one Failure among the others
        yield _record(unreadable("a structure file", error), shown, version)


def _record(result: Structure | StructureTrouble, origin: str, version: str) -> Candidate | Failure:
    from materials.duplicates.duplicates import material_id

    origin = printable(origin)
    if isinstance(result, StructureTrouble):
        return Failure(material_id=origin, stage="propose", error=result.error, message=printable(f"{origin} {result}"))
    return Candidate(
        material_id=material_id(result),
        formula=result.composition.reduced_formula,
        chemsys=result.chemical_system,
        structure=result,
        source="files",
        source_version=version,
        parents=(origin,),
    )


def _from_structure_file(file: Path) -> Iterator[_Found]:
    kind = content_suffix(file)
    if kind in (".cif", ".mcif"):
        crystals = parse_cif(unpacked_text(file))
        yield from (("" if len(crystals) == 1 else f"#{n}", crystal) for n, crystal in enumerate(crystals, 1))
    elif _is_poscar(file) or kind in (".vasp", ".poscar"):
        yield "", parse_poscar(unpacked_text(file))
    elif kind in (".xyz", ".extxyz"):
        yield from _from_xyz(unpacked_text(file))
    elif kind in ASE_FORMATS:
        yield from _from_ase(unpacked_text(file), ASE_FORMATS[kind])
    elif kind in (".pkl", ".pickle"):
        raise StructureTrouble("UnknownFormat", f"is {PICKLE}")
    else:
        raise StructureTrouble(
            "UnknownFormat", f"is of no kind that is read here ({', '.join(STRUCTURE_SUFFIXES)}, POSCAR, CONTCAR)"
        )


def _from_json(file: Path, structure_column: str | None, id_column: str | None) -> Iterator[_Found]:
    """A crystal, a list of crystals, or a table."""
    content = parse_json_or_lines(unpacked_text(file))
    if isinstance(content, list) and structure_column is id_column is None and not _is_rows(content):
        yield from ((f"#{n}", attempt(item)) for n, item in enumerate(content, 1))
        return
    table = table_of_json(content)
    if table is None or (structure_column is None and structure_column_of(table) is None):
        yield "", structure_from_mapping(content)
    else:
        yield from ((f"#{row}", found) for row, found in read_rows(file, table, structure_column, id_column))


def _is_rows(content: list[Any]) -> bool:
    """Whether a list holds the rows of a table, and not crystals."""
    if any(map(is_structure, content)):
        return False
    if any(isinstance(item, Mapping) and item.keys() & set(ID_COLUMNS) for item in content):
        return True
    return all(isinstance(item, (Mapping, list)) for item in content) and not any(map(is_crystal, content))


def _from_xyz(text: str) -> Iterator[_Found]:
    """Each frame by itself, so that a damaged one does not take the others along."""
    lines = text.splitlines()
    starts: list[int] = []
    at = 0
    while at < len(lines) and re.fullmatch(r"\s*[0-9]{1,12}\s*", lines[at]):
        starts.append(at)
        at += int(lines[at]) + 2
    for n, start in enumerate(starts, 1):
        place = f"#{n}" if len(starts) > 1 else ""
        count, there = int(lines[start]), max(0, len(lines) - start - 2)
        if count > there:
            yield place, StructureTrouble("UnreadableStructure", f"is cut short: {there} of {count} atoms are there")
            return
        try:
            check_size(count)
            _check_columns(lines[start + 1])
        except StructureTrouble as trouble:
            yield place, trouble
            continue
        for _, result in _from_ase("\n".join(lines[start : start + count + 2]) + "\n", "extxyz"):
            yield place, result
    if not starts or any(line.strip() for line in lines[at:]):
        raise StructureTrouble(
            "UnreadableStructure", f"has no number of atoms on line {at + 1}; from there on nothing could be read"
        )


def _check_columns(comment: str) -> None:
    """Refuse columns that no line of atoms has: ASE makes room for all that an extended XYZ promises."""
    promised = re.search(r"(?i)properties\s*=\s*(\"[^\"]*\"|\S+)", comment)
    if promised and re.search(r":[SRIL]:[0-9]{4}", promised[1]):
        raise StructureTrouble("UnreadableStructure", "promises more than 999 columns of one property")


def _from_ase(text: str, kind: str) -> Iterator[_Found]:
    import ase.io

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frames = ase.io.read(io.StringIO(text), index=":", format=kind)
        except Exception as error:  # noqa: BLE001 - a damaged file raises anything; it becomes a Failure
            yield "", unreadable(kind, error)
            return
    for n, atoms in enumerate(frames, 1):
        place = f"#{n}" if len(frames) > 1 else ""
        try:
            yield place, structure_from_atoms(atoms)
        except StructureTrouble as trouble:
            yield place, trouble


def _is_poscar(file: Path) -> bool:
    return file.name.upper().startswith(("POSCAR", "CONTCAR")) and content_suffix(file) not in (".cif", ".json", ".xyz")

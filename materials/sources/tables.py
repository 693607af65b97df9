"""Tables with a column of structures: CSV, JSON lines, Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materials.errors import InputError
from materials.sources.parsing import StructureTrouble, attempt
from materials.sources.unpacking import content_suffix, unpacked, unpacked_text

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure

TABLE_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
STRUCTURE_COLUMNS = ("structure", "cif", "poscar", "structures", "final_structure", "initial_structure")
MISSING_NUMBERS = ["", "nan", "NaN", "NA", "N/A", "null", "None"]
ID_COLUMNS = ("material_id", "id", "mp_id", "mbid", "name")


def read_table(path: Path) -> pandas.DataFrame:
    """Read a table of CSV, JSON lines or Parquet, gzipped or not, just as it stands.

    Raises:
        InputError: the file is not there, of another kind, or damaged.
    """
    import pandas

    kind = content_suffix(path)
    try:
        if kind == ".csv":
            return _read_csv(path)
        if kind in (".jsonl", ".ndjson"):
            return pandas.DataFrame([json.loads(line) for line in unpacked_text(path).split("\n") if line.strip()])
        if kind == ".parquet":
            return pandas.read_parquet(io.BytesIO(unpacked(path)))
    except Exception as error:
        # A damaged file raises anything, by what its metadata promises.
        raise InputError(f"{path} cannot be read as a table: {type(error).__name__}: {error}") from error
    raise InputError(f"{path}: a table is one of {', '.join(TABLE_SUFFIXES)}, each also with .gz")


def find_structure_column(table: pandas.DataFrame, path: Path, named: str | None = None) -> str:
    """Find the column that holds structures: the one named, one of a usual name, or one that reads as structures.

    Raises:
        InputError: there is none; the message lists the columns.
    """
    columns = [str(column) for column in table.columns]
    if named is not None:
        if named in columns:
            return named
        raise InputError(f"{path} has no column {named!r}; it has {', '.join(columns)}")
    by_lower_name = {column.lower(): column for column in reversed(columns)}
    for usual in STRUCTURE_COLUMNS:
        if usual in by_lower_name:
            return by_lower_name[usual]
    for column in columns:
        if any(_reads_as_structure(value) for value in table[column].dropna().head(3)):
            return column
    raise InputError(f"{path} has no column of structures; it has {', '.join(columns)}. Name one with structure_column")


def _read_csv(path: Path) -> pandas.DataFrame:
    """Read a CSV whose texts stay texts: to pandas the formula of sodium nitride, NaN, is a missing value."""
    import pandas
    from pandas.api.types import is_numeric_dtype

    table = pandas.read_csv(path)
    missing = {column: MISSING_NUMBERS for column in table.columns if is_numeric_dtype(table[column])}
    texts = {column: str for column in table.columns if column not in missing}
    return pandas.read_csv(path, keep_default_na=False, na_values=missing, dtype=texts)


def read_rows(
    file: Path, structure_column: str | None = None, id_column: str | None = None
) -> Iterator[tuple[str, Structure | StructureTrouble]]:
    """Read the structures of a table, each under the name that its id column, or its number, gives it.

    Raises:
        InputError: the table cannot be read, or lacks a column.
    """
    table = read_table(file)
    column = find_structure_column(table, file, structure_column)
    if id_column is not None and id_column not in table.columns:
        raise InputError(f"{file} has no column {id_column!r}; it has {', '.join(map(str, table.columns))}")
    names = id_column or next((name for name in ID_COLUMNS if name in table.columns), None)
    ids = table[names] if names is not None else range(1, len(table) + 1)
    for row_id, content in zip(ids, table[column], strict=True):
        yield str(row_id), attempt(content)


def _reads_as_structure(value: Any) -> bool:
    return not isinstance(attempt(value), StructureTrouble)

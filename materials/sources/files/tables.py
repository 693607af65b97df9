"""Tables with a column of structures: CSV, JSON lines, Parquet, and pandas' `to_json`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materials.errors import InputError
from materials.sources.files.parsing import attempt, is_crystal, is_structure, parse_json, parse_json_or_lines
from materials.sources.files.unpacking import content_suffix, unpacked, unpacked_text
from materials.sources.files.usable import StructureTrouble, unreadable

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure

TABLE_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
STRUCTURE_COLUMNS = ("structure", "cif", "poscar", "structures", "final_structure", "initial_structure")
MISSING_NUMBERS = ["", "nan", "NaN", "NA", "N/A", "null", "None"]
NO_STRUCTURE = ("UnreadableStructure", "UnknownFormat")
ID_COLUMNS = ("material_id", "id", "mp_id", "mbid", "name")


def read_table(path: Path) -> pandas.DataFrame:
    """Read a table of CSV, JSON or Parquet, gzipped or not, just as it stands.

    Raises:
        InputError: the file is not there, of another kind, or damaged.
    """
    import pandas

    kind = content_suffix(path)
    try:
        if kind == ".csv":
            return _read_csv(path)
        if kind in (".jsonl", ".ndjson"):
            return _read_lines(unpacked_text(path))
        if kind == ".parquet":
            return pandas.read_parquet(io.BytesIO(unpacked(path)))
        if kind == ".json" and (table := table_of_json(parse_json_or_lines(unpacked_text(path)))) is not None:
            return table
    except StructureTrouble as trouble:
        raise InputError(f"{path} {trouble}") from trouble
    except Exception as error:
        # A damaged file raises anything, by what its metadata promises.
        raise InputError(f"{path} {unreadable('a table', error)}") from error
    if kind == ".json":
        raise InputError(f"{path} is no table as pandas' to_json writes it, in any orientation")
    raise InputError(f"{path}: a table is one of {', '.join(TABLE_SUFFIXES)}, .json, each also with .gz")


def table_of_json(content: Any) -> pandas.DataFrame | None:
    """Make a table of JSON in any orientation of pandas' `to_json`; None where it is none.

    A mapping or a list of crystals is a table of one column.
    """
    if is_crystal(content):
        return None
    try:
        table = _frame(content)
    except Exception:  # noqa: BLE001 - pandas raises anything where rows and labels do not fit together
        return None
    return table if table is not None and table.columns.is_unique else None


def _frame(content: Any) -> pandas.DataFrame | None:
    import pandas

    if isinstance(content, Mapping) and {"columns", "data"} <= content.keys():  # split
        return pandas.DataFrame(content["data"], index=content.get("index"), columns=content["columns"], dtype=object)
    if isinstance(content, Mapping) and {"schema", "data"} <= content.keys():  # table
        content = content["data"]
    if isinstance(content, list) and content:
        if all(isinstance(item, Mapping) and "sites" in item for item in content):
            return pandas.DataFrame({"structure": pandas.Series(content, dtype=object)})
        if all(isinstance(item, Mapping) for item in content) or all(isinstance(item, list) for item in content):
            return pandas.DataFrame(content)  # records, values
    if isinstance(content, Mapping) and content and all(isinstance(inner, Mapping) for inner in content.values()):
        if all("sites" in inner for inner in content.values()):  # a column by itself
            return pandas.DataFrame({"structure": pandas.Series(list(content.values()), index=list(content))})
        columns = pandas.DataFrame({name: pandas.Series(inner, dtype=object) for name, inner in content.items()})
        rows = pandas.DataFrame(list(content.values()), index=list(content))
        return max(columns, rows, key=_most_structures)
    return None


def find_structure_column(table: pandas.DataFrame, path: Path, named: str | None = None) -> Any:
    """Find the column that holds structures: the one named, one of a usual name, or one that reads as structures.

    Raises:
        InputError: there is none; the message lists the columns.
    """
    columns = {str(column): column for column in reversed(table.columns)}
    there = ", ".join(map(str, table.columns))
    if named is not None:
        if named in columns:
            return columns[named]
        raise InputError(f"{path} has no column {named!r}; it has {there}")
    found = structure_column_of(table)
    if found is None:
        raise InputError(f"{path} has no column of structures; it has {there}. Name one with structure_column")
    return found


def structure_column_of(table: pandas.DataFrame) -> Any:
    """Find the column that holds structures; None where none does."""
    by_lower_name = {str(column).lower(): column for column in reversed(table.columns)}
    usual = [by_lower_name[name] for name in STRUCTURE_COLUMNS if name in by_lower_name]
    for columns, rows in ((usual, 50), (table.columns, 3)):
        for column in columns:
            if any(_reads_as_structure(value) for value in table[column].dropna().head(rows)):
                return column
    return usual[0] if usual else None


def _most_structures(table: pandas.DataFrame) -> tuple[int, bool]:
    """How many structures one column has, of the first few; and whether one has a usual name."""
    counts = [sum(map(_reads_as_structure, table[column].dropna().head(3))) for column in table.columns[:100]]
    return max(counts, default=0), any(str(column).lower() in STRUCTURE_COLUMNS for column in table.columns)


def _read_csv(path: Path) -> pandas.DataFrame:
    """Read a CSV whose texts stay texts: to pandas the formula of sodium nitride, NaN, is a missing value."""
    import pandas
    from pandas.api.types import is_numeric_dtype

    table = pandas.read_csv(path)
    missing = {column: MISSING_NUMBERS for column in table.columns if is_numeric_dtype(table[column])}
    texts = {column: str for column in table.columns if column not in missing}
    return pandas.read_csv(path, keep_default_na=False, na_values=missing, dtype=texts)


def read_rows(
    file: Path, table: pandas.DataFrame, structure_column: str | None = None, id_column: str | None = None
) -> Iterator[tuple[str, Structure | StructureTrouble]]:
    """Read the structures of a table, each under the name that its id column, its label, or its number gives it.

    Args:
        file: Where the table is from, for messages.
        table: As `read_table` gives it.
        structure_column: Found if not given.
        id_column: Found if not given.

    Raises:
        InputError: The table lacks a column.
    """
    column = find_structure_column(table, file, structure_column)
    if id_column is not None and id_column not in table.columns:
        raise InputError(f"{file} has no column {id_column!r}; it has {', '.join(map(str, table.columns))}")
    names = id_column or next((name for name in ID_COLUMNS if name in table.columns), None)
    labels = list(map(str, table.index))
    ids: Iterable[Any] = range(1, len(table) + 1) if labels == list(map(str, range(len(table)))) else labels
    named = ids if names is None else table[names]
    for number, (row_id, content) in enumerate(zip(named, table[column], strict=True), 1):
        yield str(number if row_id is None or row_id != row_id else row_id), attempt(content)


def _reads_as_structure(value: Any) -> bool:
    """Whether this is meant as a structure: a disordered one, which cannot be used, is one as well."""
    if is_crystal(value):
        return True
    found = attempt(value)
    return not isinstance(found, StructureTrouble) or found.error not in NO_STRUCTURE


def _read_lines(text: str) -> pandas.DataFrame:
    """Read one JSON object, or one crystal, a line; a line that is none is a row without a structure."""
    import pandas

    lines = [line for line in text.split("\n") if line.strip()]
    contents = [_line(line) for line in lines]
    if lines and all(content is None for content in contents):
        json.loads(lines[0])  # raises what is wrong with it
    if any(is_structure(content) and "structure" not in content for content in contents):
        return pandas.DataFrame({"structure": pandas.Series(contents, dtype=object)})
    rows = [content if isinstance(content, Mapping) else {} for content in contents]
    table = pandas.DataFrame(rows)
    column = structure_column_of(table)
    for number, (content, line) in enumerate(zip(contents, lines, strict=True)):
        if content is None and column is not None:
            table.at[number, column] = line  # its trouble is told with the others
    return table


def _line(line: str) -> Any:
    try:
        return parse_json(line)
    except StructureTrouble:
        return None

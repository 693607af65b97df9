"""The ranked table as text, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.output.places import require_file
from materials.plain_text import printable
from materials.properties import PROPERTIES

if TYPE_CHECKING:
    from materials.store.ledger import Ledger

MAIN_COLUMNS = (
    "rank",
    "material_id",
    "parents",
    "status",
    "energy_above_hull",
    "decomposition_energy_per_atom",
    "band_gap",
    "score",
    "meets_targets",
    "fidelity",
)
# What a person reads on a screen; files keep the columns' own names.
HEADINGS = {one.name: one.heading for one in PROPERTIES.values() if one.heading} | {
    "magnetic_order": "magnetic order",
    "total_magnetization_per_formula_unit": "moment\n(μB/f.u.)",
    "meets_targets": "hit",
    "parents": "from",
    "material_id": "material",
}
Row = Mapping[str, Any]


def query(
    ledger: Ledger,
    campaign: str | None,
    *,
    where: str | None,
    sort: str | None,
    limit: int | None,
    columns: str | None = None,
    style: str = "table",
) -> list[dict[str, Any]]:
    """Ask the ledger for rows.

    Args:
        ledger: To ask.
        campaign: Name or id; None for the latest.
        where: A query such as `band_gap > 1 and has Li`.
        sort: A column, `-column`, or `column desc`.
        limit: Most rows; None for all.
        columns: Comma-separated names, or "all".
        style: "table" shows the main columns where none are named, files hold all.

    Raises:
        QueryError: Something of it is not known to the ledger.
    """
    shown: Sequence[str] | str | None = MAIN_COLUMNS if style == "table" else None
    if columns is not None:
        shown = None if columns == "all" else columns
    return ledger.select(campaign, where=where, sort=sort, limit=limit, columns=shown)


def write(rows: Sequence[Row], style: str, output: Path | None = None) -> None:
    """Write rows to a file or to standard output.

    Raises:
        click.UsageError: Parquet was asked for on a terminal.
        InputError: The file cannot be written.
    """
    if output is not None:
        require_file(output, "--output")
    if style == "parquet":
        if output is None:
            raise click.UsageError("--format parquet needs --output FILE")
        import pandas as pd

        pd.DataFrame(rows).to_parquet(output, index=False)
    else:
        text = {"csv": as_csv, "json": as_json, "table": as_text}[style](rows)
        if output is None:
            click.echo(text, nl=False)
        else:
            output.write_text(text, encoding="utf-8")
    if output is not None:
        click.echo(f"{len(rows)} rows in {output}", err=True)


def as_csv(rows: Sequence[Row]) -> str:
    """Write rows as comma-separated values with a header."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """Write rows as a JSON list of objects."""
    return json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"


def as_text(rows: Sequence[Row]) -> str:
    """Write rows as a table for a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return "No rows.\n"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        number = any(isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows)
        table.add_column(
            Text(HEADINGS.get(name, name)),
            justify="right" if number else "left",
            overflow="fold" if name == "material_id" else "ellipsis",
            no_wrap=name != "parents",
        )
    for row in rows:
        table.add_row(*[Text(shown(row[name])) for name in row])
    terminal = sys.stdout.isatty()
    console = Console(file=io.StringIO(), force_terminal=terminal, width=None if terminal else 160, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def shown(value: Any) -> str:
    """Write one value for a person."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return printable(str(value))

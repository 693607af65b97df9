"""The ledger: every record of every campaign, append-only, in SQLite or PostgreSQL.

What is written stays; telling it again changes nothing. To resume is to ask it what is still missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from sqlalchemy import Engine

from materials import explanation, query
from materials.secrets import mask
from materials.store import schema
from materials.store.browse import Answering
from materials.store.browse import columns as columns_of_table
from materials.store.connection import connect, parse_url
from materials.store.read import Reading
from materials.store.read_calculations import ReadingCalculations
from materials.store.recording import Recording

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure


class Ledger(Recording, Reading, ReadingCalculations, Answering):
    """An open ledger. Threads may share it; processes open their own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str | None = None, *, must_exist: bool = False) -> Self:
        """Open the ledger, making it where there is none.

        Args:
            url: `sqlite:///PATH`, a path, or `postgresql://USER:PASSWORD@HOST/NAME`; None is `./assay.db`.
            must_exist: Refuse to make a new one: for commands that only read.

        Raises:
            LedgerTooNew: a newer version wrote it; it is left untouched.
            LedgerError: it cannot be reached, does not exist though it must, or is some other database.
        """
        return cls(connect(parse_url(url), must_exist=must_exist))

    def select(
        self,
        campaign: str | None = None,
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        columns: Sequence[str] | str | None = None,
    ) -> list[dict[str, Any]]:
        """Read rows of the ranked table, in the order of their ranks or sorted, as `assay table` does.

        Args:
            campaign: Name or id; None for the latest.
            where: A filter such as `band_gap > 1 and has Li`.
            sort: A column, `-column`, or `column desc`.
            limit: Most rows; None for all.
            columns: Names, comma-separated in a text; None for all.

        Raises:
            QueryError: There is no such campaign or column, or the filter cannot be read.
        """
        known = columns_of_table()
        names = ",".join(columns) if columns is not None and not isinstance(columns, str) else columns
        return self.rows(
            self.find_campaign(campaign),
            where=query.parse(where, known) if where else None,
            sort=query.parse_sort(sort, known) if sort else (),
            limit=limit,
            columns=query.parse_columns(names, known) if names is not None else None,
        )

    def table(
        self,
        campaign: str | None = None,
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        columns: Sequence[str] | str | None = None,
    ) -> pd.DataFrame:
        """Read the ranked table, a row a material: energies in eV/atom, the gap in eV, the volume in Å³/atom.

        The arguments and errors are those of `select`.
        """
        import pandas as pd

        rows = self.select(campaign, where=where, sort=sort, limit=limit, columns=columns)
        asked = columns.split(",") if isinstance(columns, str) else columns
        names = list(rows[0]) if rows else [name.strip() for name in asked or schema.ranked_candidates.c.keys()]
        return pd.DataFrame(rows, columns=names)

    def structures(
        self, campaign: str | None = None, *, where: str | None = None, limit: int | None = None
    ) -> dict[str, Structure]:
        """Give the best structure known of each row of the table, by `material_id`, the best rank first.

        It is that of a converged DFT calculation, else the potential's, else the one that was proposed.

        Raises:
            QueryError: There is no such campaign or column, or the filter cannot be read.
        """
        ids = [row["material_id"] for row in self.select(campaign, where=where, limit=limit, columns="material_id")]
        best = self.best_structures(ids)
        return {material_id: best[material_id] for material_id in ids}

    def explain(self, name: str, style: Literal["text", "json"] = "text") -> str:
        """Write every record behind a material, or why a file could not be read: what `assay show` prints.

        Args:
            name: A material_id, a unique beginning of one, a source's own id such as mp-1265, or a file's name.
            style: "text" or "json".

        Raises:
            QueryError: It means no material, or several.
        """
        return explanation.explain(self, name, style)

    @property
    def url(self) -> str:
        """Where it is, secrets masked."""
        return mask(self.engine.url)

    def close(self) -> None:
        """Give back the connections."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ledger({self.url!r})"

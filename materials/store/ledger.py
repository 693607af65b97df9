"""The ledger: every record of every campaign, append-only, in SQLite or PostgreSQL.

What is written stays; telling it again changes nothing. To resume is to ask it what is still missing.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sqlalchemy import Engine

from materials.secrets import mask
from materials.store.browse import Answering
from materials.store.connection import connect, parse_url
from materials.store.read import Reading
from materials.store.read_calculations import ReadingCalculations
from materials.store.recording import Recording


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

"""Transactions of an open ledger: all or nothing, consistent reads, and retries after a lost connection.

A write is acknowledged when its method returns; it then survives kill -9 and a loss of power (SQLite in WAL mode
with synchronous=FULL: a commit a batch, so that the price is a few milliseconds a batch).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from json import JSONDecodeError
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from materials.errors import LedgerError, LedgerLost
from materials.secrets import mask

PATIENCE_S = 600.0  # with a database that answered before: its server is started again, or the network is
SCHEMA_LOCK = 0x41737361  # "Assa": of the advisory locks that are ours; alone, for making and changing tables
_GAVE_WAY = ("40001", "40P01")  # PostgreSQL ended a transaction for another's sake: a serialization failure, a deadlock

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
_LOG = logging.getLogger("assay.ledger")


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Turn the database's errors into `LedgerError` with the masked URL, and no statement, values or password.

    Raises:
        LedgerError: something went wrong.
    """
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        secrets = [engine.url.password, *[value for key, value in engine.url.query.items() if "pass" in key.lower()]]
        for secret in secrets:
            reason = reason.replace(str(secret), "***") if secret else reason
        again = isinstance(error, DBAPIError) and (
            error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _GAVE_WAY
        )
        kind = LedgerLost if again else LedgerError
        raise kind(f"The ledger at {mask(engine.url)} could not be used: {reason}") from None
    except (JSONDecodeError, RecursionError, UnicodeDecodeError) as error:  # of a column with JSON; of SQLite's message
        what = "text that is no UTF-8" if isinstance(error, UnicodeDecodeError) else "a value that is no JSON"
        raise LedgerError(
            f"The ledger at {mask(engine.url)} is damaged: it holds {what}; go back to a copy of it"
        ) from None


@contextmanager
def writing(engine: Engine, alone_on: str | None = None) -> Iterator[Connection]:
    """Give a connection in one transaction that writes: all of it, or nothing.

    Args:
        engine: Of the database.
        alone_on: A matter of which nobody else writes meanwhile, so that what was looked at holds when it is answered.
            SQLite has one writer at a time anyway.
    """
    with translated(engine), _connected(engine, writes=True) as connection:
        if alone_on is not None and engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK, func.hashtext(alone_on))))
        yield connection
        connection.commit()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection that sees one state of the database, however many questions it asks."""
    with translated(engine), _connected(engine, writes=False) as connection:
        yield connection


def persistent(method: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """Say it again where the database went away meanwhile: telling it twice is telling it once."""

    @functools.wraps(method)
    def told(*arguments: Arguments.args, **options: Arguments.kwargs) -> Answer:
        patience = _Patience()
        while True:
            try:
                return method(*arguments, **options)
            except LedgerLost as lost:
                patience.wait(lost, f"{lost}; once more")

    return told


class _Patience:
    """Waits, each time longer, and says so once."""

    def __init__(self) -> None:
        self.until, self._pause, self.said = time.monotonic() + PATIENCE_S, 0.1, False

    def wait(self, error: Exception, words: str) -> None:
        """Wait before the next try; raise the error where there were enough."""
        if time.monotonic() > self.until:
            raise error
        if not self.said:
            _LOG.warning(words)
        self.said, self._pause = True, min(2 * self._pause, 5.0)
        time.sleep(self._pause)


@contextmanager
def _connected(engine: Engine, *, writes: bool) -> Iterator[Connection]:
    """Open a connection and its transaction; where the database does not answer, wait until it does.

    That it answered once was seen when the ledger was opened: so it is away, and may come back.
    """
    options: dict[str, Any] = {"assay_writes": True} if writes else {}
    if not writes and engine.dialect.name == "postgresql":
        options = {"isolation_level": "REPEATABLE READ"}
    with ExitStack() as stack:
        patience = _Patience()
        while True:
            try:
                connection = stack.enter_context(engine.connect()).execution_options(**options)
                connection.begin()
                break
            except OperationalError as error:
                stack.close()
                patience.wait(error, f"The ledger at {mask(engine.url)} does not answer; what is to be written waits")
        if patience.said:
            _LOG.warning("The ledger at %s answers again", mask(engine.url))
        yield connection


def alone_with_the_schema(connection: Connection) -> None:
    """Let nobody else make or change PostgreSQL's tables until the transaction ends; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))

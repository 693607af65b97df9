"""Opening the database: URLs, secrets kept out of messages, transactions, the schema's version.

A write is acknowledged when its method returns; it then survives kill -9 and a loss of power (SQLite in WAL mode
with synchronous=FULL: a commit a batch, so that the price is a few milliseconds a batch).
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

from materials.errors import AssayError, LedgerError, LedgerLost, LedgerOutdated, LedgerTooNew
from materials.serialization import dumps
from materials.store.tables import CREATE_VIEW, SCHEMA_VERSION, metadata, schema_version

DEFAULT_URL = "sqlite:///assay.db"
BUSY_TIMEOUT_S = 30
PATIENCE_S = 600.0  # with a database that answered before: its server is started again, or the network is
SCHEMA_LOCK = 0x41737361  # "Assa": the advisory lock under which PostgreSQL tables are made and changed

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
_LOG = logging.getLogger("assay.ledger")


def parse_url(url: str | None) -> URL:
    """Understand a database URL, or the path of an SQLite file; None is `./assay.db`.

    Raises:
        LedgerError: it is neither.
    """
    found = url or DEFAULT_URL
    if "://" not in found:
        return URL.create("sqlite", database=found)
    try:
        parsed = make_url(found)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql", "postgres"):
        raise LedgerError(
            f"Cannot use the database URL {mask(found)}: give sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        )
    if parsed.get_backend_name() != "sqlite":
        # libpq would look for it at each connection: it may be hidden by then, and what is known can be masked.
        password = parsed.password or os.environ.get("PGPASSWORD")
        return parsed.set(drivername="postgresql+psycopg", password=password)
    return parsed


def mask(url: str | URL) -> str:
    """Write a URL with its secrets as `***`."""
    shown = url.render_as_string(hide_password=False) if isinstance(url, URL) else url
    shown = re.sub(r"(?i)((?:pass|secret|token|key)\w*=)[^&#\s]*", r"\1***", shown)
    return re.sub(r"(://[^:/?#]*:)(.*)(?=@)", r"\1***", shown)


def connect(url: URL, *, must_exist: bool = False) -> Engine:
    """Open the database, making its tables where there are none.

    Raises:
        LedgerTooNew: it was written by a newer version; it is left untouched.
        LedgerOutdated: it was written by an older version, and has to be upgraded first.
        LedgerError: it cannot be reached, is missing though it must exist, or is not a ledger of ours.
    """
    _check_file(url, must_exist)
    engine = engine_of(url)
    try:
        _prepare(engine, must_exist)
    except AssayError:
        engine.dispose()
        raise
    return engine


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
        gone = isinstance(error, DBAPIError) and error.connection_invalidated
        kind = LedgerLost if gone else LedgerError
        raise kind(f"The ledger at {mask(engine.url)} could not be used: {reason}") from None


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Give a connection in one transaction that writes: all of it, or nothing."""
    with translated(engine), _connected(engine.execution_options(assay_writes=True)) as connection:
        yield connection
        connection.commit()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection that sees one state of the database."""
    with translated(engine), _connected(engine) as connection:
        yield connection


def persistent(method: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """Say it again where the database went away while it was told: telling it twice is telling it once."""

    @functools.wraps(method)
    def told(*arguments: Arguments.args, **options: Arguments.kwargs) -> Answer:
        while True:
            try:
                return method(*arguments, **options)
            except LedgerLost as lost:
                _LOG.warning("%s; saying it again", lost)

    return told


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    """Open a connection and its transaction; where the database does not answer, wait until it does.

    That it answered once was seen when the ledger was opened: so it is away, and may come back.
    """
    with ExitStack() as stack:
        until, pause, waiting = time.monotonic() + PATIENCE_S, 0.2, False
        while True:
            try:
                connection = stack.enter_context(engine.connect())
                connection.begin()
                break
            except OperationalError:
                stack.close()
                if time.monotonic() > until:
                    raise
                if not waiting:
                    _LOG.warning("The ledger at %s does not answer; what is to be written waits", mask(engine.url))
                waiting, pause = True, min(2 * pause, 5.0)
                time.sleep(pause)
        if waiting:
            _LOG.warning("The ledger at %s answers again", mask(engine.url))
        yield connection


def _prepare(engine: Engine, must_exist: bool) -> None:
    with translated(engine):
        with engine.connect() as connection:
            tables = set(inspect(connection).get_table_names())
            version = version_of(connection, tables, engine.url)
        if version is not None and version < SCHEMA_VERSION:
            raise LedgerOutdated(
                f"The ledger at {mask(engine.url)} has schema version {version}; this Assay wants {SCHEMA_VERSION}: "
                "`assay db upgrade` brings it there"
            )
        if version is None:
            if must_exist:
                raise LedgerError(f"There is no ledger at {mask(engine.url)} yet: `assay run CAMPAIGN.yaml` makes one")
            _create(engine)


def _check_file(url: URL, must_exist: bool) -> None:
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return
    path = Path(str(url.database))
    if must_exist and not path.exists():
        raise LedgerError(f"There is no ledger at {path} yet: `assay run CAMPAIGN.yaml` makes one")
    if not path.parent.is_dir():
        raise LedgerError(f"Cannot make the ledger {path}: the folder {path.parent} does not exist; make it first")


def engine_of(url: URL) -> Engine:
    """Make an engine for a URL that `parse_url` gave; nothing is opened yet.

    Raises:
        LedgerError: PostgreSQL's driver is missing.
    """
    settings: dict[str, Any] = {"hide_parameters": True, "json_serializer": dumps}
    try:
        if url.get_backend_name() != "sqlite":
            return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10}, **settings)
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **settings)
    except (ImportError, NoSuchModuleError):
        raise LedgerError(
            f"{mask(url)} needs the PostgreSQL driver: pip install 'psycopg[binary]' (the extra `postgresql`)"
        ) from None
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # sqlite3's own transaction handling begins too late for a consistent read and too weakly for a write.
    connection.isolation_level = None
    for pragma in ("foreign_keys=ON", "synchronous=FULL", "cache_size=-65536", "mmap_size=268435456"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns from reading to writing fails at once when another process wrote meanwhile.
    writes = connection.get_execution_options().get("assay_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def version_of(connection: Connection, tables: set[str], url: URL) -> int | None:
    """Read a ledger's schema version; None where there is no ledger yet.

    Raises:
        LedgerTooNew: A newer version wrote it.
        LedgerError: It is some other database.
    """
    if not tables:
        return None
    if "schema_version" not in tables:
        # PostgreSQL databases may be shared with others' tables; an SQLite file that is not ours may not be touched.
        if url.get_backend_name() == "sqlite" or tables & set(metadata.tables):
            raise LedgerError(f"{mask(url)} is a database, but no ledger of Assay: give another file or database")
        return None
    version = connection.execute(select(schema_version.c.version)).scalar()
    if version is not None and version > SCHEMA_VERSION:
        raise LedgerTooNew(
            f"The ledger at {mask(url)} has schema version {version}; this Assay knows {SCHEMA_VERSION}. "
            "It was left untouched: update Assay, or give another database"
        )
    return version


def _create(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        _use_wal(engine)
    with engine.connect().execution_options(assay_writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
        if inspect(connection).has_table("schema_version"):
            return  # another process was faster
        metadata.create_all(connection)
        connection.execute(CREATE_VIEW)
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))


def _use_wal(engine: Engine) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # SQLite does not wait on its own when two processes make one file at once.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise LedgerError(f"Cannot make the ledger at {mask(engine.url)}: {error}") from None
            time.sleep(0.05)
        finally:
            raw.close()

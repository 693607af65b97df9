"""Database URLs, and opening a ledger: its engine, its tables where there are none, its schema version."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from materials.crystals.serialization import dumps
from materials.errors import AssayError, InputError, LedgerError, LedgerOutdated, LedgerTooNew
from materials.secrets import mask
from materials.store.schema import CREATE_VIEW, SCHEMA_VERSION, metadata, schema_version
from materials.store.transactions import alone_with_the_schema, translated

DEFAULT_URL = "sqlite:///assay.db"
BUSY_TIMEOUT_S = 30
# A network that is cut: both ends notice within a minute. Until then the server keeps the locks of who is gone.
_CUT = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


def parse_url(url: str | None) -> URL:
    """Understand a database URL, or the path of an SQLite file; None is `./assay.db`.

    Raises:
        InputError: It is neither.
    """
    found = url or DEFAULT_URL
    if "://" not in found:
        return URL.create("sqlite", database=found)
    try:
        parsed = make_url(found)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql", "postgres"):
        raise InputError(
            f"--ledger (or ASSAY_DATABASE_URL): cannot use the database URL {mask(found)}:"
            " give sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        )
    if parsed.get_backend_name() != "sqlite":
        # libpq would look for it at each connection: it may be hidden by then, and what is known can be masked.
        password = parsed.password or os.environ.get("PGPASSWORD")
        return parsed.set(drivername="postgresql+psycopg", password=password)
    return parsed


def connect(url: URL, *, must_exist: bool = False) -> Engine:
    """Open the database, making its tables where there are none.

    Raises:
        LedgerTooNew: it was written by a newer version; it is left untouched.
        LedgerOutdated: it was written by an older version, and has to be upgraded first.
        LedgerError: it cannot be reached, is missing though it must exist, or is not a ledger of ours.
    """
    _check_file(url, must_exist)
    engine = engine_of(url, only_asked=must_exist)
    try:
        _prepare(engine, must_exist)
    except AssayError:
        engine.dispose()
        raise
    return engine


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


def engine_of(url: URL, *, only_asked: bool = False) -> Engine:
    """Make an engine for a URL that `parse_url` gave; nothing is opened yet.

    Args:
        url: Of the database.
        only_asked: For a command that asks and ends, and may take memory for it; a campaign's process lives long.

    Raises:
        LedgerError: PostgreSQL's driver is missing.
    """
    settings: dict[str, Any] = {"hide_parameters": True, "json_serializer": dumps}
    try:
        if url.get_backend_name() != "sqlite":
            connect = {"connect_timeout": 10, "tcp_user_timeout": 60_000, **_CUT}
            engine = create_engine(url, pool_pre_ping=True, connect_args=connect, **settings)
            event.listen(engine, "connect", _prepare_postgresql)
            return engine
        if only_asked and (read_only := _read_only(url)) is not None:
            settings["creator"] = read_only
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **settings)
    except (ImportError, NoSuchModuleError):
        raise LedgerError(
            f"{mask(url)} needs the PostgreSQL driver: pip install 'psycopg[binary]' (the extra `postgresql`)"
        ) from None
    event.listen(engine, "connect", _prepare_asked_sqlite if only_asked else _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _read_only(url: URL) -> Callable[[], sqlite3.Connection] | None:
    """Open an SQLite file that lies where nothing can be written: to be read it otherwise makes two files beside it.

    Where those are there, somebody writes, and they are read as well; where they are not, nobody does, and the file is
    taken for one that does not change.

    Returns:
        What makes a connection; None where the folder can be written to.

    Raises:
        LedgerError: A part of it is in a log that cannot be read there.
    """
    if url.database in (None, "", ":memory:") or "uri" in url.query:
        return None
    path = Path(str(url.database)).absolute()
    if os.access(path.parent, os.W_OK):
        return None
    log = path.with_name(f"{path.name}-wal")
    shared = path.with_name(f"{path.name}-shm").exists()
    if not shared and log.exists() and log.stat().st_size:
        raise LedgerError(
            f"The ledger at {path} cannot be read where it lies: its newest records are in {log}, and to read those"
            f" SQLite makes a file beside it, but {path.parent} cannot be written to; copy both files to a folder"
            " that can be written to, and name the copy with --ledger"
        )
    options = "mode=ro" if shared and log.exists() else "mode=ro&immutable=1"

    def opened() -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(str(path))}?{options}", uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False
        )

    return opened


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    connection.execute("; ".join(f"SET tcp_{name} = {value}" for name, value in _CUT.items()))
    connection.commit()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # sqlite3's own transaction handling begins too late for a consistent read and too weakly for a write.
    connection.isolation_level = None
    for pragma in ("foreign_keys=ON", "synchronous=FULL", "cache_size=-16384"):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_asked_sqlite(connection: Any, record: Any) -> None:
    _prepare_sqlite(connection, record)
    # Of a million rows a query may read thousands that lie apart.
    for pragma in ("cache_size=-65536", "mmap_size=268435456"):
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
        alone_with_the_schema(connection)
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

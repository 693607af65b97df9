"""Upgrade of an older ledger: one migration a version, all of them or none.

A ledger has one number, in its table `schema_version`, that costs nothing to look at. Alembic's operations change the
tables; its own table of revisions, and its files of settings, are not needed for a history without branches.
"""

from __future__ import annotations

import importlib
import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, inspect, select, update
from sqlalchemy.engine import URL

from materials.secrets import mask
from materials.store.connection import engine_of, parse_url, version_of
from materials.store.schema import SCHEMA_VERSION, schema_version
from materials.store.transactions import alone_with_the_schema, translated


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """What has to be done to a ledger.

    Attributes:
        url: Where it is, secrets masked.
        found: Its version.
        wanted: That of this Assay.
        backup: Where a copy of an SQLite file goes before; None for PostgreSQL, whose administrator has his own.
        notes: What became of the numbers in it, a sentence each; none before it is done.
    """

    url: str
    found: int
    wanted: int
    backup: Path | None
    notes: tuple[str, ...] = ()


def due(url: str | None) -> Upgrade | None:
    """Say what an upgrade would do; None where there is no ledger, or it is of this version.

    Raises:
        LedgerTooNew: A newer version wrote it.
        LedgerError: It cannot be reached, or is no ledger.
    """
    parsed = parse_url(url)
    file = _file(parsed)
    if file is not None and not file.exists():
        return None
    engine = engine_of(parsed)
    try:
        with translated(engine), engine.connect() as connection:
            found = version_of(connection, set(inspect(connection).get_table_names()), parsed)
    finally:
        engine.dispose()
    if found is None or found == SCHEMA_VERSION:
        return None
    return Upgrade(url=mask(parsed), found=found, wanted=SCHEMA_VERSION, backup=_backup_path(file, found))


def upgrade(url: str | None) -> Upgrade | None:
    """Upgrade a ledger, an SQLite file after a copy of it was made; None where there is nothing to do.

    Nobody writes between the copy and the end: what is in the ledger, is in the copy.

    Raises:
        LedgerTooNew: A newer version wrote it.
        LedgerError: It cannot be reached or changed; it is then what it was.
    """
    if due(url) is None:
        return None
    parsed = parse_url(url)
    file = _file(parsed)
    engine = engine_of(parsed)
    writing = engine.execution_options(assay_writes=True)
    try:
        with translated(engine), writing.connect() as connection, connection.begin():
            alone_with_the_schema(connection)
            found = _found(connection)
            if found >= SCHEMA_VERSION:
                return None  # another process was faster
            backup = _backup_path(file, found)
            if file is not None and backup is not None:
                _copy(file, backup)
            notes = _migrate(connection, found)
    finally:
        engine.dispose()
    return Upgrade(url=mask(parsed), found=found, wanted=SCHEMA_VERSION, backup=backup, notes=notes)


def _migrate(connection: Connection, found: int) -> tuple[str, ...]:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    operations = Operations(MigrationContext.configure(connection))
    notes = []
    for version in range(found + 1, SCHEMA_VERSION + 1):
        notes.append(importlib.import_module(f"materials.store.migrations.version_{version}").upgrade(operations))
        connection.execute(update(schema_version).values(version=version))
    return tuple(note for note in notes if note)


def _found(connection: Connection) -> int:
    return int(connection.execute(select(schema_version.c.version)).scalar_one())


def _file(url: URL) -> Path | None:
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def _backup_path(file: Path | None, version: int) -> Path | None:
    if file is None:
        return None
    names = [
        file.with_name(f"{file.name}.v{version}{number}.bak") for number in ("", *[f"-{n}" for n in range(2, 100)])
    ]
    return next(name for name in names if not name.exists())


def _copy(file: Path, backup: Path) -> None:
    """Copy a database that others may be writing to, whole or not at all."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{backup.name}.")
    os.close(handle)
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(name)) as target:
        source.backup(target)
    Path(name).replace(backup)

"""Ledgers of older versions: brought to this one after a copy, whole or not at all."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import delete

from materials.errors import LedgerOutdated
from materials.query import parse
from materials.store import schema as tables
from materials.store.browse import columns
from materials.store.ledger import Ledger
from materials.store.migrations import upgrade as upgrading
from tests.unit.materials import made_records as made

HERE = Path(__file__).parent


@pytest.fixture(params=[1, 2, 3])
def version(request: pytest.FixtureRequest) -> int:
    """Of the ledger that is old."""
    return int(request.param)


@pytest.fixture
def old(tmp_path: Path, version: int) -> Path:
    """A ledger as an older version made it, with a campaign, two rows of its table and a selection."""
    path = tmp_path / "assay.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((HERE / f"schema-{version}-sqlite.sql").read_text())
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("INSERT INTO campaigns VALUES ('q-1', 'q', 'h', '{}', '2026-01-01')")
        for name, system in (("m1", "Cl-Na"), ("m2", "K-Li")):
            connection.execute(
                "INSERT INTO rankings (campaign_id, material_id, rank, formula, chemsys, n_sites, parents, status,"
                " known_as, message) VALUES ('q-1', ?, 1, 'x', ?, 2, '', 'screened', '', '')",
                (name, system),
            )
            if version > 1:
                connection.execute("INSERT INTO systems VALUES ('q-1', ?, 1)", (system,))
        connection.execute(
            "INSERT INTO selections (campaign_id, material_id, round, acquisition, score, rank, seed)"
            " VALUES ('q-1', 'm1', 1, 'audit', 0.5, 1, 7)"
        )
        connection.commit()
    return path


def schema(path: Path) -> dict[str, object]:
    """Columns of the tables with their keys; of indexes and views, how they were made."""
    with closing(sqlite3.connect(path)) as connection:
        made = connection.execute(
            "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        )
        found: dict[str, object] = {}
        for name, kind, sql in made.fetchall():
            found[name] = " ".join(sql.replace('"', "").replace(" ,", ",").split()).lower()
            if kind == "table":  # a column that was added later stands elsewhere in its text
                keys = connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()
                indexes = {row[1:] for row in connection.execute(f"PRAGMA index_list({name})")}
                found[name] = [connection.execute(f"PRAGMA table_info({name})").fetchall(), keys, indexes]
        return found


def test_it_is_refused_until_it_is_upgraded(old: Path, version: int) -> None:
    before = old.read_bytes()
    wanted = f"schema version {version}; this Assay wants 4: `assay db upgrade`"
    with pytest.raises(LedgerOutdated, match=wanted) as caught:
        Ledger.open(str(old), must_exist=True)
    assert caught.value.exit_code == 2
    assert old.read_bytes() == before


def test_a_copy_is_made_and_it_equals_a_new_one(old: Path, version: int, tmp_path: Path) -> None:
    before = schema(old)
    done = upgrading.upgrade(str(old))
    assert done is not None
    assert (done.found, done.wanted) == (version, tables.SCHEMA_VERSION)
    assert done.backup == tmp_path / f"assay.db.v{version}.bak"
    assert schema(done.backup) == before
    with Ledger.open(str(tmp_path / "new.db")):
        pass
    assert schema(old) == schema(tmp_path / "new.db")
    with Ledger.open(str(old)) as ledger:
        assert {row["material_id"] for row in ledger.rows("q-1")} == {"m1", "m2"}
        assert [row["material_id"] for row in ledger.rows("q-1", parse("has Li", columns()))] == ["m2"]
        assert ledger.selections("q-1") == [made.selection("m1")]
        ledger.add_selections("q-1", [made.selection("m2", why={"odds": 0.25})])
        assert ledger.selections("q-1")[1].why == {"odds": 0.25}
        ledger.publish("q-1", [made.ranked("m1")])
    assert upgrading.upgrade(str(old)) is None


def test_what_goes_wrong_leaves_it_as_it_was(old: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from materials.store.migrations import version_4

    before = schema(old)
    whole = version_4.upgrade

    def broken(operations: object) -> None:
        whole(operations)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(version_4, "upgrade", broken)
    with pytest.raises(KeyboardInterrupt):
        upgrading.upgrade(str(old))
    assert schema(old) == before
    monkeypatch.undo()
    again = upgrading.upgrade(str(old))
    assert again is not None
    assert again.backup == old.with_name(f"assay.db.v{version}-2.bak")


def test_kill_9_leaves_the_old_one_or_the_new_one(old: Path) -> None:
    before = schema(old)
    code = """
import os, signal, sys
from materials.store.migrations import upgrade as upgrading
from materials.store.migrations import version_4
whole = version_4.upgrade
def killed(operations):
    whole(operations)
    os.kill(os.getpid(), signal.SIGKILL)
version_4.upgrade = killed
upgrading.upgrade(sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", code, str(old)], cwd=Path(__file__).parents[5], check=False)
    assert done.returncode == -signal.SIGKILL
    assert schema(old) == before
    upgrading.upgrade(str(old))
    with Ledger.open(str(old)) as ledger:
        assert len(ledger.rows("q-1")) == 2


def test_two_at_once_make_one_copy_of_the_old_one(old: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = upgrading._copy

    def slowly(file: Path, backup: Path) -> None:
        time.sleep(0.5)
        copied(file, backup)

    monkeypatch.setattr(upgrading, "_copy", slowly)
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(upgrading.upgrade, [str(old)] * 2))
    assert sum(upgrade is not None for upgrade in done) == 1
    (backup,) = old.parent.glob("*.bak")
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(version,)]
        assert connection.execute("SELECT count(*) FROM rankings").fetchall() == [(2,)]


def test_what_a_process_of_the_old_version_published_is_found(old: Path) -> None:
    upgrading.upgrade(str(old))
    with Ledger.open(str(old)) as ledger:
        ledger.publish("q-1", [made.ranked("m1", chemsys="Li-O")])
        with ledger.engine.begin() as connection:
            connection.execute(delete(tables.systems))  # version 1 knows no such table
            connection.exec_driver_sql(
                "INSERT INTO selections (campaign_id, material_id, round, acquisition, score, rank, seed)"
                " VALUES ('q-1', 'm2', 1, 'audit', 0.5, 2, 7)"
            )
        ledger.publish("q-1", [made.ranked("m1", chemsys="Li-O")])
        assert len(ledger.rows("q-1", parse("has Li", columns()))) == 1
        assert [selection.why for selection in ledger.selections("q-1")] == [{}, {}]

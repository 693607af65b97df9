"""Ledgers of older versions: brought to this one after a copy, whole or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from materials.errors import LedgerOutdated
from materials.store import tables, upgrading
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made

OLD = Path(__file__).with_name("schema-1-sqlite.sql")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A ledger as version 1 made it, with a campaign and two rows of its table."""
    path = tmp_path / "assay.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text())
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("INSERT INTO campaigns VALUES ('q-1', 'q', 'h', '{}', '2026-01-01')")
        for name, system in (("m1", "Cl-Na"), ("m2", "K-Li")):
            connection.execute(
                "INSERT INTO rankings (campaign_id, material_id, rank, formula, chemsys, n_sites, parents, status,"
                " known_as, message) VALUES ('q-1', ?, 1, 'x', ?, 2, '', 'screened', '', '')",
                (name, system),
            )
        connection.commit()
    return path


def schema(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        )
        return {(name, " ".join(sql.replace('"', "").replace(" ,", ",").split()).lower()) for name, sql in found}


def test_it_is_refused_until_it_is_upgraded(old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(LedgerOutdated, match="schema version 1; this Assay wants 2: `assay db upgrade`") as caught:
        Ledger.open(str(old), must_exist=True)
    assert caught.value.exit_code == 2
    assert old.read_bytes() == before


def test_a_copy_is_made_and_it_equals_a_new_one(old: Path, tmp_path: Path) -> None:
    done = upgrading.upgrade(str(old))
    assert done is not None
    assert (done.found, done.wanted) == (1, tables.SCHEMA_VERSION)
    assert done.backup == tmp_path / "assay.db.v1.bak"
    assert ("rankings_by_chemsys" in dict(schema(done.backup)), "rankings_by_chemsys" in dict(schema(old))) == (
        False,
        True,
    )
    with Ledger.open(str(tmp_path / "new.db")):
        pass
    assert schema(old) == schema(tmp_path / "new.db")
    with Ledger.open(str(old)) as ledger:
        assert {row["material_id"] for row in ledger.table("q-1")} == {"m1", "m2"}
        from materials.query import parse
        from materials.store.answering import columns

        assert [row["material_id"] for row in ledger.table("q-1", parse("has Li", columns()))] == ["m2"]
        ledger.publish("q-1", [made.ranked("m1")])
    assert upgrading.upgrade(str(old)) is None


def test_what_goes_wrong_leaves_it_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from materials.store.migrations import version_2

    before = schema(old)
    whole = version_2.upgrade

    def broken(operations: object) -> None:
        whole(operations)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(version_2, "upgrade", broken)
    with pytest.raises(KeyboardInterrupt):
        upgrading.upgrade(str(old))
    assert schema(old) == before
    monkeypatch.undo()
    again = upgrading.upgrade(str(old))
    assert again is not None
    assert again.backup == old.with_name("assay.db.v1-2.bak")

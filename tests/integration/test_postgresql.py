"""The ledger on a real PostgreSQL server, started for these tests alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from ase.io import write
from sqlalchemy import create_engine, event, text

from materials.errors import LedgerError, LedgerLost, LedgerOutdated, LedgerTooNew
from materials.query import parse, parse_sort
from materials.store import transactions
from materials.store.browse import columns
from materials.store.ledger import Ledger
from materials.store.migrations.upgrade import upgrade
from tests.integration.test_prefect import METALS, SCREENING, crystals
from tests.peers import postgresql
from tests.unit.materials import made_records as made

pytestmark = pytest.mark.postgresql
pytest.importorskip("psycopg")

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "unit" / "materials" / "store" / "migrations"


@pytest.fixture
def server(postgresql_server: postgresql.Server) -> str:
    """Its URL without a database."""
    return postgresql_server.url


@pytest.fixture
def url(postgresql_server: postgresql.Server, request: pytest.FixtureRequest) -> str:
    """A database of its own for each test."""
    return postgresql_server.make(request.node.name.lower()[:60])


def test_everything_told_comes_back_once(url: str) -> None:
    with Ledger.open(url) as ledger:
        campaign_id = ledger.add_campaign("q", {"a": 1.5})
        run = ledger.start_run(campaign_id, versions={"python": "3"}, weights_hash="w", config={}, budget=3)
        ledger.end_run(run, "finished")
        failed = made.calculation("m2", status="walltime", energy=None, structure=None)
        for _ in range(2):
            ledger.add_candidates(campaign_id, [made.candidate(), made.candidate("m2", role="competing")])
            ledger.add_calculations([made.calculation(properties={"band_gap": 1.25, "latent": [0.1, None]}), failed])
            ledger.add_stabilities(campaign_id, [made.stability(decomposition_energy=-1 / 3)])
            ledger.add_selections(campaign_id, [made.selection(score=0.1 + 0.2)])
            ledger.add_equivalences(campaign_id, {"m3": "m1"}, "identity")
        ledger.add_calculations([made.calculation("m2")])
    with Ledger.open(url, must_exist=True) as ledger:
        assert ledger.candidates(campaign_id) == [made.candidate(), made.candidate("m2", role="competing")]
        assert ledger.calculations()["m1"] == made.calculation(properties={"band_gap": 1.25, "latent": [0.1, None]})
        assert ledger.calculations()["m2"].status == "converged"
        assert ledger.stabilities(campaign_id)["m1"] == made.stability(decomposition_energy=-1 / 3)
        assert ledger.selections(campaign_id) == [made.selection(score=0.1 + 0.2)]
        assert ledger.equivalences(campaign_id) == {"m3": "m1"}
        assert ledger.status(campaign_id)["mlip"] == {"converged": 2}
        assert len(ledger.evidence("m2")["calculations"]) == 2
        assert ledger.campaigns()[0]["runs"][0]["state"] == "finished"


def test_the_table_and_the_view(url: str) -> None:
    with Ledger.open(url) as ledger:
        campaign_id = ledger.add_campaign("q", {})
        rows = [
            made.ranked("m1", rank=1, meets_targets=True, band_gap=1.3, message="it's %s :x \\ ü"),
            made.ranked("m2", rank=2, chemsys="K-Mg-Sb", score=None),
            made.ranked("m3", rank=3, chemsys="Li-Mg-Sb", score=0.7),
        ]
        assert (ledger.publish(campaign_id, rows), ledger.publish(campaign_id, rows)) == (3, 0)
        assert ledger.publish(campaign_id, [replace(rows[0], score=0.6), *rows[1:]]) == 1

        def ids(where: str, sort: str = "") -> list[str]:
            keys = parse_sort(sort, columns()) if sort else ()
            return [row["material_id"] for row in ledger.rows(campaign_id, parse(where, columns()), keys)]

        assert ids("has Sb and elements in (Li, Mg, Sb)") == ["m3"]
        assert ids("meets_targets or band_gap > 1") == ["m1"]
        assert ids("meets_targets = true and status in (screened) and score != 3") == ["m1"]
        assert ids("band_gap is null or meets_targets", "score") == ["m3", "m1", "m2"]
        assert ids("predicted_band_gap >= 5", "score asc") == ["m1", "m3", "m2"]
        with ledger.engine.connect() as connection:
            frame = pd.read_sql(text("SELECT * FROM ranked_candidates ORDER BY rank"), connection)
        assert frame["campaign"].tolist() == ["q"] * 3
        assert frame["message"][0] == "it's %s :x \\ ü"


def test_processes_make_and_fill_one_ledger_at_once(url: str) -> None:
    code = (
        "import sys; from materials.store.ledger import Ledger; from tests.unit.materials import made_records as made\n"
        "with Ledger.open(sys.argv[1]) as ledger:\n"
        "    campaign_id = ledger.add_campaign('shared', {})\n"
        "    for i in range(15):\n"
        "        names = [f'{sys.argv[2]}-{i}', f'both-{i}']\n"
        "        ledger.add_candidates(campaign_id, [made.candidate(name) for name in names])\n"
        "        ledger.add_calculations([made.calculation(f'both-{i}')])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([sys.executable, "-c", code, url, name], env=environment) for name in ("a", "b")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    with Ledger.open(url, must_exist=True) as ledger:
        assert len(ledger.candidate_ids(ledger.find_campaign("shared"))) == 45
        assert len(ledger.calculations()) == 15


def test_an_empty_database_is_no_ledger_when_one_must_exist(url: str) -> None:
    with pytest.raises(LedgerError, match="There is no ledger"):
        Ledger.open(url, must_exist=True)


def test_a_newer_ledger_is_refused(url: str) -> None:
    with Ledger.open(url) as ledger, ledger.engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = 99"))
    with pytest.raises(LedgerTooNew, match="version 99"):
        Ledger.open(url)


def test_a_wrong_password_is_told_without_it(server: str) -> None:
    with pytest.raises(LedgerError, match=r"assay:\*\*\*@127") as caught:
        Ledger.open(f"{server.replace('s3cret', 'wr0ng')}/postgres")
    assert "wr0ng" not in str(caught.value)
    with Ledger.open(f"{server}/postgres") as ledger:
        assert "s3cret" not in repr(ledger)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_one_is_upgraded_when_somebody_says_so(
    url: str, postgresql_server: postgresql.Server, version: int
) -> None:
    engine = create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    with engine.begin() as connection:
        for statement in (OLD / f"schema-{version}-postgresql.sql").read_text().split(";\n"):
            if statement.strip():
                connection.execute(text(statement))
        connection.execute(text("INSERT INTO campaigns VALUES ('q-1', 'q', 'h', '{}', '2026-01-01')"))
        columns = "campaign_id, material_id, round, acquisition, score, rank, seed"
        connection.execute(text(f"INSERT INTO selections ({columns}) VALUES ('q-1', 'm1', 1, 'audit', 0.5, 1, 7)"))
    for must_exist in (True, False):
        with pytest.raises(LedgerOutdated, match=rf"schema version {version}; this Assay wants 4: `assay db upgrade`"):
            Ledger.open(url, must_exist=must_exist)
    environment = {**os.environ, "ASSAY_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
    upgrade = [str(Path(sys.executable).with_name("assay")), "db", "upgrade"]
    asked = subprocess.run(upgrade, env=environment, input="n\n", capture_output=True, text=True)
    assert asked.returncode == 130
    assert f"schema version {version} becomes 4. Make a backup first (pg_dump)." in asked.stdout
    assert "s3cret" not in asked.stdout + asked.stderr
    subprocess.run([*upgrade, "--yes"], env=environment, check=True)
    assert "Nothing to do" in subprocess.run(upgrade, env=environment, capture_output=True, text=True).stdout
    with Ledger.open(url) as ledger, Ledger.open(postgresql_server.make(f"fresh-{version}")) as fresh:
        assert [c["campaign_id"] for c in ledger.campaigns()] == ["q-1"]
        assert ledger.selections("q-1") == [made.selection("m1")]
        assert shape(ledger) == shape(fresh)
    engine.dispose()


def test_decomposition_energies_are_worked_out_again(url: str) -> None:
    phases = {"na": ("Na", 0.0, 0.0), "cl": ("Cl", 0.0, 0.0), "low": ("NaCl", -2.0, -0.1), "high": ("NaCl", -1.9, 0.1)}
    engine = create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    with engine.begin() as connection:
        for statement in (OLD / "schema-3-postgresql.sql").read_text().split(";\n"):
            if statement.strip():
                connection.execute(text(statement))
        connection.execute(text("INSERT INTO campaigns VALUES ('q-1', 'q', 'h', '{}', '2026-01-01')"))
        for name, (formula, formation, energy) in phases.items():
            connection.execute(
                text("INSERT INTO candidates VALUES (:name, :formula, 'x', 2, '{}')"),
                {"name": name, "formula": formula},
            )
            columns = "campaign_id, material_id, fidelity, level_of_theory, energy_above_hull, "
            columns += "decomposition_energy_per_atom, formation_energy_per_atom, decomposition, reference_version"
            connection.execute(
                text(f"INSERT INTO stabilities ({columns}) VALUES ('q-1', :n, 'mlip', 'PBE', :a, :e, :f, '{{}}', 'v')"),
                {"n": name, "a": max(energy, 0.0), "e": energy, "f": formation},
            )
    engine.dispose()
    done = upgrade(url)
    assert done is not None
    assert "of 4, 2 changed and 0 could not be worked out again" in " ".join(done.notes)
    with Ledger.open(url) as ledger:
        found = ledger.stabilities("q-1", "mlip")
    energies = {name: stability.decomposition_energy_per_atom for name, stability in found.items()}
    assert energies == pytest.approx({"na": 0, "cl": 0, "low": -2.0, "high": -1.9})
    assert found["high"].decomposition == pytest.approx({"na": 0.5, "cl": 0.5})
    assert found["high"].energy_above_hull == pytest.approx(0.1)


def shape(ledger: Ledger) -> dict[str, Any]:
    """Tables, columns and indexes."""
    with ledger.engine.connect() as connection:
        columns = "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        found = connection.execute(text(f"{columns} WHERE table_schema = 'public' ORDER BY 1, 2")).all()
        indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
        return {"columns": found, "indexes": connection.execute(text(indexes)).all()}


END_OTHERS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND datname = current_database()"""


def test_a_connection_lost_in_the_middle_is_no_matter_unless_it_is_lost_each_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = []
    with Ledger.open(url) as ledger, Ledger.open(url) as another:
        campaign_id = ledger.add_campaign("q", {})

        @event.listens_for(ledger.engine, "before_cursor_execute")
        def lose(_connection, _cursor, statement: str, *_) -> None:  # type: ignore[no-untyped-def]
            if ("FROM calculations" in statement and not lost) or "INTO equivalences" in statement:
                lost.append(statement)
                with another.engine.connect() as connection:
                    connection.execute(text(END_OTHERS))

        ledger.add_calculations([made.calculation(status="walltime", energy=None, structure=None)])
        assert len(lost) == 1
        assert len(ledger.calculations()) == 1
        lost.clear()
        assert len(ledger.calculations()) == 1
        assert len(lost) == 1
        monkeypatch.setattr(transactions, "PATIENCE_S", 1)
        with pytest.raises(LedgerLost, match="terminating connection"):
            ledger.add_equivalences(campaign_id, {"m2": "m1"}, "identity")
        assert 2 < len(lost) < 10


def test_what_was_kept_though_the_answer_was_lost_is_kept_once(url: str) -> None:
    with Ledger.open(url) as ledger, Ledger.open(url) as another:
        campaign_id = ledger.add_campaign("q", {})
        kept, lost = ledger.engine.dialect.do_commit, []

        def commit(connection: Any) -> None:
            kept(connection)
            if not lost:
                lost.append(connection)
                with another.engine.connect() as other:
                    other.execute(text(END_OTHERS))
                connection.driver_connection.execute("SELECT 1")

        ledger.engine.dialect.do_commit = commit  # type: ignore[method-assign]
        failed = made.calculation(status="walltime", energy=None, structure=None)
        for tell in (
            lambda: ledger.add_calculations([failed]),
            lambda: ledger.add_candidates(campaign_id, [made.candidate()]),
            lambda: ledger.add_stabilities(campaign_id, [made.stability()]),
            lambda: ledger.start_run(campaign_id, versions={}, weights_hash=None, config={}),
            lambda: ledger.publish(campaign_id, [made.ranked()]),
        ):
            lost.clear()
            tell()
            assert lost
        with another.engine.connect() as connection:
            for table in ("calculations", "candidates", "proposals", "stabilities", "runs", "rankings"):
                assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 1, table


def test_both_ends_notice_a_cut_network(url: str) -> None:
    with Ledger.open(url) as ledger, ledger.engine.connect() as connection:
        assert connection.execute(text("SHOW tcp_keepalives_idle")).scalar() == "30"


def test_what_is_told_while_the_server_is_gone_lands_once(url: str, postgresql_server: postgresql.Server) -> None:
    told = [f"m{i}" for i in range(60)]
    with Ledger.open(url) as ledger, ThreadPoolExecutor(4) as threads:
        campaign_id = ledger.add_campaign("q", {})

        def tell(name: str) -> None:
            ledger.add_candidates(campaign_id, [made.candidate(name)])
            ledger.add_calculations([made.calculation(name)])
            ledger.publish(campaign_id, [made.ranked(name)])
            time.sleep(0.02)

        waiting = [threads.submit(tell, name) for name in told]
        time.sleep(0.3)
        postgresql_server.kill()
        time.sleep(3)
        postgresql_server.start()
        for future in waiting:
            future.result(timeout=120)
        assert set(ledger.candidate_ids(campaign_id)) == set(told)
        assert set(ledger.calculations()) == set(told)
        with ledger.engine.connect() as connection:
            counts = [
                connection.execute(text(f"SELECT count(*) FROM {table}")).scalar()
                for table in ("proposals", "calculations")
            ]
        assert counts == [60, 60]


@pytest.mark.slow
@pytest.mark.long
def test_two_campaigns_in_one_ledger_while_the_server_is_killed(
    url: str, postgresql_server: postgresql.Server, tmp_path: Path
) -> None:
    metals = {"one": METALS[:9], "two": METALS[9:]}
    for name, symbols in metals.items():
        write(tmp_path / f"{name}.extxyz", crystals(symbols))
        content = {"name": name, "sources": [{"kind": "files", "path": f"{name}.extxyz"}], "screening": SCREENING}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(yaml.safe_dump({"workers": {"count": 1, "memory_gib": 2}}))

    def start(name: str, ledger: str) -> subprocess.Popen[str]:
        command = [Path(sys.executable).with_name("assay"), "run", f"{name}.yaml", "--no-dft", "--cluster", cluster]
        environment = {**os.environ, "ASSAY_DATABASE_URL": ledger, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    both = [start(name, url) for name in metals]
    with Ledger.open(url) as ledger:
        until = time.monotonic() + 300
        while len(ledger.calculations()) < 5:
            assert time.monotonic() < until
            assert all(process.poll() is None for process in both), [p.communicate() for p in both]
            time.sleep(0.2)
    postgresql_server.kill()
    time.sleep(5)
    postgresql_server.start()
    said = [process.communicate(timeout=400)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert any("answers again" in words for words in said)
    assert not any("s3cret" in words for words in said)
    undisturbed = str(tmp_path / "undisturbed.db")
    for name in metals:
        process = start(name, undisturbed)
        assert process.communicate(timeout=400)[1] is not None
        assert process.returncode == 0
    with Ledger.open(url) as one, Ledger.open(undisturbed) as other:
        assert len(one.calculations()) == len(other.calculations())
        for name in metals:
            assert one.rows(one.find_campaign(name)) == other.rows(other.find_campaign(name))

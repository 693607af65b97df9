"""The ledger on a real PostgreSQL server, started for these tests alone."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from sqlalchemy import create_engine, text

from materials.errors import LedgerError, LedgerTooNew
from materials.query import parse, parse_sort
from materials.store.answering import columns
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made

pytestmark = pytest.mark.postgresql
pytest.importorskip("psycopg")

PASSWORD = "s3cret/word@x"
ROOT = Path(__file__).parents[2]


def binaries() -> Path | None:
    """The newest PostgreSQL on this machine: on the PATH, or where Debian hides it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0]))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(on_path).resolve().parent if on_path else None


def unprivileged() -> dict[str, int]:
    """PostgreSQL refuses to run as root: whom it runs as then."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server with a password, on loopback; its URL without a database."""
    bin_folder = binaries()
    if bin_folder is None:
        pytest.skip("no PostgreSQL here: neither `initdb` nor /usr/lib/postgresql/*/bin")
    who = unprivileged()
    # Not pytest's own folder: only its owner may enter that.
    with TemporaryDirectory(prefix="assay-postgresql-", dir="/tmp") as name:
        folder, port = Path(name), free_port()
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            os.chown(path, who.get("user", -1), who.get("group", -1))
        initdb = [bin_folder / "initdb", "-D", folder / "data", "-U", "assay", "--pwfile", folder / "password"]
        subprocess.run([*initdb, "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"], cwd=folder, check=True, **who)
        settings = [f"port={port}", "listen_addresses=127.0.0.1", "fsync=off", f"unix_socket_directories={folder}"]
        flags = [part for setting in settings for part in ("-c", setting)]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [bin_folder / "postgres", "-D", folder / "data", *flags], cwd=folder, stderr=log, **who
            )
        try:
            ready = [bin_folder / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
            for _ in range(300):
                if subprocess.run(ready, check=False).returncode == 0:
                    break
                assert process.poll() is None, (folder / "log").read_text()
            yield f"postgresql://assay:{PASSWORD.replace('/', '%2F').replace('@', '%40')}@127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)  # at once, whoever is still connected
            process.wait(timeout=30)


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """A database of its own for each test."""
    name = request.node.name.lower()
    engine = create_engine(f"{server.replace('postgresql', 'postgresql+psycopg')}/postgres")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return f"{server}/{name}"


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
            return [row["material_id"] for row in ledger.table(campaign_id, parse(where, columns()), keys)]

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

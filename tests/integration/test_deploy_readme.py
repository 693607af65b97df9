"""deploy/README.md: its lines are run as they stand there, but for those that say `# not run`."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from tests.integration.conftest import ASSAY, SMALL
from tests.peers import compose
from tests.peers.compose import ROOT, Stack
from tests.peers.postgresql import binaries, unprivileged

README = (ROOT / "deploy" / "README.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL))
# Lines that wait for a person or stand on a queue: their own tests run them, on real servers.
ELSEWHERE = ("assay up", "assay doctor --cluster", "assay run configs/quickstart.yaml --cluster", "export MP_API_KEY=")


def lines(section: str) -> list[str]:
    """The commands of a section that are said to have been run."""
    found = re.findall(r"^    (\S.*)$", SECTIONS[section], re.MULTILINE)
    return [line for line in found if "# not run" not in line]


def here(section: str) -> list[str]:
    return [line for line in lines(section) if not line.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def checkout(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which all is set up, and the quickstart is a smaller campaign whose calculations are known."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "configs", folder / "configs")
    small = SMALL.read_text().replace("name: small", "name: quickstart")
    (folder / "configs" / "quickstart.yaml").write_text(small)
    shutil.copy(finished / "assay.db", folder)
    (folder / "deploy").mkdir()
    # The set-up itself is what every run of the tests begins with; again, it would install this folder.
    (folder / "deploy" / "setup").write_text("#!/bin/sh\nexit 0\n")
    (folder / "deploy" / "setup").chmod(0o755)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    return folder


def run(folder: Path, commands: list[str], **variables: str) -> str:
    """Run lines one after another in one shell, as somebody types them; the first that fails ends it."""
    assert commands
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ASSAY_", "PG"))},
        "HOME": str(folder),
        "PATH": f"{binaries() or ''}:{os.environ['PATH']}",
        **variables,
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_sections_are_those_that_are_tried() -> None:
    assert {title for title in SECTIONS if lines(title)} == {
        "A laptop",
        "A workstation with GPUs",
        "Slurm with a shared disk",
        "A server with compose",
        "Secrets",
        "PostgreSQL",
        "Backups and upgrades",
        "In the Prefect UI",  # tests/integration/test_prefect.py types its lines, test_up.py and the browser the rest
    }


def test_what_it_names_is_there() -> None:
    for path in re.findall(r"`?((?:configs|deploy|tests)/[\w./-]+\.\w+)", README):
        assert (ROOT / path).exists(), path
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in SECTIONS}
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= anchors
    for line in re.findall(r"^    (\S.*)$", README, re.MULTILINE):
        assert subprocess.run(["bash", "-n", "-c", line], capture_output=True).returncode == 0, line
        for command in re.findall(r"\bassay ((?:db )?[a-z]+)", line.split("#")[0]):
            if not re.search(r"(compose|sudo|-U|-d|ROLE|OWNER|DATABASE) .*assay", line):
                asked = subprocess.run([ASSAY, *command.split(), "--help"], capture_output=True, check=False)
                assert asked.returncode == 0, line


def test_the_variables_of_the_compose_file_are_all_told() -> None:
    used = set(re.findall(r"\$\{(\w+)", compose.FILE.read_text())) - {"ASSAY_POSTGRES_IMAGE"}
    assert used == set(re.findall(r"`((?:ASSAY|MP|POSTGRES|PREFECT)_[A-Z_]+)`", SECTIONS["A server with compose"]))


@pytest.mark.dft
@pytest.mark.slow
def test_a_laptop(checkout: Path) -> None:
    said = run(checkout, here("A laptop"))
    assert "Validated with DFT" in said
    assert "LiMgP" in said


def test_a_workstation_and_slurm_start_from_files_that_load(checkout: Path) -> None:
    from flows.config.load import load_cluster

    for section, name in (("A workstation with GPUs", "gpu"), ("Slurm with a shared disk", "slurm")):
        run(checkout, [line for line in here(section) if line.startswith(("source", "cp"))])
        assert load_cluster(checkout / "cluster.yaml") == load_cluster(ROOT / "configs" / "clusters" / f"{name}.yaml")


@pytest.mark.postgresql
def test_a_ledger_of_ones_own_without_root() -> None:
    """As a user who is not root, for PostgreSQL refuses to run as root."""
    if binaries() is None:
        pytest.skip("no PostgreSQL here")
    commands = [line for line in here("Slurm with a shared disk") if not line.startswith(("ASSAY_", "source", "cp"))]
    assert any(line.startswith("initdb") for line in commands)
    with TemporaryDirectory(prefix="assay-postgresql-", dir="/tmp") as name:
        who = unprivileged()
        os.chown(name, who.get("user", -1), who.get("group", -1))
        port = str(compose.free_port())
        words = [line.replace("5433", port) for line in commands]
        check = 'psql -d "$ASSAY_DATABASE_URL" -Atc "SELECT current_user"'
        environment = {"HOME": name, "PATH": f"{binaries()}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        script = "\n".join([*words, "stat -c %a ~/.pgpass", check])
        try:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=name,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
                **who,  # type: ignore[arg-type]
            )
            assert done.returncode == 0, done.stdout
            assert done.stdout.splitlines()[-2:] == ["600", "assay"]
            # Nobody comes in without the password.
            without = [*environment.items(), ("PGPASSFILE", "/dev/null")]
            asked = ["psql", "-w", "-h", "127.0.0.1", "-p", port, "-U", "assay", "-c", "SELECT 1", "assay"]
            assert subprocess.run(asked, env=dict(without), capture_output=True, check=False).returncode != 0
        finally:
            stop = ["pg_ctl", "-D", f"{name}/assay-postgres", "-m", "immediate", "stop"]
            subprocess.run(stop, env=environment, cwd=name, check=False, capture_output=True, **who)  # type: ignore[call-overload]


def test_the_secrets_of_a_server_are_made(checkout: Path) -> None:
    [line] = here("A server with compose")
    run(checkout, [line])
    file = checkout / "deploy" / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    variables = dict(pair.split("=", 1) for pair in file.read_text().split())
    assert compose.services(variables)["prefect-server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"].startswith(
        "admin:"
    )
    assert len(variables["POSTGRES_PASSWORD"]) == 32


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if binaries() is None:
        pytest.skip("no PostgreSQL here")
    variables = {"POSTGRES_PASSWORD": "administrator", "PREFECT_AUTH": "a:b"}
    with compose.running(tmp_path_factory.mktemp("postgres"), variables, {}, only=("postgres",)) as stack:
        yield stack


@pytest.mark.postgresql
@pytest.mark.dft
@pytest.mark.slow
def test_postgresql_and_its_backup(checkout: Path, postgres: Stack) -> None:
    port = postgres.port["5432"]
    administrator = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": "assay", "PGPASSWORD": "administrator"}
    commands = here("PostgreSQL")
    # The administrator of this server is called assay already: another name, as the README allows.
    made = [line.replace("assay", "keeper") for line in commands if line.startswith("psql")]
    used = [
        line.replace("5432", port).replace("assay@", "keeper@").replace(f"{port}/assay", f"{port}/keeper")
        for line in commands
        if not line.startswith("psql")
    ]
    run(checkout, made, PGDATABASE="postgres", **administrator)
    run(checkout, ["source .venv/bin/activate", *used, *backups(["pg_dump", "pg_restore"])])
    url = f"postgresql://keeper:choose-another@127.0.0.1:{port}/keeper"
    with psycopg.connect(url) as connection:
        [(rows,)] = connection.execute("SELECT count(*) FROM ranked_candidates").fetchall()
    assert rows > 4
    assert (checkout / "assay.dump").stat().st_size > 1000


@pytest.mark.dft
def test_sqlite_and_its_backup(checkout: Path) -> None:
    run(
        checkout,
        [
            "source .venv/bin/activate",
            *backups(["python"]),
            *[line for line in lines("Backups and upgrades") if line.startswith("assay db")],
        ],
    )
    with closing(sqlite3.connect(checkout / "assay-backup.db")) as connection:
        [(rows,)] = connection.execute("SELECT count(*) FROM ranked_candidates").fetchall()
    assert rows > 4


def backups(programs: list[str]) -> list[str]:
    words = [*lines("Backups and upgrades"), *re.findall(r"`(pg_restore .+?)`", SECTIONS["Backups and upgrades"])]
    found = [line for line in words if line.split()[0] in programs]
    assert len(found) == len(programs)
    return found

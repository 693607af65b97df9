"""Real campaigns in real processes."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from flows.config.campaign import Campaign
from flows.config.cluster import Cluster, Workers
from flows.output.progress import Progress
from flows.run.context import Run
from materials.duplicates.duplicates import material_id
from materials.records import Candidate
from materials.store.ledger import Ledger

ROOT = Path(__file__).parents[2]
ASSAY = Path(sys.executable).with_name("assay")
SMALL = Path(__file__).with_name("small.yaml")


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start `assay` in a folder, in a process group of its own."""
    return subprocess.Popen(
        [str(ASSAY), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run `assay` in a folder and give back what it said."""
    process = start(folder, *arguments)
    said, _ = process.communicate(timeout=1500)
    assert process.returncode == code, said
    return said


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, gpaw: None) -> Path:
    """A folder in which the small campaign has run undisturbed; tests read it, and leave it as it is."""
    base, folder = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("finished")
    # Whoever of several test processes asks first runs it for all of them.
    first = base.parent / "finished" if "PYTEST_XDIST_WORKER" in os.environ else base / "first"
    first.mkdir(exist_ok=True)
    with (first / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (first / "said.txt").exists():
            said = run(first, "run", str(SMALL))
            (first / "said.txt").write_text(said)
    shutil.copytree(first, folder, dirs_exist_ok=True)
    return folder


def candidate(symbol: str, a: float) -> Candidate:
    """An fcc crystal."""
    structure = Structure(Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]), [symbol], [[0, 0, 0]])
    return Candidate(
        material_id=material_id(structure),
        formula=symbol,
        chemsys=symbol,
        structure=structure,
        source="test",
        source_version="1",
    )


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make runs of a campaign whose potential is one of tests/peers/calculators.py."""
    # The calculators live in tests/, which is no package of ours; workers start in another directory.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    opened: list[Ledger] = []

    def make(
        calculator: str,
        candidates: list[Candidate],
        workers: Workers | None = None,
        say: Callable[[str], None] = lambda line: None,
        **screening: object,
    ) -> Run:
        campaign = Campaign.model_validate(
            {
                "name": "test",
                "sources": [{"kind": "files", "path": "none"}],
                "screening": {
                    "potential": {
                        "kind": "ase",
                        "model": f"tests.peers.calculators:{calculator}",
                        "level_of_theory": "toy",
                    },
                    "max_steps": 100,
                    **screening,
                },
            }
        )
        ledger = Ledger.open(f"sqlite:///{tmp_path / 'assay.db'}")
        opened.append(ledger)
        campaign_id = ledger.add_campaign(campaign.name, campaign.identity())
        ledger.add_candidates(campaign_id, candidates)
        return Run(
            campaign=campaign,
            cluster=Cluster(workers=workers or Workers(count=2, memory_gib=2)),
            campaign_id=campaign_id,
            ledger=ledger,
            folder=tmp_path / "runs",
            progress=Progress(say),
        )

    yield make
    for ledger in opened:
        ledger.close()

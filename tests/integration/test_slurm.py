"""A whole campaign on a real Slurm that is broken while it runs; its ledger ends as that of an undisturbed one."""

import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from models.dft.gpaw.code import Gpaw
from tests.integration.conftest import SMALL, run, start
from tests.integration.test_campaign import ask, rows
from tests.peers import slurm

pytestmark = [pytest.mark.slurm, pytest.mark.dft, pytest.mark.slow]

# Linear algebra has other last digits on another processor, or told to believe in one; by those, one crystal in a
# thousand relaxes into another minimum. A job gets nothing of our environment but what it is told here.
ALGEBRA = [f"export {name}={shlex.quote(told)}" for name, told in os.environ.items() if name.startswith("OPENBLAS_")]
CLUSTER = {
    "workers": {"kind": "slurm", "count": 2, "memory_gib": 0.9, "set_up": ALGEBRA},
    "dft": {"kind": "slurm", "concurrent": 3, "memory_gib": 1.0, "walltime_s": 600},
}


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[slurm.Slurm]:
    with slurm.running() as running:
        monkeypatch.setenv("SLURM_CONF", running.environment["SLURM_CONF"])
        yield running


def calculations(folder: Path) -> dict[str, tuple[str, float | None]]:
    """How each calculation stands in the ledger: the last word on it, and its energy (eV/atom)."""
    per_atom = "energy / json_array_length(structure, '$.species')"
    found = ask(folder, f"select calculation_id, status, {per_atom} from calculations order by attempt")
    return {key: (status, energy) for key, status, energy in found}


def done(folder: Path) -> int:
    """How many DFT calculations have a result in the ledger."""
    if not (folder / "assay.db").exists():
        return 0
    return int(ask(folder, "select count(*) from calculations where fidelity = 'dft'")[0][0])


def a_running_job(queue: slurm.Slurm, folder: Path, seconds: float = 300) -> slurm.Job:
    """Wait for a DFT job that is at work: its lock is held by who computes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for job in queue.jobs():
            running = job.name.startswith("dft-") and job.state == "RUNNING"
            if running and Gpaw().worker(folder / "assay-runs" / "dft" / key_of(job)) is not None:
                return job
        time.sleep(0.1)
    raise AssertionError(queue.told())


def key_of(job: slurm.Job) -> str:
    """Which calculation a job computes."""
    return job.name.split("-")[1]


def wait(until: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_ctrl_c_takes_the_jobs_out_of_the_queue(queue: slurm.Slurm, tmp_path: Path, gpaw: None) -> None:
    cluster = tmp_path / "slurm.yaml"
    cluster.write_text(yaml.safe_dump(CLUSTER))
    campaign = start(tmp_path, "run", str(SMALL), "--cluster", str(cluster))
    a_running_job(queue, tmp_path)
    os.killpg(campaign.pid, signal.SIGINT)
    said, _ = campaign.communicate(timeout=60)
    assert campaign.returncode == 130, said
    assert "goes on from there" in said
    assert not [job for job in queue.jobs() if job.state in ("PENDING", "RUNNING")]
    assert "cancelled" not in {status for status, _ in calculations(tmp_path).values()}


def break_it(queue: slurm.Slurm, folder: Path, *command: str) -> None:
    """Run a campaign to its end while Slurm and the flow are broken."""
    campaign = start(folder, *command)
    # slurmctld dies within seconds of the first submission, and comes back without what it had not saved.
    a_running_job(queue, folder)
    queue.kill_controller()
    time.sleep(3)
    queue.start_controller()
    # A job runs out of time.
    slow = a_running_job(queue, folder)
    queue.freeze(slow.name)
    queue.let_time_run_out(slow.name)
    # Slurm looks only now and then; until it has, the node that dies next could be this job's.
    wait(lambda: (slow.name, "RUNNING") not in {(job.name, job.state) for job in queue.jobs()})
    # A node dies.
    wait(lambda: done(folder) > 0)
    on_a_node = a_running_job(queue, folder)
    queue.take_down(on_a_node.node)
    wait(lambda: done(folder) > 2)
    queue.bring_back(on_a_node.node)
    # So does the flow, while its jobs go on; it is run again.
    a_running_job(queue, folder)
    os.killpg(campaign.pid, signal.SIGKILL)
    campaign.communicate(timeout=60)
    campaign = start(folder, *command)
    # Somebody cancels a job.
    cancelled = a_running_job(queue, folder)
    queue.cancel(cancelled.name)
    said, _ = campaign.communicate(timeout=1200)
    code = campaign.returncode
    assert code == (1 if "corners have no DFT energy" in said else 0), said
    assert calculations(folder)[key_of(cancelled)][0] == "cancelled", said
    # That is final, until they say otherwise.
    assert "calculations" not in run(folder, *command, code=code)
    run(folder, *command, "--retry", "failed")
    ended = {line["Name"]: line["JobState"] for line in queue.accounted()}
    assert ended[slow.name] == "TIMEOUT"
    assert ended[on_a_node.name] == "NODE_FAIL"
    assert ended[cancelled.name] == "CANCELLED"


def same_ledgers(undisturbed: Path, disturbed: Path) -> None:
    """See that two campaigns know the same."""
    expected, found = calculations(undisturbed), calculations(disturbed)
    assert found.keys() == expected.keys()
    for key, (status, energy) in expected.items():
        assert found[key] == (status, None if energy is None else pytest.approx(energy, abs=1e-3)), key
    table = rows(disturbed)
    assert table.keys() == rows(undisturbed).keys()
    for material_id, (*facts, energy, gap) in rows(undisturbed).items():
        *facts_again, energy_again, gap_again = table[material_id]
        assert facts_again == facts, material_id
        assert energy_again == (None if energy is None else pytest.approx(energy, abs=1e-3))
        assert gap_again == (None if gap is None else pytest.approx(gap, abs=5e-3))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_broken_again_and_again_a_campaign_ends_as_an_undisturbed_one(
    queue: slurm.Slurm, tmp_path: Path, gpaw: None
) -> None:
    content = yaml.safe_load(SMALL.read_text())
    # One round: a job that somebody cancels changes no choice.
    content["learning"]["batch"] = content["dft"]["budget"] = 3
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
        (folder / "small.yaml").write_text(yaml.safe_dump(content))
    (disturbed / "slurm.yaml").write_text(yaml.safe_dump(CLUSTER))
    run(undisturbed, "run", "small.yaml")
    break_it(queue, disturbed, "run", "small.yaml", "--cluster", "slurm.yaml")
    same_ledgers(undisturbed, disturbed)

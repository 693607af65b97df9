"""The potential's workers as jobs of a real Slurm, of which some die, are taken away, or never start."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from distributed import Client, Security
from pymatgen.core import Element, Lattice, Structure

from flows.cluster.workers import open_workers
from flows.config.cluster import Workers
from flows.run.context import Run
from flows.stages import screen as screening
from flows.stages.screen import screen
from materials.errors import ClusterError
from materials.records import Candidate
from tests.integration import conftest
from tests.integration.conftest import ASSAY, ROOT, candidate
from tests.peers import slurm as peer
from tests.peers.slurm import ALIVE, Slurm

slurm_workers = pytest.importorskip("flows.cluster.slurm_workers")
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(240)]

SECRET = "MARKERKEY-0123456789-0123456789x"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with peer.running(nodes=2, cpus=2, memory_mib=4000, gpus=1) as started:
        yield started


@pytest.fixture
def slurm(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MP_API_KEY", SECRET)
    # Chunks as short beside these tests as they are beside a campaign.
    monkeypatch.setattr(screening, "CHUNK_S", 0.5)
    monkeypatch.setattr(screening, "LEAST_SITES", 3)
    monkeypatch.setattr(screening, "FIRST_CHUNK_SITES", 3)
    yield cluster
    cluster.wait(lambda: not alive(cluster), 20)


def alive(slurm: Slurm) -> list[peer.Job]:
    return [job for job in slurm.jobs() if job.state in ALIVE]


def workers(**options: Any) -> Workers:
    return Workers(**{"kind": "slurm", "count": 2, "memory_gib": 0.9, "wait_s": 60, **options})


def crystals(count: int) -> list[Candidate]:
    return [candidate(symbol, 3.4 + 0.02 * i) for i in range(count // 4) for symbol in ("Cu", "Ni", "Ag", "Pd")]


def processes_of(job: peer.Job) -> list[psutil.Process]:
    """The processes of a job, its worker last."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == str(job.id):
                found.append(process)
    return sorted(found, key=lambda process: (len(process.parents()), process.create_time()))


@contextmanager
def after_results(run: Run, *actions: Callable[[], None]) -> Iterator[None]:
    """Do one thing each time that results came back, until there is nothing more to do."""
    left, keep = list(actions), run.ledger.add_calculations

    def kept(calculations: Any) -> None:
        keep(calculations)
        if left:
            left.pop(0)()

    run.ledger.add_calculations = kept  # type: ignore[method-assign]
    yield
    run.ledger.add_calculations = keep  # type: ignore[method-assign]
    assert not left


def energies(run: Run) -> dict[str, float | None]:
    calculations = run.ledger.calculations(campaign_id=run.campaign_id, fidelity="mlip")
    return {material_id: calculation.energy for material_id, calculation in calculations.items()}


def test_a_worker_that_dies_is_replaced_and_nobody_sees_it(make_run: Any, slurm: Slurm) -> None:
    expected = energies_here(make_run("Balls", crystals(120)))
    run = make_run("Slow", crystals(120), workers(count=3, minimum=2))
    run = replace(run, folder=run.folder.with_name("it's my run, 100 %j"))
    seen: dict[str, str] = {}

    def look() -> None:
        for job in alive(slurm):
            seen[str(job.id)] = slurm.run("scontrol", "write", "batch_script", str(job.id), "-")
            for process in processes_of(job):
                seen[str(process.pid)] = json.dumps(process.environ())

    def cancel() -> None:
        slurm.run("scancel", str(next(job.id for job in alive(slurm) if job.state == "RUNNING")))

    def kill() -> None:
        own = [processes_of(job) for job in alive(slurm)]
        max(own, key=len)[-1].kill()  # a worker, which its job's other processes start again

    with after_results(run, look, cancel, *[lambda: None] * 5, kill):
        assert screen(run) == len(expected)
    assert energies(run) == pytest.approx(expected, abs=1e-9)
    assert not run.ledger.failures(run.campaign_id)
    # Nothing of our environment that a job has no use for has gone there, nor into its script or log.
    logs = {str(path): path.read_text() for path in (run.folder / "workers").rglob("*.log")}
    assert len(seen) > 3
    assert logs
    assert not [name for name, text in {**seen, **logs}.items() if SECRET in text]
    assert not list((run.folder / "workers").rglob(".dask*"))  # keys


def energies_here(run: Run) -> dict[str, float | None]:
    """What the same candidates come to without any worker."""
    from models.relaxation.worker import relax_chunk

    sizes = run.ledger.candidate_sizes(run.campaign_id)
    answers = relax_chunk(run.potential, run.relaxation, dict(run.ledger.written_structures(sizes)))
    return {calculation.material_id: calculation.energy for calculation in answers.calculations}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_structure_is_blamed_for_the_end_of_a_workers_life(
    make_run: Any, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifetime_s = 4 + 2 * imports_s()
    monkeypatch.setattr(slurm_workers, "lifetime", lambda walltime_s: (lifetime_s, 1.0))
    before = len(slurm.jobs())
    run = make_run("Slow", crystals(120), workers())
    count = screen(run)
    assert count == len(energies(run))
    assert not run.ledger.failures(run.campaign_id)
    assert len(slurm.jobs()) - before > 2


def imports_s() -> float:
    """How long a worker's imports take here and now."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import distributed, models.relaxation.worker"], check=True, cwd=ROOT)
    return time.monotonic() - start


def test_jobs_come_and_go_with_the_work(tmp_path: Path, slurm: Slurm) -> None:
    with open_workers(workers(count=3, minimum=1), folder=tmp_path, say=print) as pool:
        tasks = [pool.client.submit(time.sleep, 0.5, pure=False) for _ in range(60)]
        wait(pool.check, lambda: pool.present == 3)
        assert pool.most == 3
        assert pool.window == 6
        wait(pool.check, lambda: all(task.done() for task in tasks))
        wait(pool.check, lambda: pool.present == len(alive(slurm)) == 1)
        # The scheduler, which other machines can reach, talks to nobody without this run's certificate.
        address = pool.client.scheduler.address
        assert address.startswith("tls://")
        strangers = [(address.replace("tls", "tcp"), None), (address, Security.temporary())]
        for where, certificate in strangers:
            with pytest.raises(OSError, match=r"Timed out|reset by peer|certificate"):
                Client(where, security=certificate, timeout=3, set_as_default=False)


def test_a_worker_sees_the_gpu_that_slurm_gives_it(tmp_path: Path, slurm: Slurm) -> None:
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    image = ["env", "IMAGE=assay", path]  # what a container is to a job: a word before the others, and its own python3
    set_up = ["export MODULE=loaded"]
    hardware = workers(count=2, minimum=2, options=["--gres=gpu:1"], set_up=set_up, container=image)
    with open_workers(hardware, folder=tmp_path, say=print) as pool:
        wait(pool.check, lambda: pool.present == 2)
        found = pool.client.run(_look_around())
    for environment in found.values():
        assert environment["CUDA_VISIBLE_DEVICES"] == "0"
        assert (environment["MODULE"], environment["IMAGE"]) == ("loaded", "assay")
        assert environment["PYTHONSAFEPATH"] == environment["OMP_NUM_THREADS"] == "1"
        assert not {"prefect", "sqlalchemy"} & set(environment["modules"].split())


def _look_around() -> Callable[[], dict[str, str]]:
    def environment() -> dict[str, str]:  # nested: it travels without this module
        import os
        import sys

        import models.relaxation.worker  # noqa: F401

        return {**os.environ, "modules": " ".join(sys.modules)}

    return environment


def test_a_refused_job_ends_with_sbatchs_own_sentence(make_run: Any, slurm: Slurm) -> None:
    run = make_run("Balls", crystals(8), workers(queue="nonesuch"))
    start = time.monotonic()
    with pytest.raises(ClusterError, match=r"sbatch refuses.*[Ii]nvalid partition"):
        screen(run)
    assert time.monotonic() - start < 60  # of the hour that it may wait for workers


def test_jobs_that_end_before_they_work_end_with_their_log(make_run: Any, slurm: Slurm) -> None:
    run = make_run("Balls", crystals(8), workers(count=3, set_up=["echo no such module: gpaw/99 >&2; false"]))
    with pytest.raises(ClusterError, match=r"(?s)before a worker came.*no such module: gpaw/99.*set-up line failed"):
        screen(run)


def test_the_wait_in_the_queue_is_told_and_bounded(make_run: Any, slurm: Slurm) -> None:
    said: list[str] = []
    run = make_run("Balls", crystals(8), workers(options=["--begin=now+1hour"], wait_s=6), said.append)
    with pytest.raises(
        ClusterError, match=r"No worker came within 6\.0 s .*in the queue \(job \d+, PENDING, BeginTime"
    ):
        screen(run)
    assert any(re.match(r"Waiting for a worker: in the queue \(job \d+, PENDING", line) for line in said)


def test_what_the_queue_never_gives_is_no_wait(make_run: Any, slurm: Slurm) -> None:
    run = make_run("Balls", crystals(8), workers(options=["--constraint=none-has-it"], wait_s=600))
    with pytest.raises(ClusterError, match=r"sbatch refuses|will never start"):
        screen(run)


@pytest.fixture
def fragile(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A Slurm of its own: where a lost job runs on and its id is given again, Slurm takes the node away for that."""
    with peer.running(nodes=2, cpus=2, memory_mib=4000) as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.mark.long
def test_slurmctld_may_be_away(make_run: Any, fragile: Slurm) -> None:
    slurm = fragile
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "Slurm does not answer" in line:
            bring_back(slurm)

    def kill_a_job_that_nobody_hears_of() -> None:
        job = next(job for job in alive(slurm) if job.state == "RUNNING")
        slurm.kill_controller()
        for process in processes_of(job):
            with suppress(psutil.Error):
                process.kill()

    run = make_run("Slow", crystals(120), workers(wait_s=120), say)
    slurm.kill_controller()
    wait_a_little = [lambda: None] * 6
    with after_results(run, kill_a_job_that_nobody_hears_of, *wait_a_little, lambda: bring_back(slurm)):
        count = screen(run)
    assert count == len(energies(run))
    assert not run.ledger.failures(run.campaign_id)
    assert any("Slurm does not answer" in line for line in said)
    slurm.wait(lambda: not slurm._processes(), 30)


def bring_back(slurm: Slurm) -> None:
    if "UP" not in slurm.run("scontrol", "ping", code=None):
        slurm.start_controller(wait=False)


def campaign(folder: Path, hardware: Workers) -> subprocess.Popen[str]:
    """Start `assay run` of a slow campaign, in a process group of its own."""
    folder.mkdir()
    with (folder / "pool.jsonl").open("w") as lines:
        for number in range(20, 80):
            for lattice in (candidate("Cu", 3.6).structure.lattice, Lattice.cubic(2.6), Lattice.hexagonal(2.6, 2.7)):
                one = Structure(lattice, [Element.from_Z(number)], [[0, 0, 0]])
                lines.write(json.dumps({"name": str(number), "structure": one.as_dict()}) + "\n")
    model = {"model": "tests.peers.calculators:Slow", "calculator_arguments": {"seconds": 0.1}}
    potential = {"kind": "ase", "level_of_theory": "toy", **model}
    content = {
        "name": "slow",
        "sources": [{"kind": "files", "path": "pool.jsonl", "id_column": "name"}],
        "screening": {"potential": potential},
        "dft": {"budget": 0},
    }
    (folder / "slow.yaml").write_text(yaml.safe_dump(content))
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"workers": hardware.model_dump(exclude_unset=True)}))
    return subprocess.Popen(
        [str(ASSAY), "run", "slow.yaml", "--no-dft", "--cluster", "cluster.yaml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)]
)
def test_no_job_outlives_its_campaign(tmp_path: Path, slurm: Slurm, number: signal.Signals) -> None:
    process = campaign(tmp_path / "campaign", workers(count=2, minimum=2))
    try:
        slurm.wait(lambda: sum(job.state == "RUNNING" and len(processes_of(job)) > 2 for job in alive(slurm)) == 2, 60)
        time.sleep(4)
        os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), said
    # After Ctrl-C at once; a killed campaign's workers see that their scheduler is gone.
    slurm.wait(lambda: not alive(slurm), 45)


def test_the_doctor_starts_a_worker_and_a_dft_job_there(tmp_path: Path, slurm: Slurm, gpaw: None) -> None:
    jobs = {"kind": "slurm", "memory_gib": 1, "concurrent": 1}
    hardware = {"workers": {"kind": "slurm", "memory_gib": 1, "count": 4}, "dft": jobs}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(hardware))
    said = conftest.run(tmp_path, "doctor", "--cluster", "cluster.yaml")
    assert re.search(r"ok +worker +there after .* s: .*python.*, job \d+, 2 cores", said)
    assert re.search(r"ok +worker: versions +as here: python 3\.\d+.*chgnet.*torch.*gpaw", said)
    assert re.search(r"ok +worker: package models ", said)
    assert re.search(r"ok +worker: chgnet +.*anchors agree", said)
    assert re.search(r"ok +DFT job +GPAW .* computed aluminium in .* with 1 rank, after .* on .*, job \d+", said)
    assert not list((tmp_path / "assay-runs").glob("doctor-*"))
    assert not alive(slurm)

    for section in hardware.values():
        section["queue"] = "nonesuch"
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(hardware))
    said = conftest.run(tmp_path, "doctor", "--cluster", "cluster.yaml", code=1)
    assert re.search(r"FAIL +worker +.*sbatch refuses.*invalid partition", said)
    assert re.search(r"FAIL +DFT job +.*invalid partition", said)


def wait(check: Callable[[], None], until: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        check()
        time.sleep(0.1)

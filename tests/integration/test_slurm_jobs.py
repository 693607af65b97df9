"""DFT jobs in a real Slurm, which is broken in all the ways that the table of ends speaks of.

The calculations are the real driver with something quicker than GPAW inside, but for the last test.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from flows.config.cluster import DFTJobs
from flows.dft import slurm as executor
from flows.dft.run import folder_of, job_for, open_executor, run_jobs
from materials.errors import DFTError
from models.dft.base import DFTResult
from models.dft.gpaw.code import Gpaw
from tests.peers import slurm
from tests.peers.quick_dft import Calculations, job

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
SECRET = "MARKER0123456789abcdef0123456789"


@pytest.fixture(scope="module")
def queue() -> Iterator[slurm.Slurm]:
    with slurm.running() as running:
        yield running


def prepare(queue: slurm.Slurm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Calculations:
    """Make this process's Slurm commands reach the queue, and look often."""
    monkeypatch.setenv("SLURM_CONF", queue.environment["SLURM_CONF"])
    monkeypatch.setattr(executor.Slurm, "pause_s", (0.5, 1.0))
    monkeypatch.setattr(executor.Slurm, "late_s", 1.0)
    return Calculations(folder / "a folder, with 100 %j of 'quotes'")


@pytest.fixture
def calculations(queue: slurm.Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calculations]:
    yield prepare(queue, tmp_path, monkeypatch)
    queue.run("scancel", "--user=0")
    queue.wait(lambda: all(found.state not in slurm.ALIVE for found in queue.jobs()))


class Running(threading.Thread):
    """Jobs that run while the test breaks things."""

    def __init__(self, calculations: Calculations, *jobs: object, **options: object) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.results: dict[str, DFTResult] = {}
        self.error: Exception | None = None

        def work() -> None:
            try:
                self.results = run(calculations, *jobs, stop=self.stop, **options)
            except Exception as error:  # noqa: BLE001 - for the test to see
                self.error = error

        self._work = work
        self.start()

    def run(self) -> None:
        self._work()

    def ended(self, seconds: float = 120) -> dict[str, DFTResult]:
        self.join(seconds)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.results


def run(
    calculations: Calculations, *jobs: object, hardware: DFTJobs | None = None, **options: object
) -> dict[str, DFTResult]:
    given = {"memory_gib": 0.5, "concurrent": 10, **options}
    return calculations.run(*jobs, hardware=hardware or DFTJobs(kind="slurm"), **given)  # type: ignore[arg-type]


def until(there: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def name(key: str, attempt: int = 1) -> str:
    return f"dft-{key}-a{attempt}"


def ends(calculations: Calculations, key: str) -> list[str]:
    return [attempt.end for attempt in calculations.attempts(key)]


def sent(queue: slurm.Slurm) -> Counter[str]:
    """How many times each job was given to Slurm, ended or not, forgotten or not."""
    live = [found.name for found in queue.jobs() if found.state in slurm.ALIVE]
    return Counter(live + [line["Name"] for line in queue.accounted()])


def test_each_end_comes_back_and_no_secret_goes_along(
    queue: slurm.Slurm, calculations: Calculations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MP_API_KEY", SECRET)
    monkeypatch.setenv("ASSAY_DATABASE_URL", f"postgresql://assay:{SECRET}@localhost/assay")
    kinds = ("good", "scf", "broken", "memory", "environment")
    results = run(calculations, *(job(kind) for kind in kinds), memory_gib=0.5, max_memory_gib=0.5)
    assert {key: result.status for key, result in results.items()} == {
        "good": "converged",
        "environment": "converged",
        "scf": "scf_not_converged",
        "broken": "failed",
        "memory": "out_of_memory",
    }
    assert all(ends(calculations, kind) for kind in kinds)
    assert set(sent(queue).values()) == {1}
    for folder in (calculations.folder, queue.folder):
        found = subprocess.run(["grep", "-rl", SECRET, str(folder)], capture_output=True, text=True)
        assert not found.stdout
    assert '"OMP_NUM_THREADS": "1"' in (folder_of(calculations.folder, "environment") / "environment.json").read_text()
    assert "begins on" in (folder_of(calculations.folder, "good") / "driver.log").read_text()


def test_a_person_cancels_jobs_that_wait_and_run_and_that_is_final(
    queue: slurm.Slurm, calculations: Calculations
) -> None:
    pending = DFTJobs(kind="slurm", options=["--begin=now+1hour"])
    waits = Running(calculations, job("good", "cancelled-waiting"), hardware=pending)
    runs = Running(calculations, job("waits", "cancelled-running"))
    queue.wait_for(name("cancelled-waiting"), "PENDING")
    until(lambda: calculations.times("cancelled-running"))
    queue.cancel(name("cancelled-waiting"))
    queue.cancel(name("cancelled-running"))
    assert waits.ended()["cancelled-waiting"].status == "cancelled"
    result = runs.ended()["cancelled-running"]
    assert result.status == "cancelled"
    assert "CANCELLED" in result.message
    assert run(calculations, job("waits", "cancelled-running"))["cancelled-running"].status == "cancelled"
    assert sent(queue)[name("cancelled-running")] == 1
    assert not queue.jobs(name("cancelled-running", 2))


def test_out_of_time_goes_on_from_the_checkpoint_with_twice_as_much(
    queue: slurm.Slurm, calculations: Calculations
) -> None:
    """By the calculation's own timer, and by Slurm where it does not hear that."""
    own = Running(calculations, job("steps", "own-timer"), walltime_s=1.2)
    deaf = Running(calculations, job("stuck-once", "deaf"), walltime_s=60.0)
    until(lambda: calculations.times("deaf", "steps"))
    queue.let_time_run_out(name("deaf"))
    assert own.ended()["own-timer"].status == "converged"
    assert ends(calculations, "own-timer") == ["timeout", "result"]
    assert deaf.ended()["deaf"].status == "converged"
    assert ends(calculations, "deaf") == ["timeout", "result"]
    assert "TIMEOUT" in calculations.attempts("deaf")[0].how
    for key in ("own-timer", "deaf"):
        assert calculations.times(key, "steps") == list(range(1, 21)), key
    assert queue.job(name("deaf", 2)).minutes == "3:00"  # type: ignore[union-attr]
    assert [attempt.walltime_s for attempt in calculations.attempts("deaf")] == [60.0, 120.0]


def test_a_memory_kill_gets_twice_the_memory(queue: slurm.Slurm, calculations: Calculations) -> None:
    result = run(calculations, job("hidden-memory"), memory_gib=0.25)["hidden-memory"]
    assert result.status == "converged"
    assert ends(calculations, "hidden-memory") == ["memory", "result"]
    assert queue.job(name("hidden-memory", 2)).memory == "512M"  # type: ignore[union-attr]
    assert "exceeded memory limit" in (folder_of(calculations.folder, "hidden-memory") / "driver-1.log").read_text()


def test_a_node_dies_and_its_job_runs_on_another(queue: slurm.Slurm, calculations: Calculations) -> None:
    running = Running(calculations, job("waits", "on-a-node"))
    until(lambda: calculations.times("on-a-node"))
    first = queue.wait_for(name("on-a-node"), "RUNNING")
    queue.take_down(first.node)
    second = queue.wait_for(name("on-a-node", 2), "RUNNING")
    assert second.node != first.node
    (folder_of(calculations.folder, "on-a-node") / "go").touch()
    assert running.ended()["on-a-node"].status == "converged"
    assert ends(calculations, "on-a-node") == ["node", "result"]
    queue.bring_back(first.node)


def test_a_preempted_job_is_sent_again(queue: slurm.Slurm, calculations: Calculations) -> None:
    running = Running(calculations, job("waits", "preempted"))
    until(lambda: calculations.times("preempted"))
    node = queue.wait_for(name("preempted"), "RUNNING").node
    urgent = ["--job-name=urgent", "--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null"]
    queue.run("sbatch", *urgent, "--wrap", "exec sleep 5")
    queue.wait_for(name("preempted", 2), "RUNNING")
    (folder_of(calculations.folder, "preempted") / "go").touch()
    assert running.ended()["preempted"].status == "converged"
    assert ends(calculations, "preempted") == ["preempted", "result"]


PARENT = """
import sys, threading
from pathlib import Path
from flows.config.cluster import DFTJobs
from flows.dft import slurm
from tests.peers.quick_dft import Calculations, job
slurm.Slurm.pause_s = (0.5, 1.0)
calculations = Calculations(Path(sys.argv[1]))
jobs = [job(*words.split(":")) for words in sys.argv[2:]]
calculations.run(*jobs, hardware=DFTJobs(kind="slurm"), concurrent=10, memory_gib=0.5)
"""


@pytest.mark.parametrize("moment", [0.0, 0.03, 0.1])
def test_the_flow_is_killed_and_its_jobs_are_taken_up_and_none_sent_twice(
    queue: slurm.Slurm, calculations: Calculations, root: Path, moment: float
) -> None:
    keys = [f"orphan-{number}-{round(1000 * moment)}" for number in range(8)]  # six cores: some of them wait
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(calculations.folder), *(f"slow:{key}" for key in keys)], cwd=root
    )
    until(lambda: sum(bool(queue.jobs(name(key))) for key in keys) >= 2)
    time.sleep(moment)  # in the midst of sending
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    results = run(calculations, *(job("slow", key) for key in keys))
    assert {result.status for result in results.values()} == {"converged"}
    counts = sent(queue)
    assert {counts[name(key)] for key in keys} == {1}
    assert not any(counts[name(key, 2)] for key in keys)
    assert {len(calculations.times(key)) for key in keys} == {1}


def test_stopped_takes_the_jobs_back_and_the_next_run_goes_on(queue: slurm.Slurm, calculations: Calculations) -> None:
    running = Running(calculations, job("steps", "taken-back"), job("good", "never"), concurrent=1)
    until(lambda: len(calculations.times("taken-back", "steps")) > 3)
    running.stop.set()
    assert running.ended(20) == {}
    assert run(calculations, job("steps", "taken-back"))["taken-back"].status == "converged"
    assert ends(calculations, "taken-back") == ["stopped", "result"]
    assert calculations.times("taken-back", "steps") == list(range(1, 21))
    assert "CANCELLED" in {found.state for found in queue.jobs(name("taken-back"))}
    assert not queue.jobs(name("never"))


def test_two_campaigns_share_a_calculation_and_one_that_is_stopped_does_not_take_it_from_the_other(
    queue: slurm.Slurm, calculations: Calculations
) -> None:
    one = Running(calculations, job("steps", "shared"))
    other = Running(calculations, job("steps", "shared"), job("slow", "own"))
    until(lambda: len(calculations.times("shared", "steps")) > 3)
    one.stop.set()
    assert one.ended(20) == {}
    assert {result.status for result in other.ended().values()} == {"converged"}
    assert ends(calculations, "shared") == ["stopped", "result"]
    assert calculations.times("shared", "steps") == list(range(1, 21))
    assert {sent(queue)[name("shared", attempt)] for attempt in (1, 2)} == {1}


def test_what_the_scheduler_does_not_take_stops_the_sending(queue: slurm.Slurm, calculations: Calculations) -> None:
    with pytest.raises(DFTError, match="queue, account, options"):
        run(calculations, job("good", "refused"), hardware=DFTJobs(kind="slurm", queue="nowhere"))
    with pytest.raises(DFTError, match="a set-up line failed"):
        run(calculations, job("good", "set-up"), hardware=DFTJobs(kind="slurm", set_up=["module load gpaw"]))
    results = run(calculations, job("good", "refused"), job("good", "set-up"))
    assert {result.status for result in results.values()} == {"converged"}


def test_slurmctld_is_killed_right_after_a_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with slurm.running() as queue:
        calculations = prepare(queue, tmp_path, monkeypatch)
        lose_jobs(queue, calculations)


@pytest.mark.dft
def test_gpaw_runs_out_of_time_and_goes_on_to_the_right_lattice_constant(
    queue: slurm.Slurm, calculations: Calculations, gpaw: None
) -> None:
    code = Gpaw()
    structure = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.7), ["Si"], [(0, 0, 0)])
    asked = replace(code.settings("quick", ["Si"], structure, relax=True), max_stress_gpa=0.3)
    job = job_for("silicon", structure, asked, code)
    folder = folder_of(calculations.folder, job.calculation_id)
    hardware = DFTJobs(kind="slurm", memory_gib=1.0, walltime_s=300.0)
    results: list[DFTResult] = []

    def work() -> None:
        run_jobs(
            [job],
            code,
            runs_dir=calculations.folder,
            concurrent=1,
            limits=hardware.limits(),
            most=hardware.most(),
            executor=open_executor(hardware, code),
            on_result=lambda _, result: results.append(result),
            stop=threading.Event(),
        )

    running = threading.Thread(target=work, daemon=True)
    running.start()
    checkpoint = folder / "checkpoint.json"
    until(lambda: checkpoint.exists() and json.loads(checkpoint.read_text())["n_steps"] >= 1, 120)
    queue.freeze(name(job.calculation_id))
    queue.let_time_run_out(name(job.calculation_id))
    before = json.loads(checkpoint.read_text())
    running.join(240)
    (result,) = results
    assert result.status == "converged"
    assert [(a.walltime_s, a.end) for a in calculations.attempts(job.calculation_id)] == [
        (300.0, "timeout"),
        (600.0, "result"),
    ]
    assert result.n_steps > before["n_steps"]
    # PBE, https://doi.org/10.1103/PhysRevB.79.085104: 5.469 Å.
    assert result.structure is not None
    assert (8 / len(result.structure) * result.structure.volume) ** (1 / 3) == pytest.approx(5.469, abs=0.02)


def lose_jobs(queue: slurm.Slurm, calculations: Calculations) -> None:
    keys = [f"lost-{number}" for number in range(4)]
    running = Running(calculations, *(job("steps", key) for key in keys))
    until(lambda: any(queue.jobs(name(key)) for key in keys))
    queue.kill_controller()
    until(lambda: calculations.said)
    time.sleep(1.0)
    queue.start_controller()
    results = running.ended()
    assert {result.status for result in results.values()} == {"converged"}
    said = [line for line in calculations.said if "scheduler" in line]
    assert "The scheduler is unreachable: wait, change nothing" in said[0]
    assert said[1:] == ["The scheduler answers again"]
    for key in keys:
        # A job that was lost is sent anew, and may get the lost one's id: then its node does not start it.
        assert set(ends(calculations, key)[:-1]) <= {"unknown", "launch"}
        assert calculations.times(key, "steps") == list(range(1, 21))
        assert len(calculations.times(key, "ends")) == 1

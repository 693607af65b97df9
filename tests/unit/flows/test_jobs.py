"""Calculations as real processes: the real driver with something quicker than GPAW inside, for each way to end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from flows import jobs as jobs_module
from flows.jobs import ATTEMPTS, Job, folder_of, run_jobs
from models.dft.contract import DFTResult, DFTSettings, Limits
from models.dft.folder import DRIVER
from models.dft.gpaw import Gpaw

SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [(0, 0, 0)])

FAKE = f"""
import importlib.util, json, os, signal, sys, time
spec = importlib.util.spec_from_file_location("driver", {str(DRIVER)!r})
driver = importlib.util.module_from_spec(spec)
spec.loader.exec_module(driver)

def compute(code, task, started):
    with open("starts", "a") as file:
        file.write(f"{{time.time()}}\\n")
    starts = len(open("starts").readlines())
    kind = task["settings"]["preset"]
    if kind == "dies" or (kind == "dies-once" and starts == 1):
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "slow":
        time.sleep(1.5)
    if kind == "long":
        time.sleep(60)
    if kind == "deaf":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(60)
    if kind == "memory":
        bytearray(2**40)
    if kind == "scf":
        raise driver.course.Ended("scf_not_converged", "the density did not converge")
    if kind == "broken":
        raise FileNotFoundError("no PAW setup for Si")
    time.sleep(0.1)
    with open("ends", "a") as file:
        file.write(f"{{time.time()}}\\n")
    return {{
        "status": "converged", "energy": -10.0, "band_gap": 0.6, "numbers": task["numbers"], "cell": task["cell"],
        "scaled_positions": task["scaled_positions"],
    }}

driver.compute = compute
sys.exit(driver.main("gpaw", sys.argv[1]))
"""


class Quick(Gpaw):
    """GPAW's folders and driver, without GPAW."""

    def __init__(self, script: Path) -> None:
        self.script = script

    def command(self, folder: Path, mpi: Sequence[str]) -> list[str]:
        return [sys.executable, "-P", str(self.script), str(folder)]


def job(kind: str, key: str | None = None, **settings) -> Job:
    values = {
        "code": "gpaw",
        "preset": kind,
        "potentials": "none",
        "cutoff_ev": 300.0,
        "kpoints": (2, 2, 2),
        "kpoint_shift": (True, True, True),
        "gap_kpoints": (2, 2, 2),
        "smearing_ev": 0.05,
        "convergence_energy_ev": 1e-3,
        "convergence_density": 1e-3,
        "max_scf_steps": 10,
    }
    asked = DFTSettings(**(values | settings))
    return Job(calculation_id=key or kind, material_id=kind, structure=SILICON, settings=asked)


class Campaign:
    """A folder of runs, and what came out of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "fake_driver.py"
        self.script.write_text(FAKE)
        self.order: list[str] = []

    def run(
        self, *jobs: Job, stop: threading.Event | None = None, concurrent: int = 2, **limits
    ) -> dict[str, DFTResult]:
        results: dict[str, DFTResult] = {}

        def deliver(job: Job, result: DFTResult) -> None:
            assert job.calculation_id not in results
            self.order.append(job.calculation_id)
            results[job.calculation_id] = result

        run_jobs(
            jobs,
            Quick(self.script),
            runs_dir=self.folder,
            concurrent=concurrent,
            limits=Limits(**({"walltime_s": 50.0, "memory_gib": 4.0} | limits)),
            on_result=deliver,
            stop=stop or threading.Event(),
        )
        return results

    def times(self, key: str, name: str = "starts") -> list[float]:
        path = folder_of(self.folder, key) / name
        return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path)


def test_each_end_has_its_status_and_its_log(campaign: Campaign) -> None:
    results = campaign.run(*(job(kind) for kind in ("good", "scf", "broken", "memory")))
    assert {key: r.status for key, r in results.items()} == {
        "good": "converged",
        "scf": "scf_not_converged",
        "broken": "failed",
        "memory": "out_of_memory",
    }
    assert results["good"].energy == -10.0
    assert results["good"].structure.matches(SILICON)
    assert "no PAW setup for Si" in results["broken"].message
    assert str(campaign.folder) in results["scf"].message
    assert all(r.energy is None for key, r in results.items() if key != "good")


def test_what_has_ended_is_never_started_again(campaign: Campaign) -> None:
    campaign.run(job("good"), job("scf"))
    again = campaign.run(job("good"), job("scf"))
    assert {key: r.status for key, r in again.items()} == {"good": "converged", "scf": "scf_not_converged"}
    assert len(campaign.times("good")) == len(campaign.times("scf")) == 1


def test_the_same_question_twice_is_computed_once(campaign: Campaign) -> None:
    assert len(campaign.run(job("good"), job("good"))) == 1
    assert len(campaign.times("good")) == 1


def test_killed_once_is_started_again(campaign: Campaign) -> None:
    assert campaign.run(job("dies-once"))["dies-once"].status == "converged"
    assert len(campaign.times("dies-once")) == 2


def test_killed_always_is_crashed_for_good(campaign: Campaign) -> None:
    result = campaign.run(job("dies"), job("good"))
    assert result["dies"].status == "crashed"
    assert "SIGSEGV" in result["dies"].message
    assert result["good"].status == "converged"
    assert campaign.run(job("dies"))["dies"].status == "crashed"
    assert len(campaign.times("dies")) == ATTEMPTS


def test_walltime_ends_it_and_more_walltime_tries_again(campaign: Campaign) -> None:
    assert campaign.run(job("slow"), walltime_s=0.7)["slow"].status == "walltime"
    assert campaign.run(job("slow"), walltime_s=0.7)["slow"].status == "walltime"
    assert len(campaign.times("slow")) == 1
    assert campaign.run(job("slow"), walltime_s=30.0)["slow"].status == "converged"


def test_one_that_is_deaf_to_its_timer_is_killed(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "GRACE_S", 0.5)
    result = campaign.run(job("deaf"), walltime_s=1.0)["deaf"]
    assert result.status == "walltime"
    assert "killed" in result.message


def test_stopped_ends_the_processes_and_goes_on_next_time(campaign: Campaign) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.8, stop.set)
    timer.start()
    began = time.monotonic()
    results = campaign.run(job("good"), job("slow"), job("long"), stop=stop, concurrent=3)
    timer.join()
    assert set(results) == {"good"}
    assert time.monotonic() - began < 5.0
    assert Quick(campaign.script).worker(folder_of(campaign.folder, "long")) is None
    assert campaign.run(job("slow"))["slow"].status == "converged"
    assert len(campaign.times("slow")) == 2


def test_trouble_in_the_caller_leaves_no_process_behind(campaign: Campaign) -> None:
    def fall(job: Job, result: DFTResult) -> None:
        raise RuntimeError("the ledger is gone")

    code = Quick(campaign.script)
    with pytest.raises(RuntimeError, match="ledger"):
        run_jobs(
            [job("good"), job("long")],
            code,
            runs_dir=campaign.folder,
            concurrent=2,
            limits=Limits(),
            on_result=fall,
            stop=threading.Event(),
        )
    assert code.worker(folder_of(campaign.folder, "long")) is None


def test_never_more_at_once_than_allowed(campaign: Campaign) -> None:
    names = [f"job-{i}" for i in range(5)]
    campaign.run(*(job("good", name) for name in names), concurrent=2)
    spans = [(campaign.times(name)[0], campaign.times(name, "ends")[0]) for name in names]
    at_once = [sum(a <= begin < b for a, b in spans) for begin, _ in spans]
    assert max(at_once) <= 2


def test_the_dearest_go_first(campaign: Campaign) -> None:
    campaign.run(
        job("good", "small"),
        job("good", "large", kpoints=(8, 8, 8)),
        job("good", "middle", cutoff_ev=900.0),
        concurrent=1,
    )
    assert campaign.order == ["large", "middle", "small"]


PARENT = """
import sys, threading
from pathlib import Path
from tests.unit.flows.test_jobs import Campaign, Quick, job
Campaign(Path(sys.argv[1])).run(job("slow"))
"""


def test_the_flow_is_killed_and_its_calculation_lives_on_and_is_taken_up(campaign: Campaign, root: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(campaign.folder)], cwd=root)
    deadline = time.monotonic() + 60
    while not campaign.times("slow") and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    worker = Quick(campaign.script).worker(folder_of(campaign.folder, "slow"))
    assert worker is not None
    lock = json.loads((folder_of(campaign.folder, "slow") / "lock").read_text())
    assert lock["pid"] == worker
    assert campaign.run(job("slow"))["slow"].status == "converged"
    assert len(campaign.times("slow")) == 1


def test_an_orphan_that_dies_is_started_again(campaign: Campaign) -> None:
    asked = job("dies-once")
    code = Quick(campaign.script)
    folder = folder_of(campaign.folder, "dies-once")
    code.write_inputs(folder, SILICON, replace(asked.settings, preset="long"), Limits())
    orphan = subprocess.Popen(code.command(folder, ()), start_new_session=True)
    while code.worker(folder) is None or not campaign.times("dies-once"):
        time.sleep(0.02)
    threading.Timer(0.5, orphan.kill).start()
    assert campaign.run(asked)["dies-once"].status == "converged"
    orphan.wait()
    assert len(campaign.times("dies-once")) == 2

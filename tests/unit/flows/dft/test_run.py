"""Calculations as real processes: the real driver with something quicker than GPAW inside, for each way to end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.config.cluster import DFTJobs
from flows.dft import local
from flows.dft.calculation import Job
from flows.dft.outcomes import ATTEMPTS
from flows.dft.run import folder_of, run_jobs
from materials.errors import DFTError
from models.dft.base import DFTResult, Limits
from tests.peers.quick_dft import SILICON, Calculations, Quick, job


@pytest.fixture
def calculations(tmp_path: Path) -> Calculations:
    return Calculations(tmp_path)


def test_each_end_has_its_status_and_its_log(calculations: Calculations) -> None:
    results = calculations.run(*(job(kind) for kind in ("good", "scf", "broken", "memory")))
    assert {key: r.status for key, r in results.items()} == {
        "good": "converged",
        "scf": "scf_not_converged",
        "broken": "failed",
        "memory": "out_of_memory",
    }
    assert results["good"].energy == -10.0
    assert results["good"].structure.matches(SILICON)
    assert "no PAW setup for Si" in results["broken"].message
    assert str(calculations.folder) in results["scf"].message
    assert all(r.energy is None for key, r in results.items() if key != "good")


def test_what_has_ended_is_never_started_again(calculations: Calculations) -> None:
    calculations.run(job("good"), job("scf"))
    again = calculations.run(job("good"), job("scf"))
    assert {key: r.status for key, r in again.items()} == {"good": "converged", "scf": "scf_not_converged"}
    assert len(calculations.times("good")) == len(calculations.times("scf")) == 1


def test_the_same_question_twice_is_computed_once(calculations: Calculations) -> None:
    assert len(calculations.run(job("good"), job("good"))) == 1
    assert len(calculations.times("good")) == 1


def test_killed_once_is_started_again(calculations: Calculations) -> None:
    assert calculations.run(job("dies-once"))["dies-once"].status == "converged"
    assert len(calculations.times("dies-once")) == 2


def test_killed_always_is_crashed_for_good(calculations: Calculations) -> None:
    result = calculations.run(job("dies"), job("good"))
    assert result["dies"].status == "crashed"
    assert "SIGSEGV" in result["dies"].message
    assert result["good"].status == "converged"
    assert calculations.run(job("dies"))["dies"].status == "crashed"
    assert len(calculations.times("dies")) == ATTEMPTS


def test_three_kills_of_its_process_leave_the_result_of_an_undisturbed_run(calculations: Calculations) -> None:
    result = calculations.run(job("killed-thrice"))["killed-thrice"]
    assert result.status == "converged"
    assert [attempt.end for attempt in calculations.attempts("killed-thrice")] == ["killed"] * 3 + ["result"]


def test_what_a_code_refuses_is_final_until_somebody_asks_again(calculations: Calculations) -> None:
    assert calculations.run(job("broken"))["broken"].status == "failed"
    assert calculations.run(job("broken"))["broken"].status == "failed"
    assert len(calculations.times("broken")) == 1
    assert calculations.run(job("broken"), job("good"), retry=True)["broken"].status == "failed"
    assert len(calculations.times("broken")) == 2
    calculations.run(job("good"), retry=True)
    assert len(calculations.times("good")) == 1


def test_walltime_ends_it_and_more_walltime_tries_again(calculations: Calculations) -> None:
    for _ in range(2):
        ended = calculations.run(job("slow"), walltime_s=0.7, max_walltime_s=0.7)["slow"]
        assert ended.status == "walltime"
        assert ended.properties["walltime_s"] == 0.7  # what the ledger keeps, to know for which limit it is final
    assert len(calculations.times("slow")) == 1
    assert calculations.run(job("slow"), walltime_s=30.0)["slow"].status == "converged"
    assert [attempt.end for attempt in calculations.attempts("slow")] == ["timeout", "result"]


def test_out_of_time_goes_on_from_its_checkpoint_with_twice_as_much(calculations: Calculations) -> None:
    result = calculations.run(job("steps"), walltime_s=1.0, max_walltime_s=4.0)["steps"]
    assert result.status == "converged"
    attempts = calculations.attempts("steps")
    assert [attempt.walltime_s for attempt in attempts] == [1.0, 2.0, 4.0][: len(attempts)]
    assert [attempt.end for attempt in attempts] == ["timeout"] * (len(attempts) - 1) + ["result"]
    assert len(attempts) > 1
    assert calculations.times("steps", "steps") == list(range(1, 21))  # no step was taken twice


def test_the_longest_walltime_is_a_limit(calculations: Calculations) -> None:
    result = calculations.run(job("slow"), walltime_s=0.3, max_walltime_s=0.5)["slow"]
    assert result.status == "walltime"
    assert [attempt.walltime_s for attempt in calculations.attempts("slow")] == [0.3, 0.5]


def test_out_of_memory_gets_twice_as_much_up_to_a_limit(calculations: Calculations) -> None:
    result = calculations.run(job("memory"), memory_gib=0.3, max_memory_gib=1.0)["memory"]
    assert result.status == "out_of_memory"
    assert result.properties["memory_gib"] == 1.0
    assert [attempt.memory_gib for attempt in calculations.attempts("memory")] == [0.3, 0.6, 1.0]


def test_one_that_is_deaf_to_its_timer_is_killed(calculations: Calculations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_S", 0.5)
    result = calculations.run(job("deaf"), walltime_s=1.0, max_walltime_s=1.0)["deaf"]
    assert result.status == "walltime"
    assert "killed" in result.message


@pytest.mark.parametrize(
    ("kind", "hardware", "words"),
    [
        ("no-result", {}, "the same disk"),
        ("disk", {}, "Make room"),
        ("good", {"set_up": ["module() { return 1; }", "module load gpaw"]}, "a set-up line failed"),
        ("good", {"container": ["/nowhere/apptainer", "exec"]}, "No such file"),
    ],
)
def test_what_is_not_its_fault_stops_the_sending_and_is_no_result(
    calculations: Calculations, kind: str, hardware: dict[str, Any], words: str
) -> None:
    with pytest.raises(DFTError, match=words) as caught:
        calculations.run(job(kind), job("good", "another"), hardware=DFTJobs(**hardware), concurrent=1)
    assert str(folder_of(calculations.folder, kind)) in str(caught.value)
    assert not calculations.attempts("another")
    with pytest.raises(DFTError):  # it is no result: the next run tries again
        calculations.run(job(kind), hardware=DFTJobs(**hardware))
    assert len(calculations.attempts(kind)) == 2


def test_where_the_sending_stops_what_runs_goes_on(calculations: Calculations) -> None:
    with pytest.raises(DFTError, match="1 that wait or run are left alone"):
        calculations.run(job("slow", kpoints=(8, 8, 8)), job("no-result"))
    assert calculations.run(job("slow"))["slow"].status == "converged"
    assert len(calculations.times("slow")) == 1


def test_a_folder_that_cannot_be_written_stops_the_sending(calculations: Calculations) -> None:
    (calculations.folder / "dft").write_text("no folder")
    with pytest.raises(DFTError, match="Make room"):
        calculations.run(job("good"))


def test_set_up_lines_and_the_container_are_around_the_calculation(calculations: Calculations) -> None:
    hardware = DFTJobs(set_up=["export FROM='a set-up line'"], container=["env", "INSIDE=a container"])
    assert calculations.run(job("environment"), hardware=hardware)["environment"].status == "converged"
    environment = json.loads((folder_of(calculations.folder, "environment") / "environment.json").read_text())
    assert (environment["FROM"], environment["INSIDE"]) == ("a set-up line", "a container")
    assert environment["OMP_NUM_THREADS"] == "1"


def test_stopped_ends_the_processes_and_goes_on_next_time(calculations: Calculations) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.8, stop.set)
    timer.start()
    began = time.monotonic()
    results = calculations.run(job("good"), job("slow"), job("long"), stop=stop, concurrent=3)
    timer.join()
    assert set(results) == {"good"}
    assert time.monotonic() - began < 5.0
    assert Quick(calculations.script).worker(folder_of(calculations.folder, "long")) is None
    assert [attempt.taken_back for attempt in calculations.attempts("slow")] == [True]
    assert calculations.run(job("slow"))["slow"].status == "converged"
    assert [attempt.end for attempt in calculations.attempts("slow")] == ["stopped", "result"]
    assert len(calculations.times("slow")) == 2


def test_trouble_in_the_caller_leaves_no_process_behind(calculations: Calculations) -> None:
    def fall(job: Job, result: DFTResult) -> None:
        raise RuntimeError("the ledger is gone")

    code = Quick(calculations.script)
    with pytest.raises(RuntimeError, match="ledger"):
        run_jobs(
            [job("good"), job("long")],
            code,
            runs_dir=calculations.folder,
            concurrent=2,
            limits=Limits(),
            on_result=fall,
            stop=threading.Event(),
        )
    assert code.worker(folder_of(calculations.folder, "long")) is None


def test_never_more_at_once_than_allowed(calculations: Calculations) -> None:
    names = [f"job-{i}" for i in range(5)]
    calculations.run(*(job("good", name) for name in names), concurrent=2)
    spans = [(calculations.times(name)[0], calculations.times(name, "ends")[0]) for name in names]
    at_once = [sum(a <= begin < b for a, b in spans) for begin, _ in spans]
    assert max(at_once) <= 2


def test_the_dearest_go_first(calculations: Calculations) -> None:
    calculations.run(
        job("good", "small"),
        job("good", "large", kpoints=(8, 8, 8)),
        job("good", "middle", cutoff_ev=900.0),
        concurrent=1,
    )
    assert calculations.order == ["large", "middle", "small"]


PARENT = """
import sys, threading
from pathlib import Path
from tests.peers.quick_dft import Calculations, job
Calculations(Path(sys.argv[1])).run(job("slow"))
"""


def test_the_flow_is_killed_and_its_calculation_lives_on_and_is_taken_up(
    calculations: Calculations, root: Path
) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(calculations.folder)], cwd=root)
    deadline = time.monotonic() + 60
    while not calculations.times("slow") and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    worker = Quick(calculations.script).worker(folder_of(calculations.folder, "slow"))
    assert worker is not None
    lock = json.loads((folder_of(calculations.folder, "slow") / "lock").read_text())
    assert lock["pid"] == worker
    assert calculations.run(job("slow"))["slow"].status == "converged"
    assert len(calculations.times("slow")) == 1


def test_an_orphan_that_dies_is_started_again(calculations: Calculations) -> None:
    asked = job("dies-once")
    code = Quick(calculations.script)
    folder = folder_of(calculations.folder, "dies-once")
    code.write_inputs(folder, SILICON, replace(asked.settings, preset="long"), Limits())
    orphan = subprocess.Popen(code.command(folder, ()), start_new_session=True)
    while code.worker(folder) is None or not calculations.times("dies-once"):
        time.sleep(0.02)
    threading.Timer(0.5, orphan.kill).start()
    assert calculations.run(asked)["dies-once"].status == "converged"
    orphan.wait()
    assert len(calculations.times("dies-once")) == 2

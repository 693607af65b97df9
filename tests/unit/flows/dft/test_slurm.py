"""What is said to Slurm, and what is made of its answers. The real one: tests/integration/test_slurm_jobs.py."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from flows.config.cluster import Cluster, DFTJobs
from flows.config.yaml_file import check
from flows.dft import job_script
from flows.dft.executor import Task
from flows.dft.slurm import Slurm, directives, minutes
from flows.slurm.states import FIELDS
from materials.errors import CampaignError, DFTError, JobRefused, SchedulerUnreachable
from models.dft.base import Limits
from tests.peers.quick_dft import Quick

NASTY = """a b'c"d$(touch owned)`touch owned`;touch owned\\ü%j&|>owned"""


class Shown(Quick):
    """Shows the words that it was started with."""

    def command(self, folder: Path, mpi: Sequence[str]) -> list[str]:
        return [*mpi, sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", str(folder), NASTY]


def task_in(folder: Path, **limits: float) -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    return Task(name="dft-k-a1", folder=folder, limits=Limits(**limits))  # type: ignore[arg-type]


def test_the_script_hands_every_word_on_as_it_is(tmp_path: Path) -> None:
    task = task_in(tmp_path / NASTY.replace("/", ""))
    hardware = DFTJobs(set_up=["export A='x y'"], container=["env", "B=two words; touch owned"])
    path = job_script.write(task, Shown(tmp_path), hardware)
    done = subprocess.run(["bash", str(path)], capture_output=True, text=True, check=True)
    begins, words = done.stdout.splitlines()
    assert begins.startswith("assay: dft-k-a1 begins on ")
    assert json.loads(words) == [str(task.folder), NASTY]
    assert not list(tmp_path.rglob("owned"))


def test_ranks_are_started_outside_of_the_container(tmp_path: Path) -> None:
    hardware = DFTJobs(cores=4, mpi=["srun", "-n", "{cores}"], container=["apptainer", "exec", "a.sif"])
    task = Task(name="n", folder=tmp_path, limits=hardware.limits())
    assert job_script.command(task, Shown(tmp_path), hardware)[:6] == ["srun", "-n", "4", "apptainer", "exec", "a.sif"]
    alone = Task(name="n", folder=tmp_path, limits=DFTJobs().limits())
    assert job_script.command(alone, Shown(tmp_path), hardware)[:4] == ["apptainer", "exec", "a.sif", sys.executable]
    assert job_script.command(alone, Shown(tmp_path), DFTJobs())[0] == sys.executable


def test_sbatch_is_told_what_the_cluster_file_says(tmp_path: Path) -> None:
    hardware = DFTJobs(
        kind="slurm", queue="long", account="chem/x", options=["--gres=gpu:1", '--comment="two words"'], cores=3
    )
    task = task_in(tmp_path, cores=3, walltime_s=3601.0, memory_gib=1.5)
    said = directives(task, hardware)
    for needed in ("--partition=long", "--account=chem/x", "--ntasks=3", "--mem=1536M", "--time=62", "--no-requeue"):
        assert needed in said
    assert said[-2:] == hardware.options
    text = job_script.text(task, ["true"], [], said)
    assert [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")] == said


def test_slurms_limit_is_whole_minutes_and_never_the_first_to_be_reached() -> None:
    assert [minutes(seconds) for seconds in (0.5, 60, 61, 3600)] == [2, 2, 3, 61]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"queue": "main\n#SBATCH --x"}, "one word"),
        ({"account": "a b"}, "one word"),
        ({"options": ["--qos=long\nrm -rf x"]}, "one line"),
        ({"options": ["touch owned"]}, "may be given here"),
        ({"options": ["--job-name=mine"]}, "may be given here"),
        ({"options": ["-J mine"]}, "may be given here"),
        ({"options": ["--export=ALL"]}, "may be given here"),
        ({"kind": "local", "queue": "main"}, "for kind: slurm"),
        ({"kind": "local", "options": ["--qos=long"]}, "for kind: slurm"),
        ({"walltime_s": 100, "max_walltime_s": 50}, "below"),
        ({"memory_gib": 4, "max_memory_gib": 2}, "below"),
    ],
)
def test_a_cluster_file_that_would_break_the_script_is_refused(section: dict[str, object], words: str) -> None:
    with pytest.raises(CampaignError, match=words):
        check(Cluster, {"dft": {"kind": "slurm"} | section}, "cluster.yaml")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path, for stand-ins of Slurm's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    stand_in(folder, "sbatch", "env > env.txt; echo 7")
    return folder


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def stand_in(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def row(name: str, state: str, code: int = 0, reason: str = "None", nodes: str = "n1") -> str:
    values = ["12", name, state, str(code), reason, nodes]
    return "".join(value.ljust(width) for value, width in zip(values, FIELDS.values(), strict=True))


def told(*lines: str) -> str:
    return "\n".join(f"echo {shlex.quote(line)}" for line in lines)


def test_one_query_for_all_and_the_accounting_for_the_forgotten(commands: Path, tmp_path: Path) -> None:
    rows = [
        row("waits", "PENDING", reason="Resources"),
        row("hopeless", "PENDING", reason="PartitionTimeLimit", nodes=""),
        row("twice", "CANCELLED"),
        row("twice", "RUNNING"),
        row("segv", "FAILED", code=11),
        row("three", "FAILED", code=768),
        row("new-state", "THAWING"),
        row("ending", "COMPLETING"),
    ]
    log = tmp_path / "asked"
    stand_in(commands, "squeue", f"echo squeue >> {log}\n{told(*rows)}")
    accounted = ["5|day-old|CANCELLED by 1000|0:15|n1", "6|runaway|RUNNING|0:0|n1", "7|other|FAILED|0:0|n1"]
    no_database = 'echo "Slurm accounting storage is disabled" >&2; exit 1'
    completion = f'echo sacct >> {log}\ncase "$*" in *--completion*) {told(*accounted)};; *) {no_database};; esac'
    stand_in(commands, "sacct", completion)
    names = ("waits", "hopeless", "twice", "segv", "three", "new-state", "ending", "day-old", "runaway")
    tasks = [Task(name=name, folder=tmp_path, limits=Limits(), sent_at=1e9) for name in names]
    queue = Slurm(DFTJobs(kind="slurm"), Quick(tmp_path))
    seen = queue.look([*tasks, Task(name="never-sent", folder=tmp_path, limits=Limits())])
    assert {name: one.word for name, one in seen.items()} == {
        "waits": "waiting",
        "hopeless": "refused",
        "twice": "running",
        "segv": "ended",
        "three": "ended",
        "new-state": "running",
        "ending": "ending",
        "day-old": "cancelled",
        "runaway": "unknown",
        "never-sent": "unknown",
    }
    assert (seen["segv"].exit_code, seen["three"].exit_code) == (-11, 3)
    assert log.read_text().split() == ["squeue", "sacct", "sacct"]
    queue.look(tasks)
    assert log.read_text().split()[3:] == ["squeue", "sacct"]  # that there is no database is asked once
    queue.look(tasks[:7])
    assert log.read_text().split()[5:] == ["squeue"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", SchedulerUnreachable),
        ("fatal: Could not establish a configuration source", DFTError),
    ],
)
def test_a_queue_that_does_not_answer(commands: Path, tmp_path: Path, words: str, error: type[Exception]) -> None:
    stand_in(commands, "squeue", f"echo {shlex.quote(words)} >&2; exit 1")
    with pytest.raises(error) as caught:
        Slurm(DFTJobs(kind="slurm"), Quick(tmp_path)).look([task_in(tmp_path)])
    assert caught.type is error


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", SchedulerUnreachable),
        ("Batch job submission failed: Socket timed out on send/recv operation", SchedulerUnreachable),
        ("Batch job submission failed: Invalid account or account/partition combination specified", JobRefused),
        ("Batch job submission failed: Job violates accounting/QOS policy (job submit limit)", JobRefused),
    ],
)
def test_a_submission_that_fails(commands: Path, tmp_path: Path, lock: int, words: str, error: type[Exception]) -> None:
    stand_in(commands, "sbatch", f"echo 'sbatch: error: {words}' >&2; exit 1")
    with pytest.raises(error) as caught:
        Slurm(DFTJobs(kind="slurm"), Quick(tmp_path)).submit(task_in(tmp_path), lock)
    assert caught.type is error


def test_a_limit_on_submitted_jobs_is_waited_out_while_some_of_ours_are_there(
    commands: Path, tmp_path: Path, lock: int
) -> None:
    queue = Slurm(DFTJobs(kind="slurm"), Quick(tmp_path))
    stand_in(commands, "squeue", told(row("dft-k-a1", "RUNNING")))
    queue.look([task_in(tmp_path)])
    stand_in(commands, "sbatch", "echo 'Job violates accounting/QOS policy (job submit limit)' >&2; exit 1")
    with pytest.raises(SchedulerUnreachable):
        queue.submit(task_in(tmp_path), lock)


def test_sbatch_sees_nothing_of_the_environment_but_what_is_listed(
    commands: Path, tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MP_API_KEY", "ASSAY_DATABASE_URL", "PREFECT_API_AUTH_STRING", "SBATCH_EXPORT", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "secret")
    Slurm(DFTJobs(kind="slurm"), Quick(tmp_path)).submit(task_in(tmp_path), lock)
    text = (tmp_path / "env.txt").read_text()
    assert "PATH=" in text
    assert "secret" not in text


def test_slurm_is_asked_for_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DFTError, match="no sbatch on the path"):
        Slurm(DFTJobs(kind="slurm"), Quick(tmp_path))

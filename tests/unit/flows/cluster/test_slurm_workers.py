"""What a worker's job asks for and says, and what becomes of the wait for it; real jobs: tests/integration."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import dask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.config.cluster import Workers
from flows.slurm.states import JobState
from materials.errors import CampaignError, ClusterError

slurm_workers = pytest.importorskip("flows.cluster.slurm_workers")
slurm_jobs = pytest.importorskip("flows.cluster.slurm_cluster")


@given(walltime_s=st.floats(300, 30 * 86400))
def test_a_worker_ends_before_its_job_does(walltime_s: float) -> None:
    duration_s, stagger_s = slurm_workers.lifetime(walltime_s)
    assert 0 < stagger_s < duration_s
    assert duration_s + stagger_s <= walltime_s - 90


def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **said: Any) -> str:
    monkeypatch.setattr(slurm_workers, "_host", lambda interface: "127.0.0.1")
    options = slurm_workers._options(Workers(kind="slurm", count=1, **said), tmp_path)
    for name in ("security", "shared_temp_directory", "scheduler_options", "silence_logs"):
        del options[name]
    book = slurm_jobs.Book(job_name="assay-workers-1", folder=tmp_path)
    with dask.config.set({"jobqueue.assay": slurm_workers.JOBQUEUE}):
        job = slurm_jobs.WorkerJob("tls://127.0.0.1:1", name="assay-workers-1-1", book=book, **options)
        return str(job.job_script())


def test_a_job_asks_for_what_the_cluster_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = script(
        tmp_path,
        monkeypatch,
        queue="gpu",
        account="project",
        options=["--gres=gpu:1"],
        set_up=["module load cuda"],
        container=["apptainer", "exec", "--nv", "my image.sif"],
        memory_gib=8,
        walltime_s=5400,
    )
    head, body = text.split("\n\n", 1)
    assert head.startswith("#!/bin/bash")
    for line in ("-p gpu", "-A project", "--gres=gpu:1", "--mem=8192M", "-t 90", "-n 1", "--cpus-per-task=1"):
        assert f"#SBATCH {line}\n" in text
    assert "{\nmodule load cuda\n} || { echo 'assay: a set-up line failed'; exit 1; }" in body
    command = body.strip().splitlines()[-1]
    assert command.startswith("apptainer exec --nv 'my image.sif' env OMP_NUM_THREADS=1 ")
    assert " PYTHONSAFEPATH=1 " in command
    assert " python3 -m distributed.cli.dask_worker tls://127.0.0.1:1 --name assay-workers-1-1 --nthreads 1" in command
    assert "--memory-limit 7.75GiB" in command
    assert "--lifetime 4710s --lifetime-stagger 240s" in command


def test_nothing_of_the_environment_and_of_the_users_dask_settings_is_in_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MP_API_KEY", "MARKER-KEY")
    theirs = {"jobqueue.slurm.queue": "theirs", "jobqueue.slurm.job-extra-directives": ["--exclusive"]}
    with dask.config.set(theirs):
        text = script(tmp_path, monkeypatch)
    assert "MARKER-KEY" not in text
    assert "theirs" not in text
    assert "--exclusive" not in text


JOB = {"12": JobState(id="12", name="assay-workers-1", state="PENDING", reason="Resources")}
RUNNING = {"12": JobState(id="12", name="assay-workers-1", state="RUNNING", reason="None")}
HOPELESS = {"12": JobState(id="12", name="assay-workers-1", state="PENDING", reason="PartitionTimeLimit")}


@pytest.mark.parametrize(
    ("present", "without_s", "book", "error", "line"),
    [
        (0, 1, {"jobs": JOB}, None, None),
        (0, 5, {"jobs": JOB}, None, "Waiting for a worker: in the queue (job 12, PENDING, Resources)"),
        (0, 5, {"jobs": RUNNING}, None, "Waiting for a worker: starting (job 12, RUNNING)"),
        (0, 5, {"unreachable": "no route"}, None, "Waiting for a worker: Slurm does not answer (no route)"),
        (0, 5, {"refused": "no such queue"}, "sbatch refuses the job: no such queue", None),
        (0, 5, {"refused": "no such queue", "sending": 1}, None, "Waiting for a worker: no job is in the queue yet"),
        (0, 1, {"refused": "too many", "jobs": JOB}, None, None),
        (
            3,
            0,
            {"refused": "too many", "jobs": JOB},
            None,
            "sbatch takes no further worker (too many); going on with 3.",
        ),
        (0, 5, {"jobs": HOPELESS}, "PartitionTimeLimit: Slurm will never start it", None),
        (1, 0, {"jobs": HOPELESS}, None, None),
        (0, 5, {"fruitless": ["a", "b", "c"]}, "3 jobs have ended.*before a worker came.*The last one: c", None),
        (0, 5, {"fruitless": ["a", "b"]}, None, "Waiting for a worker: no job is in the queue yet"),
        (2, 0, {"fruitless": ["a", "b", "c"]}, None, None),
        (0, 99, {"fruitless": ["a", "b", "c"], "jobs": RUNNING}, "3 jobs have ended", None),
        (0, 601, {"jobs": JOB}, r"No worker came within 10 min 00 s .*\(job 12, PENDING, Resources\)", None),
        (1, 0, {"jobs": JOB, "broken": [ValueError("x")] * 9}, None, None),
        (0, 5, {"jobs": JOB, "broken": [ValueError("x")] * 10}, "no job can be asked for: ValueError", None),
    ],
)
def test_the_wait_for_workers(
    tmp_path: Path, present: int, without_s: float, book: dict[str, Any], error: str | None, line: str | None
) -> None:
    said: list[str] = []
    known = slurm_jobs.Book(job_name="assay-workers-1", folder=tmp_path, **book)
    growth: Any = types.SimpleNamespace(minimum=1)
    workers = Workers(kind="slurm", count=4, minimum=0, wait_s=600)
    supply = slurm_workers._Slurm(workers, known, growth, said.append)
    if error is None:
        supply.check(present, 0, without_s)
        supply.check(present, 0, without_s + 1)  # the same is not said again at once
    else:
        with pytest.raises(ClusterError, match=error):
            supply.check(present, 0, without_s)
    assert said == ([] if line is None else [line])
    assert growth.minimum == (0 if present else 1)


def test_the_longer_it_goes_wrong_the_longer_it_waits(tmp_path: Path) -> None:
    book = slurm_jobs.Book(job_name="assay-workers-1", folder=tmp_path)
    waits = []
    for times in (1, 2, 3, 20):
        book.went_wrong(times)
        waits.append(book.quiet_until)
    assert waits == sorted(waits)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"kind": "slurm", "count": 2, "minimum": 3}, r"minimum \(3\) is above count \(2\)"),
        ({"kind": "local", "queue": "short"}, "are for kind: slurm"),
        ({"kind": "slurm", "options": ["--array=1-3"]}, "may be given here"),
        ({"kind": "address"}, "go together"),
    ],
)
def test_what_does_not_go_together_is_told(said: dict[str, Any], complaint: str) -> None:
    from flows.config.cluster import Cluster
    from flows.config.yaml_file import check

    with pytest.raises(CampaignError, match=complaint):
        check(Cluster, {"workers": said}, "cluster.yaml")


def test_an_unknown_interface_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"workers.interface: .*ib9.*lo"):
        slurm_workers._host("ib9")
    assert slurm_workers._host("lo") == "127.0.0.1"

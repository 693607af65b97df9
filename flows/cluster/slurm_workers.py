"""Dask workers for the potential as Slurm jobs: submitted, watched, replaced when they end.

dask-jobqueue writes the job scripts, and Dask's adaptive scaling asks for as many jobs as there is work. What neither
does is here:

| what happens | what is done |
|---|---|
| sbatch refuses a job | an error with its own sentence if no job of ours lives; else the campaign goes on with those |
| Slurm cannot be reached | said once; nothing is given up, and it is asked again |
| a job has ended or was lost, and its worker is gone | another takes its place |
| jobs end one after the other before a worker comes of them | an error with the end of the last one's log |
| all jobs wait for what their queue never gives | an error with squeue's word for it |
| no worker for `wait_s` | an error with what squeue says |
| the campaign ends, or is stopped | all jobs are taken back by their name |
| the campaign is killed | workers end as they lose their scheduler, jobs that start later within a minute |
"""

from __future__ import annotations

import logging
import math
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from distributed import Client, Security
from distributed.deploy.adaptive import Adaptive
from distributed.utils import get_ip, get_ip_interface

from flows.cluster.pool import WorkerPool
from flows.cluster.settings import WORKER_ENVIRONMENT, WORKER_SETTINGS
from flows.cluster.slurm_cluster import Book, Growth, WorkerJobs
from flows.config.cluster import Workers
from flows.dft.job_script import guarded
from flows.slurm.states import NEVER_STARTS, JobState
from materials.errors import ClusterError
from materials.plain_text import duration

DEATH_S = 60  # a worker whose scheduler cannot be reached ends after so long
NANNY_GIB = 0.25  # of a job's memory, for the process that watches the worker
TELL_S = 2.0  # of waiting, before it is told
SAY_S = 60.0  # between two lines about the same wait
FRUITLESS = 3  # jobs that end one after the other before a worker comes of them
BROKEN = 10  # errors in a row
TARGET_S = "0.5 s"  # Dask's word for how soon all that is under way should be done: a job for each chunk
SECTION = "assay"  # of dask-jobqueue's settings: a file of the user's that says something of Slurm is not ours


class _Slurm:
    """What a queue gives."""

    ours_alone = False  # whoever cancels or preempts a job ends its worker
    ahead = True

    def __init__(self, workers: Workers, book: Book, growth: Adaptive, say: Callable[[str], None]) -> None:
        self.most: int | None = workers.resolved_count()
        self._workers, self._book, self._growth, self._say = workers, book, growth, say
        self._said: tuple[str, float] = ("", -math.inf)

    def title(self, present: int) -> str:
        return f"up to {self.most} Slurm jobs"

    def check(self, present: int, paused: int, without_s: float) -> None:
        book = self._book
        if present:
            self._growth.minimum = self._workers.minimum  # the first one is wanted in any case
            if book.refused:
                self._tell(f"sbatch takes no further worker ({book.refused}); going on with {present}.")
            return
        jobs = list(book.jobs.values())
        if book.refused and not jobs and not book.sending:
            raise ClusterError(f"workers: sbatch refuses the job: {book.refused}")
        if len(book.broken) >= BROKEN:
            raise ClusterError(f"workers: no job can be asked for: {book.broken[-1]!r}") from book.broken[-1]
        starting = any(job.state == "RUNNING" for job in jobs)
        if len(book.fruitless) >= FRUITLESS and (not starting or without_s > DEATH_S):
            raise ClusterError(
                f"workers: {len(book.fruitless)} jobs have ended, one after the other, before a worker came of them."
                f" The last one: {book.fruitless[-1]}"
            )
        if jobs and all(job.reason in NEVER_STARTS for job in jobs):
            raise ClusterError(
                f"workers: {jobs[0]}: Slurm will never start it; ask for less, or another queue or account"
            )
        if without_s > self._workers.wait_s:
            raise ClusterError(
                f"No worker came within {duration(self._workers.wait_s)} (workers.wait_s); {self._state(jobs)}. Ask for"
                " less time or memory, or another queue, or wait longer; the same command goes on from here."
            )
        if without_s > TELL_S:
            self._tell(f"Waiting for a worker: {self._state(jobs)}")

    def _state(self, jobs: list[JobState]) -> str:
        if self._book.unreachable:
            return f"Slurm does not answer ({self._book.unreachable})"
        if not jobs:
            return "no job is in the queue yet"
        waiting = f"in the queue ({jobs[0]})" if jobs[0].state == "PENDING" else f"starting ({jobs[0]})"
        return waiting + (f" and {len(jobs) - 1} more" if len(jobs) > 1 else "")

    def _tell(self, line: str) -> None:
        before, at = self._said
        now = time.monotonic()
        if line != before or now - at > SAY_S:
            self._said = (line, now)
            self._say(line)


@contextmanager
def open_slurm_workers(workers: Workers, folder: Path, say: Callable[[str], None]) -> Iterator[WorkerPool]:
    """Ask for workers in the queue, and take all jobs back at the end.

    Raises:
        ClusterError: There is no Slurm here, or no address by which its nodes reach this machine.
    """
    if shutil.which("sbatch") is None:
        raise ClusterError("workers.kind: slurm needs Slurm's commands, and there is no sbatch on the path here")
    book = Book(job_name=f"assay-workers-{uuid4().hex[:8]}", folder=(folder / "workers").resolve())
    book.folder = book.folder / book.job_name
    book.folder.mkdir(parents=True)
    with dask.config.set({f"jobqueue.{SECTION}": JOBQUEUE}):
        try:
            cluster = WorkerJobs(book, **_options(workers, book.folder))
        except (RuntimeError, OSError, ImportError) as error:
            raise ClusterError(f"workers: the Dask scheduler cannot be started here: {error}") from error
        try:
            with cluster, Client(cluster, set_as_default=False) as client:
                growth = cluster.adapt(
                    Adaptive=Growth,
                    minimum_jobs=max(workers.minimum, 1),
                    maximum_jobs=workers.resolved_count(),
                    target_duration=TARGET_S,
                )
                yield WorkerPool(client, _Slurm(workers, book, growth, say))
        finally:
            if book.unreachable and book.sent:
                say(
                    f"Slurm does not answer ({book.unreachable}): jobs named {book.job_name} may be left. They end by"
                    f" themselves within {DEATH_S} s of their start; scancel --name={book.job_name} ends them now."
                )


# All that dask-jobqueue asks its settings for, as it ships them.
JOBQUEUE: dict[str, Any] = {
    "death-timeout": DEATH_S,
    "worker-command": "distributed.cli.dask_worker",
    "worker-extra-args": [],
    "shebang": "#!/bin/bash",
    "job-script-prologue": [],
    "job-extra-directives": [],
    "job-directives-skip": [],
    "scheduler-options": {},
    "interface": None,
    "local-directory": None,
    "extra": None,
    "env-extra": None,
    "job-cpu": None,
    "job-extra": None,
    "log-directory": None,
    "queue": None,
    "account": None,
}


def _options(workers: Workers, folder: Path) -> dict[str, Any]:
    duration_s, stagger_s = lifetime(workers.walltime_s)
    limit_gib = max(workers.memory_gib - NANNY_GIB, 0.75 * workers.memory_gib)
    return {
        "config_name": SECTION,
        # A scheduler that nodes can reach runs what anybody sends it: each side shows a certificate of this run's own.
        "security": Security.temporary(),
        "shared_temp_directory": str(folder),
        "scheduler_options": {
            "host": _host(workers.interface),
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
        },
        "silence_logs": logging.CRITICAL,
        "cores": 1,
        "processes": 1,
        "memory": f"{limit_gib} GiB",
        "job_mem": f"{math.ceil(workers.memory_gib * 1024)}M",
        "walltime": str(math.ceil(workers.walltime_s / 60)),  # minutes
        "queue": workers.queue,
        "account": workers.account,
        "job_extra_directives": workers.options,
        "job_script_prologue": ["export SLURM_EXPORT_ENV=ALL", *guarded(workers.set_up)],
        "python": shlex.join([*workers.container, "env", *_environment(), _python(workers)]),
        "worker_extra_args": [
            "--lifetime",
            f"{duration_s:.0f}s",
            "--lifetime-stagger",
            f"{stagger_s:.0f}s",
            "--no-dashboard",
            "--dashboard-address",
            "127.0.0.1:0",
        ],
    }


def lifetime(walltime_s: float) -> tuple[float, float]:
    """How long a worker lives, and by how much that varies: it ends before its job's time is over.

    What is left is for the job to start in, set-up and imports from a slow disk included, and for a last chunk.
    """
    stagger = min(240.0, walltime_s / 20)
    return walltime_s - max(90.0, walltime_s / 12) - stagger, stagger


def _environment() -> list[str]:
    settings = {f"DASK_{name.replace('.', '__').upper()}": str(value) for name, value in WORKER_SETTINGS.items()}
    return [f"{name}={value}" for name, value in {**WORKER_ENVIRONMENT, **settings}.items()]


def _python(workers: Workers) -> str:
    # A container brings Assay in a Python of its own.
    return "python3" if workers.container else sys.executable


def _host(interface: str | None) -> str:
    """This machine's address as the nodes see it.

    Raises:
        ClusterError: None is found.
    """
    try:
        if interface is not None:
            return get_ip_interface(interface)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            address = get_ip()
    except (ValueError, OSError) as error:
        raise ClusterError(f"workers.interface: {error}") from None
    if address.startswith("127."):
        raise ClusterError(
            "workers.interface: no address was found by which the nodes reach this machine; name the network interface"
            " that they share, such as ib0 or eth0 (`ip -brief address` lists them)"
        )
    return address

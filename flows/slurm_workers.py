"""The potential's workers as Slurm jobs: sent, watched in the queue, replaced when they die or their time is over.

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

import asyncio
import itertools
import logging
import math
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from dask_jobqueue import SLURMCluster
from dask_jobqueue.slurm import SLURMJob
from distributed import Client, Security
from distributed.core import Status
from distributed.deploy.adaptive import Adaptive
from distributed.utils import get_ip, get_ip_interface

from flows import slurm_commands as slurm
from flows.cluster import WORKER_ENVIRONMENT, WORKER_SETTINGS
from flows.cluster_file import Workers
from flows.progress import duration
from flows.worker_pool import WorkerPool
from materials.errors import ClusterError

DEATH_S = 60  # a worker whose scheduler cannot be reached ends after so long
NANNY_GIB = 0.25  # of a job's memory, for the process that watches the worker
LOOK_S = (2.0, 30.0)  # between two questions to squeue: right after something happened, and when nothing does
SAY_S = 60.0  # between two lines about the same wait
AGAIN_S = (5.0, 300.0)  # between two attempts at what went wrong: the first, and the longest
AT_ONCE = 8  # jobs that slurmctld is asked to take at the same time
FRUITLESS = 3  # jobs that end one after the other before a worker comes of them
BROKEN = 10  # errors in a row
CANCEL_S = 30.0  # to reach Slurm at the end
TARGET_S = "0.5 s"  # Dask's word for how soon all that is under way should be done: a job for each chunk
SECTION = "assay"  # of dask-jobqueue's settings: a file of the user's that says something of Slurm is not ours
LOG_LINES = 12


@dataclass(kw_only=True)
class _Book:
    """What is known of our jobs. Written by the event loop, read by the campaign."""

    job_name: str
    folder: Path
    jobs: dict[str, slurm.QueuedJob] = field(default_factory=dict)  # those that wait or run, by id
    sent: int = 0
    sending: int = 0
    at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    refused: str = ""
    unreachable: str = ""
    fruitless: list[str] = field(default_factory=list)  # what became of the last jobs, if no worker
    unwanted: list[str] = field(default_factory=list)  # ids to be cancelled
    broken: list[Exception] = field(default_factory=list)  # what went wrong with this module itself, in a row
    quiet_until: float = 0.0  # nothing is sent before
    ending: bool = False

    def log_of(self, worker: str) -> Path:
        return self.folder / f"{worker}.log"

    def went_wrong(self, times: int = 1) -> None:
        """Hold back for a while, the longer the more often."""
        self.quiet_until = time.monotonic() + min(AGAIN_S[0] * 2 ** (times - 1), AGAIN_S[1])


class _Job(SLURMJob):
    """One job, one worker."""

    def __init__(self, *arguments: Any, book: _Book, **options: Any) -> None:
        super().__init__(*arguments, job_name=book.job_name, **options)
        self.book = book
        self.job_id: str | None = None
        self.submitted = False  # or failed to be
        self.worker_seen = False

    async def start(self) -> None:
        """Send the script; what goes wrong goes into the book, for nobody would hear an exception here."""
        book = self.book
        book.sending += 1
        async with book.at_once:
            if time.monotonic() >= book.quiet_until and not book.ending:
                await self._submit()
        book.sending -= 1
        self.submitted = True
        self.status = Status.running

    async def _submit(self) -> None:
        book = self.book
        try:
            self.job_id = await slurm.submit(self.job_script(), job_name=book.job_name, log=book.log_of(self.name))
        except slurm.SlurmRefused as error:
            book.refused = str(error)
            book.went_wrong(4)
        except slurm.SlurmUnreachable as error:
            book.unreachable = str(error)
            book.went_wrong()
        else:
            book.sent += 1
            book.refused = book.unreachable = ""
            book.jobs[self.job_id] = slurm.QueuedJob(id=self.job_id, state="PENDING", reason="")

    async def close(self) -> None:
        """Take the job back, together with others."""
        self.status = Status.closed
        if self.job_id:
            self.book.unwanted.append(self.job_id)


class _Cluster(SLURMCluster):
    """dask-jobqueue's cluster, looked after."""

    job_cls = _Job  # type: ignore[assignment]
    workers: dict[str, _Job]
    scheduler: Any

    def __init__(self, book: _Book, **options: Any) -> None:
        self.book = book
        self._numbers = itertools.count(1)
        self._look_at = 0.0
        self._pause_s = LOOK_S[0]
        self._absent_before: set[str] = set()
        super().__init__(book=book, **options)

    def _new_worker_name(self, worker_number: int) -> str:
        return f"{self.book.job_name}-{next(self._numbers)}"  # never the same twice, unlike Slurm's ids

    async def look_after(self) -> None:
        """Forget the jobs that are gone, so that others take their places; cancel those that are not wanted."""
        book = self.book
        await self._cancel_unwanted()
        self._note_workers()
        for name, job in list(self.workers.items()):
            if job.submitted and not job.job_id:  # refused, or not sent
                self._forget(name)
        absent = self._absent()
        now = time.monotonic()
        if not absent:
            ids = [job.job_id for job in self.workers.values() if job.job_id]
            book.jobs = {one: slurm.QueuedJob(id=one, state="RUNNING", reason="") for one in ids}
        if absent != self._absent_before:
            self._absent_before, self._pause_s = absent, LOOK_S[0]
            self._look_at = min(self._look_at, now + LOOK_S[0])
        if absent and now >= self._look_at:
            await self._ask_queue(absent)

    async def _ask_queue(self, absent: set[str]) -> None:
        book = self.book
        try:
            jobs = await slurm.jobs_named(book.job_name)
            book.unreachable = ""
        except slurm.SlurmUnreachable as error:
            book.unreachable = str(error)
            self._look_at = time.monotonic() + AGAIN_S[0]
            return
        alive = {identifier: job for identifier, job in jobs.items() if job.alive}
        self._pause_s = LOOK_S[0] if alive != book.jobs else min(1.5 * self._pause_s, LOOK_S[1])
        self._look_at = time.monotonic() + self._pause_s
        book.jobs = alive
        self._note_workers()
        # Of jobs with the same id all but the youngest were lost: Slurm has given it again.
        youngest = {job.job_id: name for name, job in self.workers.items()}
        for name in absent & self._absent():
            job = self.workers[name]
            if job.job_id not in alive or youngest[job.job_id] != name:
                self._gone(name, jobs.get(job.job_id or ""))

    def _absent(self) -> set[str]:
        """Jobs whose worker is not there."""
        present = {worker.name for worker in self.scheduler.workers.values()}
        return {name for name, job in self.workers.items() if job.job_id and name not in present}

    def _note_workers(self) -> None:
        for worker in self.scheduler.workers.values():
            job = self.workers.get(str(worker.name))
            if job is not None and not job.worker_seen:
                job.worker_seen = True
                self.book.fruitless.clear()

    def _gone(self, name: str, end: slurm.QueuedJob | None) -> None:
        """A job has ended, or Slurm has lost it."""
        job, book = self.workers[name], self.book
        self._forget(name)
        if end is not None and not job.worker_seen and end.state not in ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED"):
            book.fruitless.append(f"{end}; {book.log_of(name)} ends with\n{_end_of(book.log_of(name))}")
            book.went_wrong(len(book.fruitless))

    def _forget(self, name: str) -> None:
        self.worker_spec.pop(name, None)
        self.workers.pop(name, None)

    async def _cancel_unwanted(self) -> None:
        book = self.book
        if book.unwanted:
            ids = list(book.unwanted)
            try:
                await slurm.cancel(book.job_name, *ids)
                del book.unwanted[: len(ids)]
            except slurm.SlurmUnreachable as error:
                book.unreachable = str(error)

    async def _close(self) -> None:
        if self.book.ending:
            await super()._close()
            return
        self.book.ending = True
        try:
            await super()._close()
        finally:
            await self._cancel_all()
            for certificate in ("_job_ca_file", "_job_cert", "_job_key"):
                getattr(self, certificate).close()  # which removes it

    async def _cancel_all(self) -> None:
        """Leave no job behind, not even one whose sending seemed to fail."""
        deadline = time.monotonic() + CANCEL_S
        while True:
            try:
                await slurm.cancel(self.book.job_name)
                self.book.unreachable = ""
                return
            except slurm.SlurmUnreachable as error:
                self.book.unreachable = str(error)
                if time.monotonic() > deadline:
                    return
            await asyncio.sleep(1)


class _Growth(Adaptive):
    """Dask's own rule for how many jobs there should be, applied to the jobs that there really are."""

    cluster: _Cluster

    async def adapt(self) -> None:
        book = self.cluster.book
        try:
            await self.cluster.look_after()
            if time.monotonic() >= book.quiet_until:
                await super().adapt()
        except Exception as error:
            book.broken.append(error)  # Dask would write it into a log, and go on
            raise
        book.broken.clear()


class _Slurm:
    """What a queue gives."""

    ours_alone = False  # whoever cancels or preempts a job ends its worker
    ahead = True

    def __init__(self, workers: Workers, book: _Book, growth: Adaptive, say: Callable[[str], None]) -> None:
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
        if jobs and all(job.reason in slurm.HOPELESS for job in jobs):
            raise ClusterError(
                f"workers: {jobs[0]}: Slurm will never start it; ask for less, or another queue or account"
            )
        if without_s > self._workers.wait_s:
            raise ClusterError(
                f"No worker came within {duration(self._workers.wait_s)} (workers.wait_s); {self._state(jobs)}. Ask for"
                " less time or memory, or another queue, or wait longer; the same command goes on from here."
            )
        if without_s > LOOK_S[0]:
            self._tell(f"Waiting for a worker: {self._state(jobs)}")

    def _state(self, jobs: list[slurm.QueuedJob]) -> str:
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
    book = _Book(job_name=f"assay-workers-{uuid4().hex[:8]}", folder=(folder / "workers").resolve())
    book.folder = book.folder / book.job_name
    book.folder.mkdir(parents=True)
    with dask.config.set({f"jobqueue.{SECTION}": JOBQUEUE}):
        try:
            cluster = _Cluster(book, **_options(workers, book.folder))
        except (RuntimeError, OSError, ImportError) as error:
            raise ClusterError(f"workers: the Dask scheduler cannot be started here: {error}") from error
        try:
            with cluster, Client(cluster, set_as_default=False) as client:
                growth = cluster.adapt(
                    Adaptive=_Growth,
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
        "scheduler_options": {"host": _host(workers.interface), "dashboard_address": "127.0.0.1:0"},
        "silence_logs": logging.CRITICAL,
        "cores": 1,
        "processes": 1,
        "memory": f"{limit_gib} GiB",
        "job_mem": f"{math.ceil(workers.memory_gib * 1024)}M",
        "walltime": str(math.ceil(workers.walltime_s / 60)),  # minutes
        "queue": workers.queue,
        "account": workers.account,
        "job_extra_directives": workers.options,
        "job_script_prologue": _set_up(workers.set_up),
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


def _set_up(lines: list[str]) -> list[str]:
    failed = "{ echo 'assay: a set-up line failed'; exit 1; }"
    return [f"{{\n{line}\n}} || {failed}" for line in lines]


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


def _end_of(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    except OSError as error:
        return f"(no log: {error})"

"""Slurm jobs with a Dask worker each: as many as there is work, and replacements for those that end."""

from __future__ import annotations

import asyncio
import itertools
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Security
from distributed.core import Status
from distributed.deploy.adaptive import Adaptive

from flows.cluster.jobqueue import SLURMCluster, SLURMJob
from flows.slurm import commands
from flows.slurm.states import JobState
from materials.errors import JobRefused, SchedulerUnreachable

LOOK_S = (2.0, 30.0)  # between two questions to squeue: right after something happened, and when nothing does
AGAIN_S = (5.0, 300.0)  # between two attempts at what went wrong: the first, and the longest
AT_ONCE = 8  # jobs that slurmctld is asked to take at the same time
CANCEL_S = 30.0  # to reach Slurm at the end
LOG_LINES = 12


@dataclass(kw_only=True)
class Book:
    """What is known of our jobs. Written by the event loop, read by the campaign.

    Attributes:
        job_name: Of all of them.
        folder: Where their logs go.
        jobs: Those that wait or run, by id.
        sent: How many were taken.
        sending: How many are being sent.
        at_once: Holds back what slurmctld should not have to do at the same time.
        refused: Why the last one was not taken.
        unreachable: Why Slurm did not answer the last time.
        fruitless: What became of the last jobs, where it was no worker.
        unwanted: Ids that are to be cancelled.
        broken: What went wrong here itself, in a row.
        quiet_until: Nothing is sent before.
        ending: Nothing is sent any more.
    """

    job_name: str
    folder: Path
    jobs: dict[str, JobState] = field(default_factory=dict)
    sent: int = 0
    sending: int = 0
    at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    refused: str = ""
    unreachable: str = ""
    fruitless: list[str] = field(default_factory=list)
    unwanted: list[str] = field(default_factory=list)
    broken: list[Exception] = field(default_factory=list)
    quiet_until: float = 0.0
    ending: bool = False

    def log_of(self, worker: str) -> Path:
        """Where the job of a worker writes."""
        return self.folder / f"{worker}.log"

    def went_wrong(self, times: int = 1) -> None:
        """Hold back for a while, the longer the more often."""
        self.quiet_until = time.monotonic() + min(AGAIN_S[0] * 2 ** (times - 1), AGAIN_S[1])


class WorkerJob(SLURMJob):
    """One job, one worker."""

    def __init__(self, *arguments: Any, book: Book, **options: Any) -> None:
        super().__init__(*arguments, job_name=book.job_name, **options)
        for path in _files_of(options.get("security")):
            self._command_template = self._command_template.replace(path, shlex.quote(path))
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
            pattern = str(book.log_of(self.name)).replace("%", "%%")
            options = ["--no-requeue", f"--job-name={book.job_name}", f"--output={pattern}"]
            self.job_id = await asyncio.to_thread(commands.submit, options, script=self.job_script())
        except JobRefused as error:
            book.refused = str(error)
            book.went_wrong(4)
        except SchedulerUnreachable as error:
            book.unreachable = str(error)
            book.went_wrong()
        else:
            book.sent += 1
            book.refused = book.unreachable = ""
            book.jobs[self.job_id] = JobState(id=self.job_id, name=book.job_name, state="PENDING")

    async def close(self) -> None:
        """Take the job back, together with others."""
        self.status = Status.closed
        if self.job_id:
            self.book.unwanted.append(self.job_id)


class WorkerJobs(SLURMCluster):
    """dask-jobqueue's cluster, looked after."""

    job_cls = WorkerJob  # type: ignore[assignment]
    workers: dict[str, WorkerJob]
    scheduler: Any

    def __init__(self, book: Book, **options: Any) -> None:
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
            book.jobs = {one: JobState(id=one, name=book.job_name, state="RUNNING") for one in ids}
        if absent != self._absent_before:
            self._absent_before, self._pause_s = absent, LOOK_S[0]
            self._look_at = min(self._look_at, now + LOOK_S[0])
        if absent and now >= self._look_at:
            await self._ask_queue(absent)

    async def _ask_queue(self, absent: set[str]) -> None:
        book = self.book
        try:
            jobs = {job.id: job for job in await asyncio.to_thread(commands.queued, [book.job_name])}
            book.unreachable = ""
        except SchedulerUnreachable as error:
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

    def _gone(self, name: str, end: JobState | None) -> None:
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
                await asyncio.to_thread(commands.cancel, book.job_name, *ids)
                del book.unwanted[: len(ids)]
            except SchedulerUnreachable as error:
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
                await asyncio.to_thread(commands.cancel, self.book.job_name)
                self.book.unreachable = ""
                return
            except SchedulerUnreachable as error:
                self.book.unreachable = str(error)
                if time.monotonic() > deadline:
                    return
            await asyncio.sleep(1)


class Growth(Adaptive):
    """Dask's own rule for how many jobs there should be, applied to the jobs that there really are."""

    cluster: WorkerJobs

    async def adapt(self) -> None:
        """Look after the jobs, then ask for more or fewer."""
        book = self.cluster.book
        try:
            await self.cluster.look_after()
            if time.monotonic() >= book.quiet_until:
                await super().adapt()
        except Exception as error:
            book.broken.append(error)  # Dask would write it into a log, and go on
            raise
        book.broken.clear()


def _files_of(security: Security | None) -> list[str]:
    if security is None:
        return []
    return [path for path in security.get_tls_config_for_role("worker").values() if path]


def _end_of(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    except OSError as error:
        return f"(no log: {error})"

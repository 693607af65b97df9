"""DFT jobs in a Slurm queue by sbatch, squeue, sacct and scancel, each identified by its name."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flows.dft import job_script
from flows.dft.attempts import LOG
from flows.dft.executor import ALIVE, Seen, Task, Word
from flows.slurm import commands
from flows.slurm.states import NEVER_STARTS, JobState
from materials.errors import DFTError, JobRefused, SchedulerUnreachable
from models.dft.base import last_lines

if TYPE_CHECKING:
    from flows.config.cluster import DFTJobs
    from models.dft.base import DFTCode

# Of sbatch: may mean that enough of our jobs wait already.
POLICY = "violates accounting/qos policy"
NO_CONFIGURATION = "configuration source"
# Without cgroups a memory kill is only told of in the job's log; Slurm calls it FAILED by signal 9.
KILLED_FOR_MEMORY = "exceeded memory limit"


class Slurm:
    """The queue that this machine's Slurm commands reach."""

    kind = "slurm"
    # A squeue every few seconds is what a busy slurmctld bears from one user.
    pause_s = (3.0, 30.0)
    # Network file systems show a new file late to whoever has just looked in vain.
    late_s = 60.0
    leaves_jobs = True

    def __init__(self, hardware: DFTJobs, code: DFTCode) -> None:
        """Make one.

        Raises:
            DFTError: There are no Slurm commands here.
        """
        if shutil.which("sbatch") is None:
            raise DFTError("dft.kind: slurm needs Slurm's commands, and there is no sbatch on the path here")
        self._hardware, self._code = hardware, code
        self._alive = 0
        # Jobs that slurmctld has forgotten are in its accounting database, or else in its completion log.
        self._completion_logs = [False, True]

    def submit(self, task: Task, lock: int) -> None:
        """Submit a job."""
        path = job_script.write(task, self._code, self._hardware, directives(task, self._hardware))
        # Slurm takes a % in the folder's name, too, for a pattern, unless a backslash forbids all of them.
        log = f"\\{LOG}" if "%" in str(task.folder.resolve()) else LOG
        try:
            commands.submit([f"--output={log}", path.name], folder=task.folder, pass_fds=(lock,))
        except JobRefused as error:
            if POLICY in str(error).lower() and self._alive:
                raise SchedulerUnreachable(str(error)) from None
            raise
        self._alive += 1

    def look(self, tasks: Sequence[Task]) -> Mapping[str, Seen]:
        """Ask squeue, and of those that were sent and that it does not know, the accounting."""
        if not tasks:
            return {}
        jobs = self._queued([task.name for task in tasks])
        forgotten = [task for task in tasks if task.name not in jobs and task.sent_at is not None]
        if forgotten:
            jobs |= self._accounted(forgotten)
        found = {task.name: seen(task, jobs[task.name]) for task in tasks if task.name in jobs}
        self._alive = sum(one.word in ALIVE for one in found.values())
        unknown = Seen(word="unknown", how="Slurm does not know it")
        return {task.name: found.get(task.name, unknown) for task in tasks}

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Take jobs back, by their names."""
        for task in tasks:
            commands.cancel(task.name)

    def _queued(self, names: Sequence[str]) -> dict[str, JobState]:
        """Find the jobs in the queue by name; of several of a name the one that lives counts, else the youngest."""
        try:
            jobs = commands.queued(names)
        except SchedulerUnreachable as error:
            if NO_CONFIGURATION in str(error):
                raise DFTError(f"dft.kind: slurm, and Slurm is not set up on this machine: {error}") from None
            raise
        found: dict[str, JobState] = {}
        for job in jobs:
            if job.name not in found or not found[job.name].alive:
                found[job.name] = job
        return found

    def _accounted(self, tasks: Sequence[Task]) -> dict[str, JobState]:
        """Find jobs that have ended in the accounts by name: one that runs only there was lost by slurmctld."""
        names = sorted(task.name for task in tasks)
        since = min(task.sent_at or 0.0 for task in tasks) - 3600
        while self._completion_logs:
            try:
                jobs = commands.accounted(names, since, completion_log=self._completion_logs[0])
                return {job.name: job for job in jobs if job.name in names and not job.alive}
            except SchedulerUnreachable as error:
                if commands.is_temporary(str(error)):
                    raise
                self._completion_logs.pop(0)  # there is none
        return {}


def seen(task: Task, job: JobState) -> Seen:
    """Say what the state of a job means for its task."""
    word: Word = job.fate
    how = f"Slurm says {job.state}"
    if job.reason not in ("", "None", "NonZeroExitCode"):
        how += f" ({job.reason})"
    if word in ("waiting", "ended") and job.reason in NEVER_STARTS:
        word = "refused"
    if word == "ended" and job.exit_code != 0:
        how += f", exit code {job.exit_code}" if (job.exit_code or 0) > 0 else ""
        if KILLED_FOR_MEMORY in last_lines([task.folder / LOG], 20):
            word = "memory"
    return Seen(word=word, how=how, exit_code=job.exit_code, had_node=job.had_node)


def directives(task: Task, hardware: DFTJobs) -> list[str]:
    """The options of sbatch for a task, one a line; the cluster file's own come last, and so have the last word."""
    said = [
        f"--job-name={task.name}",
        "--nodes=1",
        f"--ntasks={task.limits.cores}",
        "--cpus-per-task=1",
        f"--mem={math.ceil(task.limits.memory_gib * 1024)}M",
        f"--time={minutes(task.limits.walltime_s)}",
        # What befalls a job is judged by us, and the next attempt has a name of its own.
        "--no-requeue",
        "--open-mode=append",
    ]
    if hardware.queue:
        said.append(f"--partition={hardware.queue}")
    if hardware.account:
        said.append(f"--account={hardware.account}")
    return [*said, *hardware.options]


def minutes(walltime_s: float) -> int:
    """Slurm's limit for a walltime, which the calculation's own timer has to reach first."""
    return math.ceil(walltime_s / 60) + 1

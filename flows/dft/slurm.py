"""DFT jobs in a Slurm queue by sbatch, squeue, sacct and scancel, each identified by its name."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flows.dft import job_script
from flows.dft.attempts import LOG
from flows.dft.executor import ALIVE, Seen, Task
from flows.dft.slurm_states import ACCOUNTED, FIELDS, Row, from_sacct, from_squeue, seen
from materials.errors import DFTError, JobRefused, SchedulerUnreachable

if TYPE_CHECKING:
    from pathlib import Path

    from flows.config.cluster import DFTJobs
    from models.dft.base import DFTCode

# All that a job gets of this environment: no key or password is among it. Set-up lines may set more.
EXPORTED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "MODULEPATH",
    "PYTHONPATH",
    "GPAW_SETUP_PATH",
)
# Settings of the commands themselves that would change what they say or send.
OURS_TO_SAY = ("SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_")
# How sbatch words it when it, or we, had better try again later.
LATER = ("unable to contact", "timed out", "connection", "temporarily", "zero bytes", "standby mode", "try again")
# May mean that enough of our jobs wait already.
POLICY = "violates accounting/qos policy"
NO_CONFIGURATION = "configuration source"
COMMAND_S = 30.0
SUBMIT_S = 180.0  # sbatch itself tries again for a while


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
        self._user = str(os.geteuid())
        self._alive = 0
        # What tells of jobs that slurmctld has forgotten: an accounting database, or else the completion log.
        self._accounts = [["sacct"], ["sacct", "--completion"]]

    def submit(self, task: Task, lock: int) -> None:
        """Send a job, with nothing of our environment but what is listed above."""
        path = job_script.write(task, self._code, self._hardware, directives(task, self._hardware))
        environment, export = of_a_job()
        # Slurm takes a % in the folder's name, too, for a pattern, unless a backslash forbids all of them.
        log = f"\\{LOG}" if "%" in str(task.folder.resolve()) else LOG
        words = ["sbatch", "--parsable", export, f"--output={log}", path.name]
        done = _run(words, environment, SUBMIT_S, cwd=task.folder, pass_fds=(lock,))
        if done.returncode == 0:
            self._alive += 1
            return
        said = done.stderr.strip()
        if any(words in said.lower() for words in LATER) or (POLICY in said.lower() and self._alive):
            raise SchedulerUnreachable(said)
        raise JobRefused(said)

    def look(self, tasks: Sequence[Task]) -> Mapping[str, Seen]:
        """Ask squeue, and of those that were sent and that it does not know, the accounting."""
        if not tasks:
            return {}
        rows = self._squeue([task.name for task in tasks])
        forgotten = [task for task in tasks if task.name not in rows and task.sent_at is not None]
        if forgotten:
            rows |= self._sacct(forgotten)
        found = {task.name: seen(task, rows[task.name]) for task in tasks if task.name in rows}
        self._alive = sum(one.word in ALIVE for one in found.values())
        unknown = Seen(word="unknown", how="Slurm does not know it")
        return {task.name: found.get(task.name, unknown) for task in tasks}

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Take jobs back, by their names."""
        for task in tasks:
            self._ask("scancel", "--quiet", f"--user={self._user}", f"--name={task.name}")

    def _squeue(self, names: Sequence[str]) -> dict[str, Row]:
        said = self._ask(
            "squeue",
            "--noheader",
            "--states=all",
            "--sort=i",
            f"--user={self._user}",
            f"--name={','.join(names)}",
            f"--Format={','.join(f'{field}:{width}' for field, width in FIELDS.items())}",
        )
        return from_squeue(said.splitlines())

    def _sacct(self, tasks: Sequence[Task]) -> dict[str, Row]:
        names = sorted(task.name for task in tasks)
        since = min(task.sent_at or 0.0 for task in tasks) - 3600
        while self._accounts:
            try:
                said = self._ask(
                    *self._accounts[0],
                    "--allocations",
                    "--noheader",
                    "--parsable2",
                    f"--format={','.join(ACCOUNTED)}",
                    f"--user={self._user}",
                    f"--name={','.join(names)}",
                    f"--starttime={time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(since))}",
                )
                return from_sacct(said.splitlines(), names)
            except SchedulerUnreachable as error:
                if any(word in str(error).lower() for word in LATER):
                    raise
                self._accounts.pop(0)  # there is none
        return {}

    def _ask(self, *words: str) -> str:
        try:
            done = _run(words, of_a_command(), COMMAND_S)
        except FileNotFoundError:
            raise SchedulerUnreachable(f"there is no {words[0]} on the path here") from None
        if NO_CONFIGURATION in done.stderr:
            raise DFTError(f"dft.kind: slurm, and Slurm is not set up on this machine: {done.stderr.strip()}")
        if done.returncode != 0:
            raise SchedulerUnreachable(done.stderr.strip() or f"{words[0]} ended with exit code {done.returncode}")
        return done.stdout


def of_a_job() -> tuple[dict[str, str], str]:
    """The environment that sbatch gets, and the option that hands it on: nothing of ours but what is listed above."""
    environment = {name: os.environ[name] for name in (*EXPORTED, "SLURM_CONF") if name in os.environ}
    return environment, "--export=" + ",".join(name for name in EXPORTED if name in environment)


def of_a_command() -> dict[str, str]:
    """The environment of a command that asks or cancels."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS_TO_SAY)}


def _run(
    words: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
    *,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C in the terminal is ours alone: what is being sent is sent
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise SchedulerUnreachable(f"{words[0]} gave no answer within {seconds:g} s") from None


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

"""DFT jobs in a Slurm queue: sbatch, squeue, sacct and scancel, each job known by its name."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from flows.dft import script
from flows.dft.attempts import LOG
from flows.dft.executor import ALIVE, Seen, Task, Word
from materials.errors import DFTError, JobRefused, SchedulerUnreachable
from models.dft.contract import last_lines

if TYPE_CHECKING:
    from flows.cluster_file import DFTJobs
    from models.dft.contract import DFTCode

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
STATES: Mapping[str, Word] = {
    "PENDING": "waiting",
    "CONFIGURING": "waiting",
    "REQUEUED": "waiting",
    "REQUEUE_HOLD": "waiting",
    "REQUEUE_FED": "waiting",
    "SPECIAL_EXIT": "waiting",
    "RESV_DEL_HOLD": "waiting",
    "COMPLETING": "ending",
    "COMPLETED": "ended",
    "FAILED": "ended",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "memory",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "REVOKED": "unknown",
}
# Why a job waits that will wait for ever.
HOPELESS = frozenset(
    {
        "AccountNotAllowed",
        "AssocMaxCpuPerJobLimit",
        "AssocMaxMemPerJob",
        "AssocMaxNodePerJobLimit",
        "AssocMaxWallDurationPerJobLimit",
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSMaxCpuPerJobLimit",
        "QOSMaxMemoryPerJob",
        "QOSMaxNodePerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSNotAllowed",
    }
)
# How sbatch words it when it, or we, had better try again later.
LATER = ("unable to contact", "timed out", "connection", "temporarily", "zero bytes", "standby mode", "try again")
# May mean that enough of our jobs wait already.
POLICY = "violates accounting/qos policy"
NO_CONFIGURATION = "configuration source"
# Without cgroups a memory kill is only told of in the job's log; Slurm calls it FAILED by signal 9.
KILLED_FOR_MEMORY = "exceeded memory limit"
FIELDS = {"JobID": 24, "Name": 96, "State": 24, "exit_code": 12, "Reason": 64, "NodeList": 64}
COMMAND_S = 30.0
SUBMIT_S = 180.0  # sbatch itself tries again for a while


class _Row(NamedTuple):
    """What Slurm says of a job."""

    state: str
    reason: str
    exit_code: int | None
    had_node: bool


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
        path = script.write(task, self._code, self._hardware, directives(task, self._hardware))
        environment = {name: os.environ[name] for name in (*EXPORTED, "SLURM_CONF") if name in os.environ}
        exported = ",".join(name for name in EXPORTED if name in environment)
        # Slurm takes a % in the folder's name, too, for a pattern, unless a backslash forbids all of them.
        log = f"\\{LOG}" if "%" in str(task.folder.resolve()) else LOG
        words = ["sbatch", "--parsable", f"--export={exported}", f"--output={log}", path.name]
        try:
            done = subprocess.run(
                words,
                cwd=task.folder,
                env=environment,
                pass_fds=(lock,),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SUBMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise SchedulerUnreachable(f"sbatch gave no answer within {SUBMIT_S:g} s") from None
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
        seen = {task.name: _seen(task, rows[task.name]) for task in tasks if task.name in rows}
        self._alive = sum(one.word in ALIVE for one in seen.values())
        unknown = Seen(word="unknown", how="Slurm does not know it")
        return {task.name: seen.get(task.name, unknown) for task in tasks}

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Take jobs back, by their names."""
        for task in tasks:
            self._ask("scancel", "--quiet", f"--user={self._user}", f"--name={task.name}")

    def _squeue(self, names: Sequence[str]) -> dict[str, _Row]:
        """Name -> state, reason and exit code; of several jobs of a name the one that lives, else the youngest."""
        said = self._ask(
            "squeue",
            "--noheader",
            "--states=all",
            "--sort=i",
            f"--user={self._user}",
            f"--name={','.join(names)}",
            f"--Format={','.join(f'{field}:{width}' for field, width in FIELDS.items())}",
        )
        rows: dict[str, _Row] = {}
        for line in said.splitlines():
            _, name, state, code, reason, nodes = _columns(line)
            if name not in rows or STATES.get(rows[name].state, "running") not in ALIVE:
                rows[name] = _Row(state, reason, _exit_code(code), bool(nodes))
        return rows

    def _sacct(self, tasks: Sequence[Task]) -> dict[str, _Row]:
        """The same from the accounting, for jobs that have ended: one that runs only there was lost by slurmctld."""
        names = {task.name for task in tasks}
        since = min(task.sent_at or 0.0 for task in tasks) - 3600
        while self._accounts:
            try:
                said = self._ask(
                    *self._accounts[0],
                    "--allocations",
                    "--noheader",
                    "--parsable2",
                    "--format=JobName,State,ExitCode,NodeList",
                    f"--user={self._user}",
                    f"--name={','.join(sorted(names))}",
                    f"--starttime={time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(since))}",
                )
            except SchedulerUnreachable as error:
                if any(word in str(error).lower() for word in LATER):
                    raise
                self._accounts.pop(0)  # there is none
                continue
            rows: dict[str, _Row] = {}
            for line in said.splitlines():
                name, state, code, nodes = line.split("|")
                state = state.split()[0]  # "CANCELLED by 1000"
                if name in names and STATES.get(state, "running") not in ALIVE:
                    number, _, by_signal = code.partition(":")
                    exit_code = -int(by_signal) if int(by_signal or 0) else int(number)
                    rows[name] = _Row(state, "", exit_code, nodes not in ("", "None assigned"))
            return rows
        return {}

    def _ask(self, *words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS_TO_SAY)}
        try:
            done = subprocess.run(
                words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S
            )
        except subprocess.TimeoutExpired:
            raise SchedulerUnreachable(f"{words[0]} gave no answer within {COMMAND_S:g} s") from None
        except FileNotFoundError:
            raise SchedulerUnreachable(f"there is no {words[0]} on the path here") from None
        if NO_CONFIGURATION in done.stderr:
            raise DFTError(f"dft.kind: slurm, and Slurm is not set up on this machine: {done.stderr.strip()}")
        if done.returncode != 0:
            raise SchedulerUnreachable(done.stderr.strip() or f"{words[0]} ended with exit code {done.returncode}")
        return done.stdout


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


def _columns(line: str) -> list[str]:
    columns, start = [], 0
    for width in FIELDS.values():
        columns.append(line[start : start + width].strip())
        start += width
    return columns


def _exit_code(status: str) -> int | None:
    # Slurm has numbers of its own for jobs that could not be launched.
    if status.isdigit() and (int(status) & 0xFF == 0 or int(status) & 0xFF < signal.NSIG):
        return os.waitstatus_to_exitcode(int(status))
    return None


def _seen(task: Task, row: _Row) -> Seen:
    # A state that a newer Slurm has made up is waited out.
    word = STATES.get(row.state, "running")
    how = f"Slurm says {row.state}"
    if row.reason not in ("", "None", "NonZeroExitCode"):
        how += f" ({row.reason})"
    if word in ("waiting", "ended") and row.reason in HOPELESS:
        word = "refused"
    if word == "ended" and row.exit_code != 0:
        how += f", exit code {row.exit_code}" if (row.exit_code or 0) > 0 else ""
        if KILLED_FOR_MEMORY in last_lines([task.folder / LOG], 20):
            word = "memory"
    return Seen(word=word, how=how, exit_code=row.exit_code, had_node=row.had_node)

"""Slurm client: sbatch, squeue, sacct and scancel for the jobs of DFT and of Dask workers.

Each call waits for its command; an event loop calls it in a thread.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.slurm.states import ACCOUNTED, FIELDS, JobState, read_sacct, read_squeue
from materials.errors import JobRefused, SchedulerUnreachable

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
# Settings of the commands themselves that would change what they print or send.
NOT_PASSED = ("SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_")
# How Slurm words it when we had better try again later.
LATER = ("unable to contact", "timed out", "connection", "temporarily", "zero bytes", "standby mode", "try again")
COMMAND_S = 30.0
SUBMIT_S = 180.0  # sbatch itself tries again for a while


def submit(
    options: Sequence[str], *, script: str = "", folder: Path | None = None, pass_fds: Sequence[int] = ()
) -> str:
    """Submit a job with nothing of our environment but `EXPORTED`; return its id.

    Args:
        options: Of sbatch; the last one may be the script's file name.
        script: The script itself where the options name no file.
        folder: Where sbatch runs.
        pass_fds: File descriptors that stay open in sbatch.

    Raises:
        JobRefused: With sbatch's own sentence.
        SchedulerUnreachable: Slurm did not respond; the job may have been submitted all the same.
    """
    environment = {name: os.environ[name] for name in (*EXPORTED, "SLURM_CONF") if name in os.environ}
    export = "--export=" + ",".join(name for name in EXPORTED if name in environment)
    words = ["sbatch", "--parsable", export, *options]
    done = _run(words, environment, SUBMIT_S, script=script, folder=folder, pass_fds=pass_fds)
    if done.returncode == 0:
        return done.stdout.strip().split(";")[0]  # "12;cluster" where there are several
    message = _complaint(done)
    if is_temporary(message):
        raise SchedulerUnreachable(message)
    raise JobRefused(message)


def queued(names: Sequence[str]) -> list[JobState]:
    """List our jobs of these names, those that ended a while ago too, the oldest first.

    Raises:
        SchedulerUnreachable: Slurm did not respond.
    """
    columns = ",".join(f"{field}:{width}" for field, width in FIELDS.items())
    options = ["--noheader", "--states=all", "--sort=i", f"--name={','.join(names)}", f"--Format={columns}"]
    return read_squeue(_ask("squeue", *options))


def accounted(names: Sequence[str], since: float, *, completion_log: bool) -> list[JobState]:
    """List our jobs of these names from the accounts, the oldest first.

    Args:
        names: Of jobs.
        since: Seconds since the epoch; jobs that ended before are not listed.
        completion_log: Read the completion log in place of the accounting database.

    Raises:
        SchedulerUnreachable: Slurm did not respond, or there are no such accounts: see `is_temporary`.
    """
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
    options = ["--allocations", "--noheader", "--parsable2", f"--format={','.join(ACCOUNTED)}"]
    place = ["--completion"] if completion_log else []
    return read_sacct(_ask("sacct", *place, *options, f"--name={','.join(names)}", f"--starttime={start}"))


def cancel(name: str, *ids: str) -> None:
    """Cancel our jobs of a name: all, or those of the ids that bear it.

    Raises:
        SchedulerUnreachable: Slurm did not respond.
    """
    _ask("scancel", "--quiet", f"--name={name}", *ids)


def is_temporary(message: str) -> bool:
    """Whether the same command may succeed later."""
    return any(words in message.lower() for words in LATER)


def _ask(command: str, *options: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED)}
    done = _run([command, f"--user={os.geteuid()}", *options], environment, COMMAND_S)
    if done.returncode != 0:
        raise SchedulerUnreachable(_complaint(done))
    return done.stdout


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip() or f"{done.args[0]} ended with exit code {done.returncode}"


def _run(
    words: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
    *,
    script: str = "",
    folder: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            cwd=folder,
            env=environment,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C in the terminal is ours alone: what is being sent is sent
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise SchedulerUnreachable(f"{words[0]} gave no answer within {seconds:g} s") from None
    except OSError as error:
        raise SchedulerUnreachable(f"{words[0]} cannot be run: {error}") from None

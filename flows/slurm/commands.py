"""Slurm commands for the jobs of Dask workers, called without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.dft.executor import ALIVE
from flows.dft.slurm import COMMAND_S, LATER, SUBMIT_S, of_a_command, of_a_job
from flows.dft.slurm_states import STATES
from materials.errors import JobRefused, SchedulerUnreachable


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A line of squeue."""

    id: str
    state: str
    reason: str

    @property
    def alive(self) -> bool:
        """Whether it waits or runs."""
        return STATES.get(self.state, "running") in ALIVE

    def __str__(self) -> str:
        reason = "" if self.reason in ("", "None") else f", {self.reason}"
        return f"job {self.id}, {self.state}{reason}"


async def submit(script: str, *, job_name: str, log: Path) -> str:
    """Send a script, with nothing of our environment but what a job needs; return the job's id.

    Raises:
        JobRefused: With sbatch's own sentence.
        SchedulerUnreachable: Nobody answers; the job may have been sent.
    """
    environment, export = of_a_job()
    pattern = str(log).replace("%", "%%")
    words = ["--parsable", "--no-requeue", f"--job-name={job_name}", f"--output={pattern}", export]
    code, said, complaint = await _run("sbatch", *words, script=script, environment=environment, seconds=SUBMIT_S)
    if code == 0:
        return said.strip().split(";")[0]  # "12;cluster" where there are several
    if any(word in complaint.lower() for word in LATER):
        raise SchedulerUnreachable(complaint)
    raise JobRefused(complaint)


async def jobs_named(job_name: str) -> dict[str, QueuedJob]:
    """Ask for our jobs of a name, those that ended a while ago too, by their ids.

    Raises:
        SchedulerUnreachable: Nobody answers.
    """
    words = ["--noheader", "--states=all", f"--user={os.geteuid()}", f"--name={job_name}", "--format=%i|%T|%r"]
    found = {}
    for line in (await _ask("squeue", *words)).splitlines():
        identifier, state, reason = line.split("|", 2)
        found[identifier] = QueuedJob(id=identifier, state=state, reason=reason)
    return found


async def cancel(job_name: str, *ids: str) -> None:
    """Take jobs of ours back: all of a name, or those of the ids that bear it.

    Raises:
        SchedulerUnreachable: Nobody answers.
    """
    await _ask("scancel", "--quiet", f"--user={os.geteuid()}", f"--name={job_name}", *ids)


async def _ask(command: str, *words: str) -> str:
    code, said, complaint = await _run(command, *words, environment=of_a_command(), seconds=COMMAND_S)
    if code != 0:
        raise SchedulerUnreachable(complaint)
    return said


async def _run(
    command: str, *words: str, environment: Mapping[str, str], seconds: float, script: str = ""
) -> tuple[int, str, str]:
    """Run a command; return its exit code and what it said and complained of."""
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
        )
    except OSError as error:
        raise SchedulerUnreachable(f"{command} cannot be run: {error}") from None
    try:
        said, complained = await asyncio.wait_for(process.communicate(script.encode()), seconds)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise SchedulerUnreachable(f"{command} gave no answer within {seconds:g} s") from None
    assert process.returncode is not None
    complaint = complained.decode(errors="replace").strip()
    return process.returncode, said.decode(errors="replace"), complaint or f"{command} ended with {process.returncode}"

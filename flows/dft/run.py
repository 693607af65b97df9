"""Run DFT calculations: submit, watch, continue and resume them, on this machine or in a queue.

A calculation is a folder named by its content key, and the folder is the truth: whatever died, what has a result is
taken from there, what still waits or runs is waited for, and only the rest is sent. `attempts.json` in the folder says
what was sent, with which limits. What each end means, and what is done, is the table in `flows/dft/outcomes.py`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.config.cluster import DFTJobs
from flows.dft import attempts as book
from flows.dft.calculation import Entry, Job
from flows.dft.executor import ALIVE, Executor, Task
from flows.dft.local import Local
from flows.dft.slurm import Slurm
from flows.dft.watcher import Watch
from materials.errors import SchedulerUnreachable
from models.dft.base import DFTCode, DFTResult, DFTSettings, Limits
from models.dft.calculation_record import calculation_id, method_of
from models.dft.presets import asked_before
from models.learning.dft_cost import relative_cost

if TYPE_CHECKING:
    from pymatgen.core import Structure


def job_for(material_id: str, structure: Structure, settings: DFTSettings, code: DFTCode) -> Job:
    """Name a calculation by its content.

    Raises:
        CodeNotInstalled: The code is not on this machine.
    """
    key, before = calculation_id(material_id, method_of(code), settings), asked_before(settings, structure)
    return Job(
        calculation_id=key,
        material_id=material_id,
        structure=structure,
        settings=settings,
        before=job_for(material_id, structure, before, code) if before else None,
    )


def folder_of(runs_dir: Path, key: str) -> Path:
    """Where a calculation lies."""
    return runs_dir / "dft" / key


def take_back(
    keys: Iterable[str],
    code: DFTCode,
    *,
    runs_dir: Path,
    hardware: DFTJobs,
    say: Callable[[str], None],
) -> None:
    """Cancel what still waits or runs of calculations that nobody asks for any more.

    Args:
        keys: Their `calculation_id`s; of most nothing is under way.
        code: Which code.
        runs_dir: As for `run_jobs`.
        hardware: Who runs them.
        say: Told what was cancelled, in one line.
    """
    tasks = [task for key in sorted(keys) if (task := _under_way(folder_of(runs_dir, key), code, hardware))]
    if not tasks:
        return
    executor, names = open_executor(hardware, code), ", ".join(task.name for task in tasks)
    try:
        seen = executor.look(tasks)
        alive = [task for task in tasks if seen[task.name].word in ALIVE]
        for task in alive:
            attempts = book.read(task.folder)
            attempts[-1].taken_back = True
            book.write(task.folder, attempts)
        executor.cancel(alive)
    except SchedulerUnreachable as error:
        say(f"The scheduler does not answer ({error}), so these may stay in its queue for nothing: {names}")
        return
    for task in alive:
        if pid := code.worker(task.folder):  # of a run that has ended: the executor knows it not
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)
    if alive:
        names = ", ".join(task.name for task in alive)
        say(f"Cancelled what an earlier version had sent and this one asks with other settings: {names}")


def _under_way(folder: Path, code: DFTCode, hardware: DFTJobs) -> Task | None:
    """The attempt in a folder that may still wait or run, as its executor takes it."""
    attempts = book.read(folder)
    if not attempts or attempts[-1].end or code.finished(folder, hardware.most()):
        return None
    last = attempts[-1]
    limits = replace(hardware.limits(), walltime_s=last.walltime_s, memory_gib=last.memory_gib)
    return Task(name=last.name(folder.name), folder=folder, limits=limits, sent_at=last.sent_at)


def run_jobs(
    jobs: Sequence[Job],
    code: DFTCode,
    *,
    runs_dir: Path,
    concurrent: int,
    limits: Limits,
    on_result: Callable[[Job, DFTResult], None],
    stop: threading.Event,
    most: Limits | None = None,
    executor: Executor | None = None,
    say: Callable[[str], None] = lambda line: None,
    retry: bool = False,
) -> None:
    """Run the calculations, the most expensive first, and deliver each result as it comes.

    Args:
        jobs: What is to be done; the same calculation twice is done once.
        code: Which code.
        runs_dir: Folders are `runs_dir/dft/<calculation_id>`.
        concurrent: Calculations at once, those that wait in a queue too.
        limits: Of the first attempt at each.
        on_result: Called in this thread, once for each calculation.
        stop: Once set, what waits or runs is taken back, and this returns; it goes on next time.
        most: What a calculation that needs more may be given at most; None: no more than `limits`.
        executor: Who runs them; None: processes of this machine.
        say: Told what a person should know, once.
        retry: Whether what ended for good without a result is tried once more.

    Raises:
        DFTError: No more can be sent, and why. What runs is left running.
        CodeNotInstalled: The code is not on this machine.
    """
    watch = Watch(
        code=code,
        executor=executor or open_executor(DFTJobs(), code),
        limits=limits,
        most=most or limits,
        on_result=on_result,
        stop=stop,
        say=say,
        retry=retry,
    )
    once = {job.calculation_id: job for job in sorted(jobs, key=lambda j: -relative_cost(j.structure, j.settings))}
    watch.run([Entry(job=job, folder=folder_of(runs_dir, key)) for key, job in once.items()], concurrent)


def open_executor(hardware: DFTJobs, code: DFTCode) -> Executor:
    """Make the executor that a cluster file asks for.

    Raises:
        DFTError: It asks for Slurm, and there is none here.
    """
    return Slurm(hardware, code) if hardware.kind == "slurm" else Local(hardware, code)

"""DFT calculations as processes on this machine: sent, watched, and taken up again.

A calculation is a folder named by its content key, and the folder is the truth: whatever died, what has a result is
taken from there, what is still running is waited for, and only the rest is started.

What each end means:

| end | what is done |
|---|---|
| a result in the folder, good or bad | delivered; the process is not started at all if it was there before |
| a process of an earlier run still works in the folder | it keeps a slot and is waited for: nothing is computed twice |
| died without a result (killed, segmentation fault) | started again, `ATTEMPTS` times in all, then "crashed" for good |
| longer than its walltime, deaf to its own timer | killed, "walltime" |
| we are stopped (Ctrl-C, an exception) | told to stop, no result; started again, from its checkpoint, next time |
| this process is killed with -9 | the calculations go on by themselves and are taken up by the next run |
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from materials.errors import DFTError
from models.dft.contract import DFTCode, DFTResult, DFTSettings, Limits, calculation_id, method_of
from models.dft.folder import clean_environment
from models.dft.presets import relative_cost

if TYPE_CHECKING:
    from pymatgen.core import Structure

# A process that somebody kills is no word on the material, so it gets more than one chance.
ATTEMPTS = 3
# Seconds beyond the walltime that a calculation's own timer gets before it is killed; and to stop when told to.
GRACE_S = 30.0
STOP_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Job:
    """A calculation to be done. `job_for` makes one."""

    calculation_id: str
    material_id: str
    structure: Structure
    settings: DFTSettings


@dataclass(kw_only=True)
class _Running:
    job: Job
    folder: Path
    process: subprocess.Popen[bytes] | None  # None: somebody else's, still at work in the folder
    started: float
    attempt: int


def job_for(material_id: str, structure: Structure, settings: DFTSettings, code: DFTCode) -> Job:
    """Name a calculation by its content.

    Raises:
        CodeNotInstalled: The code is not on this machine.
    """
    key = calculation_id(material_id, method_of(code), settings)
    return Job(calculation_id=key, material_id=material_id, structure=structure, settings=settings)


def folder_of(runs_dir: Path, key: str) -> Path:
    """Where a calculation lies."""
    return runs_dir / "dft" / key


def run_jobs(
    jobs: Sequence[Job],
    code: DFTCode,
    *,
    runs_dir: Path,
    concurrent: int,
    limits: Limits,
    on_result: Callable[[Job, DFTResult], None],
    stop: threading.Event,
) -> None:
    """Run the calculations, the most expensive first, and deliver each result as it comes.

    Args:
        jobs: What is to be done; the same calculation twice is done once.
        code: Which code.
        runs_dir: Folders are `runs_dir/dft/<calculation_id>`.
        concurrent: Calculations at once.
        limits: Of each.
        on_result: Called in this thread, once for each calculation.
        stop: Once set, running calculations are told to stop, and this returns; they go on next time.

    Raises:
        DFTError: A process cannot be started, or a folder cannot be written.
        CodeNotInstalled: The code is not on this machine.
    """
    waiting = {job.calculation_id: job for job in sorted(jobs, key=lambda j: -relative_cost(j.structure, j.settings))}
    queue = list(waiting.values())
    running: list[_Running] = []
    try:
        while (queue or running) and not stop.is_set():
            for entry in list(running):
                result = _look(entry, code, limits)
                if result is not None:
                    running.remove(entry)
                    on_result(entry.job, result)
            while queue and len(running) < concurrent and not stop.is_set():
                job = queue.pop(0)
                folder = folder_of(runs_dir, job.calculation_id)
                if code.finished(folder, limits):
                    on_result(job, code.parse(folder))
                else:
                    running.append(_start(job, folder, code, limits))
            if running:
                stop.wait(POLL_S)
    finally:
        _end(running)


def _start(job: Job, folder: Path, code: DFTCode, limits: Limits, attempt: int = 1) -> _Running:
    process = None
    # In this order: whoever worked here may have written its result and gone since we looked.
    if code.worker(folder) is None and not code.finished(folder, limits):
        try:
            code.write_inputs(folder, job.structure, job.settings, limits)
            with open(folder / "driver.log", "ab") as log:
                # A session of its own: Ctrl-C in the terminal is ours to pass on, and our death is not its death.
                process = subprocess.Popen(
                    code.command(folder, limits.launcher),
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=clean_environment(),
                    start_new_session=True,
                )
        except OSError as error:
            raise DFTError(
                f"{folder}: the calculation cannot be started: {error}; check the disk and the code"
            ) from error
    return _Running(job=job, folder=folder, process=process, started=time.monotonic(), attempt=attempt)


def _look(entry: _Running, code: DFTCode, limits: Limits) -> DFTResult | None:
    """The result if it has ended; a process that died is started again, in place."""
    if _is_running(entry, code):
        elapsed = time.monotonic() - entry.started
        if elapsed < limits.walltime_s + GRACE_S:
            return None
        if not _kill_worker(entry, code):
            return None
        message = f"killed after {elapsed:.0f} s: it did not end by itself at its walltime"
        return _final(entry, code, DFTResult(status="walltime", message=message, wall_time_s=elapsed))
    if code.finished(entry.folder, limits):
        return code.parse(entry.folder)
    if entry.process is not None:
        # Ranks that outlive their starter would work on in a folder that is about to be another's.
        _kill(entry.process)
    crashed = code.parse(entry.folder)
    if crashed.status != "crashed":  # its log tells why it died, and that it would again
        return _final(entry, code, crashed)
    if entry.attempt >= ATTEMPTS:
        words = _how(entry.process)
        message = f"died {entry.attempt} times, the last time {words}\n{crashed.message}"
        elapsed = time.monotonic() - entry.started
        return _final(entry, code, replace(crashed, message=message, wall_time_s=elapsed))
    again = _start(entry.job, entry.folder, code, limits, entry.attempt + 1)
    entry.process, entry.started, entry.attempt = again.process, again.started, again.attempt
    return None


def _is_running(entry: _Running, code: DFTCode) -> bool:
    if entry.process is not None and entry.process.poll() is None:
        return True
    # Another run may have been faster to take the folder: then ours gave way, and its result is waited for.
    return code.worker(entry.folder) is not None


def _kill_worker(entry: _Running, code: DFTCode) -> bool:
    """Kill what works in the folder; False if it runs where we cannot reach it."""
    if entry.process is not None and entry.process.poll() is None:
        _kill(entry.process)
        return True
    pid = code.worker(entry.folder)
    if pid == 0:
        return False
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


def _final(entry: _Running, code: DFTCode, result: DFTResult) -> DFTResult:
    code.give_up(entry.folder, result)
    return replace(result, message=f"{result.message}\n{entry.folder}".strip())


def _how(process: subprocess.Popen[bytes] | None) -> str:
    if process is None or process.returncode is None:
        return "without a trace"
    if process.returncode < 0:
        return f"by {signal.Signals(-process.returncode).name}"
    return f"with exit code {process.returncode}"


def _end(running: Sequence[_Running]) -> None:
    """Tell what we started to stop, and see that it does."""
    ours = [entry.process for entry in running if entry.process is not None and entry.process.poll() is None]
    for process in ours:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    for process in ours:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

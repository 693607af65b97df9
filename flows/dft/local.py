"""DFT jobs as processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from flows.dft import job_script
from flows.dft.attempts import LOG
from flows.dft.executor import Seen, Task
from models.dft.base import clean_environment

if TYPE_CHECKING:
    from flows.config.cluster import DFTJobs
    from models.dft.base import DFTCode

# Seconds beyond the walltime that a calculation's own timer gets before it is killed; and to stop when told to.
GRACE_S = 30.0
STOP_S = 10.0


class Local:
    """Processes of this machine: ours, and those that an earlier run of ours has left at work."""

    kind = "local"
    pause_s = (0.05, 0.05)
    late_s = 0.0
    leaves_jobs = False
    # By folder and name, those of earlier executors in this process too: what was left running is still our child.
    _processes: ClassVar[dict[tuple[str, str], subprocess.Popen[bytes]]] = {}

    def __init__(self, hardware: DFTJobs, code: DFTCode) -> None:
        self._hardware, self._code = hardware, code
        self._since: dict[str, float] = {}

    def submit(self, task: Task, lock: int) -> None:
        """Start a process."""
        path = job_script.write(task, self._code, self._hardware)
        with open(task.folder / LOG, "ab") as log:
            # A session of its own: Ctrl-C in the terminal is ours to pass on, and our death is not its death.
            self._processes[_key(task)] = subprocess.Popen(
                ["bash", str(path.resolve())],
                cwd=task.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
                start_new_session=True,
            )
        self._since[task.name] = time.monotonic()

    def look(self, tasks: Sequence[Task]) -> Mapping[str, Seen]:
        """Say which processes live; one that is deaf to its own timer is killed."""
        return {task.name: self._look(task) for task in tasks}

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Tell the processes that we started to stop, and see that they do."""
        started = [self._processes[_key(task)] for task in tasks if _key(task) in self._processes]
        ours = [process for process in started if process.poll() is None]
        for process in ours:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for process in ours:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _kill(process)

    def _look(self, task: Task) -> Seen:
        process = self._processes.get(_key(task))
        alive = process is not None and process.poll() is None
        # Another run may have been faster to take the folder: then ours gave way, and its result is waited for.
        worker = None if alive else self._code.worker(task.folder)
        if alive or worker is not None:
            elapsed = time.monotonic() - self._since.setdefault(task.name, time.monotonic())
            if elapsed < task.limits.walltime_s + GRACE_S or worker == 0:  # 0: where we cannot reach it
                return Seen(word="running")
            if process is not None and alive:
                _kill(process)
            elif worker is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            how = f"killed after {elapsed:.0f} s: it did not end by itself at its walltime"
            return Seen(word="timeout", how=how)
        if process is None:
            return Seen(word="unknown", how="without a trace")
        # Ranks that outlive their starter would work on in a folder that is about to be another's.
        _kill(process)
        return Seen(word="ended", how=_how(process.returncode), exit_code=process.returncode)


def _key(task: Task) -> tuple[str, str]:
    return str(task.folder.resolve()), task.name


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

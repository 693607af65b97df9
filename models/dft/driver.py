"""Driver of a DFT calculation in a folder: `task.json` in, `result.json` out.

    python -P driver.py CODE FOLDER [the words that start MPI's ranks, for a code that is a program of its own]

A script for whichever Python has the code: it needs nothing of ours installed. This is the process (lock, limits,
signals), runtime/ what every calculation goes through, and CODE/calculation.py what the code is asked.

The exit code says how it ended, and so does the status in `result.json`, which is written at once and last:

    0   converged
    10  scf_not_converged   11  max_steps   12  walltime   13  out_of_memory   14  failed
    20  told to stop (SIGTERM): no result, a relaxation goes on from `checkpoint.json` next time
    21  another process works in this folder
    22  the code's program died without a word: no result, as if this process had died with it
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import types
from typing import Any, NoReturn

# Beside this script lies a folder gpaw that is not GPAW, and this Python need not have our packages, nor look where
# they are: our modules are found by their own names, and nothing else is found in their folder.
_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != _here]
for _name, _folder in (("models", os.path.dirname(_here)), ("models.dft", _here)):
    _package = types.ModuleType(_name)
    _package.__path__ = [_folder]
    sys.modules.setdefault(_name, _package)
course: Any = importlib.import_module("models.dft.runtime.calculation")
trials: Any = importlib.import_module("models.dft.runtime.magnetic_trials")

EXIT_CODES = {
    "converged": 0,
    "scf_not_converged": 10,
    "max_steps": 11,
    "walltime": 12,
    "out_of_memory": 13,
    "failed": 14,
}
EXIT_STOPPED = 20
EXIT_LOCKED = 21
EXIT_DIED = 22


def main(code: str, folder: str, *launcher: str) -> int:
    """Compute what `folder/task.json` asks for; return the exit code."""
    os.chdir(folder)
    lock = open("lock", "a+")  # noqa: SIM115 - held, and with it the folder, as long as the process lives
    rank = course.rank()
    if rank == 0 and not take(lock):
        return EXIT_LOCKED
    if os.path.exists("result.json"):
        return EXIT_CODES[course.read("result.json")["status"]]
    signal.signal(signal.SIGTERM, stop)
    task = {**course.read("task.json"), "launcher": launcher}
    started = time.time()
    used = trials.time_used()
    set_limits(task, rank, started - used)
    try:
        result = compute(code, task, started - used)
    except course.Ended as end:
        result = {"status": end.status, "message": str(end)}
    except course.Died as death:
        print(death, flush=True)
        return EXIT_DIED
    except MemoryError as error:
        result = {"status": "out_of_memory", "message": f"more than {task['memory_gib']:g} GiB were needed: {error}"}
    except Exception as error:  # noqa: BLE001 - whatever it was, it is this calculation's and has to be written down
        import traceback

        traceback.print_exc()
        result = {"status": "failed", "message": f"{type(error).__name__}: {error}"}
    signal.setitimer(signal.ITIMER_REAL, 0)
    result["wall_time_s"] = time.time() - started + used
    if rank == 0:
        course.write("result.json", result)
        with contextlib.suppress(FileNotFoundError):
            os.remove("checkpoint.json")
    print(result["status"], result.get("message", ""), flush=True)
    return EXIT_CODES[result["status"]]


def compute(code: str, task: Any, started: float) -> dict[str, Any]:
    """Send the calculation through its course, or through the code's own if it has one."""
    physics = importlib.import_module(f"models.dft.{code}.calculation")
    result: dict[str, Any] = (
        physics.compute(task, started) if hasattr(physics, "compute") else trials.compute(task, started, physics)
    )
    return result


def take(lock: Any) -> bool:
    """Lock the folder and say who holds it; the system unlocks it when this process ends, however it ends."""
    for wait in (0.0, 0.1, 0.2, 0.4):  # somebody who only looks holds it for an instant
        time.sleep(wait)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)
            lock.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
            lock.flush()
            return True
    return False


def stop(signum: int, frame: Any) -> NoReturn:
    """End now; what matters is in the checkpoint."""
    print("stopped by SIGTERM", flush=True)
    # GPAW's threads and MPI's exit handlers may wait for each other: a process that is told to stop does not ask them.
    os._exit(EXIT_STOPPED)


def set_limits(task: Any, rank: int, started: float) -> None:
    """Bound the time of this process, and the memory of it and of those that it starts."""

    def end(status: str, message: str) -> NoReturn:
        # Not an exception: somebody's broad except might take it for one of his own. The checkpoint stays.
        if rank == 0:
            course.write("result.json", {"status": status, "message": message, "wall_time_s": time.time() - started})
        print(message, flush=True)
        os._exit(EXIT_CODES[status])

    # All ranks together may have `memory_gib`: those that this process starts, or those that it is one of.
    share = task["memory_gib"] / (1 if task["launcher"] else task.get("cores", 1))

    def watch_memory() -> None:
        while True:
            time.sleep(0.1)
            if sum(map(resident_gib, family(os.getpid()))) > share:
                end("out_of_memory", f"more than {task['memory_gib']:g} GiB were needed")

    signal.signal(signal.SIGALRM, lambda *_: end("walltime", f"not finished within {task['walltime_s']:g} s"))
    signal.setitimer(signal.ITIMER_REAL, task["walltime_s"])
    threading.Thread(target=watch_memory, daemon=True).start()
    # A refused allocation ends some libraries without a word, so the watch comes first, and this is for sudden leaps;
    # address space is always more than what is used.
    limit = int((2 * share + 1) * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def family(pid: int) -> list[int]:
    """A process and all that it started, and that those started: on Linux."""
    found = [pid]
    for member in found:
        with contextlib.suppress(OSError):  # it has ended
            for thread in os.listdir(f"/proc/{member}/task"):
                with open(f"/proc/{member}/task/{thread}/children") as file:
                    found.extend(map(int, file.read().split()))
    return found


def resident_gib(pid: int) -> float:
    """Memory that a process has now."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**30
    except OSError:
        if os.path.isdir("/proc/self"):
            return 0.0  # it has ended
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # not Linux: the most it ever had, in bytes


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

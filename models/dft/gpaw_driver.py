"""Runs GPAW in a folder: `task.json` in, `result.json` out.

A script for whichever Python has GPAW: this is its process (lock, limits, signals), gpaw_physics.py what it computes.

The exit code says how it ended, and so does the status in `result.json`, which is written at once and last:

    0   converged
    10  scf_not_converged   11  max_steps   12  walltime   13  out_of_memory   14  failed
    20  told to stop (SIGTERM): no result, a relaxation goes on from `checkpoint.json` next time
    21  another process works in this folder
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

# Beside this script lies a gpaw.py that is not GPAW: the folder must not be searched, and the rest is read by its path.
_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != _here]
_spec = importlib.util.spec_from_file_location("gpaw_physics", os.path.join(_here, "gpaw_physics.py"))
assert _spec is not None
assert _spec.loader is not None
physics: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(physics)
read, write = physics.read, physics.write

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


def main(folder: str) -> int:
    """Compute what `folder/task.json` asks for; return the exit code."""
    os.chdir(folder)
    lock = open("lock", "a+")  # noqa: SIM115 - held, and with it the folder, as long as the process lives
    rank = physics.rank()
    if rank == 0 and not take(lock):
        return EXIT_LOCKED
    if os.path.exists("result.json"):
        return EXIT_CODES[read("result.json")["status"]]
    signal.signal(signal.SIGTERM, stop)
    task = read("task.json")
    started = time.time()
    used = read("checkpoint.json").get("wall_time_s", 0.0) if os.path.exists("checkpoint.json") else 0.0
    set_limits(task, rank, started - used)
    try:
        result = physics.compute(task, started - used)
    except physics.Ended as end:
        result = {"status": end.status, "message": str(end)}
    except MemoryError as error:
        result = {"status": "out_of_memory", "message": f"more than {task['memory_gib']:g} GiB were needed: {error}"}
    except Exception as error:  # noqa: BLE001 - whatever it was, it is this calculation's and has to be written down
        import traceback

        traceback.print_exc()
        result = {"status": "failed", "message": f"{type(error).__name__}: {error}"}
    signal.setitimer(signal.ITIMER_REAL, 0)
    result["wall_time_s"] = time.time() - started + used
    if rank == 0:
        write("result.json", result)
        with contextlib.suppress(FileNotFoundError):
            os.remove("checkpoint.json")
    print(result["status"], result.get("message", ""), flush=True)
    return EXIT_CODES[result["status"]]


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
    """Bound time and memory of this process."""

    def end(status: str, message: str) -> NoReturn:
        # Not an exception: somebody's broad except might take it for one of his own. The checkpoint stays.
        if rank == 0:
            write("result.json", {"status": status, "message": message, "wall_time_s": time.time() - started})
        print(message, flush=True)
        os._exit(EXIT_CODES[status])

    share = task["memory_gib"] / task.get("cores", 1)  # of this rank

    def watch_memory() -> None:
        while True:
            time.sleep(0.1)
            if resident_gib() > share:
                end("out_of_memory", f"more than {task['memory_gib']:g} GiB were needed")

    signal.signal(signal.SIGALRM, lambda *_: end("walltime", f"not finished within {task['walltime_s']:g} s"))
    signal.setitimer(signal.ITIMER_REAL, task["walltime_s"])
    threading.Thread(target=watch_memory, daemon=True).start()
    # A refused allocation ends some libraries without a word, so the watch comes first, and this is for sudden leaps;
    # address space is always more than what is used.
    limit = int((2 * share + 1) * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def resident_gib() -> float:
    """Memory that this process has now."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**30
    except FileNotFoundError:  # not Linux: the most it ever had, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""A real `dask scheduler` and real `dask worker`s, each a process of its own, as somebody else starts them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from tests.peers.prefect_server import COMMANDS, ROOT

SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
}
HERE = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")


def scheduler(
    port: int, settings: Mapping[str, str] = SETTINGS, protocol: str = "tcp"
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run a scheduler."""
    return _dask("scheduler", "--protocol", protocol, "--port", str(port), *HERE, settings=settings)


def worker(
    port: int, *arguments: str, settings: Mapping[str, str] = SETTINGS, protocol: str = "tcp"
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run workers below a nanny, which end soon after their scheduler has."""
    which = arguments or ("--nthreads", "1")
    return _dask("worker", f"{protocol}://127.0.0.1:{port}", "--death-timeout", "60", *HERE, *which, settings=settings)


@contextmanager
def _dask(*arguments: str, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [str(COMMANDS / "dask"), *arguments],
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""Dask workers for the potential, from a cluster file. Workers never import Prefect nor touch the ledger."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cluster.pool import WorkerPool
from flows.cluster.settings import NO_PAGES, SETTINGS, WORKER_ENVIRONMENT
from flows.config.cluster import Workers
from materials.errors import ClusterError
from materials.secrets import secrets_hidden

if TYPE_CHECKING:
    from distributed import Client, LocalCluster, WorkerPlugin


LOCAL_S = 120.0  # within which a worker on this machine is back, however busy the machine
CONNECT_S = 30.0  # to reach somebody's scheduler
ATTEMPT_S = 5.0  # of that, one attempt
ADDRESS_S = 15.0  # a scheduler that grows with its work has workers by then
STARTS = 3  # of workers on this machine, until all are there
SUPPLY_S = 30.0  # between two attempts to start what is missing here


@contextmanager
def main_hidden() -> Iterator[None]:
    """Keep new worker processes from importing the program that runs here as their `__mp_main__`.

    Python's spawn does that with whatever `__main__` is, which under Prefect is Prefect's engine: seconds and some
    50 MiB for each worker, and a second Prefect client where none belongs. It lasts as long as workers may be replaced.
    """
    program = sys.modules["__main__"]
    kept = {name: value for name in ("__spec__", "__file__") if (value := getattr(program, name, None)) is not None}
    for name in kept:
        setattr(program, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(program, name, value)


@contextmanager
def open_workers(workers: Workers, *, folder: Path, say: Callable[[str], None]) -> Iterator[WorkerPool]:
    """Start the workers, or reach those that run already, and end what was started.

    Those that wait in a queue may come later: `WorkerPool.wait` waits for the first.

    Args:
        workers: What the cluster file says.
        folder: Logs of jobs go below it.
        say: Where a line for a person goes.

    Raises:
        ClusterError: The workers cannot be had.
    """
    import dask
    import distributed  # noqa: F401  # it loads its own settings, which would be lost with ours at the end

    for name in ("distributed", "distributed.client"):  # what dies is told once, by us: as a row, or as an error
        logging.getLogger(name).setLevel(logging.CRITICAL)
    opened = {"local": _local_workers, "slurm": _slurm_workers, "address": _others_workers}[workers.kind]
    with dask.config.set({**SETTINGS, **NO_PAGES}), opened(workers, folder, say) as pool:
        yield pool


@contextmanager
def _local_workers(workers: Workers, folder: Path, say: Callable[[str], None]) -> Iterator[WorkerPool]:
    from distributed import Client

    with (
        main_hidden(),
        _environment_kept(),
        secrets_hidden(),
        _local_cluster(workers) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_deaf_to_interrupts())
        yield WorkerPool(client, _Local(cluster))


@contextmanager
def _slurm_workers(workers: Workers, folder: Path, say: Callable[[str], None]) -> Iterator[WorkerPool]:
    try:
        from flows.cluster.slurm_workers import open_slurm_workers
    except ImportError as error:
        raise ClusterError(
            f"workers.kind: slurm needs dask-jobqueue, which cannot be imported ({error}): pip install 'assay[slurm]'"
        ) from None
    with open_slurm_workers(workers, folder, say) as pool:
        yield pool


@contextmanager
def _others_workers(workers: Workers, folder: Path, say: Callable[[str], None]) -> Iterator[WorkerPool]:
    assert workers.address is not None
    with _connected(workers.address) as client:
        found = client.run_on_scheduler(_settings_found())
        ahead = found["worker-saturation"] * found["threads"] <= 1
        if not ahead or found["allowed-failures"] > 1:
            say(
                f"The scheduler at {workers.address} runs with worker-saturation {found['worker-saturation']:g} and"
                f" allowed-failures {found['allowed-failures']}, its workers with up to {found['threads']} threads."
                " With 1.0, 1 and 1 a structure that kills its worker costs less (configs/clusters/address.yaml)."
            )
        yield WorkerPool(client, _Address(workers.address, ahead=ahead))


def _connected(address: str) -> Client:
    """Reach somebody's scheduler.

    Raises:
        ClusterError: None answers.
    """
    from distributed import Client

    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            # As long as this it would look for a scheduler that has died, too, before it lets us go.
            return Client(address, timeout=ATTEMPT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or time.monotonic() > deadline:
                raise ClusterError(f"workers.address: no Dask scheduler answers at {address}: {error}") from None
        except TypeError as error:
            raise ClusterError(
                f"workers.address: {address} cannot be used with the certificates that Dask's settings name here"
                f" ({error}); configs/clusters/address.yaml says which it wants"
            ) from None
        time.sleep(1)


class _Local:
    """Processes on this machine, which come back when they die."""

    ours_alone = ahead = True

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._count = len(cluster.worker_spec)
        self.most: int | None = self._count
        self._tried = time.monotonic()

    def title(self, present: int) -> str:
        return f"{self._count} workers"

    def check(self, present: int, paused: int, without_s: float) -> None:
        if without_s > LOCAL_S:
            raise ClusterError(
                f"All workers ended, and none could be started again within {LOCAL_S:g} s. Look whether memory or disk"
                " are full, and at what `assay doctor` says; the same command goes on from here."
            )
        now = time.monotonic()
        if present < self._count and now - self._tried > SUPPLY_S:  # one that nobody watches any more
            self._tried = now
            self._cluster.scale(self._count)


class _Address:
    """Workers of a scheduler that somebody else started, for us or for many."""

    most: int | None = None
    ours_alone = False

    def __init__(self, address: str, *, ahead: bool) -> None:
        self.address, self.ahead = address, ahead

    def title(self, present: int) -> str:
        return f"the {present} workers at {self.address}"

    def check(self, present: int, paused: int, without_s: float) -> None:
        if without_s > ADDRESS_S:
            found = f"{paused} workers, all paused for want of memory" if paused else "no workers"
            raise ClusterError(
                f"workers.address: the scheduler at {self.address} has had {found} for {ADDRESS_S:g} s; start some, and"
                " the same command goes on from here."
            )


def _settings_found() -> Any:
    # Nested, so that it travels as code: somebody's scheduler may know nothing of us.
    def found(dask_scheduler: Any = None) -> dict[str, Any]:
        return {
            "worker-saturation": dask_scheduler.WORKER_SATURATION,
            "allowed-failures": dask_scheduler.allowed_failures,
            "threads": max((worker.nthreads for worker in dask_scheduler.workers.values()), default=1),
        }

    return found


def _local_cluster(workers: Workers) -> LocalCluster:
    """Start workers on this machine: one a core, or with `device: cuda` one a GPU.

    Other users of the machine reach its loopback, too, and a scheduler runs what anybody sends it: each side shows a
    certificate of this run's own, which stays in the memory of these processes.

    Raises:
        ClusterError: A GPU is asked for, and dask-cuda or a driver is missing.
    """
    from distributed import Security

    options = {
        "security": Security.temporary(),
        "protocol": "tls",
        "threads_per_worker": 1,
        "memory_limit": int(workers.memory_gib * 2**30),
        "scheduler_kwargs": {"dashboard": False},
        "dashboard_address": "127.0.0.1:0",  # None is port 8787, of which the next campaign would warn
        "silence_logs": logging.CRITICAL,
    }
    if workers.device == "cpu":
        return _processes(workers.resolved_count(), options)
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ClusterError(
            f"workers.device: cuda needs dask-cuda, which cannot be imported ({error}): pip install 'assay[gpu]'"
        ) from None
    try:
        # Each worker sees its own GPU as the first one; torch's memory is torch's affair, so nothing is spilled.
        return LocalCUDACluster(n_workers=workers.count, device_memory_limit=None, **options)
    except Exception as error:  # NVML raises types of its own, by driver and version
        raise ClusterError(f"workers.device: no GPU can be used here: {type(error).__name__}: {error}") from error


def _processes(count: int, options: Mapping[str, Any]) -> LocalCluster:
    from distributed import LocalCluster

    for chance in range(STARTS):
        try:
            return LocalCluster(n_workers=count, processes=True, **options)
        except RuntimeError as error:  # one died before it was there, which Dask takes for the end of all
            died = f"A worker died as it started, {chance + 1} times in a row ({error})"
    raise ClusterError(f"{died}. Look whether memory is full, and at what `assay doctor` says.")


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what Dask sets in this process's environment for its workers to inherit: it is meant for them alone."""
    before = {name: os.environ[name] for name in WORKER_ENVIRONMENT if name in os.environ}
    try:
        yield
    finally:
        for name in WORKER_ENVIRONMENT:
            os.environ.pop(name, None)
        os.environ.update(before)


def _deaf_to_interrupts() -> WorkerPlugin:
    """Let Ctrl-C and a hang-up, which a terminal sends to all of its processes, end the campaign and not its workers.

    They end when the cluster is closed, and what they had finished by then is kept.
    """
    from distributed import WorkerPlugin

    class Deaf(WorkerPlugin):
        def setup(self, worker: object) -> None:
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)

    return Deaf()

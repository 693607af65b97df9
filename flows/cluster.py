"""Dask workers for the potential, from a cluster file. Workers never import Prefect nor touch the ledger."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.cluster_file import Workers
from materials.environment import secrets_hidden
from materials.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster, WorkerPlugin

# Without worker-saturation the innocent neighbours of a task that kills its worker are blamed with it;
# with the default lost-worker-timeout a worker that is slow to come back is dropped for good.
SETTINGS = {
    "distributed.scheduler.allowed-failures": 1,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.deploy.lost-worker-timeout": "5 minutes",
    "distributed.comm.timeouts.connect": "60s",
    "distributed.nanny.pre-spawn-environ": {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",  # a working directory that shadows models/ must not be imported
        "HF_HUB_OFFLINE": "1",  # matgl otherwise asks a hub at import
    },
}


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
def open_client(workers: Workers) -> Iterator[Client]:
    """Start the workers, or reach those that run already, and end what was started.

    Raises:
        ClusterError: The scheduler cannot be reached, or has no worker.
    """
    import dask
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a killed worker is told once, by us, as a row
    with dask.config.set(SETTINGS):
        if workers.kind == "address":
            if not workers.address:
                raise ClusterError(
                    "workers.address: is missing; kind: address needs the scheduler's, such as tcp://host:8786"
                )
            try:
                client = Client(workers.address, timeout="30s", set_as_default=False)
            except OSError as error:
                raise ClusterError(
                    f"workers.address: no Dask scheduler answers at {workers.address}: {error}"
                ) from None
            with client:
                if not client.scheduler_info(n_workers=-1)["workers"]:
                    raise ClusterError(
                        f"workers.address: the scheduler at {workers.address} has no workers; start some"
                    )
                yield client
            return
        with (
            main_hidden(),
            _environment_kept(),
            secrets_hidden(),
            _local_cluster(workers) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            client.register_plugin(_deaf_to_interrupts())
            yield client


def _local_cluster(workers: Workers) -> LocalCluster:
    """Start workers on this machine: one a core, or with `device: cuda` one a GPU.

    Raises:
        ClusterError: A GPU is asked for, and dask-cuda or a driver is missing.
    """
    options = {
        "threads_per_worker": 1,
        "memory_limit": int(workers.memory_gib * 2**30),
        "dashboard_address": "127.0.0.1:0",  # None is port 8787, of which the next campaign would warn
        "silence_logs": logging.CRITICAL,
    }
    if workers.device == "cpu":
        from distributed import LocalCluster

        return LocalCluster(n_workers=workers.resolved_count(), processes=True, **options)
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ClusterError(
            f"workers.device: cuda needs dask-cuda, which cannot be imported ({error}): pip install 'assay[gpu]'"
        ) from None
    try:
        # Each worker sees its own GPU as the first one; torch's memory is torch's affair, so nothing is spilled.
        return LocalCUDACluster(n_workers=workers.count, device_memory_limit=None, protocol="tcp", **options)
    except Exception as error:  # NVML raises types of its own, by driver and version
        raise ClusterError(f"workers.device: no GPU can be used here: {type(error).__name__}: {error}") from error


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what Dask sets in this process's environment for its workers to inherit: it is meant for them alone."""
    names = SETTINGS["distributed.nanny.pre-spawn-environ"]
    assert isinstance(names, dict)
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _deaf_to_interrupts() -> WorkerPlugin:
    """Let Ctrl-C, which a terminal sends to every process of the group, end the campaign and not its workers.

    They end when the cluster is closed, and what they had finished by then is kept.
    """
    import signal

    from distributed import WorkerPlugin

    class Deaf(WorkerPlugin):
        def setup(self, worker: object) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Deaf()

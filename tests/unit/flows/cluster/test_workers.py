"""What a user is told where workers cannot be had, or where none is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests
from distributed import Client, LocalCluster, Security
from distributed.comm import connect

from flows.cluster import pool as worker_pool
from flows.cluster import workers as cluster
from flows.cluster.pool import WorkerPool
from flows.cluster.workers import open_workers
from flows.config.cluster import Workers
from materials.errors import ClusterError

ROOT = Path(__file__).parents[4]
GPU = Workers(device="cuda", count=1, memory_gib=2)
ONE = Workers(count=1, memory_gib=1)


def quiet(line: str) -> None:
    pass


def checked_until(pool: WorkerPool, until: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        pool.check()
        time.sleep(0.05)


def test_dask_cuda_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with (
        pytest.raises(ClusterError, match=r"pip install 'assay\[gpu\]'"),
        open_workers(GPU, folder=tmp_path, say=quiet),
    ):
        pass


def test_one_worker_a_gpu_is_asked_for_and_a_missing_driver_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {}

    def no_driver(**options: object) -> None:
        asked.update(options)
        raise RuntimeError("NVML Shared Library Not Found")

    monkeypatch.setitem(sys.modules, "dask_cuda", types.SimpleNamespace(LocalCUDACluster=no_driver))
    with (
        pytest.raises(ClusterError, match=r"no GPU can be used here.*NVML"),
        open_workers(GPU, folder=tmp_path, say=quiet),
    ):
        pass
    assert (asked["n_workers"], asked["threads_per_worker"], asked["memory_limit"]) == (1, 1, 2 * 2**30)


def test_dask_jobqueue_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("flows.cluster.slurm_workers", "flows.cluster.slurm_cluster", "flows.cluster.jobqueue"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module in [name for name in sys.modules if name.startswith("dask_jobqueue")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with (
        pytest.raises(ClusterError, match=r"pip install 'assay\[slurm\]'"),
        open_workers(Workers(kind="slurm", count=1), folder=tmp_path, say=quiet),
    ):
        pass


def test_dask_jobqueue_leaves_ctrl_c_alone_and_loads_in_any_thread() -> None:
    pytest.importorskip("dask_jobqueue")
    program = """
import signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started without
def load():
    import flows.cluster.slurm_workers
    loaded.append(True)
loaded = []
thread = threading.Thread(target=load)
thread.start()
thread.join()
assert loaded
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def reached(address: str, security: Security) -> bool:
    """Whether a process of this machine can talk to a Dask process there."""

    async def talk() -> bool:
        try:
            comm = await connect(address, timeout=3, **security.get_connection_args("client"))
            await comm.write({"op": "identity", "reply": True})
            return "id" in await comm.read()
        except (OSError, TypeError, RuntimeError):  # refused there, or by our own side
            return False

    return asyncio.run(talk())


@pytest.mark.slow
def test_another_user_of_the_machine_reaches_neither_scheduler_nor_workers(tmp_path: Path) -> None:
    with open_workers(ONE, folder=tmp_path, say=quiet) as pool:
        assert pool.client.submit(abs, -1).result(timeout=60) == 1
        [(worker, told)] = pool.client.scheduler_info()["workers"].items()
        mine = pool.client.security
        for address in (pool.client.scheduler.address, worker, told["nanny"]):
            assert address.startswith("tls://127.0.0.1:")
            assert reached(address, mine)
            for anybody in (Security(), Security.temporary()):  # no certificate, and one that he made himself
                assert not reached(address, anybody)
                assert not reached(address.replace("tls:", "tcp:"), anybody)
        here = psutil.Process()
        for process in (here, *here.children(recursive=True)):
            assert mine.tls_client_key not in "".join([*process.cmdline(), *process.environ().values()])
            for socket in process.net_connections("tcp"):
                if socket.status == psutil.CONN_LISTEN:  # what tells of tasks to whoever asks by HTTP
                    for page in ("info/main/workers.html", "json/counts.json", "metrics", "status"):
                        with suppress(requests.RequestException):
                            assert not requests.get(f"http://127.0.0.1:{socket.laddr.port}/{page}", timeout=3).ok, page


@pytest.mark.slow
def test_two_campaigns_side_by_side_warn_of_nothing(tmp_path: Path) -> None:
    with (
        open_workers(ONE, folder=tmp_path, say=quiet) as here,
        open_workers(ONE, folder=tmp_path, say=quiet) as there,
    ):
        results = [pool.client.submit(abs, -1).result(timeout=60) for pool in (here, there)]
    assert results == [1, 1]


@pytest.mark.slow
def test_workers_that_cannot_start_again_are_an_error_and_no_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "LOCAL_S", 5.0)
    with open_workers(ONE, folder=tmp_path, say=quiet) as pool:
        pid = pool.client.submit(os.getpid).result(timeout=60)
        # No Python starts with this; the one that runs here has it behind it.
        monkeypatch.setenv("PYTHONHOME", "/nowhere")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match="none could be started again"):
            checked_until(pool, lambda: False, 60)
        monkeypatch.delenv("PYTHONHOME")


class _Steady:
    """Workers that are there, whatever happens."""

    most: int | None = None
    ours_alone = True
    ahead = False

    def title(self, present: int) -> str:
        return f"{present} workers"

    def check(self, present: int, paused: int, without_s: float) -> None:
        pass


def test_a_task_that_no_worker_can_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "STUCK_S", 1.0)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as one,
        Client(one, set_as_default=False) as client,
    ):
        pool = WorkerPool(client, _Steady())
        checked_until(pool, lambda: pool.present == 1)
        assert (pool.most, pool.window, pool.title()) == (1, 1, "1 workers")
        fine = client.submit(abs, -1, pure=False)
        checked_until(pool, fine.done)
        stuck = client.submit(abs, -1, pure=False, resources={"GPU": 1}, key="stuck")
        with pytest.raises(ClusterError, match=r"None of the 1 workers can run the task stuck: .*resource"):
            checked_until(pool, lambda: False)
        stuck.release()

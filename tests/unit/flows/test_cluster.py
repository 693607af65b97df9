"""What a user is told where a GPU is asked for and cannot be had."""

from __future__ import annotations

import sys
import types

import pytest

from flows.cluster import open_workers
from flows.cluster_file import Workers
from materials.errors import ClusterError

GPU = Workers(device="cuda", count=1, memory_gib=2)


def test_dask_cuda_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with pytest.raises(ClusterError, match=r"pip install 'assay\[gpu\]'"), open_workers(GPU):
        pass


def test_one_worker_a_gpu_is_asked_for_and_a_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def cluster(**options: object) -> None:
        asked.update(options)
        raise RuntimeError("NVML Shared Library Not Found")

    monkeypatch.setitem(sys.modules, "dask_cuda", types.SimpleNamespace(LocalCUDACluster=cluster))
    with pytest.raises(ClusterError, match=r"no GPU can be used here.*NVML"), open_workers(GPU):
        pass
    assert (asked["n_workers"], asked["threads_per_worker"], asked["memory_limit"]) == (1, 1, 2 * 2**30)


@pytest.mark.slow
def test_two_campaigns_side_by_side_warn_of_nothing() -> None:
    one = Workers(count=1, memory_gib=1)
    with open_workers(one) as here, open_workers(one) as there:
        assert here.submit(abs, -1).result(timeout=60) == there.submit(abs, 1).result(timeout=60) == 1

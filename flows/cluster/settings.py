"""Settings of Dask workers and schedulers, wherever they are started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What every worker process finds in its environment, wherever it is started.
WORKER_ENVIRONMENT: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONSAFEPATH": "1",  # a working directory that shadows models/ must not be imported
    "HF_HUB_OFFLINE": "1",  # matgl otherwise asks a hub at import
}
# Results are fetched at once, so that there is nothing to spill; and a worker that pauses for want of memory, which
# it does long before it is ended, would never take a task again, and no other take its place.
WORKER_SETTINGS: Mapping[str, Any] = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
}
# Without worker-saturation the innocent neighbours of a task that kills its worker are blamed with it;
# with the default lost-worker-timeout a worker that is slow to come back is dropped for good.
SETTINGS: Mapping[str, Any] = {
    "distributed.scheduler.allowed-failures": 1,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.deploy.lost-worker-timeout": "5 minutes",
    "distributed.comm.timeouts.connect": "60s",
    "distributed.nanny.pre-spawn-environ": dict(WORKER_ENVIRONMENT),
    **WORKER_SETTINGS,
}
# Of clusters that we start nobody looks at the pages, which show tasks to whoever asks.
NO_PAGES: Mapping[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}

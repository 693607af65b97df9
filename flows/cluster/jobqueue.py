"""dask-jobqueue's Slurm cluster, without its runners.

Their module makes Ctrl-C end the process at once, with exit code 0 and no word, as soon as it is imported; and in
another thread than the first one, such as Prefect's, that import fails. Nothing of it is needed.
"""

from __future__ import annotations

import sys
import types

_RUNNER = "dask_jobqueue.runner"

if _RUNNER in sys.modules:
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob
else:
    stub = types.ModuleType(_RUNNER)
    stub.Role = stub.BaseRunner = object  # type: ignore[attr-defined]
    sys.modules[_RUNNER] = stub
    try:
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    finally:
        del sys.modules[_RUNNER]

__all__ = ["SLURMCluster", "SLURMJob"]

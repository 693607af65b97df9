"""What a cluster file may say: all the hardware, none of the science."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from flows.section import Section


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(Section):
    """The Dask workers that carry the potential."""

    kind: Literal["local", "address"] = Field(
        default="local",
        title="Kind",
        description="local: processes on this machine; address: a Dask scheduler that runs already.",
    )
    count: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        title="Workers",
        description="Processes, one thread each. Empty: one for each core; with device cuda, one for each GPU.",
    )
    memory_gib: float = Field(
        default=4.0, gt=0, title="Memory of a worker (GiB)", description="A worker above it is ended and replaced."
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", title="Device", description="Where the potential runs.")
    address: str | None = Field(
        default=None, title="Scheduler address", description="For kind address, such as tcp://10.0.0.5:8786."
    )

    def resolved_count(self) -> int:
        """Number of worker processes to start."""
        return self.count or _cores()


class DFTJobs(Section):
    """The processes that run DFT."""

    concurrent: int | None = Field(
        default=None, ge=1, title="At once", description="Calculations at once. Empty: one for each `cores` cores."
    )
    cores: int = Field(
        default=1, ge=1, title="Cores of a calculation", description="MPI ranks; more than 1 needs mpirun."
    )
    memory_gib: float = Field(default=8.0, gt=0, title="Memory of a calculation (GiB)")
    walltime_s: float = Field(default=3600.0, gt=0, title="Walltime of a calculation (s)")

    def resolved_concurrent(self) -> int:
        """Number of calculations to run at once."""
        return self.concurrent or max(1, _cores() // self.cores)


class Cluster(Section):
    """Where things run."""

    workers: Workers = Field(default=Workers(), title="Workers")
    dft: DFTJobs = Field(default=DFTJobs(), title="DFT jobs")

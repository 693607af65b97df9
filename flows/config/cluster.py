"""Cluster files: pydantic models of all the hardware, and none of the science."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Literal

from pydantic import Field, field_validator, model_validator

from flows.config.section import Section
from models.dft.base import Limits


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


# What a job of ours itself says to sbatch: more would make it another job.
OURS = frozenset(
    {"--job-name", "-J", "--output", "-o", "--error", "-e", "--open-mode", "--export", "--export-file", "--chdir", "-D"}
    | {"--array", "-a", "--wrap", "--requeue", "--no-requeue", "--time", "-t", "--mem", "--parsable", "--test-only"}
)


class Queue(Section):
    """How a job asks a queueing system for its place."""

    queue: str | None = Field(default=None, title="Queue", description="The partition. Empty: the default one.")
    account: str | None = Field(default=None, title="Account", description="Who is charged. Empty: the default one.")
    options: list[str] = Field(
        default=[],
        title="Further options",
        description='More options of sbatch, such as "--gres=gpu:1" or "--qos=long".',
    )
    set_up: list[str] = Field(
        default=[],
        title="Set-up lines",
        description='Shell lines that run in the job first, such as "module load gpaw" or "source .venv/bin/activate".',
    )
    container: list[str] = Field(
        default=[],
        title="Container",
        description="The command that runs another inside of a container, word by word, such as "
        "[apptainer, exec, assay.sif]. Empty: none.",
    )

    @field_validator("queue", "account")
    @classmethod
    def _one_word(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.,:/@+-]+", value):
            raise ValueError("takes one word")
        return value

    @field_validator("options")
    @classmethod
    def _one_line_each(cls, value: list[str]) -> list[str]:
        if any(not option.isprintable() or not option for option in value):
            raise ValueError("takes options of one line each")
        for option in value:
            word = re.split(r"[= ]", option)[0]
            if not option.startswith("-") or word in OURS or (not word.startswith("--") and word[:2] in OURS):
                raise ValueError(f"{option!r} is not an option that may be given here")
        return value


class Workers(Queue):
    """The Dask workers that carry the potential."""

    kind: Literal["local", "slurm", "address"] = Field(
        default="local",
        title="Kind",
        description="local: processes on this machine; slurm: jobs of a queue, as many as there is work for; "
        "address: a Dask scheduler that runs already.",
    )
    count: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        title="Workers",
        description="Processes, one thread each; with kind slurm, the most jobs at once, each with one worker. "
        "Empty: one for each core here; with device cuda, one for each GPU.",
    )
    minimum: int = Field(
        default=1,
        ge=0,
        le=1024,
        title="Fewest workers",
        description="For kind slurm: jobs that stay while little is to do.",
    )
    memory_gib: float = Field(
        default=4.0, gt=0, title="Memory of a worker (GiB)", description="A worker above it is ended and replaced."
    )
    walltime_s: float = Field(
        default=3600.0,
        ge=300,
        title="Walltime of a worker (s)",
        description="For kind slurm: a worker ends itself before it, and another takes its place.",
    )
    wait_s: float = Field(
        default=3600.0,
        gt=0,
        title="Wait for a worker (s)",
        description="How long the first worker may wait in a queue before the campaign gives up.",
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        title="Device",
        description="Where the potential runs. With kind slurm, options such as --gres=gpu:1 ask for the GPU.",
    )
    address: str | None = Field(
        default=None, title="Scheduler address", description="For kind address, such as tls://10.0.0.5:8786."
    )
    interface: str | None = Field(
        default=None,
        title="Network interface",
        description="For kind slurm: by which nodes reach this machine, such as ib0. Empty: found by itself. "
        "The Dask scheduler listens there, the only server that listens on more than loopback; it speaks TLS, and only "
        "to those who show a certificate that is made for the run and lies in its folder.",
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Workers:
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("kind: address and address: tls://HOST:PORT (or tcp://) go together")
        if self.kind != "slurm" and (self.queue or self.account or self.options or self.set_up or self.container):
            raise ValueError("queue, account, options, set_up and container are for kind: slurm")
        if self.kind == "slurm" and self.minimum > self.resolved_count():
            raise ValueError(f"minimum ({self.minimum}) is above count ({self.resolved_count()})")
        return self

    def resolved_count(self) -> int:
        """Number of worker processes to start."""
        return self.count or cores()


class DFTJobs(Queue):
    """The processes that run DFT."""

    kind: Literal["local", "slurm"] = Field(
        default="local", title="Kind", description="local: processes on this machine; slurm: jobs of a queue."
    )
    concurrent: int | None = Field(
        default=None,
        ge=1,
        title="At once",
        description="Calculations at once, those that wait in a queue too. "
        "Empty: one for each `cores` cores here; with kind slurm, 20.",
    )
    cores: int = Field(
        default=1, ge=1, title="Cores of a calculation", description="MPI ranks; more than 1 needs `mpi`."
    )
    memory_gib: float = Field(
        default=8.0,
        gt=0,
        title="Memory of a calculation (GiB)",
        description="All of its ranks together. What needs more is sent again with twice as much.",
    )
    max_memory_gib: float | None = Field(
        default=None,
        gt=0,
        title="Largest memory of a calculation (GiB)",
        description="Where doubling ends. Empty: four times the memory; with kind local no more than this machine has.",
    )
    walltime_s: float = Field(
        default=3600.0,
        gt=0,
        title="Walltime of a calculation (s)",
        description="What needs longer is sent again from its checkpoint with twice as much. "
        "With kind slurm the job asks for this in whole minutes and one more: the calculation ends itself first.",
    )
    max_walltime_s: float | None = Field(
        default=None,
        gt=0,
        title="Longest walltime of a calculation (s)",
        description="Where doubling ends, such as a minute or two less than the partition's limit. "
        "Empty: four times the walltime.",
    )
    mpi: list[str] = Field(
        default=["mpirun", "-np", "{cores}"],
        title="MPI command",
        description="Starts the ranks, word by word; {cores} is their number. On Slurm often [srun].",
    )

    @model_validator(mode="after")
    def _makes_a_job(self) -> DFTJobs:
        if self.kind == "local" and (self.queue or self.account or self.options):
            raise ValueError("queue, account and options are for kind: slurm")
        for name in ("memory_gib", "walltime_s"):
            least, most = getattr(self, name), getattr(self, f"max_{name}")
            if most is not None and most < least:
                raise ValueError(f"max_{name} ({most:g}) is below {name} ({least:g})")
        return self

    def limits(self) -> Limits:
        """What a calculation gets at first."""
        return Limits(cores=self.cores, walltime_s=self.walltime_s, memory_gib=self.memory_gib, mpi=tuple(self.mpi))

    def most(self) -> Limits:
        """What a calculation that needs more may get."""
        memory = self.max_memory_gib or 4 * self.memory_gib
        if self.max_memory_gib is None and self.kind == "local":
            memory = max(self.memory_gib, min(memory, _memory_gib()))
        return replace(self.limits(), walltime_s=self.max_walltime_s or 4 * self.walltime_s, memory_gib=memory)

    def resolved_concurrent(self) -> int:
        """Number of calculations to have under way at once."""
        if self.concurrent is not None:
            return self.concurrent
        return 20 if self.kind == "slurm" else max(1, cores() // self.cores)


class Cluster(Section):
    """Where things run."""

    workers: Workers = Field(default=Workers(), title="Workers")
    dft: DFTJobs = Field(default=DFTJobs(), title="DFT jobs")

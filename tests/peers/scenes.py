"""Ways to run a campaign for somebody who kills its processes: who can be killed, and how it goes on afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import yaml
from distributed import Client

from tests.peers import dask_processes
from tests.peers.campaign_folder import CampaignFolder
from tests.peers.prefect_server import COMMANDS, ROOT, end
from tests.peers.slurm import _free_ports
from tests.peers.waiting import soon

FLOW, DASK_WORKER, DASK_SCHEDULER, DFT, PREFECT_WORKER = VICTIMS = (
    "flow",
    "Dask worker",
    "Dask scheduler",
    "DFT process",
    "Prefect worker",
)
WORKERS = 2
JOIN_S = 120.0  # within which they have joined their scheduler, on a busy machine too
NOTICE_S = 120.0  # within which a flow says that its scheduler is dead, its imports and 30 s of trying included
GONE_S = 30.0  # until what was killed has ended


class Scene(Protocol):
    """A campaign on its way.

    Attributes:
        victims: Who can be killed in it.
        place: Where it lies.
    """

    victims: tuple[str, ...]
    place: CampaignFolder

    def start(self) -> bool:
        """Start what is not running, as a person would; return whether the flow was among it."""
        ...

    def is_running(self) -> bool:
        """Whether all is there that should be."""
        ...

    def is_done(self) -> bool:
        """Whether the flow has ended as it should.

        Raises:
            AssertionError: It has ended of itself, and not as it should.
        """
        ...

    def find(self, victim: str) -> list[list[psutil.Process]]:
        """Who lives of a kind: lists of those that die together."""
        ...

    def after(self, victim: str) -> str:
        """Wait for what a kill leads to; return what did not come, in words."""
        ...

    def told(self) -> str:
        """What the flow has said since its last start."""
        ...

    def close(self) -> None:
        """End what is left."""
        ...


class CommandLine:
    """`assay run` with workers of its own."""

    victims: tuple[str, ...] = (FLOW, DASK_WORKER, DFT)

    def __init__(self, place: CampaignFolder) -> None:
        self.place, self.number = place, 0
        self.cluster: Mapping[str, Any] = {"kind": "local", "count": WORKERS}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> bool:
        self.number += 1
        cluster = self.place.folder / "cluster.yaml"
        cluster.write_text(yaml.safe_dump({"workers": dict(self.cluster), "dft": {"concurrent": WORKERS}}))
        ours = ("PREFECT_", "ASSAY_", "DASK_")  # they would send the campaign elsewhere
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        with self._output().open("wb") as output:
            self.process = subprocess.Popen(
                [str(COMMANDS / "assay"), "run", str(self.place.campaign), "--cluster", str(cluster)],
                cwd=self.place.folder,
                env=environment | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | self.place.settings,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return True

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_done(self) -> bool:
        code = self.process.poll() if self.process is not None else None
        assert code in (None, 0, -signal.SIGKILL), f"assay run ended with {code}: {self.told()[-3000:]}"
        return code == 0

    def find(self, victim: str) -> list[list[psutil.Process]]:
        assert self.process is not None
        if victim == FLOW:
            return [[psutil.Process(self.process.pid)]]
        if victim == DFT:
            return [[process] for process in self.place.calculations().values()]
        return dask_workers(self.process.pid)

    def after(self, victim: str) -> str:
        if victim == FLOW and not soon(lambda: not self.is_running(), GONE_S):
            return "the flow goes on after a kill -9"
        return ""

    def told(self) -> str:
        return self._output().read_text(errors="replace") if self.number else ""

    def close(self) -> None:
        if self.process is not None:
            end(self.process)
        self.place.close()

    def _output(self) -> Path:
        return self.place.folder / f"output-{self.number}.txt"


class Address(CommandLine):
    """`assay run` with a Dask scheduler and workers that somebody else has started."""

    victims = (FLOW, DASK_WORKER, DASK_SCHEDULER, DFT)

    def __init__(self, place: CampaignFolder) -> None:
        super().__init__(place)
        self.port = _free_ports(1)[0]
        self.cluster = {"kind": "address", "address": f"tcp://127.0.0.1:{self.port}"}
        self.dask = ExitStack()
        self.scheduler: subprocess.Popen[bytes] | None = None

    def start(self) -> bool:
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.dask.close()
            self.scheduler = self.dask.enter_context(dask_processes.scheduler(self.port))
            self.workers = self.dask.enter_context(
                dask_processes.worker(self.port, "--nworkers", str(WORKERS), "--nthreads", "1")
            )
            # Whoever starts a cluster waits for its workers; a campaign gives up on one without any after 15 s.
            with Client(self.cluster["address"], timeout=JOIN_S) as client:
                client.wait_for_workers(WORKERS, timeout=JOIN_S)
        return super().start()

    def find(self, victim: str) -> list[list[psutil.Process]]:
        assert self.scheduler is not None
        if victim == DASK_SCHEDULER:
            return [[psutil.Process(self.scheduler.pid)]]
        return dask_workers(self.workers.pid) if victim == DASK_WORKER else super().find(victim)

    def after(self, victim: str) -> str:
        if victim != DASK_SCHEDULER:
            return super().after(victim)
        assert self.process is not None
        if not soon(lambda: not self.is_running() or "\nScreened" in self.told(), NOTICE_S):
            return f"the flow did not notice within {NOTICE_S:g} s that its scheduler was dead"
        code, said = self.process.poll(), self.told()
        if code is None:
            return ""  # it needs none any more
        self.process = None
        if code != 1 or "Dask scheduler" not in said.splitlines()[-1] or "Traceback" in said:
            return f"its scheduler dead, the flow ended with {code}: {said[-1000:]}"
        return ""

    def close(self) -> None:
        super().close()
        self.dask.close()


def dask_workers(pid: int) -> list[list[psutil.Process]]:
    """Dask's workers below a flow or a nanny: what multiprocessing has started for it."""
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(pid).children(recursive=True)
        return [[process] for process in below if "spawn_main" in " ".join(process.cmdline())]
    return []

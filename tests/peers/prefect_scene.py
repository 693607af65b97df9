"""A campaign that a Prefect worker runs, for somebody who kills flow and worker: the third of the ways in scenes.py."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings

from flows.config.campaign import Campaign
from flows.config.load import load_campaign
from flows.orchestration.crashes import BEGIN, call_silence_a_crash
from tests.peers.campaign_folder import CampaignFolder
from tests.peers.prefect_server import Prefect, running
from tests.peers.scenes import DASK_WORKER, DFT, FLOW, PREFECT_WORKER, WORKERS, dask_workers
from tests.peers.waiting import soon

CRASHED_S = 90.0  # within which a server shows that a run is dead; one that has not begun has more time


class Server:
    """A Prefect server with the flow deployed, for one campaign after the other."""

    def __init__(self, prefect: Prefect) -> None:
        self.prefect = prefect
        prefect.run("prefect", "work-pool", "create", "assay", "--type", "process")
        prefect.run("prefect", "--no-prompt", "deploy", "--prefect-file", "deploy/prefect.yaml", "--all")
        with temporary_settings(prefect.client_settings()), get_client(sync_client=True) as client:
            call_silence_a_crash(client)  # as `assay up` does; without it, the first run that begins does it
        self.deployment_id = prefect.get("/deployments/name/discover/quickstart")["id"]


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Start one."""
    folder.mkdir(parents=True)
    with running(folder, {}) as prefect:
        yield Server(prefect)


class Deployed:
    """A deployed flow that a Prefect worker runs; the worker dies alone, or together with the run that it carries."""

    victims = (FLOW, DASK_WORKER, DFT, PREFECT_WORKER)

    def __init__(self, place: CampaignFolder, server: Server) -> None:
        self.place, self.server, self.prefect = place, server, server.prefect
        self.flow_run_id = ""
        self.stack = ExitStack()
        self.worker: subprocess.Popen[bytes] | None = None
        self.dead = False  # the run was killed

    def start(self) -> bool:
        if self.worker is None or self.worker.poll() is not None:
            # The dead one is not tidied up yet: its run may live, in its process group.
            self.prefect.environment |= self.place.settings
            name = f"worker-{self.place.folder.name}-{time.monotonic_ns()}"
            command = ("prefect", "worker", "start", "--pool", "assay")
            self.worker = self.stack.enter_context(self.prefect.start(name, *command))
        if self.flow_run_id and not self.dead:
            return False
        for process in self._flow():  # dead to the server, and going on
            process.kill()
        campaign = Campaign.model_dump(load_campaign(self.place.campaign), mode="json", exclude_none=True)
        cluster = {"workers": {"count": WORKERS}, "dft": {"concurrent": WORKERS}}
        content = {"parameters": {**campaign, "cluster": cluster}}
        run = self.prefect.post(f"/deployments/{self.server.deployment_id}/create_flow_run", content)
        self.flow_run_id, self.dead = str(run["id"]), False
        return True

    def is_running(self) -> bool:
        return self.worker is not None and self.worker.poll() is None and not self.dead

    def is_done(self) -> bool:
        if not self.flow_run_id or self.dead:
            return False
        state, message = self.prefect.state(self.flow_run_id)
        assert state in ("SCHEDULED", "PENDING", "RUNNING", "COMPLETED"), f"{state}: {message}: {self.told()[-3000:]}"
        return state == "COMPLETED"

    def find(self, victim: str) -> list[list[psutil.Process]]:
        if victim == DFT:
            return [[process] for process in self.place.calculations().values()]
        flow = self._flow()
        if victim == PREFECT_WORKER:
            assert self.worker is not None
            worker = psutil.Process(self.worker.pid)
            return [[worker], [worker, *flow]]
        if victim == FLOW:
            return [flow] if flow else []
        return [one for process in flow for one in dask_workers(process.pid)]

    def after(self, victim: str) -> str:
        if victim not in (FLOW, PREFECT_WORKER):
            return ""
        killed, before = time.monotonic(), self._state()
        patience = CRASHED_S if before == "RUNNING" else BEGIN.total_seconds() + 20
        soon(lambda: self._state() in ("CRASHED", "COMPLETED", "SCHEDULED"), patience)
        state = self._state()
        self.dead = state not in ("COMPLETED", "SCHEDULED")
        if self.dead and state != "CRASHED":
            return f"{patience:g} s after the {victim} was killed the server shows {state}, not CRASHED"
        print(f"    {before}, {state} after {time.monotonic() - killed:.0f} s", flush=True)
        return ""

    def told(self) -> str:
        return "\n".join(self.prefect.logs(self.flow_run_id)) if self.flow_run_id else ""

    def close(self) -> None:
        self.stack.close()
        for process in self._flow():
            process.kill()
        self.place.close()

    def _state(self) -> str:
        return self.prefect.state(self.flow_run_id)[0]

    def _flow(self) -> list[psutil.Process]:
        """The run's process, whoever started it: a list of one, or of none."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if "prefect.engine" in (process.info["cmdline"] or []):
                with suppress(psutil.Error):
                    if self.flow_run_id and self.flow_run_id in process.environ().values():
                        found.append(process)
        return found

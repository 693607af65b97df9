"""Workers of somebody else's scheduler: real `dask scheduler` and `dask worker` processes, some of which die."""

from __future__ import annotations

import logging
import os
import queue
import stat
import subprocess
import time
from collections.abc import Callable
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any

import dask
import pytest

from flows.cluster import workers as cluster
from flows.config.cluster import Workers
from flows.stages import screen as screening
from flows.stages.screen import screen
from materials.errors import ClusterError
from tests.integration.conftest import candidate
from tests.peers.dask_processes import ROOT, SETTINGS, scheduler, worker
from tests.peers.slurm import _free_ports

pytestmark = pytest.mark.slow


@pytest.fixture
def port() -> int:
    return _free_ports(1)[0]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "CHUNK_S", 0.5)
    monkeypatch.setattr(screening, "LEAST_SITES", 3)
    monkeypatch.setattr(screening, "FIRST_CHUNK_SITES", 3)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's start takes long on a busy machine."""
    monkeypatch.setattr(cluster, "ADDRESS_S", 60.0)


def hardware(port: int) -> Workers:
    return Workers(kind="address", address=f"tcp://127.0.0.1:{port}")


def done(run: Any) -> int:
    identity = run.potential_identity
    return len(run.ledger.computed(identity.method, identity.level_of_theory, run.screening_hash))


def after(run: Any, batches: int, action: Callable[[], None]) -> None:
    keep = run.ledger.add_calculations
    left = batches

    def kept(calculations: Any) -> None:
        nonlocal left
        keep(calculations)
        left -= 1
        if left == 0:
            action()

    run.ledger.add_calculations = kept


def test_a_scheduler_that_dies_is_told_in_seconds_and_the_next_one_goes_on(make_run: Any, port: int) -> None:
    candidates = [candidate(symbol, 3.4 + 0.02 * i) for i in range(15) for symbol in ("Cu", "Ag")]
    run = make_run("Slow", candidates, hardware(port))
    killed: list[float] = []
    told: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logging.getLogger("distributed").addHandler(QueueHandler(told))
    with scheduler(port) as process, worker(port), worker(port):
        after(run, 2, lambda: (process.kill(), killed.append(time.monotonic())))
        with pytest.raises(ClusterError, match=r"Dask scheduler is lost.*the same command goes on"):
            screen(run)
        assert time.monotonic() - killed[0] < 60  # not the minutes that Dask itself tries for
    assert told.empty(), told.get().getMessage()  # a traceback on the user's terminal
    assert 0 < done(run) < 30
    before = done(run)
    with scheduler(port), worker(port):
        assert screen(run) == 30 - before
    assert done(run) == 30
    assert not run.ledger.failures(run.campaign_id)


def test_no_workers_at_the_start_or_later_is_an_error_in_seconds(
    make_run: Any, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ADDRESS_S", 4.0)
    run = make_run("Slow", [candidate("Cu", 3.4 + 0.005 * i) for i in range(60)], hardware(port))
    nobody = ClusterError, f"scheduler at tcp://127.0.0.1:{port} has had no workers for 4 s"
    with scheduler(port):
        with pytest.raises(nobody[0], match=nobody[1]):
            screen(run)
        with worker(port) as only:
            monkeypatch.setattr(cluster, "ADDRESS_S", 60.0)
            after(run, 2, lambda: (only.terminate(), monkeypatch.setattr(cluster, "ADDRESS_S", 4.0)))
            with pytest.raises(nobody[0], match=nobody[1]):
                screen(run)
    assert 0 < done(run) < 60
    assert not run.ledger.failures(run.campaign_id)


def test_nobody_there_is_told_with_the_address(make_run: Any, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 2.0)
    run = make_run("Balls", [candidate("Cu", 3.6)], hardware(port))
    with pytest.raises(ClusterError, match=f"no Dask scheduler answers at tcp://127.0.0.1:{port}"):
        screen(run)


def exported(folder: Path) -> dict[str, str]:
    """What the commands for certificates in configs/clusters/address.yaml leave in the environment."""
    lines = [
        line[4:] for line in (ROOT / "configs/clusters/address.yaml").read_text().splitlines() if line[:4] == "#   "
    ]
    told = lines[: lines.index("done") + 1]
    done = subprocess.run(
        ["bash", "-ec", "\n".join([*told, "env -0"])],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(pair.partition("=")[::2] for pair in done.stdout.split("\0"))
    return {name: value for name, value in found.items() if name.startswith("DASK_")}


def test_with_certificates_as_the_cluster_file_says_and_without(
    make_run: Any, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 3.0)
    certificates = exported(tmp_path)
    assert stat.S_IMODE((tmp_path / "dask-key.pem").stat().st_mode) == 0o600
    settings = SETTINGS | certificates
    hardware = Workers(kind="address", address=f"tls://127.0.0.1:{port}")
    run = make_run("Balls", [candidate("Cu", 3.6)], hardware)
    with scheduler(port, settings, "tls"), worker(port, settings=settings, protocol="tls"):
        with pytest.raises(ClusterError, match=r"certificates that Dask's settings name here .*address\.yaml"):
            screen(run)
        here = {name.removeprefix("DASK_").replace("__", ".").lower(): value for name, value in certificates.items()}
        with dask.config.set({name: dask.config.interpret_value(value) for name, value in here.items()}):
            assert screen(run) == 1


def test_neighbours_are_not_blamed_where_workers_are_shared_and_settings_dasks_own(make_run: Any, port: int) -> None:
    said: list[str] = []
    healthy = [candidate(symbol, 3.4 + 0.02 * i) for i in range(4) for symbol in ("Cu", "Ni", "Ag")]
    killer = candidate("Xe", 3.6)
    run = make_run("Poisoned", [*healthy, killer], hardware(port), said.append)
    with scheduler(port, {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}), worker(port, "--nthreads", "4"):
        assert screen(run) == 13
    failures = {failure.material_id: failure.message for failure in run.ledger.failures(run.campaign_id)}
    assert set(failures) == {killer.material_id}
    assert "died" in failures[killer.material_id]
    assert any("worker-saturation 1.1 and allowed-failures 1" in line for line in said)

"""`assay doctor --cluster`: starts one worker and one small DFT job on a cluster, and checks both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING
from uuid import uuid4

from flows.cluster.workers import open_workers
from flows.commands.doctor import Check
from flows.commands.probe import Surroundings, look_around, source_hash
from flows.config.cluster import Cluster, DFTJobs, Workers
from flows.run.versions import versions
from materials.errors import AssayError, CodeNotInstalled
from materials.plain_text import duration

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from models.dft.base import DFTCode, DFTResult

# What has to be the same on both sides for a task to travel, or for its numbers to mean the same.
AS_HERE = ("python", "assay", "dask", "chgnet", "matgl", "torch")


def examine_cluster(cluster: Cluster, *, folder: Path, say: Callable[[str], None]) -> list[Check]:
    """Start one worker and one DFT calculation of a second or two, and say what was found.

    Args:
        cluster: What the cluster file says.
        folder: Below it the jobs work; on a disk that they see.
        say: Told how the wait goes.
    """
    found = _examine_workers(cluster.workers, folder, say)
    found.append(_examine_dft(cluster.dft, folder, say, wait_s=cluster.workers.wait_s + cluster.dft.walltime_s))
    return found


def _examine_workers(workers: Workers, folder: Path, say: Callable[[str], None]) -> list[Check]:
    one = workers if workers.kind == "address" else workers.model_copy(update={"count": 1, "minimum": 1})
    start = time.monotonic()
    try:
        with open_workers(one, folder=folder, say=say) as pool:
            pool.wait()
            waited = time.monotonic() - start
            there: Surroundings = pool.call(look_around, workers.device)
    except AssayError as error:
        return [Check(name="worker", ok=False, found=str(error), fix="see `workers` in the cluster file")]
    except ImportError as error:
        fix = "install the same Assay there, or name its folder in PYTHONPATH by a line of `set_up`"
        return [Check(name="worker", ok=False, found=f"cannot import what it is to run: {error}", fix=fix)]
    where = f"{there.python} on {there.host}" + (f", job {there.job}" if there.job else "")
    cores = f"{there.cores} core{'s' if there.cores > 1 else ''}"
    return [
        Check(name="worker", ok=True, found=f"there after {duration(waited)}: {where}, {cores}"),
        _device(workers, there),
        _versions(there),
        *[replace(check, name=f"worker: {check.name}") for check in there.checks],
    ]


def _device(workers: Workers, there: Surroundings) -> Check:
    found = ", ".join(there.devices) or "no CUDA device"
    return Check(
        name="worker: device",
        ok=workers.device == "cpu" or bool(there.devices),
        found=f"{found}; the potential is to run on the {'GPU' if workers.device == 'cuda' else 'CPU'}",
        fix="ask for a GPU (workers.options: [--gres=gpu:1]), and see that its driver is there",
    )


def _versions(there: Surroundings) -> Check:
    here = versions()
    differing = {
        name: f"{name} {there.versions.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in sorted(here.keys() | there.versions.keys())
        if here.get(name) != there.versions.get(name)
    }
    if there.source != source_hash():
        differing["assay"] = "Assay's own code is another there than here"
    weighty = [name for name in AS_HERE if name in differing]
    same = ", ".join(f"{name} {here[name]}" for name in (*AS_HERE, "gpaw") if name in here and name not in differing)
    return Check(
        name="worker: versions",
        ok=not differing,
        found="; ".join(differing.values()) or f"as here: {same}",
        fix="install the same on both sides",
        needed=bool(weighty),
    )


def _examine_dft(hardware: DFTJobs, folder: Path, say: Callable[[str], None], *, wait_s: float) -> Check:
    """Run a calculation of a second or two as a campaign would."""
    from models.dft.registry import CodeChoice, open_code

    code = open_code(CodeChoice(name="gpaw"))
    where = folder / f"doctor-{uuid4().hex[:8]}"
    start = time.monotonic()
    try:
        result, log = _compute(code, hardware, where, say, wait_s)
    except CodeNotInstalled as error:
        return Check(name="DFT job", ok=False, found="GPAW, with which it is tried, is not here", fix=str(error))
    except (AssayError, OSError) as error:
        return Check(name="DFT job", ok=False, found=str(error), fix="see `dft` in the cluster file")
    took = time.monotonic() - start
    if result is None:
        found = f"no result within {duration(took)}; the job was taken back"
        return Check(name="DFT job", ok=False, found=found, fix="ask for less, or another queue; or wait longer")
    if result.status != "converged":
        found = f"{result.status}: {result.message}"
        return Check(name="DFT job", ok=False, found=found, fix=f"its files are in {where}")
    rmtree(where, ignore_errors=True)
    ranks = f"{hardware.cores} rank{'s' if hardware.cores > 1 else ''}"
    waited = f"{duration(max(took - result.wall_time_s, 0.0))} in the queue and around it"
    found = f"GPAW {code.version()} computed aluminium in {duration(result.wall_time_s)} with {ranks}, after {waited}"
    return Check(name="DFT job", ok=True, found=f"{found}, on {_place(log)}")


def _compute(
    code: DFTCode, hardware: DFTJobs, where: Path, say: Callable[[str], None], wait_s: float
) -> tuple[DFTResult | None, list[str]]:
    """Compute aluminium; the result and the lines of the job's log, or None where it did not end in time."""
    from flows.dft.attempts import LOG
    from flows.dft.run import folder_of, job_for, open_executor, run_jobs

    results: list[DFTResult] = []
    stop = threading.Event()
    timer = threading.Timer(wait_s, stop.set)
    timer.daemon = True
    timer.start()
    try:
        crystal = _aluminium()
        # Its own name each time: a job that was sent before is not sent again.
        job = job_for(where.name, crystal, code.settings("quick", ["Al"], crystal, relax=False), code)
        run_jobs(
            [job],
            code,
            runs_dir=where,
            concurrent=1,
            limits=hardware.limits(),
            executor=open_executor(hardware, code),
            on_result=lambda _, result: results.append(result),
            stop=stop,
            say=say,
        )
    finally:
        timer.cancel()
    if not results:
        return None, []
    log = folder_of(where, job.calculation_id) / LOG
    return results[0], log.read_text(errors="replace").splitlines()


def _place(log: list[str]) -> str:
    """Say where a job ran, by the first line of its script."""
    place = next((line.partition(" begins on ")[2].strip() for line in log if " begins on " in line), "")
    host, number = place.partition(" at ")[0], place.rpartition(" as ")[2] if " as " in place else ""
    return host + (f", {number}" if number else "")


def _aluminium() -> Structure:
    from pymatgen.core import Lattice, Structure

    half = 4.05 / 2
    return Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), ["Al"], [[0, 0, 0]])

"""What everything around the potential costs: seconds a material, and the memory of the flow.

    python -m tests.benchmarks.orchestration                                    # ten thousand candidates
    python -m tests.benchmarks.orchestration --candidates 10000 100000          # and how memory grows

A campaign of prototypes goes from its sources to its ranked table and report by the same stages as ever, on two local
Dask workers and in an SQLite ledger, with the potential of tests/peers/free_potential.py, which answers at once: each
relaxation is one evaluation. The first batch for DFT is chosen too, and not computed (GPAW must be installed for it).

Counted as orchestration are the CPU seconds of the flow's process, all threads, from its first stage to its last:
imports, Dask's scheduler, chunks sent and answers taken, every read and write of the ledger, ranking, report. Science
is not counted: making structures, comparing crystals, hulls, the surrogate. Nor is what the workers spend, which is
told beside it: their start, reading and writing structures, our relaxation engine.
Memory is the most that the flow's process ever had in RAM.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from flows.campaign.loop import Request, opened
from flows.config.campaign import Campaign, Potential
from flows.config.cluster import Cluster, Workers
from flows.config.load import load_campaign
from flows.output.progress import Progress
from flows.run.context import Run
from flows.stages.assess import assess_screened
from flows.stages.choose import choose
from flows.stages.pool import gather_pool
from flows.stages.propose import propose
from flows.stages.publish import publish
from flows.stages.screen import screen
from models.relaxation import worker as screening

ROOT = Path(__file__).parents[2]
CAMPAIGNS = {1_000: "quickstart", 10_000: "benchmarks/ten-thousand", 100_000: "benchmarks/hundred-thousand"}
SCIENCE = ("proposing", "identity", "hull", "learning")
AGAIN = "publish again"  # what each later round costs; not part of the sum
WORKERS = 2


class Meter(Progress):
    """Adds up CPU seconds as well, each to the innermost stage."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu_s: dict[str, float] = {}
        self._within = [0.0]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        self._within.append(0.0)
        with super().timed(stage):
            yield
        took = time.process_time() - start
        self.cpu_s[stage] = self.cpu_s.get(stage, 0.0) + took - self._within.pop()
        self._within[-1] += took

    def science_s(self) -> float:
        return sum(self.cpu_s.get(part, 0.0) for part in SCIENCE)


@dataclass(kw_only=True)
class Stages:
    """Runs stages and notes what each took."""

    meter: Meter
    taken: list[dict[str, Any]]

    def __call__(self, name: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        wall, cpu, science = time.perf_counter(), time.process_time(), self.meter.science_s()
        answer = stage(*arguments)
        self.taken.append(
            {
                "stage": name,
                "wall_s": time.perf_counter() - wall,
                "cpu_s": time.process_time() - cpu,
                "science_s": self.meter.science_s() - science,
                "peak_mib": peak_mib(),
            }
        )
        return answer


def campaign(about: int) -> Campaign:
    """A campaign of about so many candidates, with the potential that costs nothing."""
    from tests.peers.free_potential import SECTION

    found = load_campaign(ROOT / "configs" / f"{CAMPAIGNS[about]}.yaml")
    return found.model_copy(
        update={
            "screening": found.screening.model_copy(update={"potential": Potential.model_validate(SECTION)}),
            "dft": found.dft.model_copy(update={"budget": 3}),
        }
    )


def run_all(run: Run, stages: Stages) -> tuple[int, int, int]:
    """Run the stages; give the number of candidates, of materials, and of those in the pool."""
    stages("propose", propose, run)
    stages("screen", screen, run)
    screened = stages("assess", assess_screened, run)
    pool = stages("describe", gather_pool, run, screened)
    stages("choose", choose, run, screened, pool, 1)
    stages("publish", publish, run, screened, pool)
    stages(AGAIN, publish, run, screened, pool)
    counts = run.ledger.status(run.campaign_id)["proposed"]
    return counts["candidate"], sum(counts.values()), len(pool.material_ids)


def inside(about: int, folder: Path, profile: Path | None) -> dict[str, Any]:
    """Run a campaign in this process, and say what each stage took."""
    from tests.peers import free_potential

    screening.relax_chunk = free_potential.relax_chunk  # type: ignore[assignment]
    gc.set_threshold(50_000, 20, 100)  # as `assay run` does
    meter = Meter()
    stages = Stages(meter=meter, taken=[])
    request = Request(
        campaign=campaign(about),
        cluster=Cluster(workers=Workers(count=WORKERS)),
        ledger_url=f"sqlite:///{folder / 'assay.db'}",
        folder=folder / "runs",
        use_dft=False,
    )
    profiler = cProfile.Profile()
    with opened(request, meter) as run:
        if profile is not None:
            profiler.enable()
        candidates, materials, pool = run_all(replace(run, use_dft=True), stages)  # its budget is chosen, and not spent
        profiler.disable()
        if profile is not None:
            profiler.dump_stats(profile)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "candidates": candidates,
        "materials": materials,
        "pool": pool,
        "stages": stages.taken,
        "science": {name: meter.cpu_s.get(name, 0.0) for name in SCIENCE},
        "engine_s": meter.seconds["relaxation"] * WORKERS,
        "workers_cpu_s": workers.ru_utime + workers.ru_stime,
    }


def peak_mib() -> float:
    """The most memory that this process has had in RAM so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says may be of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def report(found: dict[str, Any]) -> None:
    """Print what a run took."""
    n = found["materials"]
    print(f"\n{found['candidates']} candidates, {n - found['candidates']} competing phases, {found['pool']} described")
    print(f"{'':15}{'':>9}{'':>9}{'of which':>10}{'orchestration':>16}{'peak':>8}")
    print(f"{'stage':15}{'wall s':>9}{'CPU s':>9}{'science':>10}{'ms a material':>16}{'MiB':>8}")
    once = [row for row in found["stages"] if row["stage"] != AGAIN]
    total = {name: sum(row[name] for row in once) for name in ("wall_s", "cpu_s", "science_s")}
    for row in [*once, {"stage": "all", "peak_mib": once[-1]["peak_mib"], **total}, found["stages"][-1]]:
        own = 1000 * (row["cpu_s"] - row["science_s"]) / n
        print(
            f"{row['stage']:15}{row['wall_s']:9.1f}{row['cpu_s']:9.1f}{row['science_s']:10.1f}{own:16.3f}"
            f"{row['peak_mib']:8.0f}"
        )
    print("science, CPU s: " + ", ".join(f"{name} {s:.1f}" for name, s in found["science"].items()))
    print(
        f"the {WORKERS} workers: {found['workers_cpu_s']:.1f} CPU s, of which our engine around the potential"
        f" {found['engine_s']:.1f} s, the rest their start, and structures read and written"
    )


def main() -> None:
    """Run each size in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=[10_000], choices=list(CAMPAIGNS))
    parser.add_argument("--profile", type=Path, help="where cProfile's statistics of the flow's process go")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside is not None:
        print(json.dumps(inside(arguments.candidates[0], arguments.inside, arguments.profile)))
        return
    peaks = []
    for about in arguments.candidates:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.benchmarks.orchestration", "--candidates", str(about)]
            command += ["--profile", str(arguments.profile)] if arguments.profile else []
            # Workers, which start elsewhere, find the potential of the tests by this.
            paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            done = subprocess.run(
                [*command, "--inside", folder],
                stdout=subprocess.PIPE,
                check=True,
                env=os.environ | {"PYTHONPATH": paths},
            )
        found = json.loads(done.stdout.splitlines()[-1])
        report(found)
        peaks.append((found["materials"], found["stages"][-1]["peak_mib"]))
    print(f"on {psutil.cpu_count()} cores, load {', '.join(f'{load:.1f}' for load in psutil.getloadavg())}")
    for (few, low), (many, high) in pairwise(peaks):
        print(f"memory of the flow from {few} to {many} materials: {low:.0f} to {high:.0f} MiB, {high - low:+.0f}")


if __name__ == "__main__":
    main()

"""Ten thousand candidates from proposal to ranked table in one command: seconds, memory, and what a kill costs.

    python -m tests.benchmarks.ten_thousand                 # about two minutes on two cores
    python -m tests.benchmarks.ten_thousand --kill          # again, killed half-way and taken up; the tables compared

Time outside the potential is that of the whole command less the seconds that each worker spent in it, on average.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import sqlalchemy as sa

ASSAY = Path(sys.executable).with_name("assay")
CAMPAIGN = Path(__file__).parents[2] / "configs" / "benchmarks" / "ten-thousand.yaml"
QUERY = "select material_id, status, rank, energy_above_hull, formation_energy_mlip from ranked_candidates"
Row = tuple[str, int, float | None, float | None]


@dataclass(kw_only=True)
class Watch:
    """What a command took; memory in MiB by process, the command's own first."""

    wall_s: float = 0.0
    lines: list[str] = field(default_factory=list)
    peaks: dict[int, float] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)

    def look(self, processes: Iterable[psutil.Process]) -> None:
        """Take note of each process as it is now."""
        for process in processes:
            try:
                resident, times = process.memory_info().rss / 2**20, process.cpu_times()
            except psutil.Error:  # it has just ended
                continue
            self.peaks[process.pid] = max(self.peaks.get(process.pid, 0.0), resident)
            self.cpu_s[process.pid] = times.user + times.system


def run(folder: Path, *, kill_at: int | None = None) -> Watch:
    """Run the campaign in a folder; with `kill_at`, kill everything with -9 once so many structures are relaxed."""
    watch = Watch()
    start = time.perf_counter()
    output = folder / "output.txt"
    with output.open("a") as sink:
        process = subprocess.Popen(
            [str(ASSAY), "run", str(CAMPAIGN)], cwd=folder, stdout=sink, stderr=sink, start_new_session=True
        )
    command = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            watch.look([command, *command.children(recursive=True)])
        except psutil.NoSuchProcess:
            break
        if kill_at is not None and relaxed(folder) >= kill_at:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.2)
    watch.wall_s = time.perf_counter() - start
    watch.lines = output.read_text().splitlines()
    if kill_at is None and process.returncode:
        raise SystemExit("\n".join(watch.lines[-20:]))
    return watch


def relaxed(folder: Path) -> int:
    """Count the relaxations in the ledger."""
    return _ask(folder, "select count(*) from calculations")[0][0] if (folder / "assay.db").exists() else 0


def table(folder: Path) -> dict[str, Row]:
    """Read the ranked table."""
    return {row[0]: (row[1], row[2], row[3], row[4]) for row in _ask(folder, QUERY)}


def _ask(folder: Path, query: str) -> list[tuple]:
    engine = sa.create_engine(f"sqlite:///{folder / 'assay.db'}")
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query))]
    except sa.exc.OperationalError:  # its tables are not there yet
        return [(0,)]
    finally:
        engine.dispose()


def report(watch: Watch, folder: Path) -> None:
    """Print what a whole run took."""
    own, *others = sorted(watch.peaks.items(), key=lambda pair: pair[0])
    workers = [peak for _, peak in others if peak > 200]
    busy = _ask(folder, "select sum(wall_time_s), count(*) from calculations")[0]
    inside = busy[0] / max(len(workers), 1)
    systems = _ask(folder, "select count(distinct chemsys) from ranked_candidates")[0][0]
    rows = table(folder)
    print(f"{len(rows)} candidates in {systems} chemical systems, {busy[1]} relaxations, {watch.wall_s:.0f} s in all")
    print(
        f"in the potential {inside:.0f} s on each of {len(workers)} workers, outside it {watch.wall_s - inside:.0f} s"
    )
    print(f"share outside the potential: {1 - inside / watch.wall_s:.0%}")
    print(f"peak memory: flow {own[1]:.0f} MiB, workers {', '.join(f'{peak:.0f}' for peak in workers)} MiB")
    statuses = [row[0] for row in rows.values()]
    print("statuses:", {status: statuses.count(status) for status in sorted(set(statuses))})
    print(next((line for line in reversed(watch.lines) if re.match("Time: ", line)), ""))


def differences(one: dict[str, Row], other: dict[str, Row]) -> list[str]:
    """What two tables say otherwise: rows, statuses, energies by more than 1 meV/atom."""
    found = [f"{name}: only in one" for name in one.keys() ^ other.keys()]
    for name in one.keys() & other.keys():
        if one[name][0] != other[name][0]:
            found.append(f"{name}: {one[name][0]} and {other[name][0]}")
        for a, b in zip(one[name][2:], other[name][2:], strict=True):
            if (a is None) != (b is None) or (a is not None and b is not None and abs(a - b) > 1e-3):
                found.append(f"{name}: {a} and {b} eV/atom")
    return found


def main() -> None:
    """Run, print, and compare if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", action="store_true", help="and a second time, killed half-way")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        whole, broken = Path(scratch) / "whole", Path(scratch) / "broken"
        whole.mkdir()
        report(run(whole), whole)
        if arguments.kill:
            broken.mkdir()
            killed = run(broken, kill_at=relaxed(whole) // 2)
            print(f"killed with -9 after {killed.wall_s:.0f} s with {relaxed(broken)} relaxations in the ledger")
            again = run(broken)
            print(f"run again: {again.wall_s:.0f} s, {relaxed(broken)} relaxations")
            one, other = table(whole), table(broken)
            told = differences(one, other)
            ranks = sum(one[name][1] != other[name][1] for name in one.keys() & other.keys())
            print(f"differences in rows, statuses or by more than 1 meV/atom: {len(told)}; other ranks: {ranks}")
            print("\n".join(told[:20]))


if __name__ == "__main__":
    main()

"""The ledger at a million candidates: rows written a second, and queries of the table, on SQLite and PostgreSQL.

    python -m tests.benchmarks.ledger [--rows 1000000] [--only sqlite|postgresql]

Prints, for each query, the median and the worst of several askings in a process that has the ledger open, and the wall
time of one cold `assay table`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pymatgen.core import Element

from materials.query import parse, parse_sort
from materials.records import RankedCandidate
from materials.store.browse import columns
from materials.store.ledger import Ledger
from tests.peers import postgresql
from tests.unit.materials import made_records as made

# Without the noble and the radioactive.
ELEMENTS = [str(Element.from_Z(z)) for z in range(1, 84) if z not in (2, 10, 18, 36, 43, 54, 61)]
QUERIES = (
    ("", ""),
    ("", "score"),
    ("energy_above_hull < 0.05 and band_gap > 1", "score"),
    ("has Li and not has Cd and status = validated", ""),
    ("has Li and not has Cd", "energy_above_hull"),
    ("has Li and has Zr and energy_above_hull < 0.01", "decomposition_energy_per_atom"),
    ("predicted_band_gap > 1", "decomposition_energy_per_atom"),
    ("elements in (Li, Na, Mg, P, As)", "-band_gap"),
    ("has Xe", "score"),
    ("meets_targets", ""),
    ("status = failed and has Pt", "formula"),
)
REPEATS = 7


def rows(n: int, seed: int) -> Iterator[RankedCandidate]:
    """Make rows as campaigns leave them: few validated, gaps by DFT only, odds for what lies near the hull."""
    random = np.random.default_rng(seed)
    systems = ["-".join(sorted(chosen)) for chosen in combinations(ELEMENTS, 3)]
    for rank in range(1, n + 1):
        system = systems[int(random.integers(len(systems)))]
        above = float(max(0.0, random.normal(0.15, 0.15)))
        drawn = random.random()
        validated, failed, pool = drawn < 0.002, drawn > 0.95, above < 0.1
        yield made.ranked(
            f"{system.replace('-', '')}-{seed}{rank:08x}",
            rank=rank,
            formula=system.replace("-", ""),
            chemsys=system,
            status="validated" if validated else "failed" if failed else "screened",
            fidelity="dft" if validated else "mlip",
            energy_above_hull=None if failed else above,
            decomposition_energy_per_atom=None if failed else above - 0.02,
            band_gap=float(max(0.0, random.normal(1, 1))) if validated else None,
            meets_targets=bool(random.random() < 0.3) if validated else None,
            score=float(random.random()) if pool and not failed else None,
            predicted={"band_gap": (float(random.normal(1, 1)), 0.5)} if pool and not failed else {},
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    if arguments.only != "postgresql":
        with TemporaryDirectory() as folder:
            measure("SQLite", str(Path(folder) / "assay.db"), arguments.rows)
    if arguments.only != "sqlite":
        try:
            with postgresql.running() as server:
                measure("PostgreSQL", server.make("ledger"), arguments.rows)
        except postgresql.NoPostgreSQL as missing:
            print(f"PostgreSQL: left out, {missing}")


def measure(name: str, url: str, n: int) -> None:
    """Fill a ledger and ask it."""
    with Ledger.open(url) as ledger:
        campaign_id = ledger.add_campaign("big", {})
        print(f"{name}, {n:,} candidates in one campaign and {n // 10:,} in another")
        written("candidates", 4_000, lambda k: ledger.add_candidates(campaign_id, [made.candidate(i) for i in k]))
        latent = {"latent": list(np.linspace(0, 1, 64))}
        written(
            "calculations",
            4_000,
            lambda k: ledger.add_calculations([made.calculation(i, properties=latent) for i in k]),
        )
        started = time.perf_counter()
        ledger.publish(ledger.add_campaign("other", {}), list(rows(n // 10, 2)))
        ledger.publish(campaign_id, list(rows(n, 1)))
        print(f"  published: {n * 1.1 / (time.perf_counter() - started):,.0f} rows/s")
    ask(url, campaign_id)
    started = time.perf_counter()
    command = [Path(sys.executable).with_name("assay"), "table", "big", "--where", QUERIES[2][0], "--sort", "score"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "ASSAY_DATABASE_URL": url})
    print(f"  `assay table` from the shell: {time.perf_counter() - started:.2f} s")


def ask(url: str, campaign_id: str) -> None:
    """Ask as the commands do that only ask."""
    with Ledger.open(url, must_exist=True) as ledger:
        known = columns()
        worst = 0.0
        for where, sort in QUERIES:
            expression, keys = parse(where, known) if where else None, parse_sort(sort, known) if sort else ()
            took = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                found = ledger.rows(campaign_id, expression, keys, 20)
                took.append(1e3 * (time.perf_counter() - started))
            worst = max(worst, statistics.median(took))
            question = f"{where or 'all'}, by {sort or 'rank'}"
            print(f"  {statistics.median(took):8.1f} ms  worst {max(took):8.1f} ms  {len(found):3d} rows  {question}")
        print(f"  slowest median: {worst:.0f} ms")


def written(what: str, n: int, write) -> None:  # type: ignore[no-untyped-def]
    """Print how many rows of a kind are written a second, 1,000 in a transaction."""
    ids = iter([f"{what}-{i}" for i in range(n)])
    started, cpu = time.perf_counter(), time.process_time()
    while chunk := list(islice(ids, 1_000)):
        write(chunk)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"  {what}: {n / wall:,.0f} rows/s written ({n / cpu:,.0f} a CPU second)")


if __name__ == "__main__":
    main()

"""The ledger's speed: rows written a second, and a query of a table of 100,000 candidates."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from materials.query import parse, parse_sort
from materials.records import RankedCandidate
from materials.store.browse import columns
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made

CHUNK = 1_000
SYSTEMS = [f"{a}-{b}-{c}" for a in ("Ag", "Cu", "K", "Li") for b in ("Mg", "Na", "P") for c in ("Sb", "Zn")]


def rows(n: int) -> list[RankedCandidate]:
    random = np.random.default_rng(0)
    scores, energies, gaps = random.random(n), random.exponential(0.2, n), random.normal(1, 1, n)
    return [
        made.ranked(
            f"m{i:06d}",
            rank=i + 1,
            chemsys=SYSTEMS[i % len(SYSTEMS)],
            score=float(scores[i]),
            energy_above_hull=float(energies[i]),
            band_gap=float(gaps[i]) if i % 10 == 0 else None,
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "assay.db"
    with Ledger.open(str(path)) as ledger:
        started = time.perf_counter()
        ledger.publish(ledger.add_campaign("big", {}), rows(100_000))
        print(f"\npublished 100,000 rows in {time.perf_counter() - started:.1f} s")
    return path


@pytest.mark.benchmark(group="ledger: writing 1,000")
@pytest.mark.parametrize("kind", ["candidates", "calculations", "stabilities"])
def test_write(benchmark, tmp_path: Path, kind: str) -> None:
    with Ledger.open(str(tmp_path / "assay.db")) as ledger:
        campaign_id = ledger.add_campaign("q", {})
        number = iter(range(10**6))

        def setup():
            names = [f"{next(number)}-{i}" for i in range(CHUNK)]
            if kind == "calculations":
                latent = {"latent": list(np.linspace(0, 1, 64))}
                return ([made.calculation(name, properties=latent) for name in names],), {}
            make = made.candidate if kind == "candidates" else made.stability
            return (campaign_id, [make(name) for name in names]), {}

        benchmark.pedantic(getattr(ledger, f"add_{kind}"), setup=setup, rounds=8)
    assert CHUNK / benchmark.stats.stats.median > 1_000  # rows/s


@pytest.mark.benchmark(group="ledger: asking 100,000 rows")
@pytest.mark.parametrize(
    ("where", "sort"),
    [
        ("", "score"),
        ("energy_above_hull < 0.05 and band_gap > 1", "score"),
        ("has Li and not has Na", "energy_above_hull"),
        ("elements in (Cu, Mg, Sb, Zn)", "-band_gap"),
    ],
)
def test_ask(benchmark, full: Path, where: str, sort: str) -> None:
    with Ledger.open(str(full), must_exist=True) as ledger:
        campaign_id = ledger.find_campaign("big")
        expression = parse(where, columns()) if where else None
        found = benchmark(ledger.rows, campaign_id, expression, parse_sort(sort, columns()), 20)
    assert len(found) == 20
    assert benchmark.stats.stats.median < 0.1  # seconds


@pytest.mark.benchmark(group="ledger: asking 100,000 rows")
def test_ask_from_a_cold_process(benchmark, full: Path) -> None:
    code = (
        "import sys; from materials.store.ledger import Ledger; from materials.query import parse, parse_sort\n"
        "from materials.store.browse import columns\n"
        "with Ledger.open(sys.argv[1], must_exist=True) as ledger:\n"
        "    where = parse('energy_above_hull < 0.05 and band_gap > 1', columns())\n"
        "    rows = ledger.rows(ledger.find_campaign(), where, parse_sort('score', columns()), 20)\n"
        "assert len(rows) == 20\n"
    )
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-c", code, str(full)], check=True, cwd=Path(__file__).parents[2]),
        rounds=3,
    )
    assert benchmark.stats.stats.median < 3  # seconds


@pytest.mark.benchmark(group="ledger: publishing 100,000 rows")
def test_publish_again_what_hardly_changed(benchmark, full: Path) -> None:
    made_rows = rows(100_000)
    with Ledger.open(str(full)) as ledger:
        changed = benchmark.pedantic(lambda: ledger.publish(ledger.find_campaign("big"), made_rows), rounds=1)
    assert changed == 0

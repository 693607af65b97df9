"""Ledgers of an older version go on: older/ holds what commit bb08f95 left, of one campaign finished and half-finished.

Both were made by `assay run campaign.yaml` on 2026-12-01, one to its end, one killed with -9 in its second round.
"""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import run

OLDER = Path(__file__).with_name("older")
CALCULATIONS = "select calculation_id, attempt, created_at, status, energy, structure from calculations"
SELECTIONS = "select campaign_id, material_id, round, rank, acquisition from selections"
TABLE = """select material_id, rank, status, meets_targets, level_of_theory, round(energy_above_hull, 3),
    round(decomposition_energy_per_atom, 3), round(band_gap, 3) from ranked_candidates order by rank"""

pytestmark = [pytest.mark.dft, pytest.mark.slow]


def ask(ledger: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def place(folder: Path, name: str) -> Path:
    (folder / "campaign.yaml").write_text((OLDER / "campaign.yaml").read_text())
    ledger = folder / "assay.db"
    ledger.write_bytes(gzip.decompress((OLDER / f"{name}.db.gz").read_bytes()))
    return ledger


def test_a_finished_campaign_is_known_whole(tmp_path: Path, gpaw: None) -> None:
    ledger = place(tmp_path, "finished")
    before = {query: ask(ledger, query) for query in (CALCULATIONS, SELECTIONS, TABLE)}
    said = run(tmp_path, "run", "campaign.yaml")
    assert "calculations in" not in said
    assert {query: ask(ledger, query) for query in before} == before


def test_a_half_finished_campaign_goes_on_and_computes_nothing_twice(tmp_path: Path, gpaw: None) -> None:
    ledger = place(tmp_path, "half-finished")
    before, selected = ask(ledger, CALCULATIONS), ask(ledger, SELECTIONS)
    said = run(tmp_path, "run", "campaign.yaml")
    after = ask(ledger, CALCULATIONS)
    assert "DFT (gpaw, quick): 2 calculations" in said
    assert set(before) <= set(after)
    assert len(after) == len(before) + 2
    assert ask(ledger, SELECTIONS) == selected
    (tmp_path / "undisturbed").mkdir()
    assert ask(ledger, TABLE) == ask(place(tmp_path / "undisturbed", "finished"), TABLE)

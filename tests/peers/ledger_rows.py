"""What a ledger holds, row by row, and in what a disturbed campaign's ledger is not that of an undisturbed one."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from materials.crystals.serialization import structure_from_json

# What is told once and stays, without the columns that say when, or in which order.
TABLES = {
    "candidates": (),
    "proposals": ("sequence",),
    "calculations": ("created_at", "wall_time_s"),
    "equivalences": ("sequence",),
    "stabilities": ("sequence",),
    "predictions": (),
    "selections": (),
    "failures": ("sequence",),
}
# What has to be the same to the last digit, and as often; energies of DFT are compared by themselves.
SAME = {
    "candidates": "select * from candidates",
    "proposals": "select campaign_id, material_id, role, content_hash from proposals",
    "duplicates": "select material_id, duplicate_of, stage from equivalences",
    "relaxations": (
        "select calculation_id, attempt, status, energy, structure from calculations where fidelity = 'mlip'"
    ),
    "failures": "select material_id, stage, error, attempts from failures",
    "predictions": "select material_id, round, target from predictions",
    "choices": "select material_id, round, rank, acquisition, round(score, 6) from selections",
    "hull distances": "select material_id, fidelity, level_of_theory from stabilities",
    "the table": "select material_id, rank, status, fidelity, meets_targets, round from ranked_candidates",
}
WITHIN = 1e-3  # eV/atom, between two runs of the same DFT calculation
Rows = dict[str, Counter[tuple[Any, ...]]]


def ask(ledger: Path, query: str) -> list[tuple[Any, ...]]:
    """Read; nothing where there is no such table yet."""
    if not ledger.exists():
        return []
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=60)) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise


def rows_of(ledger: Path) -> Rows:
    """Read all that is told once and stays, and how often it is told."""
    found: Rows = {}
    for table, beside in TABLES.items():
        names = [row[1] for row in ask(ledger, f"pragma table_info({table})") if row[1] not in beside]
        found[table] = Counter(ask(ledger, f"select {', '.join(names)} from {table}") if names else [])
    return found


def relaxed(ledger: Path) -> int:
    """Count the materials that the potential has an answer for."""
    return int(
        (ask(ledger, "select count(distinct material_id) from calculations where fidelity = 'mlip'") or [[0]])[0][0]
    )


def differences(undisturbed: Path, disturbed: Path) -> Iterator[str]:
    """Say what is not the same."""
    for what, query in SAME.items():
        first, second = (Counter(ask(ledger, query)) for ledger in (undisturbed, disturbed))
        if first != second:
            missing, new = first - second, second - first
            yield f"{what}: {missing.total()} of {first.total()} are missing, {new.total()} are new"
    yield from _dft_differences(undisturbed, disturbed)


def _dft_differences(undisturbed: Path, disturbed: Path) -> Iterator[str]:
    query = "select calculation_id, attempt, status, energy, structure from calculations where fidelity = 'dft'"
    one, other = ({row[:2]: row[2:] for row in ask(ledger, query)} for ledger in (undisturbed, disturbed))
    for key in sorted(one.keys() ^ other.keys()):
        yield f"DFT {key}: in one ledger only"
    for key in one.keys() & other.keys():
        (status, energy, structure), (status_again, energy_again, _) = one[key], other[key]
        if status != status_again or (energy is None) != (energy_again is None):
            yield f"DFT {key}: {status} and {status_again}"
        elif energy is not None and abs(energy - energy_again) > WITHIN * len(structure_from_json(structure)):
            yield f"DFT {key}: {energy} and {energy_again} eV"

"""The table of DFT answers that replays take: its hulls, built again from the raw energies beside it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pymatgen.core import Composition, Lattice, Structure

from materials.stability.corrections import ANIONS, correction
from materials.stability.hull import HullEntry
from materials.stability.stability import assess

FOLDER = Path(__file__).parents[2] / "benchmarks"


def phase(row: pd.Series) -> HullEntry:
    """A computed phase with the terms for anions in: without O and S they follow from the composition alone."""
    composition = Composition(row["composition"])
    symbols = [element for element, n in composition.items() for _ in range(int(n))]
    sites = [[i / len(symbols)] * 3 for i in range(len(symbols))]
    added = correction(ANIONS, Structure(Lattice.cubic(20.0), symbols, sites))
    return HullEntry(
        entry_id=row["material_id"],
        amounts={str(element): float(n) for element, n in composition.items()},
        energy=row["energy"] + added,
        level_of_theory=f"{row['level_of_theory']}/{ANIONS}",
        method=row["method"],
    )


def test_the_answers_follow_from_the_raw_energies() -> None:
    answers = pd.read_csv(FOLDER / "quickstart-answers.csv.gz")
    energies = pd.read_csv(FOLDER / "quickstart-energies.csv.gz")
    assert not {"O", "S"} & {str(e) for text in energies["composition"] for e in Composition(text)}
    assert answers["material_id"].is_unique
    for level, rows in answers.groupby("level_of_theory"):
        there = energies[energies["level_of_theory"] + f"/{ANIONS}" == level]
        phases = {row["material_id"]: phase(row) for _, row in there.iterrows()}
        asked = [phases[m] for m in rows["material_id"]]
        for (_, row), found in zip(rows.iterrows(), assess(list(phases.values()), asked, fidelity="dft"), strict=True):
            for name in ("decomposition_energy_per_atom", "energy_above_hull", "formation_energy_per_atom"):
                assert row[name] == pytest.approx(getattr(found, name), abs=1.1e-4)

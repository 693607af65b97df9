"""Structures as files, with what DFT found of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from flows.commands.export import export
from flows.report.table import query
from materials.explanation import explain
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made

FORCES = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
STRESS = np.array([[0.01, 0.02, 0.03], [0.02, 0.04, 0.05], [0.03, 0.05, 0.06]])
FOUND = {"forces": FORCES.tolist(), "stress": STRESS.tolist(), "magmoms": [0.0, 1.5], "band_gap": 1.0}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(str(tmp_path / "assay.db")) as ledger:
        campaign_id = ledger.add_campaign("made", {})
        names = ("m1", "m2", "m3")
        ledger.add_candidates(
            campaign_id, [made.candidate(name, structure=made.salt(a)) for a, name in enumerate(names, 5)]
        )
        ledger.publish(campaign_id, [made.ranked(name, rank=rank) for rank, name in enumerate(names, 1)])
        relaxed, computed = made.salt(5.7), made.salt(5.8)
        ledger.add_calculations(
            [
                made.calculation("m1", structure=relaxed),
                made.calculation("m1", fidelity="dft", structure=computed, energy=-6.5, properties=FOUND),
                made.calculation("m2", structure=relaxed),
                made.calculation("m2", fidelity="dft", structure=None, energy=None, status="crashed"),
                # As ledgers from before the arrays were kept have it, with a correction in the energy.
                made.calculation("m3", fidelity="dft", energy=-7.5, properties={"uncorrected_energy": -7.0}),
            ]
        )
        yield ledger


def exported(ledger: Ledger, folder: Path) -> list[Atoms]:
    assert export(ledger, folder, "extxyz", limit=None) == 3
    return [read(file) for file in sorted(folder.iterdir())]


def test_what_dft_found_goes_with_the_structure(ledger: Ledger, tmp_path: Path) -> None:
    first, second, third = exported(ledger, tmp_path / "out")
    assert first.cell.lengths() == pytest.approx([5.8] * 3)
    assert first.get_potential_energy() == -6.5
    assert first.get_forces() == pytest.approx(FORCES)
    assert first.get_stress(voigt=False) == pytest.approx(STRESS)
    assert first.get_magnetic_moments() == pytest.approx([0.0, 1.5])
    assert first.info["level_of_theory"] == "PBE+U/MP2020"
    assert second.calc is None
    assert second.cell.lengths() == pytest.approx([5.7] * 3)
    assert third.get_potential_energy() == -7.0
    assert set(third.calc.results) == {"energy"}


def test_no_array_stands_in_a_table_or_on_the_screen(ledger: Ledger) -> None:
    rows = query(ledger, None, where=None, sort=None, limit=None, columns="all")
    assert not any("forces" in key or isinstance(value, list) for row in rows for key, value in row.items())
    assert "0.05" not in explain(ledger, "m1", "text")
    assert '"forces"' in explain(ledger, "m1", "json")

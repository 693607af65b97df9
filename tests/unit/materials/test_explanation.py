"""What `assay show` and the table say of magnetism."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from flows.report.table import query
from materials.explanation import _calculation, explain
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made

ORDERS = [
    {"order": "antiferromagnetic (½ ½ ½)", "energy_per_atom": -5.0, "magnetic_order": "antiferromagnetic (½ ½ ½)"},
    {"order": "ferromagnetic", "energy_per_atom": -4.9, "magnetic_order": "none"},
    {"order": "antiferromagnetic (0 0 1)", "energy_per_atom": None, "message": "no"},
]
PROPERTIES = {
    "magnetic_order": "antiferromagnetic (½ ½ ½)",
    "total_magnetization_per_formula_unit": 0.0,
    "magmoms": [1.4, -1.4, 0.0, 0.0],
    "orders_tried": ORDERS,
    "orders_left_out": ["antiferromagnetic (0 1 0): at most 5 orders are tried"],
}


def test_moments_and_orders_are_shown_and_asked_for(tmp_path: Path) -> None:
    with Ledger.open(str(tmp_path / "assay.db")) as ledger:
        campaign = ledger.add_campaign("q", {})
        ledger.add_candidates(campaign, [made.candidate("oxide")])
        ledger.add_calculations([replace(made.calculation("oxide", fidelity="dft"), properties=PROPERTIES)])
        said = explain(ledger, "oxide", "text")
        assert "magnetic order: antiferromagnetic (½ ½ ½), 0.00 μB a formula unit; sites (μB): 1.40 -1.40 0.00" in said
        assert "tried ferromagnetic: 100.0 meV/atom above the lowest, which became none" in said
        assert "tried antiferromagnetic (0 0 1): not converged" in said
        assert "not tried: antiferromagnetic (0 1 0): at most 5 orders are tried" in said
        row = {"magnetic_order": "antiferromagnetic (½ ½ ½)", "total_magnetization_per_formula_unit": 0.0}
        ledger.publish(campaign, [made.ranked("oxide", **row), made.ranked("salt", rank=2, magnetic_order="none")])
        asked = "magnetic_order != none and total_magnetization_per_formula_unit < 0.1"
        (found,) = query(ledger, campaign, where=asked, sort=None, limit=None, columns="magnetic_order")
        assert found == {"magnetic_order": "antiferromagnetic (½ ½ ½)"}


@pytest.mark.parametrize("seconds", [None, math.nan, math.inf, "soon"])
def test_a_time_that_a_damaged_ledger_lost_is_a_dash(tmp_path: Path, seconds: object) -> None:
    record = {
        **dict.fromkeys(("energy", "max_force", "properties"), None),
        **{"created_at": "2026-01-01T00:00:00", "method": "m", "level_of_theory": "PBE", "status": "converged"},
        **{"n_steps": 3, "wall_time_s": seconds, "message": "", "calculation_id": "c", "settings_hash": "s"},
    }
    assert "converged, 3 steps, – s\n" in _calculation(record)

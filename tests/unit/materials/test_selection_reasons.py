"""Why this one, in words and as data."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from materials.explanation import explain
from materials.records import Prediction
from materials.selection_reasons import pick_line
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made

ENERGY, GAP = "energy_above_hull", "band_gap"
OWN = made.calculation("m1", fidelity="dft", method="gpaw-26", wall_time_s=723.0)
PHASES = [made.calculation(name, fidelity="dft", method="gpaw-26", wall_time_s=100.0) for name in ("p", "q", "r")]
WHY = {
    "odds": 0.4143,
    "rank_by_potential": 12,
    "of": 5346,
    "neighbours": [{"material_id": "near", "distance": 0.31, "answers": {ENERGY: -0.02, GAP: 1.5}}],
    "cautions": ["holds Cs, which no computed candidate does"],
    "answered": [],
    "calculations": [c.calculation_id for c in (OWN, *PHASES[:2])] + ["not computed yet"],
}


def prediction(target: str, mean: float, std: float, round_number: int = 2) -> Prediction:
    return Prediction(
        material_id="m1", round=round_number, target=target, mean=mean, std=std, surrogate_version="0123456789"
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """One pick of three in round 2, which DFT has answered for."""
    with Ledger.open(str(tmp_path / "assay.db")) as ledger:
        campaign_id = ledger.add_campaign("made", {})
        ledger.add_candidates(campaign_id, [made.candidate("m1")])
        before = [prediction(ENERGY, 9.0, 1.0, 1), prediction(ENERGY, 0.012, 0.034), prediction(GAP, 1.2, 0.5)]
        after = [prediction(ENERGY, 0.08, 0.01, 3)]  # what was believed when the answer was known counts nothing
        ledger.add_predictions(campaign_id, [*before, *after])
        batch = [made.selection(name, round=2, rank=rank) for rank, name in enumerate(("m2", "m3"), start=2)]
        ledger.add_selections(campaign_id, [made.selection("m1", round=2, score=0.41, why=WHY), *batch])
        ledger.add_selections(campaign_id, [made.selection("m4", round=1)])
        ledger.add_calculations([OWN, made.calculation("m1", wall_time_s=5.0), *PHASES])
        yield ledger


def answer(ledger: Ledger, **changes: object) -> None:
    values = {"fidelity": "dft", "decomposition_energy_per_atom": 0.08, "energy_above_hull": 0.08, "band_gap": 1.0}
    ledger.publish(ledger.find_campaign(), [made.ranked("m1", **{**values, **changes})])


def test_a_line_for_each_pick_before_dft() -> None:
    selection = made.selection("m1", round=2, why=WHY)
    assert pick_line(selection, [prediction(ENERGY, 0.012, 0.034), prediction(GAP, 1.2, 0.5)]) == (
        "  1. m1: energy above hull 0.012 ± 0.034 eV/atom; band gap 1.200 ± 0.500 eV; P(all targets) 0.41;"
        " rank 12 of 5346 by the potential alone (audit)"
    )


def test_show_tells_why(ledger: Ledger) -> None:
    answer(ledger)
    section = explain(ledger, "m1", "text").split("\nWhy\n")[1].split("\n\n")[0]
    assert [line.strip() for line in section.splitlines()] == [
        f"{ledger.find_campaign()}, round 2, pick 1: audit 0.4100 (seed 7)",
        "predicted: band gap 1.200 ± 0.500 eV, energy above hull 0.012 ± 0.034 eV/atom",
        "P(all targets) 0.41; rank 12 of 5346 by the potential alone",
        "nearest computed (1 is the median distance of two candidates): near at 0.31"
        " (energy above hull -0.020 eV/atom, band gap 1.500 eV)",
        "caution: holds Cs, which no computed candidate does",
        "picked together with m2, m3",
        "DFT found band gap 1.000 eV: 0.4 σ below what was predicted",
        "DFT found decomposition energy 0.080 eV/atom: 2.0 σ above what was predicted",
        "DFT took 12 min 03 s, and 3 min 20 s for competing phases (2) that were new then",
    ]


def test_json_holds_the_same(ledger: Ledger) -> None:
    answer(ledger)
    (why,) = json.loads(explain(ledger, "m1", "json"))["why"]
    assert why["why"] == WHY
    assert why["predicted"] == {ENERGY: {"mean": 0.012, "std": 0.034}, GAP: {"mean": 1.2, "std": 0.5}}
    assert why["found"][ENERGY] == {"answer": 0.08, "surprise": pytest.approx((0.08 - 0.012) / 0.034)}
    assert (why["batch"], why["cost"]) == (["m2", "m3"], {"own_s": 723.0, "phases_s": 200.0, "n_phases": 2})


def test_what_is_not_known_is_not_told(ledger: Ledger) -> None:
    """The potential's energies in the table are no answers of DFT's."""
    answer(ledger, fidelity="mlip", band_gap=None)
    assert "DFT found" not in explain(ledger, "m1", "text")
    answer(ledger, fidelity="mlip")
    assert "DFT found band gap 1.000 eV" in explain(ledger, "m1", "text")
    assert "DFT found decomposition" not in explain(ledger, "m1", "text")


def test_a_pick_of_an_older_assay_has_less_to_tell(ledger: Ledger) -> None:
    ledger.add_candidates(ledger.find_campaign(), [made.candidate("m4")])
    section = explain(ledger, "m4", "text").split("\nWhy\n")[1]
    assert section.strip() == f"{ledger.find_campaign()}, round 1, pick 1: audit 0.5000 (seed 7)"


def test_an_answer_that_was_known_before_is_no_surprise(ledger: Ledger) -> None:
    campaign_id = ledger.add_campaign("other", {})
    ledger.add_candidates(campaign_id, [made.candidate("m1")])
    ledger.add_predictions(campaign_id, [prediction(GAP, 1.2, 0.5, 1)])
    ledger.add_selections(campaign_id, [made.selection("m1", why={**WHY, "answered": [GAP]})])
    ledger.publish(campaign_id, [made.ranked("m1", band_gap=1.0)])
    assert "DFT found band gap 1.000 eV, known before" in explain(ledger, "m1", "text")

"""The order of the table, and what each row says."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from materials.ranking import Evidence, ranked_groups, ranked_rows
from materials.records import Calculation, Failure, Prediction, Proposed, RankedCandidate, Stability, Target
from materials.targets import closeness, meets
from tests.unit.materials import made_records as made

STABLE = Target(property="decomposition_energy_per_atom", goal="at_most", value=0.05)
GAP = Target(property="band_gap", goal="near", value=1.3, tolerance=0.3)
TARGETS = [STABLE, GAP]


@pytest.mark.parametrize(
    ("energy", "gap", "expected"),
    [
        (0.0, 1.3, True),
        (0.05, 1.0, True),
        (0.05004, 1.6, True),  # within 0.1 meV of the bound: digits of the machine decide nothing
        (0.0502, 1.3, False),
        (0.0, 1.61, False),
        (None, 1.3, None),
        (None, 3.0, False),
        (0.0, float("nan"), None),
    ],
)
def test_meets(energy: float | None, gap: float | None, expected: bool | None) -> None:
    assert meets(TARGETS, {"decomposition_energy_per_atom": energy, "band_gap": gap}) is expected


def test_meets_knows_every_goal() -> None:
    above = Target(property="bulk_modulus_gpa", goal="at_least", value=100)
    assert meets([above], {"bulk_modulus_gpa": 100.0}) is True
    assert meets([above], {"bulk_modulus_gpa": 99.9}) is False
    only_order = Target(property="volume_per_atom", goal="minimize")
    assert meets([only_order], {"volume_per_atom": 10.0}) is None
    assert meets([], {}) is None
    assert meets([above, only_order], {"bulk_modulus_gpa": 120.0}) is True


def test_closeness_orders_by_misses_then_distance_then_wishes() -> None:
    targets = [*TARGETS, Target(property="density", goal="maximize")]
    best = {"decomposition_energy_per_atom": 0.0, "band_gap": 1.31, "density": 3.0}
    ordered = [
        best,
        {**best, "density": 2.0},
        {**best, "band_gap": 1.5, "density": 9.0},
        {**best, "decomposition_energy_per_atom": 0.3},
        {**best, "band_gap": None},
    ]
    keys = [closeness(targets, values) for values in ordered]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def evidence(*names: str) -> dict[str, dict]:
    return {
        "mlip": {name: made.calculation(name) for name in names},
        "mlip_stability": {name: made.stability(name, 0.1) for name in names},
        "dft": {},
        "dft_stability": {},
        "predictions": {},
        "selections": {},
        "failures": {},
        "duplicates": {},
    }


def ranked(names: Iterable[Proposed], known: dict[str, dict], scores: dict[str, float] | None = None):
    left = {kind: told for kind, told in known.items() if kind != "duplicates"}
    judged = Evidence(**left, targets=TARGETS, scores=scores or {})
    pool = {candidate.material_id: candidate for candidate in names}
    roles = {material_id: candidate.role for material_id, candidate in pool.items()}
    groups = ranked_groups(roles, duplicates=known["duplicates"], evidence=judged)
    return list(ranked_rows(groups, lambda ids: [pool[m] for m in ids], evidence=judged, chunk=3))


def validate(known: dict[str, dict], name: str, energy: float, gap: float) -> None:
    known["dft"][name] = made.calculation(
        name, fidelity="dft", level_of_theory="PBE", method="gpaw-26.7.0", properties={"band_gap": gap}
    )
    known["dft_stability"][name] = made.stability(name, energy, fidelity="dft", level_of_theory="PBE")
    known["selections"][name] = made.selection(name, round=2, acquisition="expected_improvement")


def test_the_order_of_the_table() -> None:
    names = ["far_hit", "near_hit", "miss", "likely", "unlikely", "unknown", "failed", "chosen"]
    known = evidence(*names)
    validate(known, "far_hit", -0.1, 1.5)
    validate(known, "near_hit", -0.05, 1.3)
    validate(known, "miss", 0.2, 1.3)
    known["dft"]["failed"] = made.calculation("failed", fidelity="dft", status="walltime", energy=None, message="log")
    known["selections"]["chosen"] = made.selection("chosen")
    scores = {"likely": 0.9, "unlikely": 0.1, "chosen": 0.5, "failed": 0.99, "near_hit": 0.2, "miss": 0.9}
    rows = ranked([made.proposed(name) for name in names], known, scores)
    assert [row.material_id for row in rows] == [
        "near_hit",
        "far_hit",
        "likely",
        "chosen",
        "unlikely",
        "miss",
        "unknown",
        "failed",
    ]
    assert [row.rank for row in rows] == list(range(1, 9))
    assert [row.status for row in rows] == [
        "validated",
        "validated",
        "screened",
        "selected",
        "screened",
        "validated",
        "screened",
        "failed",
    ]
    by_id = {row.material_id: row for row in rows}
    assert [by_id[name].score for name in ("near_hit", "miss", "failed", "unknown")] == [1.0, 0.0, None, None]
    assert [by_id[name].meets_targets for name in ("near_hit", "miss", "likely")] == [True, False, None]
    assert by_id["failed"].message == "DFT walltime: log"
    hit = by_id["near_hit"]
    assert (hit.fidelity, hit.level_of_theory, hit.band_gap, hit.round) == ("dft", "PBE", 1.3, 2)
    assert (hit.decomposition_energy_per_atom, hit.decomposition_energy_mlip) == (-0.05, 0.1)
    assert (by_id["likely"].fidelity, by_id["likely"].band_gap) == ("mlip", None)


def test_without_scores_the_hull_orders() -> None:
    known = evidence("a", "b", "c", "d")
    known["mlip_stability"] = {
        "b": made.stability("b", -0.2),
        "a": made.stability("a", -0.1),
        "c": made.stability("c", 1),
    }
    rows = ranked([made.proposed(name) for name in "abcd"], known)
    assert [row.material_id for row in rows] == ["b", "a", "c", "d"]
    assert [row.status for row in rows] == ["screened"] * 3 + ["proposed"]


def test_duplicates_are_no_rows_and_their_parents_join() -> None:
    known = evidence("a", "b", "c")
    known["duplicates"] = {"b": "a", "twin of competing": "c"}
    candidates = [
        made.proposed("b", parents=("from b",), known_as=("mp-2",)),
        made.proposed("a", parents=("from a",)),
        made.proposed("c", role="competing", parents=("element",)),
        made.proposed("e", role="competing"),
        made.proposed("twin of competing", parents=("made",)),
    ]
    known["selections"]["b"] = made.selection("b", round=3)
    rows = {row.material_id: row for row in ranked(candidates, known)}
    assert rows.keys() == {"a", "c"}
    assert (rows["a"].parents, rows["a"].known_as, rows["a"].round) == ("from a; from b", "mp-2", 3)
    assert rows["c"].parents == "element; made"


def test_what_went_wrong_is_told() -> None:
    known = evidence("a", "b", "c", "d")
    known["mlip"]["a"] = made.calculation("a", status="exploded", energy=None, message="volume ratio 9")
    known["failures"]["b"] = Failure(material_id="b", stage="screen", error="KilledWorker", message="memory")
    known["dft"]["c"] = made.calculation("c", fidelity="dft", status="converged")
    known["selections"]["c"] = made.selection("c")
    known["dft"]["d"] = made.calculation("d", fidelity="dft", status="converged")
    rows = {row.material_id: row for row in ranked([made.proposed(n) for n in "abcd"], known)}
    assert (rows["a"].status, rows["a"].message) == ("failed", "chgnet-0.3.0 exploded: volume ratio 9")
    assert (rows["b"].status, rows["b"].message) == ("failed", "screen: KilledWorker: memory")
    assert rows["c"].status == "selected"
    assert "its hull is incomplete" in rows["c"].message
    # Computed as a competing phase of another: nobody chose it, and nothing is wrong with it.
    assert (rows["d"].status, rows["d"].message) == ("screened", "")


def test_predictions_and_volumes_are_shown() -> None:
    known = evidence("a")
    known["mlip"]["a"] = made.calculation("a", structure=made.salt(6.0))
    prediction = Prediction(material_id="a", round=2, target="band_gap", mean=1.1, std=0.2, surrogate_version="v")
    known["predictions"]["a"] = {"band_gap": prediction}
    (row,) = ranked([made.proposed("a")], known)
    assert row.predicted == {"band_gap": (1.1, 0.2)}
    assert row.volume_per_atom == pytest.approx(108.0)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[str], dict[str, dict], dict[str, float]]:
    names = draw(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=8, unique=True))
    known = evidence(*names)
    few = st.sampled_from([-0.1, 0.0, 0.00001, 0.05, 0.2])
    for name in names:
        known["mlip_stability"][name] = made.stability(name, draw(few))
        kind = draw(st.sampled_from(["screened", "validated", "failed", "unscreened"]))
        if kind == "validated":
            validate(known, name, draw(few), draw(st.sampled_from([0.0, 1.2, 1.3, 1.4])))
        elif kind == "failed":
            known["dft"][name] = made.calculation(name, fidelity="dft", status="crashed")
        elif kind == "unscreened":
            del known["mlip"][name], known["mlip_stability"][name]
    scores = draw(st.dictionaries(st.sampled_from(names), st.sampled_from([0.0, 0.5, 0.50001, 1.0])))
    return names, known, scores


@given(world=worlds(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_the_order_is_total_and_does_not_depend_on_the_input_order(world, seed: int) -> None:
    names, known, scores = world
    candidates = [made.proposed(name) for name in names]
    rows = ranked(candidates, known, scores)
    random.Random(seed).shuffle(candidates)
    shuffled = {key: dict(random.Random(seed).sample(list(value.items()), len(value))) for key, value in known.items()}
    assert ranked(candidates, shuffled, scores) == rows
    assert sorted(row.material_id for row in rows) == sorted(names)
    assert [row.rank for row in rows] == list(range(1, len(names) + 1))
    hits = [row.meets_targets is True for row in rows]
    assert hits == sorted(hits, reverse=True)
    known_scores = [row.score for row in rows if row.score is not None and row.meets_targets is None]
    assert all(one >= other - 1e-4 for one, other in pairwise(known_scores))


def test_a_polymorph_above_the_ground_state_comes_after_what_is_nearer_to_the_hull() -> None:
    names = ("low", "high", "deep", "near")
    known = evidence(*names)
    known["mlip_stability"] = {
        "low": made.stability("low", -0.3),
        "high": made.stability("high", -0.2, energy_above_hull=0.1),
        "deep": made.stability("deep", -0.05),
        "near": made.stability("near", -0.01),
    }
    rows = ranked([made.proposed(name) for name in names], known)
    assert [row.material_id for row in rows] == ["low", "deep", "near", "high"]


@given(world=worlds(), noise=st.floats(-4e-6, 4e-6))
@settings(deadline=None, max_examples=40)
def test_the_last_digits_of_energies_decide_nothing(world, noise: float) -> None:
    names, known, scores = world

    def shaken(s: Stability) -> Stability:
        return replace(
            s,
            energy_above_hull=max(0.0, round(s.energy_above_hull, 4) + noise),
            decomposition_energy_per_atom=round(s.decomposition_energy_per_atom, 4) + noise,
        )

    def order(**changed: dict[str, Calculation] | dict[str, Stability]) -> list[str]:
        rows: list[RankedCandidate] = ranked([made.proposed(name) for name in names], {**known, **changed}, scores)
        return [row.material_id for row in rows]

    kinds = ("mlip_stability", "dft_stability")
    assert order(**{kind: {name: shaken(s) for name, s in known[kind].items()} for kind in kinds}) == order()


def test_a_row_says_how_dft_found_it_magnetised() -> None:
    known = evidence("oxide", "other")
    magnetic = {"magnetic_order": "antiferromagnetic (½ ½ ½)", "total_magnetization_per_formula_unit": 0.0}
    known["dft"]["oxide"] = replace(made.calculation("oxide", fidelity="dft"), properties=magnetic)
    rows = {row.material_id: row for row in ranked(map(made.proposed, ("oxide", "other")), known)}
    assert rows["oxide"].magnetic_order == "antiferromagnetic (½ ½ ½)"
    assert rows["oxide"].total_magnetization_per_formula_unit == 0.0
    assert rows["other"].magnetic_order is None
    assert rows["other"].total_magnetization_per_formula_unit is None

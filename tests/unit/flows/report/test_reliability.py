"""What the report says of its own predictions."""

from typing import Any

import pytest

from flows.report.reliability import compare, doubts, section
from materials.records import RankedCandidate, Selection
from tests.unit.materials import made_records as made

ENERGY, HULL, GAP = "decomposition_energy_per_atom", "energy_above_hull", "band_gap"


def row(name: str, answer: float, mean: float, std: float = 0.05, **changes: Any) -> RankedCandidate:
    return made.ranked(
        name,
        status="validated",
        fidelity="dft",
        decomposition_energy_per_atom=answer,
        energy_above_hull=max(0.0, answer),
        predicted={ENERGY: (mean, std)},
        **changes,
    )


def pick(name: str, acquisition: str = "probability_of_all_targets", round_number: int = 2, **why: Any) -> Selection:
    return made.selection(name, round=round_number, acquisition=acquisition, why=why)


def test_only_picks_that_dft_has_answered_are_compared() -> None:
    rows = [
        row("a", 0.1, 0.0),
        row("not picked", 0.1, 0.0),
        made.ranked("pending", fidelity="mlip", predicted={ENERGY: (0.0, 0.1)}),
    ]
    (found,) = compare(rows, [pick("a", "audit"), pick("pending"), pick("gone")])
    assert (found.material_id, found.answer, found.group) == ("a", 0.1, "at random")
    assert found.surprise == pytest.approx(2.0)


def test_what_was_learned_for_a_hull_distance_is_compared_with_what_was_learned() -> None:
    stable = made.ranked(
        "a", fidelity="dft", decomposition_energy_per_atom=-0.2, predicted={HULL: (-0.1, 0.1), GAP: (1.0, 0.5)}
    )
    (found,) = compare([stable], [pick("a")])  # nobody computed a gap
    assert found.surprise == pytest.approx(-1.0)


def test_a_gap_that_was_known_when_the_pick_was_made_was_not_predicted() -> None:
    known = made.ranked("a", fidelity="dft", band_gap=2.0, predicted={GAP: (1.0, 0.5), ENERGY: (0.0, 0.1)})
    assert [p.target for p in compare([known], [pick("a", answered=[GAP])])] == [ENERGY]
    assert [p.target for p in compare([known], [pick("a")])] == [GAP, ENERGY]


def test_a_gap_where_a_metal_was_expected_is_a_surprise_and_a_metal_is_none() -> None:
    """The belief is kept as it was: cut at 0, a gap of 0.9 eV would have been a surprise of 2 σ."""
    rows = [
        made.ranked(name, fidelity="dft", band_gap=answer, predicted={GAP: (mean, 0.4)})
        for name, answer, mean in (("gap", 0.9, -2.0), ("metal", 0.0, -2.0), ("lost", 0.0, 1.0))
    ]
    pairs = compare(rows, [pick("gap"), pick("metal"), pick("lost")])
    assert [p.surprise for p in pairs] == pytest.approx([7.25, 0.0, -2.5])
    assert [p.expected for p in pairs] == [0.0, 0.0, 1.0]
    assert [(p.low, p.high) for p in pairs] == [(0.0, 0.0), (0.0, 0.0), (0.6, 1.4)]
    assert doubts(pairs) == [
        "check this calculation: NaCl (`gap`), band gap predicted 0.000 ± 0.400, found 0.900 eV: 7 σ above"
    ]


def test_an_answer_far_out_is_pointed_out() -> None:
    rows = [row("fine", 0.1, 0.0), row("odd", 0.4, 0.0), row("low", -0.3, 0.0)]
    pairs = compare(rows, [pick("fine"), pick("odd"), pick("low")])
    assert doubts(pairs) == [
        "check this calculation: NaCl (`odd`), decomposition energy predicted 0.000 ± 0.050, found 0.400 eV/atom:"
        " 8 σ above",
        "check this calculation: NaCl (`low`), decomposition energy predicted 0.000 ± 0.050, found -0.300 eV/atom:"
        " 6 σ below",
    ]


def test_the_section_has_the_numbers_and_the_words() -> None:
    # Half of the chosen lie within 0.5 σ, the others at 2 σ; the random ones all at 3 σ.
    rows = [row(f"c{i}", 0.025 if i % 2 else 0.1, 0.0, meets_targets=i < 4) for i in range(10)]
    rows += [row(f"r{i}", 0.15, 0.0, meets_targets=False) for i in range(4)]
    selections = [pick(f"c{i}", odds=0.6 if i < 5 else 0.2) for i in range(10)]
    selections += [pick(f"r{i}", "audit", odds=0.05) for i in range(4)]
    text = section(rows, selections, 14, {"x": ["holds Cs"], "y": []})
    assert "- learned from 14 answers only: below 20 the fit" in text
    assert "- of the 2 next in line, 1 are unlike what was computed:\n- `x`: holds Cs" in text
    chosen = next(line for line in text.splitlines() if "chosen" in line)
    assert chosen.startswith(
        "| decomposition energy (eV/atom), chosen | 10 | 50% (22% to 78%) | 50% (22% to 78%) | +0.06"
    )
    assert chosen.endswith("| error bars too small: fewer answers lie inside than they say |")
    random = next(line for line in text.splitlines() if "at random" in line)
    assert "| 4 | 0% (0% to " in random
    assert "| 0.0 to 0.1 | 4 | 0.2 | 0: 0% (0% to " in text
    assert "| 0.1 to 0.3 | 5 | 1.0 | 0: 0% (0% to " in text
    assert "| 0.5 to 0.7 | 5 | 3.0 | 4: 80% (" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {9, 5}


def test_the_first_round_is_told_apart_for_its_error_bars_are_assumed() -> None:
    rows = [row(name, 0.1, 0.0, meets_targets=True) for name in ("a", "b", "c")]
    first = [pick("a", round_number=1, odds=0.9), pick("b", "audit", round_number=1, odds=0.9)]
    text = section(rows, [*first, pick("c", odds=0.9)], 30, {})
    assert "first round | 2 |" in text
    assert "chosen | 1 |" in text
    assert "at random |" not in text
    assert "| 0.9 to 1.0 | 1 | 0.9 | 1: " in text


def test_of_many_answers_far_out_the_farthest_are_named() -> None:
    rows = [row(f"m{i}", 0.3 + 0.01 * i, 0.0) for i in range(13)]
    lines = doubts(compare(rows, [pick(f"m{i}") for i in range(13)]))
    assert "`m12`" in lines[0]
    assert lines[10:] == ["and 3 more"]


def test_odds_are_not_judged_where_nothing_can_be_met_or_something_was_known() -> None:
    rows = [row("a", 0.1, 0.0, meets_targets=None), row("b", 0.1, 0.0, meets_targets=True)]
    text = section(rows, [pick("a", odds=0.5), pick("b", odds=0.5, answered=[ENERGY]), pick("c", odds=0.5)], 30, {})
    assert "| probability |" not in text
    assert "chosen | 1 |" in text


def test_before_any_answer_it_says_so_and_no_more() -> None:
    text = section([made.ranked("a")], [], 0, {})
    assert text == "- DFT has not answered yet: predictions are the potential's own values, error bars are assumed"


def test_nothing_to_say_is_no_section() -> None:
    assert section([], [], 50, {"x": []}) == ""


def test_of_many_that_are_unlike_the_first_are_named() -> None:
    text = section([], [], 50, {f"m{i}": ["holds Cs"] for i in range(14)})
    assert text.endswith("14 are unlike what was computed:\n- `m0`, `m1`, `m2` and 11 more: holds Cs")
    text = section([], [], 50, {f"m{i}": [f"is {min(i, 11)}"] for i in range(14)})
    assert "- `m9`: is 9" in text
    assert text.endswith("- and 4 more")


def test_error_bars_of_gaps_end_at_zero() -> None:
    rows = [made.ranked("a", fidelity="dft", band_gap=0.5, predicted={GAP: (0.3, 0.5), ENERGY: (0.0, 0.1)})]
    gap, energy = compare(rows, [pick("a")])
    assert (gap.low, energy.low) == (0.0, pytest.approx(-0.1))


def test_metals_that_were_expected_say_nothing_for_or_against_error_bars() -> None:
    metals = [made.ranked(f"m{i}", fidelity="dft", band_gap=0.0, predicted={GAP: (0.0, 0.8)}) for i in range(100)]
    told = section(metals, [pick(f"m{i}") for i in range(100)], 100, {})
    assert "| 100 | 50% (40% to 60%) | 90% (83% to 95%) |" in told
    assert "agree with what came" in told

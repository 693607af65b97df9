"""What is told of a replay, against curves made by hand."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import bootstrap, ttest_1samp

from flows.replay.report import Line, as_json, as_text, curves_of, lines, write
from flows.replay.run import Replayed
from materials.records import Target
from models.learning.simulation import STRATEGIES, Features, Played, Question

ENERGY = "decomposition_energy_per_atom"
N, WANTED = 400, 10
ASKED = "t.csv: the lowest 1 % of energy, 10 of 400 rows"


def question(n: int = N, wanted: int = WANTED) -> Question:
    """A table whose first rows are wanted."""
    nothing = Features(matrix=np.zeros((n, 1)), widths=(1,))
    return Question(
        features={"all": nothing, "composition": nothing},
        answers={ENERGY: np.zeros(n)},
        priors={},
        targets=[Target(property=ENERGY, goal="minimize")],
        wanted=np.arange(n) < wanted,
        groups=np.arange(n),
    )


def played(hits: Sequence[int], budget: int = 120, n: int = N, wanted: int = WANTED, cpu_s: float = 1.0) -> Played:
    """A campaign whose answers number `hits`, counted from 1, are wanted ones."""
    rest = iter(range(wanted, n))
    found = iter(range(wanted))
    order = [next(found) if place in hits else next(rest) for place in range(1, budget + 1)]
    return Played(order=np.array(order), held={}, covered={}, cpu_s=cpu_s)


def replayed(**campaigns: Sequence[Played]) -> Replayed:
    return Replayed(asked=ASKED, question=question(), played=campaigns, left_out={})


QUICK = [played([*range(1, 9), 60, 110]), played([10, 20, 30, 40, 50, 51, 52, 53, 54, 100], cpu_s=2.0)]


def line(campaigns: Sequence[Played]) -> Line:
    (found,) = lines(replayed(quick=campaigns))
    return found


def test_the_numbers_of_a_strategy() -> None:
    found = line(QUICK)
    assert found.strategy == "quick"
    assert found.seeds == 2
    assert (found.hits, found.hits_std) == (10.0, 0.0)
    assert found.recall_at_50 == pytest.approx((0.8 + 0.5) / 2)
    assert found.recall_at_100 == pytest.approx((0.9 + 1.0) / 2)
    assert found.n50 == pytest.approx((5 + 50) / 2)
    assert found.n80 == pytest.approx((8 + 53) / 2)
    assert found.cpu_s == pytest.approx(1.5)
    # Eight of ten by chance: 8 x 401 / 11 draws of 400; and 100 of 400 answers find a quarter.
    assert found.acceleration == pytest.approx(8 * 401 / 11 / 30.5, abs=0.006)
    assert found.enhancement == pytest.approx(0.95 / 0.25)
    assert found.covered == {}


def test_hits_are_counted_with_the_whole_budget_over_seeds() -> None:
    found = line([played(range(1, count + 1), budget=12) for count in (2, 4, 6)])
    assert (found.hits, found.hits_std) == (4.0, 2.0)
    assert " 4.0 ± 2.0 |" in as_text(replayed(random=[played(range(1, n + 1), budget=12) for n in (2, 4, 6)]))
    assert line([played([1, 2, 3])]).hits_std is None


def test_chance_is_as_quick_as_it_says() -> None:
    rng = np.random.default_rng(0)
    needed = [np.sort(rng.permutation(N)[:WANTED])[7] + 1 for _ in range(4000)]
    found = line([played(range(1, 9))])
    assert found.n80 == 8
    assert found.acceleration == pytest.approx(np.mean(needed) / 8, rel=0.02)


def test_where_a_seed_does_not_get_there_nothing_is_told() -> None:
    found = line([played([*range(1, 8)]), played([1, 2, 3, 4, 5])])
    assert (found.n50, found.n80) == (5, None)
    assert found.acceleration == pytest.approx(5 * 401 / 11 / 5, abs=0.01)  # to half
    found = line([played([1, 2, 3, 4, 5]), played([1])])
    assert (found.n50, found.n80, found.acceleration) == (None, None, None)
    assert found.recall_at_100 == pytest.approx(0.3)


@given(st.lists(st.integers(0, WANTED), min_size=2, max_size=30))
def test_the_interval_is_students(hits: list[int]) -> None:
    found = line([played(range(1, count + 1)) for count in hits])
    shares = np.array(hits) / WANTED
    if np.std(shares) < 1e-12:
        assert found.interval_low == found.interval_high == pytest.approx(shares[0])
        return
    interval = ttest_1samp(shares, 0.0).confidence_interval(0.95)
    assert found.interval_low == pytest.approx(max(interval.low, 0.0), abs=1e-4)
    assert found.interval_high == pytest.approx(min(interval.high, 1.0), abs=1e-4)


def test_the_interval_is_about_what_the_bootstrap_gives() -> None:
    shares = np.random.default_rng(1).integers(2, 9, 40)
    found = line([played(range(1, count + 1)) for count in shares])
    other = bootstrap((shares / WANTED,), np.mean, rng=np.random.default_rng(2)).confidence_interval
    assert found.interval_low == pytest.approx(other.low, abs=0.01)
    assert found.interval_high == pytest.approx(other.high, abs=0.01)


def test_one_seed_has_no_interval_to_speak_of() -> None:
    found = line([played([1, 2])])
    assert found.recall_at_100 == pytest.approx(0.2)
    assert found.interval_low is found.interval_high is None
    assert " – |" in as_text(replayed(random=[played([1, 2])]))


def test_one_that_has_nothing_left_to_ask_for_finds_no_more() -> None:
    early, late = [played([1, 2], budget=4)] * 2, [played([1, 2, 50], budget=120)] * 2
    both = replayed(campaign=early, random=late)
    first, other = lines(both)
    assert (first.recall_at_50, first.recall_at_100) == (0.2, 0.2)
    assert first.enhancement == pytest.approx(0.2 * N / 100)
    assert other.enhancement == pytest.approx(0.3 * N / 100)
    assert [curves_of(both, name).shape for name in both.played] == [(2, 120), (2, 120)]


def test_what_nobody_can_find_is_wanted_all_the_same() -> None:
    asked = Replayed(
        asked=ASKED, question=replace(question(), lost=WANTED), played={"random": [played([1, 2])]}, left_out={}
    )
    assert lines(asked)[0].recall_at_100 == pytest.approx(0.1)


@pytest.mark.parametrize("budget", [1, 20, 70])
def test_a_budget_below_a_hundred(budget: int) -> None:
    found = line([played([1], budget=budget)])
    assert found.recall_at_50 == found.recall_at_100 == pytest.approx(0.1)
    assert found.enhancement == pytest.approx(0.1 * N / budget, abs=0.006)


def test_a_table_of_one() -> None:
    one = Replayed(
        asked=ASKED, question=question(1, 1), played={"random": [played([1], budget=1, n=1, wanted=1)] * 3}, left_out={}
    )
    (found,) = lines(one)
    assert (found.n50, found.n80, found.recall_at_50, found.enhancement, found.acceleration) == (1, 1, 1, 1, 1)


def told_of() -> Replayed:
    """Three strategies: one that learned, one that did not get far, one that could not be played."""
    inside = np.full(120, np.nan)
    inside[10:14] = [1, 1, 0, 1]
    learned = [Played(order=p.order, held={ENERGY: inside}, covered={ENERGY: 0.875}, cpu_s=p.cpu_s) for p in QUICK]
    silent = [
        Played(order=p.order, held={ENERGY: inside * np.nan}, covered={ENERGY: np.nan}, cpu_s=0.0)
        for p in (played([]), played([3]))
    ]
    return Replayed(
        asked=ASKED,
        question=question(),
        played={"campaign": learned, "composition": silent, "random": [played([]), played([])]},
        left_out={"hull": "the potential has no say in what is wished for"},
    )


def no_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_json_is_an_object_a_strategy_a_line() -> None:
    said = as_json(told_of()).splitlines()
    found = [json.loads(text, parse_constant=no_constant) for text in said]
    assert [one["strategy"] for one in found] == ["campaign", "composition", "random"]
    for one in found:
        assert list(one) == [field.name for field in fields(Line)]
    assert found[0]["covered"] == {ENERGY: [0.75, 0.875]}
    assert found[0]["n80"] == 30.5
    assert found[1]["covered"] == {ENERGY: [None, None]}
    assert found[1]["n50"] is found[1]["n80"] is found[1]["acceleration"] is None
    assert (found[2]["recall_at_100"], found[2]["enhancement"], found[2]["seeds"]) == (0.0, 0.0, 2)


def test_text_is_a_table_with_notes() -> None:
    head, rule, *rows = as_text(told_of()).splitlines()
    table = [row for row in rows if row.startswith("|")]
    assert len({len(row) for row in (head, rule, *table)}) == 1
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    assert cells[0] == [
        "campaign", "10.0 ± 0.0", "0.65", "0.95", "0.31 to 1.00", "28", "30", "9.6", "3.8", "0.75/0.88", "1.5",
    ]  # fmt: skip
    assert cells[1][5:8] == ["–", "–", "–"]
    assert cells[1][9] == "–/–"
    assert cells[2][9] == "–"
    notes = "\n".join(rows[len(table) :])
    assert "hull: not played, the potential has no say in what is wished for." in notes
    for name in ("campaign", "composition", "random"):
        assert f"{name}: {STRATEGIES[name].title}" in notes
    assert "nan" not in as_text(told_of())
    assert f"{ASKED}." in notes


def test_what_is_written(tmp_path: Path) -> None:
    made = told_of()
    plot = write(made, tmp_path / "deep" / "folder")
    assert sorted(path.name for path in plot.parent.iterdir()) == [
        "curves.csv",
        "replay.jsonl",
        "replay.md",
        "replay.png",
    ]
    with Image.open(plot) as picture:
        picture.verify()
        assert picture.format == "PNG"
        assert min(picture.size) > 400
    assert (plot.parent / "replay.jsonl").read_text() == as_json(made) + "\n"
    assert (plot.parent / "replay.md").read_text().startswith(as_text(made))
    with (plot.parent / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 120
    for name in made.played:
        curves = curves_of(made, name)
        for row in rows:
            if row["strategy"] == name:
                share = curves[int(row["seed"]), int(row["answers"]) - 1]
                assert math.isclose(float(row["recall"]), share, abs_tol=1e-6)
    first = plot.read_bytes()
    assert write(made, plot.parent).read_bytes() == first

"""What a replay looks for, and that its processes change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from flows.config.campaign import Campaign
from flows.config.sources import Prototypes
from flows.output.progress import Progress
from flows.replay import run as replaying
from flows.replay.dataset import Table, made_up
from flows.replay.labelled_structures import campaign_of, open_rows
from flows.replay.report import curves_of
from flows.replay.request import Request
from flows.replay.run import Replayed, replay
from flows.replay.targets import best_share, wanted_of
from materials.errors import ClusterError, InputError
from materials.records import Goal, Target
from materials.store.ledger import Ledger
from materials.targets import Wish
from models.learning.simulation import Features, Played, Strategy
from tests.unit.materials import made_records as made

ENERGY = "decomposition_energy_per_atom"
LOWEST = Target(property=ENERGY, goal="minimize")
QUIET = Progress(lambda line: None)


def table(n: int = 60, seed: int = 0, **answers: Any) -> Table:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, 4))
    energy = 0.3 * np.tanh(matrix[:, 0])
    prior = energy + 0.1 * matrix[:, 2]
    return Table(
        features={name: Features(matrix=matrix, widths=(4,)) for name in ("all", "composition")},
        answers={ENERGY: energy, "band_gap": np.abs(matrix[:, 1]), **answers},
        priors={ENERGY: prior, "energy_above_hull": np.maximum(prior, 0), "formation_energy_per_atom": energy - 1},
        groups=np.arange(n),
        lost={name: np.empty(0) for name in (ENERGY, "band_gap", *answers)},
    )


class Here(ThreadPoolExecutor):
    """Plays in this process: others take seconds to start."""

    def __init__(self, *, mp_context: object, **settings: Any) -> None:
        super().__init__(**settings)


def play(
    monkeypatch: pytest.MonkeyPatch, found: Table, request: Request, *, here: bool = True, progress: Progress = QUIET
) -> Replayed:
    """Replay on a table that needs no screening."""
    with monkeypatch.context() as patched:
        patched.setattr("flows.replay.dataset.read_table", lambda *_: found)
        if here:
            patched.setattr("concurrent.futures.ProcessPoolExecutor", Here)
        return replay(request, progress)


@given(
    values=st.lists(st.integers(-30, 30) | st.just(None), min_size=1, max_size=400),
    goal=st.sampled_from(["minimize", "maximize", "near"]),
)
def test_the_best_share_is_one_in_a_hundred_and_its_ties(values: list[int | None], goal: Goal) -> None:
    answers = np.array([np.nan if value is None else value / 10 for value in values])
    target = Target(property="x", goal=goal, value=0.7 if goal == "near" else None)
    known = [value for value in values if value is not None]
    # In tenths, so that ties are ties.
    badness = {"minimize": lambda v: v, "maximize": lambda v: -v, "near": lambda v: abs(v - 7)}[goal]
    cut = sorted(badness(value) for value in known)[-(-len(known) // 100) - 1] if known else 0
    expected = [value is not None and badness(value) <= cut for value in values]
    assert best_share(target, {"x": answers}).tolist() == expected


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, "nothing is wished for: give --target, --want or --campaign"),
        ({"target": LOWEST, "wishes": [Wish(property=ENERGY, high=0.0)]}, "--target and --want: give one of the two"),
        ({"target": LOWEST, "strategies": ["random", "lucky", "x"]}, "--strategies: no lucky, x; there are campaign, "),
        ({"wishes": [Wish(property=ENERGY, high=-9.0)]}, "no row of the table is what is wished for"),
        ({"target": Target(property=ENERGY, goal="near", value=float("nan"))}, "no row of the table"),
        (
            {"target": Target(property="band_gap", goal="maximize"), "strategies": ["hull"]},
            "--strategies hull: the potential has no say in what is wished for",
        ),
    ],
)
def test_what_cannot_be_replayed_is_told(
    monkeypatch: pytest.MonkeyPatch, request_: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as told:
        play(monkeypatch, table(), Request(table="x", **request_))
    assert str(told.value).startswith(said)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_what_ties_does_not_depend_on_the_unit(scale: float) -> None:
    values = np.arange(200) / 10 * scale
    assert np.flatnonzero(best_share(LOWEST, {ENERGY: values})).tolist() == [0, 1]


def test_rows_that_cannot_be_screened_are_wanted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = table()
    found = replace(found, lost={ENERGY: np.array([-3.0, 5.0]), "band_gap": np.array([1.0, 1.0])})
    wish = Wish(property=ENERGY, high=-0.25)
    request = Request(table="x", wishes=[wish], strategies=["random"], seeds=1, budget=60)
    replayed = play(monkeypatch, found, request)
    inside = int(np.sum(found.answers[ENERGY] <= -0.25))
    assert (replayed.question.lost, replayed.question.n_wanted) == (1, inside + 1)
    assert replayed.asked.startswith(f"x: {ENERGY} <= -0.25, {inside + 1} (1 of them left out, which nobody can find)")
    assert curves_of(replayed, "random")[0, -1] == pytest.approx(inside / (inside + 1))
    with pytest.raises(InputError, match=r"all that is to be found \(1 rows\) is left out"):
        play(monkeypatch, found, replace(request, wishes=[Wish(property=ENERGY, high=-2.0)]))


def test_hopeless_wishes_are_told_with_the_range() -> None:
    answers = {ENERGY: np.array([0.1, np.nan, 0.4])}
    with pytest.raises(InputError) as told:
        wanted_of([LOWEST], [Wish(property=ENERGY, high=-9.0)], answers)
    assert str(told.value) == f"no row of the table is what is wished for: {ENERGY} goes from 0.1 to 0.4"


def test_what_the_potential_knows_nothing_of_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    found = table(ehull=np.linspace(0, 1, 60))
    target = Target(property="ehull", goal="minimize")
    request = Request(table="x", target=target, strategies=["random", "hull"], seeds=1, budget=5)
    play(monkeypatch, found, request, progress=Progress(said.append))
    assert any(line.startswith("ehull is learned from its answers alone: ") and ENERGY in line for line in said)
    assert "hull: not played, the potential has no say in what is wished for" in said


def campaign(targets: list[dict[str, Any]], **learning: Any) -> Campaign:
    return Campaign.model_validate(
        {"name": "x", "sources": [{"kind": "files", "path": "x"}], "targets": targets, "learning": learning}
    )


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        ([{"property": ENERGY, "at_most": 0.0}], lambda e, g: e <= 0),
        ([{"property": ENERGY, "at_least": 0.1}], lambda e, g: e >= 0.1),
        (
            [{"property": ENERGY, "at_most": 0.0}, {"property": "band_gap", "near": 1.0, "within": 0.5}],
            lambda e, g: (e <= 0) & (np.abs(g - 1) <= 0.5),
        ),
        # What only orders takes no part where there are thresholds.
        ([{"property": ENERGY, "goal": "minimize"}, {"property": "band_gap", "at_least": 1.0}], lambda e, g: g >= 1),
        ([{"property": "band_gap", "goal": "maximize"}], lambda e, g: g == g.max()),
    ],
)
def test_a_campaigns_targets_are_what_is_wanted(
    monkeypatch: pytest.MonkeyPatch, targets: list[dict[str, Any]], wanted: Any
) -> None:
    found = table()
    request = Request(table="x", campaign=campaign(targets), strategies=["random"], seeds=1, budget=5)
    replayed = play(monkeypatch, found, request)
    np.testing.assert_array_equal(replayed.question.wanted, wanted(found.answers[ENERGY], found.answers["band_gap"]))
    assert len(replayed.question.targets) == len(targets)


def test_several_targets_that_only_order_have_no_best() -> None:
    both = campaign([{"property": p, "goal": "minimize"} for p in (ENERGY, "band_gap")])
    with pytest.raises(InputError, match="give one of them as --target"):
        replay(Request(table="x", campaign=both), QUIET)


def threads() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}


@pytest.mark.slow
def test_a_seed_gives_the_same_picks_on_any_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["campaign", "random", "hull", "random"]
    request = Request(table="x", target=LOWEST, strategies=names, seeds=2, batch=4, budget=12)
    found = []
    before = threads()
    for processes in (1, 2):
        monkeypatch.setattr(replaying, "cores", lambda processes=processes: processes)
        replayed = play(monkeypatch, table(), request, here=processes == 1)
        found.append({name: [p.order.tolist() for p in played] for name, played in replayed.played.items()})
    assert found[0] == found[1]
    assert list(found[0]) == ["campaign", "random", "hull"]
    assert [len(orders) for orders in found[0].values()] == [2, 2, 2]
    assert found[0]["random"][0] != found[0]["random"][1]
    assert found[0]["hull"][0] == found[0]["hull"][1]
    assert threads() == before


def test_the_campaign_chooses_by_its_own_acquisition(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["campaign", "expected_improvement"]
    asked = {"table": "x", "target": LOWEST, "strategies": names, "seeds": 1, "batch": 5, "budget": 20}
    own = campaign([{"property": ENERGY, "goal": "minimize"}], acquisition="expected_improvement")
    for given_, same in ((None, False), (own, True)):
        played = play(monkeypatch, table(), Request(campaign=given_, **asked)).played
        first, other = (played[name][0].order.tolist() for name in names)
        assert (first == other) == same


def test_the_campaign_file_says_what_is_considered_and_how_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = table(), list[str]()
    near = np.round(found.priors[ENERGY], 4) <= 0.05
    assert 5 < near.sum() < 50
    own = campaign([{"property": ENERGY, "goal": "minimize"}], within=0.05, batch=4, cost="time")
    request = Request(table="x", campaign=own, strategies=["campaign", "no_potential", "random"], seeds=1, budget=50)
    played = play(monkeypatch, found, request, progress=Progress(said.append)).played
    for name in ("campaign", "no_potential"):
        assert sorted(played[name][0].order) == np.flatnonzero(near).tolist()
    assert len(played["random"][0].order) == 50
    hits = np.sum(near & best_share(LOWEST, found.answers))
    assert f"A campaign considers the {near.sum()} rows within 0.05 eV/atom of the potential's hull" in "\n".join(said)
    assert f"(learning.within), {hits} of those to be found" in "\n".join(said)
    assert any(line.startswith("Each answer counts one") for line in said)
    assert request.settings["batch"] == 4
    assert replaying.Request(table="x", campaign=own, batch=7).settings["batch"] == 7
    assert replaying.Request(table="x").settings["batch"] == 10


def test_a_finished_campaign_is_replayed_as_it_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    own = campaign([{"property": ENERGY, "goal": "maximize"}], batch=4)
    monkeypatch.setattr("flows.replay.labelled_structures.campaign_of", lambda *_: own)
    for target, words in ((None, "the highest 1 %"), (LOWEST, "the lowest 1 %")):
        request = Request(table="done", target=target, strategies=["random"], seeds=1, budget=5)
        asked = play(monkeypatch, table(), request).asked
        assert asked == f"done: {words} of {ENERGY}, 1 of 60 rows; batches of 4, 5 answers, 1 seeds"


def test_a_campaign_that_considers_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = table()
    found.priors["energy_above_hull"][:] += 5
    own = campaign([{"property": ENERGY, "goal": "minimize"}])
    request = Request(table="x", campaign=own, strategies=["campaign", "random"], seeds=1, budget=5)
    replayed = play(monkeypatch, found, request)
    assert replayed.left_out == {"campaign": "no row is known to lie within 0.2 eV/atom of the potential's hull"}
    assert list(replayed.played) == ["random"]


def test_a_strategy_that_cannot_be_played_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(
        table="x",
        target=Target(property="band_gap", goal="maximize"),
        strategies=["random", "potential"],
        seeds=1,
        budget=5,
    )
    replayed = play(monkeypatch, table(), request)
    assert list(replayed.played) == ["random"]
    assert replayed.left_out == {"potential": "the potential has no say in what is wished for"}


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    import json

    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(path)


def poscar(a: float, symbol: str = "Cl") -> str:
    return str(Structure(Lattice.cubic(a), ["Na", symbol], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(fmt="poscar"))


def test_rows_of_a_file_keep_their_own_answers(tmp_path: Path) -> None:
    rows = [
        {"structure": poscar(3.4), "gap": 1.0},
        {"structure": "no structure", "gap": 2.0},
        {"structure": poscar(3.4), "gap": "3"},  # the same structure once more, with another answer
        {"structure": poscar(3.5), "gap": None},
        {"structure": poscar(3.6), "gap": "broken"},
        {"structure": poscar(3.7), "gap": float("inf")},
        {"structure": poscar(3.8), "gap": [6.0, 7.0]},
        {"structure": poscar(3.9), "gap": 8},
    ]
    name = written(tmp_path / "t.jsonl", rows)
    with open_rows(name, f"sqlite:///{tmp_path / 'assay.db'}", ["gap"]) as (_, labelled):
        np.testing.assert_array_equal(labelled.answers["gap"], [1, 3, np.nan, np.nan, np.nan, np.nan, 8])
        assert labelled.candidates[0].material_id == labelled.candidates[1].material_id
        assert len({candidate.material_id for candidate in labelled.candidates}) == 6
        assert len(labelled.failures) == 1


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz", "t.parquet"])
def test_a_table_of_each_kind(tmp_path: Path, name: str) -> None:
    import pandas as pd

    rows = pd.DataFrame({"cif": [poscar(3.4), poscar(3.5), "none", poscar(3.6)], "gap": [1.0, np.nan, 3.0, -4e-3]})
    if ".csv" in name:
        rows.to_csv(tmp_path / name, index=False)
    elif ".jsonl" in name:
        rows.to_json(tmp_path / name, orient="records", lines=True)
    else:
        rows.to_parquet(tmp_path / name)
    with open_rows(str(tmp_path / name), f"sqlite:///{tmp_path / 'assay.db'}", ["gap"]) as (_, labelled):
        np.testing.assert_array_equal(labelled.answers["gap"], [1.0, np.nan, -4e-3])
        assert [c.structure.lattice.a for c in labelled.candidates] == pytest.approx([3.4, 3.5, 3.6])
        assert labelled.campaign is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"structure": "no structure", "gap": 2.0}], "no row has a structure that can be read; the first: t.jsonl#1"),
        ([{"structure": poscar(3.4), "gap": "wide"}], "no row with a structure has a number as gap"),
        ([{"structure": poscar(3.4), "width": 1}], "has no column 'gap'; it has structure, width"),
        ([{"structure": poscar(3.4), "Gap": 1}], "has no column 'gap' (did you mean Gap?); it has structure, Gap"),
        ([{"gap": 1.0}], "has no column of structures"),
        ([], "has no column 'gap'; it has none"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_and_no_ledger_made(
    tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    name = written(tmp_path / "t.jsonl", rows)
    with pytest.raises(InputError) as told, open_rows(name, f"sqlite:///{tmp_path / 'assay.db'}", ["gap"]):
        pass
    assert said in str(told.value)
    assert name in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a table is one of"), open_rows(str(tmp_path), None, ["gap"]):
        pass


@pytest.fixture
def finished(tmp_path: Path) -> str:
    """A ledger with a campaign of which DFT has validated two, and one of which it has validated none."""
    url = f"sqlite:///{tmp_path / 'assay.db'}"
    with Ledger.open(url) as ledger:
        own = campaign([{"property": ENERGY, "at_most": 0.0}])
        campaign_id = ledger.add_campaign("done", own.identity())
        candidates = [made.candidate(f"NaCl-{letter}", structure=made.salt(5 + i)) for i, letter in enumerate("abcd")]
        ledger.add_candidates(campaign_id, candidates)
        rows = [
            made.ranked("NaCl-c", rank=1, status="validated", fidelity="dft", decomposition_energy_per_atom=-0.2),
            made.ranked("NaCl-a", rank=2, status="validated", fidelity="dft", band_gap=1.5),
            made.ranked("NaCl-b", rank=3, decomposition_energy_per_atom=-9.0),  # by the potential
        ]
        ledger.publish(campaign_id, rows)
        ledger.add_campaign("begun", campaign([{"property": ENERGY, "at_most": 0.1}]).identity())
    return url


def test_a_campaign_of_the_ledger_is_a_table_of_what_dft_said(finished: str) -> None:
    with open_rows("done", finished, [ENERGY, "band_gap"]) as (_, labelled):
        # In the order of their ids: that of their ranks would tell who is best.
        assert [candidate.material_id for candidate in labelled.candidates] == ["NaCl-a", "NaCl-c"]
        np.testing.assert_array_equal(labelled.answers[ENERGY], [-0.1, -0.2])
        np.testing.assert_array_equal(labelled.answers["band_gap"], [1.5, np.nan])
        assert labelled.campaign is not None
        assert labelled.candidates[1].structure.lattice.a == pytest.approx(7)
    own = campaign_of("done", finished)
    assert own is not None
    assert [target.record().value for target in own.targets] == [0.0]
    assert campaign_of("dine", finished) is None
    assert campaign_of(__file__, finished) is None
    assert campaign_of("done", finished + ".nowhere") is None


@pytest.mark.parametrize(
    ("name", "properties", "said"),
    [
        ("done", ["formula"], "a campaign has no 'formula'; it has decomposition_energy_per_atom, "),
        ("done", ["colour"], "a campaign has no 'colour'"),
        ("begun", [ENERGY], "the campaign begun has no candidate that DFT has validated"),
        ("dine", [ENERGY], "dine is no file, and no campaign either. "),
    ],
)
def test_a_campaign_that_cannot_be_used_is_told(finished: str, name: str, properties: list[str], said: str) -> None:
    with pytest.raises(InputError) as told, open_rows(name, finished, properties):
        pass
    assert str(told.value).startswith(said)


def test_no_file_and_no_ledger(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'assay.db'}"
    with (
        pytest.raises(InputError, match=r"t\.csv is no file, and no campaign either: "),
        open_rows("t.csv", url, ["x"]),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_competing_phases_are_made_up_of_the_elements_there_are() -> None:
    salts = [made.candidate("a", chemsys="Cl-Na"), made.candidate("b", chemsys="Na-O-Ti")]
    elements, binaries = made_up(salts)
    assert isinstance(elements, Prototypes)
    assert isinstance(binaries, Prototypes)
    assert elements.roles == {"element": ["Cl", "Na", "O", "Ti"]}
    assert binaries.roles == {"cation": ["Na", "Ti"], "anion": ["Cl", "O"]}
    assert len(made_up([made.candidate("a", chemsys="Cu")])) == 1


@pytest.mark.parametrize(("ended", "told"), [(BrokenProcessPool, ClusterError), (KeyboardInterrupt, KeyboardInterrupt)])
def test_what_ends_one_campaign_by_force_ends_the_replay(
    monkeypatch: pytest.MonkeyPatch, ended: type[BaseException], told: type[BaseException]
) -> None:
    begun: list[int] = []

    def lost(strategy: Strategy, seed: int) -> Played:
        begun.append(seed)
        time.sleep(0.05)
        raise ended

    monkeypatch.setattr(replaying, "_play", lost)
    monkeypatch.setattr(replaying, "cores", lambda: 1)
    with pytest.raises(told):
        play(monkeypatch, table(), Request(table="x", target=LOWEST, strategies=["random"], seeds=100))
    assert len(begun) < 20  # the others are not waited for


ASKS = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import getpid
from flows.replay.run import _begin

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), _begin, (None, {})) as pool:
        print(pool.submit(getpid).result(), flush=True)
        time.sleep(60)
"""


def test_a_process_that_plays_ends_with_the_one_that_asked(tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text(ASKS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    words = [sys.executable, str(tmp_path / "asks.py")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True) as asks:
        assert asks.stdout is not None
        plays = psutil.Process(int(asks.stdout.readline()))
        asks.kill()
    plays.wait(timeout=20)  # raises if it is still there

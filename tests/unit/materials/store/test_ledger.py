"""The ledger: what is told comes back exactly, once, and survives whatever happens to its process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure
from sqlalchemy import event, func, select

from materials.crystals.serialization import structure_from_json, structure_to_json
from materials.errors import InputError, LedgerError, LedgerLost, LedgerTooNew, QueryError
from materials.query import parse, parse_sort
from materials.records import Failure, Prediction, RankedCandidate
from materials.store import browse, recording, schema, transactions
from materials.store import connection as connecting
from materials.store.browse import columns
from materials.store.ledger import Ledger
from materials.store.rows import write_calculation, write_candidate
from tests.unit.materials import made_records as made

any_record = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROOT = Path(__file__).parents[4]


@pytest.fixture
def sqlite_ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(str(tmp_path / "assay.db")) as ledger:
        yield ledger


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "sqlite":
        url = str(tmp_path / "assay.db")
    else:
        pytest.importorskip("psycopg")
        url = request.getfixturevalue("postgresql_server").make(f"test{uuid4().hex}")
    with Ledger.open(url) as ledger:
        yield ledger


def campaign(ledger: Ledger) -> str:
    """A campaign of its own for each example of a property test."""
    return ledger.add_campaign("test", {"number": len(ledger.campaigns())})


def same_structure(one, other) -> bool:
    if one is None or other is None:
        return one is other
    return (
        np.array_equal(one.lattice.matrix, other.lattice.matrix)
        and np.array_equal(one.frac_coords, other.frac_coords)
        and one.species_and_occu == other.species_and_occu
        and one.site_properties == other.site_properties
    )


@given(structure=made.structures())
@any_record
def test_structures_round_trip_bit_by_bit(structure) -> None:
    assert same_structure(structure_from_json(structure_to_json(structure)), structure)


@given(candidate=made.candidates)
@any_record
def test_candidates_round_trip(ledger: Ledger, candidate) -> None:
    number = len(ledger.campaigns())
    candidate = replace(candidate, material_id=f"{number}-{candidate.material_id}")
    campaign_id = campaign(ledger)
    ledger.add_candidates(campaign_id, [candidate])
    ledger.add_candidates(campaign_id, [candidate])
    (found,) = ledger.candidates(campaign_id)
    assert same_structure(found.structure, candidate.structure)
    assert replace(found, structure=candidate.structure) == candidate
    assert ledger.candidate_sizes(campaign_id) == {candidate.material_id: len(candidate.structure)}


@given(calculation=made.calculations)
@any_record
def test_calculations_round_trip(ledger: Ledger, calculation) -> None:
    number = len(ledger.campaigns())
    calculation = replace(calculation, material_id=f"{number}-{calculation.material_id}")
    campaign(ledger)
    ledger.add_calculations([calculation])
    ledger.add_calculations([calculation])
    found = ledger.calculations([calculation.material_id])[calculation.material_id]
    assert same_structure(found.structure, calculation.structure)
    assert replace(found, structure=calculation.structure) == calculation
    assert ledger.calculations_by_id([calculation.calculation_id]).keys() == {calculation.calculation_id}


@given(data=st.data())
@any_record
def test_the_other_records_round_trip(ledger: Ledger, data: st.DataObject) -> None:
    campaign_id = campaign(ledger)
    stability = data.draw(made.stabilities)
    prediction, selection = data.draw(made.predictions), data.draw(made.selections)
    failure, row = data.draw(made.failures), data.draw(made.rankings)
    for _ in range(2):
        ledger.add_stabilities(campaign_id, [stability])
        ledger.add_predictions(campaign_id, [prediction])
        ledger.add_selections(campaign_id, [selection])
        ledger.add_failures(campaign_id, [failure])
    assert ledger.stabilities(campaign_id) == {stability.material_id: stability}
    assert ledger.predictions(campaign_id) == {prediction.material_id: {prediction.target: prediction}}
    assert ledger.selections(campaign_id) == [selection]
    assert ledger.failures(campaign_id) == [failure]
    assert (ledger.publish(campaign_id, [row]), ledger.publish(campaign_id, [row])) == (1, 0)
    assert ledger.ranked(campaign_id) == [row]


def test_telling_twice_adds_nothing(ledger: Ledger) -> None:
    def tell() -> None:
        campaign_id = ledger.add_campaign("q", {"a": 1})
        ledger.add_candidates(campaign_id, [made.candidate(), made.candidate("m2")])
        ledger.add_calculations([made.calculation(), made.calculation("m2", status="max_steps")])
        ledger.add_stabilities(campaign_id, [made.stability()])
        ledger.add_selections(campaign_id, [made.selection()])
        ledger.add_failures(campaign_id, [Failure(material_id="m2", stage="screen", error="E", message="")])
        ledger.add_equivalences(campaign_id, {"m3": "m1"}, "identity")
        ledger.publish(campaign_id, [made.ranked()])

    def counts() -> dict[str, int]:
        with ledger.engine.connect() as connection:
            return {
                name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for name, table in schema.metadata.tables.items()
            }

    tell()
    before = counts()
    tell()
    assert counts() == before
    assert before["calculations"] == 2


def test_two_proposals_of_a_crystal_are_one_candidate_with_both_parents(ledger: Ledger) -> None:
    campaign_id = campaign(ledger)
    first = made.candidate(parents=("a", "b"), role="competing", known_as=("mp-1",))
    ledger.add_candidates(campaign_id, [first, made.candidate(parents=("b", "c"), source="files")])
    (found,) = ledger.candidates(campaign_id)
    assert (found.parents, found.role, found.source) == (("a", "b", "c"), "candidate", "prototypes")
    assert found.known_as == ("mp-1",)
    assert ledger.candidates(campaign_id, "competing") == []
    assert ledger.candidate_ids(campaign_id, "candidate") == ["m1"]


@settings(deadline=None, max_examples=30)
@given(crystal=made.structures())
def test_what_the_table_needs_of_a_candidate_is_read_without_its_structure(crystal: Structure) -> None:
    with Ledger.open("sqlite://") as ledger:
        campaign_id = campaign(ledger)
        first = made.candidate("m2", structure=crystal, parents=("a",), role="competing", known_as=("mp-1",))
        told = [first, made.candidate("m1"), made.candidate("m2", structure=crystal, parents=("b",))]
        ledger.add_candidates(campaign_id, told)
        found = ledger.proposed(campaign_id)
        for short, whole in zip(found, ledger.candidates(campaign_id), strict=True):
            shared = ("material_id", "formula", "chemsys", "parents", "role", "known_as")
            assert [getattr(short, name) for name in shared] == [getattr(whole, name) for name in shared]
            assert short.n_sites == len(whole.structure)
            assert short.volume_per_atom == pytest.approx(whole.structure.volume / len(whole.structure), rel=1e-12)


def test_candidates_come_in_the_order_asked_for(ledger: Ledger) -> None:
    campaign_id = campaign(ledger)
    ids = [f"m{i}" for i in (3, 1, 2, 9, 5)]
    ledger.add_candidates(campaign_id, [made.candidate(name) for name in ids])
    assert [c.material_id for c in ledger.iter_candidates(campaign_id, chunk=2)] == ids
    some = ledger.iter_candidates(campaign_id, material_ids=["m9", "m3", "none"], chunk=1)
    assert [c.material_id for c in some] == ["m9", "m3"]


def test_a_failed_answer_may_be_bettered_and_a_converged_one_never_changes(ledger: Ledger) -> None:
    failed = made.calculation(status="walltime", energy=None, structure=None, message="first", wall_time_s=1.0)
    key = (failed.method, failed.level_of_theory, failed.settings_hash)
    ledger.add_calculations([failed, replace(failed, wall_time_s=2.0)])
    assert ledger.computed(*key) == {"m1": "walltime"}
    assert ledger.computed(*key, statuses=["converged"]) == {}
    ledger.add_calculations([replace(failed, message="second"), made.calculation()])
    ledger.add_calculations([made.calculation(energy=-8.0), failed])
    assert ledger.computed(*key, statuses=["converged"]) == {"m1": "converged"}
    assert ledger.calculations(["m1"])["m1"].energy == -7.0
    ledger.add_candidates(campaign(ledger), [made.candidate()])
    attempts = ledger.evidence("m1")["calculations"]
    assert [(a["attempt"], a["status"], a["message"]) for a in attempts] == [
        (1, "walltime", "first"),
        (2, "walltime", "second"),
        (3, "converged", ""),
    ]


def test_a_databases_energy_is_found_beside_our_own(ledger: Ledger) -> None:
    theirs = made.calculation(method="materials-project-2026.10.01", fidelity="dft", settings_hash="2026.10.01")
    ours = replace(theirs, method="vasp-6.4.2", settings_hash="s2", energy=-6.9)
    ledger.add_calculations([theirs, ours])
    assert ledger.calculations(["m1"], fidelity="dft")["m1"].energy == -6.9
    assert ledger.calculations(["m1"], fidelity="dft", not_by="vasp")["m1"].energy == -7.0
    assert ledger.calculations(["m1"], fidelity="dft", not_by="gpaw")["m1"].energy == -6.9


def test_nan_and_infinity_are_nothing_known(ledger: Ledger) -> None:
    wild = made.calculation(
        status="exploded",
        energy=float("nan"),
        max_force=float("inf"),
        properties={"latent": np.array([1.0, np.nan], dtype=np.float32), "n": np.int64(3)},
    )
    ledger.add_calculations([wild, wild])
    found = ledger.calculations(["m1"])["m1"]
    assert (found.energy, found.max_force) == (None, None)
    assert found.properties == {"latent": [1.0, None], "n": 3}


def test_calculations_are_chosen_by_what_they_mean(ledger: Ledger) -> None:
    campaign_id = campaign(ledger)
    ledger.add_candidates(campaign_id, [made.candidate()])
    dft = made.calculation(method="gpaw-26.7.0", fidelity="dft", level_of_theory="PBE/PW450", energy=-6.0)
    other = made.calculation(settings_hash="s2", status="max_steps", energy=-6.5)
    ledger.add_calculations([dft, made.calculation(), other, made.calculation("elsewhere")])
    assert ledger.calculations(campaign_id=campaign_id, fidelity="mlip")["m1"].energy == -7.0
    assert ledger.calculations(campaign_id=campaign_id, fidelity="mlip").keys() == {"m1"}
    assert ledger.calculations(["m1"], settings_hash="s2")["m1"].status == "max_steps"
    assert ledger.calculations(["m1"], level_of_theory="PBE/PW450")["m1"] == dft
    assert ledger.calculations(method="chgnet-0.3.0").keys() == {"m1", "elsewhere"}
    ledger.add_stabilities(campaign_id, [made.stability(fidelity="dft", level_of_theory="PBE"), made.stability()])
    assert ledger.stabilities(campaign_id)["m1"].fidelity == "dft"
    assert ledger.stabilities(campaign_id, "mlip")["m1"].fidelity == "mlip"


def test_the_latest_stability_holds_even_if_it_was_said_before(ledger: Ledger) -> None:
    campaign_id = campaign(ledger)
    for energy in (0.1, 0.2, 0.2, 0.1):
        ledger.add_stabilities(
            campaign_id, [made.stability(decomposition_energy=energy, reference_version=f"{energy}")]
        )
    assert ledger.stabilities(campaign_id)["m1"].energy_above_hull == 0.1
    ledger.add_candidates(campaign_id, [made.candidate()])
    assert [s["energy_above_hull"] for s in ledger.evidence("m1")["stabilities"]] == [0.1, 0.2, 0.1]


def test_chains_of_duplicates_are_followed(ledger: Ledger) -> None:
    campaign_id = campaign(ledger)
    ledger.add_equivalences(campaign_id, {"c": "b", "x": "y", "y": "x"}, "identity")
    ledger.add_equivalences(campaign_id, {"b": "a"}, "relaxed")
    assert ledger.equivalences(campaign_id) == {"c": "a", "b": "a", "y": "x"}
    assert ledger.equivalences(campaign_id, "relaxed") == {"b": "a"}


@pytest.mark.parametrize("at_once", [2, 2_000])
def test_publish_writes_what_changed_and_takes_away_what_is_gone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("materials.store.recording._PUBLISHED", at_once)
    campaign_id = campaign(ledger)
    rows = [made.ranked(f"m{i}", rank=i) for i in range(5)]
    assert ledger.publish(campaign_id, rows) == 5
    assert ledger.publish(campaign_id, [*rows[:3], replace(rows[3], score=0.9)]) == 2
    assert [r.material_id for r in ledger.ranked(campaign_id)] == ["m0", "m1", "m2", "m3"]
    assert ledger.ranked(campaign_id)[3].score == 0.9
    swapped = [replace(rows[0], rank=1), replace(rows[1], rank=0)]
    assert ledger.publish(campaign_id, [*swapped, rows[2]]) == 3
    assert [r.material_id for r in ledger.ranked(campaign_id)] == ["m1", "m0", "m2"]


def test_structures_and_calculations_are_handed_on_as_they_are_written(ledger: Ledger) -> None:
    campaign_id = campaign(ledger)
    ledger.add_candidates(campaign_id, [write_candidate(made.candidate("m1")), made.candidate("m2", role="competing")])
    assert ledger.candidates(campaign_id) == [made.candidate("m1"), made.candidate("m2", role="competing")]
    text = structure_to_json(made.salt())
    assert list(ledger.written_structures(["m2", "m1"], chunk=1)) == [("m2", text), ("m1", text)]

    failed = made.calculation("m1", status="max_steps", energy=None, properties={"latent": [0.1, float("nan")]})
    done = replace(failed, status="converged", energy=-7.0)
    other = made.calculation("m2", method="another")
    for told in (write_calculation(failed), done, write_calculation(done), other):
        ledger.add_calculations([told])
    ids = [other.calculation_id, done.calculation_id, "unknown"]
    assert list(ledger.written_calculations(ids, chunk=2)) == [write_calculation(other), write_calculation(done)]
    assert [row["attempt"] for row in ledger.evidence("m1")["calculations"]] == [1, 2]
    assert ledger.calculations()["m1"].properties == {"latent": [0.1, None]}
    assert ledger.best_calculations(campaign_id) == {"m1": done.calculation_id, "m2": other.calculation_id}
    assert ledger.best_calculations(campaign_id, method="another") == {"m2": other.calculation_id}


def test_the_table_answers_queries(ledger: Ledger) -> None:
    campaign_id, other = ledger.add_campaign("one", {}), ledger.add_campaign("two", {})
    rows = [
        made.ranked("m1", rank=1, band_gap=1.3, score=1.0, meets_targets=True),
        made.ranked("m2", rank=2, chemsys="K-Mg-Sb", formula="KMgSb", score=None),
        made.ranked("m3", rank=3, chemsys="Li-Mg-Sb", band_gap=0.2, score=0.7),
    ]
    ledger.publish(campaign_id, rows)
    ledger.publish(other, [made.ranked("m9")])

    def ids(where: str = "", sort: str = "", **more) -> list[str]:
        expression = parse(where, columns()) if where else None
        keys = parse_sort(sort, columns()) if sort else ()
        return [row["material_id"] for row in ledger.rows(campaign_id, expression, keys, **more)]

    assert ids() == ["m1", "m2", "m3"]
    assert ids("has Sb and not has Li") == ["m2"]
    assert ids("elements in (Li, Mg, Sb, K)") == ["m2", "m3"]
    assert ids("band_gap > 1 or meets_targets") == ["m1"]
    assert ids("predicted_band_gap = 5 and campaign = one") == ["m1", "m2", "m3"]
    assert ids(sort="score") == ["m1", "m3", "m2"]
    assert ids(sort="score asc") == ["m3", "m1", "m2"]
    assert ids(sort="band_gap", limit=1) == ["m3"]
    assert len(ledger.rows()) == 4
    (row,) = ledger.rows(campaign_id, limit=1, columns=["material_id", "meets_targets"])
    assert row == {"material_id": "m1", "meets_targets": True}
    (row,) = ledger.rows(other)
    assert row["predicted"] == {"band_gap": [5.0, 0.5], "decomposition_energy_per_atom": [-0.1, 0.02]}


def test_a_table_asked_for_while_it_is_published_is_one_table(ledger: Ledger, another: Ledger) -> None:
    campaign_id = campaign(ledger)
    ledger.publish(campaign_id, [made.ranked("m1", rank=1, score=0.9), made.ranked("m2", rank=2, score=None)])
    meanwhile = iter([[made.ranked("m1", rank=1, score=None), made.ranked("m2", rank=2, score=0.9)]])

    @event.listens_for(ledger.engine, "after_cursor_execute")
    def publish(_connection, _cursor, statement: str, *_) -> None:
        if "score IS NOT NULL" in statement:
            another.publish(campaign_id, next(meanwhile))

    by_score = parse_sort("score", columns())
    assert [row["material_id"] for row in ledger.rows(campaign_id, sort=by_score, limit=20)] == ["m1", "m2"]
    event.remove(ledger.engine, "after_cursor_execute", publish)
    assert [row["material_id"] for row in ledger.rows(campaign_id, sort=by_score, limit=20)] == ["m2", "m1"]


def test_pandas_and_sqlite3_read_the_view(sqlite_ledger: Ledger) -> None:
    ledger = sqlite_ledger
    ledger.publish(ledger.add_campaign("one", {}), [made.ranked()])
    with sqlite3.connect(str(ledger.engine.url.database)) as connection:
        frame = pd.read_sql("SELECT * FROM ranked_candidates", connection)
    expected = set(RankedCandidate.__dataclass_fields__) | {"campaign", "campaign_id"}
    predicted = {"predicted_band_gap", "predicted_decomposition_energy"}
    assert set(frame.columns) == expected | predicted | {f"{name}_std" for name in predicted}
    assert frame.loc[0, ["campaign", "predicted_band_gap", "predicted_decomposition_energy_std"]].tolist() == [
        "one",
        5.0,
        0.02,
    ]


def test_a_metal_is_predicted_at_0_in_the_table_and_as_it_was_believed_beside(ledger: Ledger) -> None:
    campaign_id = campaign(ledger)
    ledger.publish(campaign_id, [made.ranked("m1", rank=1, predicted={"band_gap": (-2.0, 0.5)})])
    (row,) = ledger.rows(campaign_id, limit=20)
    assert (row["predicted_band_gap"], row["predicted_band_gap_std"]) == (0.0, 0.5)
    (read,) = ledger.ranked(campaign_id)
    assert read.predicted == {"band_gap": (-2.0, 0.5)}


def test_evidence_and_names(ledger: Ledger) -> None:
    campaign_id = campaign(ledger)
    first = made.candidate("abc1", parents=("half-Heusler: X on 4c",), known_as=("mp-1265",))
    ledger.add_candidates(campaign_id, [first, made.candidate("abd2"), made.candidate("xyz3")])
    ledger.add_equivalences(campaign_id, {"xyz3": "abc1"}, "relaxed")
    prediction = Prediction(material_id="abc1", round=1, target="band_gap", mean=1, std=0.1, surrogate_version="v")
    ledger.add_predictions(campaign_id, [prediction])
    for name in ("abc1", "abc", "mp-1265", "half-Heusler: X on 4c"):
        assert ledger.resolve(name) == "abc1"
    found = ledger.evidence("abc")
    assert (found["candidate"]["formula"], found["predictions"][0]["mean"]) == ("NaCl", 1.0)
    assert [e["material_id"] for e in found["equivalences"]] == ["xyz3"]
    json.dumps(found)
    with pytest.raises(QueryError, match="several materials: abc1, abd2"):
        ledger.resolve("ab")
    with pytest.raises(QueryError, match=r"no material 'xyz4' \(did you mean xyz3\?\)"):
        ledger.resolve("xyz4")
    with pytest.raises(QueryError, match="no material ''"):
        ledger.resolve("")
    with pytest.raises(QueryError, match="no material '%'"):
        ledger.resolve("%")


def test_structures_are_the_best_ones(ledger: Ledger) -> None:
    ledger.add_candidates(campaign(ledger), [made.candidate(name) for name in ("m1", "m2", "m3")])
    ledger.add_calculations(
        [
            made.calculation("m1", fidelity="dft", structure=made.salt(5.8)),
            made.calculation("m1", structure=made.salt(5.7)),
            made.calculation("m2", structure=made.salt(5.7)),
            made.calculation("m3", structure=made.salt(9.0), status="exploded"),
        ]
    )
    found = {name: s.lattice.a for name, s in ledger.best_structures(["m1", "m2", "m3", "none"]).items()}
    assert found == {"m1": 5.8, "m2": 5.7, "m3": 5.69}


def test_campaigns_and_status(ledger: Ledger) -> None:
    with pytest.raises(QueryError, match="no campaign yet"):
        ledger.find_campaign()
    campaign_id = ledger.add_campaign("quickstart", {"seed": 1})
    assert ledger.add_campaign("quickstart", {"seed": 1}) == campaign_id
    assert ledger.add_campaign("quickstart", {"seed": 2}) != campaign_id
    assert ledger.find_campaign(campaign_id) == ledger.find_campaign(campaign_id[:-1]) == campaign_id
    with pytest.raises(QueryError, match=r"'quikstart' \(did you mean quickstart\?\)"):
        ledger.find_campaign("quikstart")
    run = ledger.start_run(campaign_id, versions={"python": "3"}, weights_hash="w", config={"seed": 1}, budget=12)
    ledger.end_run(run, "finished")
    (told,) = [c for c in ledger.campaigns() if c["campaign_id"] == campaign_id]
    assert told["config"] == {"seed": 1}
    assert (told["runs"][0]["state"], told["runs"][0]["budget"]) == ("finished", 12)
    ledger.add_candidates(campaign_id, [made.candidate(), made.candidate("m2", role="competing")])
    ledger.add_calculations([made.calculation(), made.calculation("m2", status="exploded"), made.calculation("no")])
    ledger.add_selections(campaign_id, [made.selection()])
    status = ledger.status(campaign_id)
    assert status["proposed"] == {"candidate": 1, "competing": 1}
    assert status["mlip"] == {"converged": 1, "exploded": 1}
    assert (status["dft"], status["selected"]) == ({}, {"1": 1})


def told_ledger(folder: Path) -> Path:
    path = folder / "archive" / "as say?#%.db"
    path.parent.mkdir()
    with Ledger.open(str(path)) as ledger:
        campaign_id = ledger.add_campaign("test", {"seed": 1})
        ledger.add_candidates(campaign_id, [made.candidate()])
        ledger.publish(campaign_id, [made.ranked("m1", rank=1)])
    return path


def read_only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A folder that may only be read: permissions bind no administrator, who may run the tests."""
    allowed = os.access

    def access(path: Any, mode: int, **more: Any) -> bool:
        return allowed(path, mode, **more) and not (mode & os.W_OK and Path(path).is_relative_to(folder))

    monkeypatch.setattr(os, "access", access)


def test_a_ledger_in_a_folder_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = told_ledger(tmp_path)
    read_only(monkeypatch, path.parent)
    before = path.read_bytes()
    with Ledger.open(str(path), must_exist=True) as ledger:
        (row,) = ledger.rows()
        assert row["material_id"] == "m1"
        assert [campaign["name"] for campaign in ledger.campaigns()] == ["test"]
        assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing is made beside it
        with pytest.raises(LedgerError, match="readonly"):
            ledger.add_campaign("other", {})
    assert path.read_bytes() == before


def test_what_somebody_writes_meanwhile_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = told_ledger(tmp_path)
    with Ledger.open(str(path)) as theirs:
        theirs.add_campaign("another", {"seed": 2})  # in the log beside the file, which is not part of it yet
        read_only(monkeypatch, path.parent)
        with Ledger.open(str(path), must_exist=True) as ledger:
            assert len(ledger.campaigns()) == 2


def copied_while_written(folder: Path) -> Path:
    """As a backup leaves it that took the file and its log, and not what SQLite keeps beside them while it runs."""
    path = told_ledger(folder)
    copy = folder / "backup" / "assay.db"
    copy.parent.mkdir()
    with Ledger.open(str(path)) as theirs:
        theirs.add_campaign("another", {"seed": 2})
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{copy}{end}")
    return copy


def test_a_log_that_cannot_be_read_where_it_lies_is_told_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied_while_written(tmp_path)
    read_only(monkeypatch, path.parent)
    with pytest.raises(LedgerError, match=r"assay\.db-wal, .* copy both files to a folder that can be written to"):
        Ledger.open(str(path), must_exist=True)
    assert sorted(file.name for file in path.parent.iterdir()) == ["assay.db", "assay.db-wal"]
    path.with_name("assay.db-wal").write_bytes(b"")  # nothing is in it, so nothing is missed without it
    with Ledger.open(str(path), must_exist=True) as ledger:
        assert [campaign["name"] for campaign in ledger.campaigns()] == ["test"]


def test_a_ledger_that_is_read_only_and_misses_its_log_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = told_ledger(tmp_path)
    read_only(monkeypatch, path.parent)
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(LedgerError):
        Ledger.open(str(path), must_exist=True)


def test_a_newer_ledger_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        connection.execute("INSERT INTO schema_version VALUES (?)", [schema.SCHEMA_VERSION + 1])
        connection.execute("CREATE TABLE surprise (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerTooNew, match="schema version 5; this Assay knows 4") as caught:
        Ledger.open(str(path))
    assert caught.value.exit_code == 2
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no ledger at .* yet: `assay run"):
        Ledger.open(str(tmp_path / "none.db"), must_exist=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LedgerError, match=r"folder .*missing does not exist"):
        Ledger.open(str(tmp_path / "missing" / "a.db"))
    (tmp_path / "text.db").write_text("no database at all, and long enough to have a header of its own" * 20)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger.open(str(tmp_path / "text.db"))
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(LedgerError, match="no ledger of Assay"):
        Ledger.open(str(tmp_path / "other.db"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/assay",
        "postgresql://127.0.0.1:1/assay?user=me&password=s3cret",
        "mysql://me:s3cret@host/assay",
        "postgresql://me:s3cret@host:notaport/assay",
        "postgresql+nodriver://me:s3cret@127.0.0.1:1/assay",
    ],
)
def test_no_password_in_any_message(url: str) -> None:
    with pytest.raises((InputError, LedgerError)) as caught:
        Ledger.open(url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value, chain=True))
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in f"{error!s} {error!r}"
        error = error.__cause__ or error.__context__
    assert "***" in str(caught.value)


def test_importing_the_ledger_is_light() -> None:
    code = "import sys, materials.store.ledger; print([m for m in ('pymatgen', 'pandas', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    campaign_id = campaign(ledger)

    def tell(number: int) -> int:
        ledger.add_candidates(campaign_id, [made.candidate(f"{number}-{i}") for i in range(5)])
        ledger.add_calculations([made.calculation(f"{number}"), made.calculation("all")])
        return len(ledger.candidates(campaign_id))

    with ThreadPoolExecutor(4) as threads:
        assert max(threads.map(tell, range(12))) == 60
    assert len(ledger.calculations()) == 13


@pytest.fixture
def another(ledger: Ledger) -> Iterator[Ledger]:
    """The same ledger as another process has it open."""
    with Ledger.open(ledger.engine.url.render_as_string(hide_password=False)) as another:
        yield another


def test_an_answer_that_another_campaign_gives_meanwhile_takes_no_place(
    ledger: Ledger, another: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = made.calculation(status="walltime", energy=None, structure=None)
    looked = recording._attempts

    with ThreadPoolExecutor(1) as threads:

        def look(connection, calculations, now):
            rows = looked(connection, calculations, now)
            if calculations == [made.calculation()]:
                threads.submit(another.add_calculations, [failed])
                time.sleep(0.3)
            return rows

        monkeypatch.setattr(recording, "_attempts", look)
        ledger.add_calculations([made.calculation()])
    assert ledger.calculations()["m1"].status == "converged"


def test_two_campaigns_tell_of_the_same_crystals_in_any_order(ledger: Ledger, another: Ledger) -> None:
    told = [made.candidate(f"m{i}") for i in range(3_000)]
    one, two = ledger.add_campaign("one", {}), ledger.add_campaign("two", {})
    with ThreadPoolExecutor(2) as threads:
        both = [
            threads.submit(ledger.add_candidates, one, told),
            threads.submit(another.add_candidates, two, told[::-1]),
        ]
        for future in both:
            future.result(timeout=60)
    assert ledger.candidate_ids(two) == ledger.candidate_ids(one)[::-1]


def test_it_waits_for_a_writer_who_takes_long(
    sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(sqlite_ledger.engine.url.database)
    monkeypatch.setattr(connecting, "BUSY_TIMEOUT_S", 0.2)
    with Ledger.open(path) as ledger, ThreadPoolExecutor(1) as threads:
        with closing(sqlite3.connect(path, isolation_level=None)) as slow:
            slow.execute("BEGIN IMMEDIATE")
            waiting = threads.submit(ledger.add_campaign, "q", {})
            time.sleep(1)
            assert not waiting.done()
            slow.execute("COMMIT")
        waiting.result(timeout=30)
        assert len(ledger.campaigns()) == 1
        said = [record.getMessage().split(path)[-1] for record in caplog.records]
        assert said == [" does not answer; what is to be written waits", " answers again"]
        monkeypatch.setattr(transactions, "PATIENCE_S", 0.3)
        with closing(sqlite3.connect(path, isolation_level=None)) as slow:
            slow.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerError, match="database is locked"):
                ledger.add_campaign("r", {})


WRITER = """
import sys
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made
name, path, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Ledger.open(path) as ledger:
    campaign_id = ledger.add_campaign("shared", {})
    for i in range(number):
        ledger.add_candidates(campaign_id, [made.candidate(f"{name}-{i}-{j}") for j in range(3)])
        ledger.add_calculations([made.calculation(f"{name}-{i}"), made.calculation(f"both-{i}")])
        ledger.publish(campaign_id, [made.ranked(f"{name}", rank=i)])
        print(i, flush=True)
"""


def start_writer(name: str, path: Path, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), name, str(path), str(number)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_make_and_fill_one_ledger_at_once(tmp_path: Path) -> None:
    path = tmp_path / "assay.db"
    writers = [start_writer(name, path, 40) for name in ("a", "b")]
    for writer in writers:
        assert len(writer.communicate()[0].split()) == 40
        assert writer.returncode == 0
    with Ledger.open(str(path), must_exist=True) as ledger:
        assert len(ledger.candidate_ids(ledger.find_campaign("shared"))) == 2 * 40 * 3
        assert len(ledger.calculations()) == 3 * 40


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "assay.db"
    writer = start_writer("a", path, 100_000)
    assert writer.stdout is not None
    acknowledged = 0
    for line in writer.stdout:
        acknowledged = int(line) + 1
        if acknowledged == 25:
            os.kill(writer.pid, signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    with Ledger.open(str(path)) as ledger:
        ids = ledger.candidate_ids(ledger.find_campaign("shared"))
        assert {f"a-{i}-{j}" for i in range(acknowledged) for j in range(3)} <= set(ids)
        assert len(ids) % 3 == 0  # a batch is there as a whole or not at all
        assert {f"a-{i}" for i in range(acknowledged)} <= ledger.calculations().keys()


def test_a_schema_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "assay.db"
    with Ledger.open(f"sqlite:///{file}"):
        pass
    whole = file.read_bytes()
    assert b"CREATE TABLE schema_version" in whole
    # SQLite quotes it in its error, which Python cannot decode.
    file.write_bytes(whole.replace(b"CREATE TABLE schema_version", b"CREATE \x81ABLE schema_version"))
    with pytest.raises(LedgerError, match=r"assay.db is damaged: "):
        Ledger.open(f"sqlite:///{file}", must_exist=True)


def test_json_that_is_damaged_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "assay.db"
    with Ledger.open(f"sqlite:///{file}") as ledger:
        ledger.add_candidates(ledger.add_campaign("small", {"name": "small"}), [made.candidate("m1")])
        ledger.add_calculations([made.calculation("m1")])
    for text in ("no json", "[" * 5000):
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("update calculations set properties = ?", [text])
        with Ledger.open(f"sqlite:///{file}") as ledger, pytest.raises(LedgerError, match=r"assay.db is damaged: "):
            ledger.evidence("m1")


@pytest.mark.parametrize("ask", ["evidence", "unread"])
def test_what_is_asked_while_the_database_is_away_is_asked_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    with Ledger.open(f"sqlite:///{tmp_path / 'assay.db'}") as ledger:
        ledger.add_candidates(ledger.add_campaign("small", {"name": "small"}), [made.candidate("m1")])
        there, asked = browse.reading, list[int]()

        def away_at_first(engine: Any) -> Any:
            asked.append(1)
            if len(asked) == 1:
                raise LedgerLost("away")
            return there(engine)

        monkeypatch.setattr(browse, "reading", away_at_first)
        getattr(ledger, ask)(*(["m1"] if ask == "evidence" else []))
        assert len(asked) == 2

"""From the potential's calculations to the table, without a potential: who relaxed into whom, and who is described."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from flows.config.campaign import DFT
from flows.run.context import Run
from flows.stages.assess import Screened, assess_screened, assess_validated, hull_level, judged_by_dft
from flows.stages.pool import gather_pool
from flows.stages.propose import _named_as_kept
from flows.stages.publish import publish
from materials.errors import CampaignError
from materials.explanation import explain
from materials.records import Calculation, Failure
from models.learning.features.descriptors import feature_names
from models.learning.features.projection import freeze
from tests.unit.flows.made_runs import opened_run
from tests.unit.materials import made_records as made

SALT = Structure(Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
OTHER = Structure(Lattice.hexagonal(4.0, 6.5), ["Na", "Cl"], [[0, 0, 0], [1 / 3, 2 / 3, 0.4]])
ELEMENTS = {name: Structure(Lattice.cubic(4.0), [name], [[0, 0, 0]]) for name in ("Na", "Cl")}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    content = {
        "name": "made",
        "sources": [{"kind": "prototypes", "roles": {"A": ["Na"], "X": ["Cl"]}}],
        "targets": [{"property": "decomposition_energy_per_atom", "at_most": 0.05}],
        "dft": {"budget": 0},
    }
    with opened_run(tmp_path, content) as run:
        yield run


def told(run: Run, material_id: str, relaxed: Structure, per_atom: float) -> Calculation:
    return made.calculation(
        material_id,
        method=run.potential_identity.method,
        level_of_theory=run.potential_identity.level_of_theory,
        settings_hash=run.screening_hash,
        structure=relaxed,
        energy=per_atom * len(relaxed),
        properties={"latent": [0.5, 1.0]},
    )


def screened(run: Run) -> None:
    """Two proposals end as one crystal, in cells of different size and place; a third stays another."""
    proposals = [
        made.candidate("first", structure=SALT, parents=("CsCl: Na on 1a",)),
        made.candidate("second", structure=OTHER, parents=("wurtzite: Na on 2b",), known_as=("mp-1",)),
        made.candidate("third", structure=OTHER, parents=("NiAs: Na on 2a",)),
    ]
    proposals += [
        made.candidate(f"element {name}", structure=s, formula=name, chemsys=name, role="competing", parents=(name,))
        for name, s in ELEMENTS.items()
    ]
    run.ledger.add_candidates(run.campaign_id, proposals)
    again = Structure(SALT.lattice.matrix * 1.01, SALT.species, SALT.frac_coords + 0.3) * (2, 1, 1)
    run.ledger.add_calculations(
        [
            told(run, "first", SALT, -3.5),
            told(run, "second", again, -3.6),
            told(run, "third", OTHER, -3.4),
            *(told(run, f"element {name}", s, -1.0) for name, s in ELEMENTS.items()),
        ]
    )


def test_two_that_relax_into_one_crystal_are_one_row_with_two_parents(run: Run) -> None:
    screened(run)
    found = assess_screened(run)
    assert found.duplicates == {"first": "second"}  # the lower in energy stands for both
    assert "first" not in found.outcomes
    assert run.ledger.equivalences(run.campaign_id) == {"first": "second"}
    publish(run, found, gather_pool(run, found))
    rows = {row["material_id"]: row for row in run.ledger.rows(run.campaign_id)}
    assert rows.keys() == {"second", "third"}
    assert rows["second"]["parents"] == "wurtzite: Na on 2b; CsCl: Na on 1a"
    assert rows["second"]["known_as"] == "mp-1"
    assert rows["third"]["parents"] == "NiAs: Na on 2a"


def test_what_failed_and_came_back_when_it_was_tried_again_is_no_failure(run: Run) -> None:
    screened(run)
    run.ledger.add_failures(
        run.campaign_id,
        [
            Failure(material_id=m, stage="screen", error="crashed", message="its worker died")
            for m in ("first", "second", "third")
        ],
    )
    found = assess_screened(run)
    publish(run, found, gather_pool(run, found))
    assert {row["status"] for row in run.ledger.rows(run.campaign_id)} == {"screened"}


def test_without_dft_nobody_is_described_and_the_table_is_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    screened(run)
    found = assess_screened(run)
    plain = gather_pool(run, found)
    assert plain.features.shape == (2, 0)
    publish(run, found, plain)
    before = run.ledger.ranked(run.campaign_id)
    monkeypatch.setattr("flows.stages.pool._learns", lambda _: True)
    described = gather_pool(run, found)
    assert described.features.shape[1] > 0
    assert np.isfinite(described.features).all()
    assert publish(run, found, described) == 0
    assert run.ledger.ranked(run.campaign_id) == before


def test_latent_vectors_count_only_where_everybody_has_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    screened(run)
    monkeypatch.setattr("flows.stages.pool._learns", lambda _: True)
    seen = []
    monkeypatch.setattr(
        "models.learning.features.projection.freeze", lambda rows, groups: seen.append(rows.shape) or freeze(rows)
    )
    gather_pool(run, assess_screened(run))
    bare = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]) * (1, 1, 2)
    bare.translate_sites([0], [0, 0, 0.1])
    run.ledger.add_candidates(run.campaign_id, [made.candidate("fourth", structure=bare)])
    run.ledger.add_calculations([replace(told(run, "fourth", bare, -3.45), properties={})])
    gather_pool(run, assess_screened(run))
    assert seen == [(2, len(feature_names()) + 2), (3, len(feature_names()))]


# A database that computes at the level of our DFT


def computed(
    material_id: str, structure: Structure, per_atom: float, *, by: str = "materials-project-1"
) -> Calculation:
    return made.calculation(
        material_id,
        method=by,
        fidelity="dft",
        level_of_theory="PBE+U/MP2020",
        settings_hash=by,
        structure=structure,
        energy=per_atom * len(structure),
    )


def with_database(run: Run) -> None:
    """The database knows the elements, the crystal that the second candidate is, and a phase that nobody proposed."""
    screened(run)
    run.ledger.add_candidates(run.campaign_id, [made.candidate("twin", role="competing", parents=("mp-2",))])
    run.ledger.add_calculations(
        [
            told(run, "twin", SALT, -3.2),
            computed("twin", SALT, -3.3),
            *(computed(f"element {name}", s, -1.1) for name, s in ELEMENTS.items()),
        ]
    )
    run.ledger.add_selections(run.campaign_id, [made.selection("second"), made.selection("third", rank=2)])


def test_a_candidate_is_judged_on_the_databases_hull_and_not_against_itself(run: Run) -> None:
    with_database(run)
    found = assess_screened(run)
    # `twin` is the crystal that `second` stands for.
    assert {name: entry.energy_per_atom for name, entry in found.references.items()} == pytest.approx(
        {"second": -3.3, "element Na": -1.1, "element Cl": -1.1}
    )
    ours = {"second": computed("second", SALT, -3.25, by="vasp-6.4.2")}
    stabilities = assess_validated(run, found, {"PBE+U/MP2020": ours})
    # From the elements alone; the database's energy of the same crystal is no competitor.
    assert stabilities["second"].decomposition_energy_per_atom == pytest.approx(-3.25 + 1.1)
    assert set(stabilities["second"].decomposition) == {"element Na", "element Cl"}
    # Above another candidate of the composition it is one, and it is the database's energy that counts.
    ours["third"] = computed("third", OTHER, -3.0, by="vasp-6.4.2")
    stabilities = assess_validated(run, found, {"PBE+U/MP2020": ours})
    assert stabilities["third"].energy_above_hull == pytest.approx(0.3)
    assert stabilities["third"].decomposition_energy_per_atom == pytest.approx(-3.0 + 1.1)
    assert set(stabilities["third"].decomposition) == {"element Na", "element Cl"}


def test_a_later_round_is_judged_when_it_is_complete(run: Run) -> None:
    """A campaign that was killed in its second round goes through the first one again before it goes on."""
    with_database(run)
    run.ledger.add_selections(run.campaign_id, [made.selection("first", round=2)])
    found = assess_screened(run)
    ours = {name: computed(name, OTHER, -3.0, by="vasp-6.4.2") for name in ("first", "third")}
    assert set(assess_validated(run, found, {"PBE+U/MP2020": ours}, until=1)) == {"third"}
    assert set(assess_validated(run, found, {"PBE+U/MP2020": ours}, until=2)) == {"first", "third"}


def test_energies_of_another_level_do_not_meet_the_database(run: Run) -> None:
    with_database(run)
    found = assess_screened(run)
    level = "PBE/POTCAR-PBE_64/MatPESStaticSet"
    ours = {"second": replace(computed("second", SALT, -3.25, by="vasp-6.4.2"), level_of_theory=level)}
    assert assess_validated(run, found, {level: ours}) == {}  # it has no elements of its own level


def test_what_dft_answers_does_not_change_what_is_asked(run: Run) -> None:
    with_database(run)
    before = assess_screened(run)
    object.__setattr__(run, "campaign", run.campaign.model_copy(update={"dft": DFT(code="vasp", budget=0)}))
    run.ledger.add_calculations(
        [
            computed("element Na", ELEMENTS["Na"], -9.0, by="vasp-6.4.2"),
            replace(computed("twin", SALT, -9.0, by="vasp-6.4.3"), status="crashed", energy=None),
        ]
    )
    after = assess_screened(run)
    assert after.stabilities == before.stabilities
    assert after.references == before.references


def test_a_databases_energy_goes_to_whoever_stands_for_its_crystal() -> None:
    stands = {"mp-1": "ours", "mp-2": "ours", "mp-3": "theirs"}
    energies = {
        "mp-1": computed("one", SALT, -3.0),
        "mp-2": computed("two", SALT, -3.1),
        "mp-3": computed("theirs", OTHER, -2.0),
        "mp-4": computed("too large to keep", OTHER, -2.0),
    }
    named = {c.material_id: c for c in _named_as_kept(energies, stands)}
    assert named.keys() == {"ours", "theirs", "too large to keep"}
    assert named["ours"].energy == pytest.approx(-6.2)


# Corrections for anions

RAW = "PBE/setups-1.0/PW450"


def raw_results(energy: float = -3.5) -> dict[str, Calculation]:
    level = {"by": "gpaw-26.7.0"}
    found = {f"element {name}": computed(f"element {name}", s, -1.1, **level) for name, s in ELEMENTS.items()}
    found["second"] = computed("second", SALT, energy, **level)
    return {name: replace(calculation, level_of_theory=RAW) for name, calculation in found.items()}


def picked(run: Run) -> Screened:
    screened(run)
    run.ledger.add_selections(run.campaign_id, [made.selection("second")])
    return assess_screened(run)


def test_raw_pbe_hulls_are_corrected_for_anions_and_what_they_were_is_kept_beside(run: Run) -> None:
    found = picked(run)
    (stability,) = assess_validated(run, found, {RAW: raw_results()}).values()
    assert stability.level_of_theory == f"{RAW}/MP2020-anions"
    # -0.614 eV for each Cl of the compound, none for the element.
    assert stability.formation_energy_per_atom == pytest.approx(-3.5 + 1.1 - 0.307)
    assert judged_by_dft(run, [RAW]) == {"second": stability}
    raw = run.ledger.stabilities(run.campaign_id, "dft", RAW)["second"]
    assert raw.formation_energy_per_atom == pytest.approx(-3.5 + 1.1)
    told = explain(run.ledger, "second", "text")
    assert f"dft ({RAW}, " in told
    assert f"dft ({RAW}/MP2020-anions, " in told
    assert [s["level_of_theory"] for s in json.loads(explain(run.ledger, "second", "json"))["stabilities"]][-2:] == [
        RAW,
        f"{RAW}/MP2020-anions",
    ]
    # The same again is nothing new.
    assess_validated(run, found, {RAW: raw_results()})
    assert len(run.ledger.evidence("second")["stabilities"]) == 3


def test_a_campaign_of_before_is_judged_again_from_what_was_computed(run: Run) -> None:
    """Its ledger holds raw stabilities: nothing that is learned from may be of them."""
    found = picked(run)
    old = made.stability("second", -2.4, fidelity="dft", level_of_theory=RAW)
    run.ledger.add_stabilities(run.campaign_id, [old])
    assert judged_by_dft(run, [RAW]) == {}
    assess_validated(run, found, {RAW: raw_results()})
    assert judged_by_dft(run, [RAW])["second"].decomposition_energy_per_atom == pytest.approx(-2.4 - 0.307)


def test_corrections_for_anions_can_be_left_out(run: Run) -> None:
    found = picked(run)
    without = replace(run, campaign=run.campaign.model_copy(update={"dft": DFT(budget=0, anion_corrections=False)}))
    (stability,) = assess_validated(without, found, {RAW: raw_results()}).values()
    assert stability.level_of_theory == RAW
    assert stability.formation_energy_per_atom == pytest.approx(-3.5 + 1.1)


@pytest.mark.parametrize("level", ["PBE+U/MP2020", "r2SCAN/POTCAR-PBE_64/MatPESStaticSet", "LDA/debian/PW400"])
def test_only_raw_pbe_is_corrected_for_anions(run: Run, level: str) -> None:
    assert hull_level(run, level) == level
    asked = replace(run, campaign=run.campaign.model_copy(update={"dft": DFT(budget=0, anion_corrections=True)}))
    with pytest.raises(CampaignError, match="anion_corrections"):
        hull_level(asked, level)


def test_a_campaign_that_does_not_name_the_corrections_is_the_one_that_it_was(run: Run) -> None:
    assert "anion_corrections" not in run.campaign.identity()["dft"]
    without = run.campaign.model_copy(update={"dft": DFT(budget=0, anion_corrections=False)})
    assert without.identity()["dft"]["anion_corrections"] is False


def test_a_competing_phase_well_below_a_candidate_like_it_stays_in_the_hull(run: Run) -> None:
    """An undistorted candidate does not take the place of the distorted type that is known."""
    crystals = {"cubic": SALT, "cubic again": SALT * (2, 1, 1), "nearly": SALT, "known": SALT, "known too": SALT}
    energies = {"cubic": -3.500, "cubic again": -3.499, "nearly": -3.503, "known": -3.512, "known too": -3.511}
    for name, structure in crystals.items():
        role = "candidate" if name.startswith("cubic") else "competing"
        run.ledger.add_candidates(run.campaign_id, [made.candidate(name, structure=structure, role=role)])
        run.ledger.add_calculations([told(run, name, structure, energies[name])])
    for name, s in ELEMENTS.items():
        element = made.candidate(name, structure=s, formula=name, chemsys=name, role="competing")
        run.ledger.add_candidates(run.campaign_id, [element])
        run.ledger.add_calculations([told(run, name, s, -1.0)])
    found = assess_screened(run)
    assert found.duplicates == {"cubic again": "cubic", "nearly": "cubic", "known too": "known"}
    assert found.stabilities["cubic"].energy_above_hull == pytest.approx(0.012)
    assert found.stabilities["known"].energy_above_hull == 0


def test_a_databases_energy_of_a_candidates_own_crystal_is_no_rival(run: Run) -> None:
    """However far below the potential's it is, and though the two were not one before the relaxation."""
    with_database(run)
    run.ledger.add_candidates(run.campaign_id, [made.candidate("mp", structure=SALT, role="competing")])
    run.ledger.add_calculations([computed("mp", SALT, -3.9)])
    found = assess_screened(run)
    assert found.duplicates["mp"] == "second"
    assert found.stabilities["second"].energy_above_hull == 0
    assert found.references["second"].energy_per_atom == pytest.approx(-3.9)

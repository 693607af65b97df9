"""How a batch is chosen, and what is written down of it before DFT answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from flows.config.campaign import DFT, TargetSection
from flows.run.context import Run
from flows.stages.assess import Screened, assess_screened
from flows.stages.choose import choose
from flows.stages.dft_plan import collect, jobs_of, plans, superseded
from flows.stages.pool import gather_pool
from flows.stages.predict import believe
from flows.stages.validate import require_corners
from materials.errors import DFTError
from materials.records import Failure, Target
from models.dft.presets import BOTH_MESHES
from models.learning.batch_selection import audits_due
from models.learning.target_probability import score_pool
from tests.unit.flows.made_runs import opened_run
from tests.unit.materials import made_records as made

ENERGY, GAP = "decomposition_energy_per_atom", "band_gap"
METALS, HALIDES = ("Li", "Na", "K", "Rb"), ("F", "Cl", "Br")
LATER = "Rb"  # DFT answers for no compound of it


@given(share=st.floats(0, 1), batches=st.lists(st.integers(1, 20), max_size=30))
def test_audits_add_up_to_their_share(share: float, batches: list[int]) -> None:
    before = audits = 0
    for size in batches:
        due = audits_due(before, size, share)
        assert 0 <= due <= size
        audits += due
        before += size
    assert audits == int(share * before + 1e-9)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A dozen halides, each the only compound of its elements, screened with made-up energies."""
    # Nobody computes gaps; energies are of the level that `made` gives them.
    monkeypatch.setattr("flows.stages.predict.collect", lambda *_: {"PBE+U/MP2020": {}})
    monkeypatch.setattr("models.dft.gpaw.code.Gpaw.version", lambda _: "1.0")
    monkeypatch.setattr("models.dft.gpaw.code.Gpaw.potentials", lambda _: "setups-1.0")
    content = {
        "name": "made",
        "sources": [{"kind": "prototypes", "roles": {"A": ["Na"], "X": ["Cl"]}}],
        "targets": [{"property": ENERGY, "at_most": -0.1}],
        "dft": {"budget": 12},
        "learning": {"batch": 4, "audits": 0.25, "seed": 3},
    }
    with opened_run(tmp_path, content, said.append) as run:
        screen(run)
        yield run


def screen(run: Run) -> None:
    crystals = {name: (Structure(Lattice.cubic(4.0), [name], [[0, 0, 0]]), -1.0) for name in (*METALS, *HALIDES)}
    for i, (metal, halide) in enumerate(product(METALS, HALIDES)):
        lattice = Lattice.cubic(4.0 + 0.13 * i)
        structure = Structure(lattice, [metal, halide], [[0, 0, 0], [0.5, 0.5, 0.5]])
        crystals[metal + halide] = (structure, -1.0 - 0.02 * i)
    proposals, computed = [], []
    for name, (structure, per_atom) in crystals.items():
        elements = {site.specie.symbol for site in structure}
        proposals.append(
            made.candidate(
                name,
                structure=structure,
                formula=name,
                chemsys="-".join(sorted(elements)),
                role="candidate" if len(elements) > 1 else "competing",
                parents=(name,),
            )
        )
        computed.append(
            made.calculation(
                name,
                method=run.potential_identity.method,
                level_of_theory=run.potential_identity.level_of_theory,
                settings_hash=run.screening_hash,
                structure=structure,
                energy=per_atom * len(structure),
                properties={"latent": [per_atom, 1.0]},
            )
        )
    run.ledger.add_candidates(run.campaign_id, proposals)
    run.ledger.add_calculations(computed)


def answer(run: Run, screened: Screened, material_ids: list[str]) -> None:
    """DFT says what the potential says, and a little more."""
    by_dft = [
        made.stability(m, round(screened.stabilities[m].decomposition_energy_per_atom, 4) + 0.03, fidelity="dft")
        for m in material_ids
    ]
    run.ledger.add_stabilities(run.campaign_id, by_dft)


def test_each_pick_says_why_and_the_ledger_keeps_it(run: Run, said: list[str]) -> None:
    screened = assess_screened(run)
    # Whitened over all of its dimensions, a pool of twelve has one distance only.
    features = np.random.default_rng(1).standard_normal((12, 3))
    pool = replace(gather_pool(run, screened), features=features, widths=(features.shape[1],))
    by_potential = sorted(pool.material_ids, key=lambda m: screened.stabilities[m].decomposition_energy_per_atom)
    first = choose(run, screened, pool, 1)
    assert len(first) == 4
    for selection in first:
        assert selection.why["rank_by_potential"] == by_potential.index(selection.material_id) + 1
        assert selection.why["of"] == 12
        assert selection.why["neighbours"] == selection.why["cautions"] == selection.why["answered"] == []
    assert "Round 1: no DFT result to learn from yet" in said
    lines = [line for line in said if line.startswith("  ") and "P(all targets)" in line]
    assert [line.split(": ")[0] for line in lines] == [f"  {n}. {s.material_id}" for n, s in enumerate(first, 1)]
    assert all("decomposition energy" in line and "by the potential alone" in line for line in lines)

    answered = [s.material_id for s in first]
    answer(run, screened, answered)
    second = choose(run, screened, pool, 2)
    assert run.ledger.selections(run.campaign_id) == [*first, *second]
    predicted = run.ledger.predictions(run.campaign_id, 2)
    for selection in second:
        row = pool.material_ids.index(selection.material_id)
        rows = [pool.material_ids.index(m) for m in answered]
        distances = np.linalg.norm(pool.features[rows] - pool.features[row], axis=1)
        near = selection.why["neighbours"]
        assert [n["material_id"] for n in near] == [answered[i] for i in np.argsort(distances)[:3]]
        ratio = [n["distance"] for n in near] / np.sort(distances)[:3]
        assert ratio == pytest.approx(ratio[0], abs=1e-3)  # all in one unit
        for n in near:
            expected = screened.stabilities[n["material_id"]].decomposition_energy_per_atom + 0.03
            assert n["answers"] == {ENERGY: pytest.approx(expected, abs=1e-4)}
        assert 0 < selection.why["odds"] < 1
        assert selection.material_id in predicted


def test_a_calculation_is_the_first_picks_that_needs_it(run: Run) -> None:
    screened = assess_screened(run)
    pool = gather_pool(run, screened)
    picks = choose(run, screened, pool, 1)
    answer(run, screened, [s.material_id for s in picks])
    picks += choose(run, screened, pool, 2)
    told = [calculation for s in picks for calculation in s.why["calculations"]]
    assert len(told) == len(set(told))
    needed = {job.calculation_id for plan in plans(run, screened) for job in jobs_of(run, screened, plan)}
    assert set(told) == needed
    assert len(picks[0].why["calculations"]) == 3  # its own, and both of its elements
    assert len(told) < 3 * len(picks)


def test_what_an_earlier_version_asked_for_with_other_settings_is_known(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened = assess_screened(run)
    picks = choose(run, screened, gather_pool(run, screened), 1)
    assert superseded(run, screened) == set()
    monkeypatch.setattr("models.dft.gpaw.code.Gpaw.potentials", lambda _: "setups-2.0")
    told = {calculation for s in picks for calculation in s.why["calculations"]}
    assert superseded(run, assess_screened(run)) == told


def test_chosen_again_it_is_read_and_named(run: Run, said: list[str]) -> None:
    screened = assess_screened(run)
    pool = gather_pool(run, screened)
    first = choose(run, screened, pool, 1)
    said.clear()
    assert choose(run, screened, pool, 1) == first
    assert said == [f"Round 1: selected before: {', '.join(s.material_id for s in first)}"]


def test_an_element_that_dft_has_not_seen_is_a_caution(run: Run) -> None:
    screened = assess_screened(run)
    pool = gather_pool(run, screened)
    seen = [m for m in pool.material_ids if not m.startswith(LATER)]
    run.ledger.add_selections(run.campaign_id, [made.selection(m, rank=i) for i, m in enumerate(seen[:8], start=1)])
    answer(run, screened, seen)
    picks = {s.material_id: s.why["cautions"] for s in choose(run, screened, pool, 2)}
    new = {m for m in picks if m.startswith(LATER)}
    assert new
    for material_id, cautions in picks.items():
        assert (f"holds {LATER}, which no computed candidate does" in cautions) == (material_id in new)


def test_random_picks_correct_the_error_bars_and_others_do_not(run: Run) -> None:
    screened = assess_screened(run)
    pool = gather_pool(run, screened)
    answer(run, screened, list(pool.material_ids[:9]))
    odd = pool.material_ids[9]
    run.ledger.add_stabilities(run.campaign_id, [made.stability(odd, 0.4, fidelity="dft")])

    def error_bars(acquisition: str) -> np.ndarray:
        selections = [made.selection(m, rank=i) for i, m in enumerate(pool.material_ids[:9], start=1)]
        selections.append(made.selection(odd, acquisition=acquisition, rank=10))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(run.ledger, "selections", lambda *_: selections)
            return believe(run, screened, pool).posteriors[ENERGY].std

    assert (error_bars("audit") > 1.1 * error_bars("best_odds")).all()


def test_an_answer_that_is_hardly_believed_is_pointed_out(
    run: Run, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screened = assess_screened(run)
    pool = gather_pool(run, screened)
    odd = pool.material_ids[4]
    told = {**dict.fromkeys(pool.material_ids[:8], 0.1), odd: 5.0}
    run.ledger.add_selections(run.campaign_id, [made.selection(m, rank=i) for i, m in enumerate(told, start=1)])
    run.ledger.add_stabilities(run.campaign_id, [made.stability(m, e, fidelity="dft") for m, e in told.items()])
    monkeypatch.setattr(
        "models.learning.censored.SUSPICIOUS", 2.0
    )  # of so few answers none is four standard deviations off
    choose(run, screened, pool, 2)
    assert [line for line in said if "hardly believed" in line] == [
        f"Check the calculation of {odd}: its decomposition energy of 5.000 eV/atom is far off what all others say of"
        " it, and is hardly believed"
    ]


def before(
    run: Run,
    first: int,
    last: int,
    *,
    preset: str = "standard",
    shift: float = 0.5,
    level: str = "PBE/setups-1.0/PW450/MP2020-anions",
    method: str = "gpaw-1.0",
    gap: float = 2.0,
    **properties: object,
) -> None:
    """An earlier campaign on the same crystals, of which DFT has computed some."""
    campaign = run.campaign.model_copy(update={"name": "before"})
    earlier = replace(
        run, campaign=campaign, campaign_id=run.ledger.add_campaign("before", campaign.identity() | {"preset": preset})
    )
    run.ledger.start_run(earlier.campaign_id, versions={}, weights_hash="w", config={}, budget=12)
    screen(earlier)
    screened = assess_screened(earlier)
    computed = [m for m in sorted(screened.stabilities) if len(screened.elements(m)) == 2][first:last]
    run.ledger.add_calculations(
        made.calculation(
            m,
            method=method,
            fidelity="dft",
            level_of_theory="PBE/setups-1.0/PW450",
            properties={"preset": preset, "mode": "static", "band_gap": gap, **properties},
        )
        for m in computed
    )
    told = {m: screened.stabilities[m].decomposition_energy_per_atom + shift for m in computed}
    by_dft = [made.stability(m, e, fidelity="dft", level_of_theory=level) for m, e in told.items()]
    run.ledger.add_stabilities(earlier.campaign_id, by_dft)


def test_what_an_earlier_campaign_computed_counts_from_the_first_round(run: Run) -> None:
    screened = assess_screened(run)
    assert gather_pool(run, screened).earlier is None
    before(run, 0, 9, gap_edges=BOTH_MESHES)
    pool = gather_pool(run, screened)
    assert pool.earlier is not None
    assert pool.earlier.kinds.tolist() == [0] * 9
    assert pool.earlier.answers[GAP].tolist() == [2.0] * 9
    assert {pool.material_ids[row] for row in pool.earlier.rows} <= set(pool.material_ids)
    assert len(set(pool.earlier.rows)) == 9
    assert pool.earlier.priors[ENERGY].tolist() == pool.priors[ENERGY][pool.earlier.rows].tolist()
    posterior = believe(run, screened, pool).posteriors[ENERGY]
    assert posterior.mean == pytest.approx(pool.priors[ENERGY] + 0.5, abs=0.1)
    assert not len(posterior.observed)  # of the pool, nothing is answered yet
    assert "potential_ranking" not in {selection.acquisition for selection in choose(run, screened, pool, 1)}


@pytest.mark.parametrize(
    ("how", "stands"),
    [
        ({"gap": 2.0}, False),  # by a version whose gaps had one mesh's empty levels
        ({"gap": 2.0, "preset": "quick", "method": "espresso-6.7"}, False),
        ({"gap": 0.0}, True),  # no gap stays none
        ({"gap": 2.0, "gap_edges": BOTH_MESHES}, True),
        ({"gap": 2.0, "magnetic_order": "none"}, True),  # by one that did not note the edges, and had both meshes'
        ({"gap": 2.0, "preset": "MPStaticSet", "method": "vasp-6.4.2"}, True),  # one mesh in every version
    ],
)
def test_a_gap_of_an_earlier_campaign_counts_as_it_would_within_one(
    run: Run, said: list[str], how: dict[str, Any], stands: bool
) -> None:
    screened = assess_screened(run)
    gaps = run.campaign.model_copy(update={"targets": (TargetSection(property=GAP, at_least=1.0),)})
    before(run, 0, 9, **how)
    said.clear()
    earlier = gather_pool(replace(run, campaign=gaps), screened).earlier
    assert earlier is not None
    assert np.isfinite(earlier.answers[ENERGY]).all()  # the energies count
    assert np.isfinite(earlier.answers[GAP]).tolist() == [stands] * 9
    assert [line for line in said if "9 band gaps" in line] == ([] if stands else said)
    assert len(said) == (0 if stands else 1)
    said.clear()
    gather_pool(run, screened)
    assert said == []  # it asks for no gap


def test_what_was_computed_otherwise_has_an_offset_of_its_own(run: Run) -> None:
    screened = assess_screened(run)
    before(run, 0, 6, preset="quick")
    before(run, 6, 9, preset="accurate")
    kinds = gather_pool(run, screened).earlier.kinds.tolist()  # type: ignore[union-attr]
    assert len(set(kinds)) == 2
    assert 0 not in kinds


def test_energies_with_and_without_corrections_for_anions_are_kept_apart(run: Run) -> None:
    screened = assess_screened(run)
    before(run, 0, 6, level="PBE/setups-1.0/PW450")  # a ledger that is older than the corrections
    earlier = gather_pool(run, screened).earlier
    assert earlier is not None
    assert set(earlier.kinds) == {1}
    before(run, 0, 6, shift=0.4)
    earlier = gather_pool(run, screened).earlier
    assert earlier is not None
    assert set(earlier.kinds) == {0}
    assert earlier.answers[ENERGY] == pytest.approx(earlier.priors[ENERGY] + 0.4, abs=1e-3)
    raw = replace(run, campaign=run.campaign.model_copy(update={"dft": DFT(budget=12, anion_corrections=False)}))
    pool = gather_pool(raw, screened)
    assert pool.earlier is not None
    assert set(pool.earlier.kinds) == {0}
    # The prior is raw as well, so what the answers were made of is the potential's own.
    own = [screened.stabilities[pool.material_ids[row]].decomposition_energy_per_atom for row in pool.earlier.rows]
    assert pool.earlier.answers[ENERGY] == pytest.approx(np.array(own) + 0.5, abs=1e-3)
    assert pool.earlier.priors[ENERGY].tolist() == pool.priors[ENERGY][pool.earlier.rows].tolist()


def test_of_two_levels_the_same_one_counts_in_whatever_order_they_are_met(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened = assess_screened(run)
    pool = gather_pool(run, screened)
    material_id = pool.material_ids[0]
    found = {
        cutoff: made.calculation(
            material_id,
            fidelity="dft",
            level_of_theory=f"PBE/setups-1.0/PW{cutoff}",
            properties={"band_gap": gap},
        )
        for cutoff, gap in (("450", 1.0), ("500", 1.06))
    }
    for calculations in (found, dict(reversed(found.items()))):
        monkeypatch.setattr(run.ledger, "calculations_by_id", lambda _, told=calculations: told)
        monkeypatch.setattr("flows.stages.predict.collect", collect)
        assert believe(run, screened, pool).known[GAP][0] == 1.06


def test_the_same_answers_are_learned_from_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import models.learning.fit

    learned, learn = [], models.learning.fit.learn
    monkeypatch.setattr(models.learning.fit, "learn", lambda *a, **k: (learned.append(k["known"]), learn(*a, **k))[1])
    screened = assess_screened(run)
    pool = gather_pool(run, screened)
    before = believe(run, screened, pool)
    assert believe(run, screened, pool) is before
    assert len(learned) == 1
    low = round(screened.stabilities["LiF"].decomposition_energy_per_atom, 4)
    run.ledger.add_stabilities(run.campaign_id, [made.stability("LiF", low, fidelity="dft")])
    after = believe(run, screened, pool)
    assert len(learned) == 2
    assert after.known[ENERGY][pool.row_of()["LiF"]] == low


def with_a_polymorph(run: Run) -> None:
    """Another LiF, 80 meV/atom lower by the potential, and a competing phase of NaCl 60 meV/atom lower."""
    for name, of, shift, role, edge in (
        ("LiF-b", "LiF", -0.08, "candidate", 4.9),
        ("NaCl-c", "NaCl", -0.06, "competing", 5.2),
    ):
        (first,) = run.ledger.candidates(run.campaign_id, material_ids=[of])
        structure = Structure(Lattice.cubic(edge), first.structure.species, [[0, 0, 0], [0.5, 0.5, 0.25]])
        changes = {"formula": first.formula, "chemsys": first.chemsys, "role": role, "parents": (name,)}
        run.ledger.add_candidates(run.campaign_id, [made.candidate(name, structure=structure, **changes)])
        per_atom = -1.0 - 0.02 * [m + x for m, x in product(METALS, HALIDES)].index(of) + shift
        run.ledger.add_calculations(
            [
                made.calculation(
                    name,
                    method=run.potential_identity.method,
                    level_of_theory=run.potential_identity.level_of_theory,
                    settings_hash=run.screening_hash,
                    structure=structure,
                    energy=2 * per_atom,
                    properties={"latent": [per_atom, 1.0]},
                )
            ]
        )


def test_above_the_hull_polymorphs_count(run: Run) -> None:
    with_a_polymorph(run)
    targets = [TargetSection(property="energy_above_hull", at_most=0.02)]
    run = replace(run, campaign=run.campaign.model_copy(update={"targets": targets}))
    screened = assess_screened(run)
    pool = gather_pool(run, screened)
    row = pool.row_of()
    assert pool.beside.material_ids == ("NaCl-c",)
    assert pool.beside.groups.tolist() == [pool.groups[row["NaCl"]]]
    before = believe(run, screened, pool)
    assert set(before.posteriors) == {ENERGY}
    odds = {name: float(before.scores[i]) for name, i in row.items()}
    assert odds["LiF"] < odds["LiF-b"]
    assert odds["NaCl"] < min(odds["LiF-b"], odds["NaBr"])
    # DFT finds the lower one stable: what lies above it is out, however deep it lies against other compositions.
    low = round(screened.stabilities["LiF-b"].decomposition_energy_per_atom, 4)
    run.ledger.add_stabilities(run.campaign_id, [made.stability("LiF-b", low, fidelity="dft")])
    after = believe(run, screened, pool)
    assert after.scores[row["LiF-b"]] == 1
    by_decomposition = score_pool(after.posteriors, [Target(property=ENERGY, goal="at_most", value=0.02)], after.known)
    assert after.scores[row["LiF"]] < 0.4 * by_decomposition[row["LiF"]]
    assert after.known["energy_above_hull"][row["LiF-b"]] == 0
    assert after.known[ENERGY][row["LiF-b"]] == low
    assert all(name == ENERGY for name in after.posteriors)


@pytest.mark.parametrize(
    ("failed", "lost"),
    [((), ()), (("Na",), ("Na",)), (("Na", "Cl"), ("Cl", "Na")), (("NaCl",), ()), (("K",), ())],
)
def test_a_corner_that_failed_stops_the_round_that_needs_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, failed: tuple[str, ...], lost: tuple[str, ...]
) -> None:
    screened = assess_screened(run)
    run.ledger.add_selections(run.campaign_id, [made.selection("NaCl")])
    picks = run.ledger.selections(run.campaign_id)
    run.ledger.add_failures(
        run.campaign_id, [Failure(material_id=m, stage="dft", error="crashed", message="by SIGKILL") for m in failed]
    )
    computed = {m: made.calculation(m) for m in ("Na", "Cl", "K", "NaCl") if m not in failed}
    monkeypatch.setattr("flows.stages.validate.collect", lambda *_: {"PBE": computed})
    if not lost:
        require_corners(run, screened, picks)
        return
    with pytest.raises(DFTError, match=r"^Round 1 stops: ") as caught:
        require_corners(run, screened, picks)
    for m in lost:
        assert re.search(rf"\b{m} \({m}2?\): crashed, wanted for NaCl", str(caught.value))
    assert "assay run --retry failed" in str(caught.value)
    assert "\n" not in str(caught.value)

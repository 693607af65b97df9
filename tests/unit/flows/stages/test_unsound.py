"""What converged and cannot be, by a potential or by DFT: a failure of its own row, also in an older ledger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from pymatgen.core import Lattice, Structure

from flows.config.campaign import Campaign
from flows.config.sources import Prototypes
from flows.output.progress import Progress
from flows.run.context import Run
from flows.stages.assess import Screened, assess_screened, phases_of
from flows.stages.dft_plan import collect, jobs_of, plan_of
from flows.stages.pool import gather_pool
from flows.stages.predict import believe
from flows.stages.publish import publish
from flows.stages.screen import _missing
from flows.stages.unsound import tell_missing_references
from flows.stages.validate import validate
from materials.errors import MissingTerminals
from materials.records import Calculation, Candidate, Failure, Role, Selection
from materials.sources.prototypes import source as prototypes
from models.dft.calculation_record import level_of_theory
from tests.unit.flows.made_runs import opened_run
from tests.unit.materials import made_records as made

ENERGY = "decomposition_energy_per_atom"
SALT = Structure(Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr("models.dft.gpaw.code.Gpaw.version", lambda _: "1.0")
    monkeypatch.setattr("models.dft.gpaw.code.Gpaw.potentials", lambda _: "setups-1.0")
    content = {
        "name": "made",
        "sources": [{"kind": "prototypes", "roles": {"A": ["Na"], "X": ["Cl"]}}],
        "targets": [{"property": ENERGY, "at_most": -0.1}],
        "dft": {"budget": 12, "code": "gpaw", "preset": "quick", "anion_corrections": False},
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


def computed(run: Run, wrong: str, by_dft: float) -> tuple[Screened, list[Selection]]:
    """Three salts, chosen, and computed with their elements: all at 2 eV/atom from those, save one."""
    crystals = {name: Structure(Lattice.cubic(4.0), [name], [[0, 0, 0]]) for name in ("Na", "K", "Rb", "Cl")}
    for metal in ("Na", "K", "Rb"):
        crystals[f"{metal}Cl"] = Structure(Lattice.cubic(4.0), [metal, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for name, structure in crystals.items():
        elements = sorted({site.specie.symbol for site in structure})
        role = "candidate" if len(elements) > 1 else "competing"
        proposal = made.candidate(name, structure=structure, formula=name, chemsys="-".join(elements), role=role)
        run.ledger.add_candidates(run.campaign_id, [proposal])
        run.ledger.add_calculations([told(run, name, structure, -1.0 - 0.5 * (len(structure) > 1))])
    picks = [made.selection(f"{metal}Cl", rank=i) for i, metal in enumerate(("Na", "K", "Rb"), start=1)]
    run.ledger.add_selections(run.campaign_id, picks)
    screened = assess_screened(run)
    for pick in picks:
        for job in jobs_of(run, screened, plan_of(run, screened, pick.material_id)):
            structure = crystals[job.material_id]
            per_atom = by_dft if job.material_id == wrong else -1.0 - 2.0 * (len(structure) > 1)
            calculation = made.calculation(
                job.material_id,
                method="gpaw-1.0",
                fidelity="dft",
                level_of_theory=level_of_theory(job.settings),
                settings_hash=job.settings.settings_hash,
                structure=structure,
                energy=per_atom * len(structure),
            )
            assert calculation.calculation_id == job.calculation_id
            run.ledger.add_calculations([calculation])
    return screened, picks


def _asked(run: Run, screened: Screened) -> set[str]:
    return {job.calculation_id for job in jobs_of(run, screened, plan_of(run, screened, "NaCl"))}


@pytest.mark.parametrize("energy", [-1e8, -300.0])
def test_a_candidates_absurd_energy_is_its_failure(run: Run, energy: float) -> None:
    screened, picks = computed(run, "NaCl", energy)
    # An older version has judged it.
    (level,) = {c.level_of_theory for c in run.ledger.calculations_by_id(_asked(run, screened)).values()}
    older = made.stability("NaCl", energy, fidelity="dft", level_of_theory=level)
    run.ledger.add_stabilities(run.campaign_id, [older])
    assert validate(run, screened, picks) == 0
    assert {m for calculations in collect(run, screened).values() for m in calculations} >= {"KCl", "RbCl"}
    assert not any("NaCl" in calculations for calculations in collect(run, screened).values())
    pool = gather_pool(run, screened)
    known = believe(run, screened, pool).known[ENERGY]
    assert np.isnan(known[pool.row_of()["NaCl"]])
    assert known[pool.row_of()["KCl"]] == pytest.approx(-2.0)
    publish(run, screened, pool)
    rows = {row["material_id"]: row for row in run.ledger.rows(run.campaign_id)}
    assert rows["NaCl"]["status"] == "failed"
    assert "absurd energy" in rows["NaCl"]["message"]
    assert rows["NaCl"]["fidelity"] == "mlip"
    assert {rows[name]["status"] for name in ("KCl", "RbCl")} == {"validated"}
    (failure,) = run.ledger.failures(run.campaign_id)
    assert (failure.material_id, failure.stage, failure.error) == ("NaCl", "dft", "exploded")


def test_an_elements_absurd_energy_leaves_its_compounds_without_a_hull(run: Run) -> None:
    screened, picks = computed(run, "Na", -1e8)
    validate(run, screened, picks)
    publish(run, screened, gather_pool(run, screened))
    rows = {row["material_id"]: row for row in run.ledger.rows(run.campaign_id)}
    assert rows["NaCl"][ENERGY] == pytest.approx(-0.5)  # the potential's
    assert {rows[name]["status"] for name in ("KCl", "RbCl")} == {"validated"}
    failed = {(f.material_id, f.stage, f.error) for f in run.ledger.failures(run.campaign_id)}
    assert failed == {("Na", "dft", "exploded"), ("NaCl", "assess", "MissingTerminals")}


# By the potential


def halides(run: Run, energies: dict[str, float], structures: dict[str, Structure] | None = None) -> dict[str, dict]:
    """Eight phases of three metals and chlorine, energies in eV/atom as given or plain ones; their published rows."""
    lattice, pair = Lattice.cubic(5.7), [[0, 0, 0], [0.5, 0.5, 0.5]]
    crystals = {name: Structure(Lattice.cubic(4.0), [name], [[0, 0, 0]]) for name in ("Na", "K", "Rb", "Cl")}
    for i, metal in enumerate(("Na", "K", "Rb")):
        crystals[f"{metal}Cl"] = Structure(Lattice.cubic(4.0 + 0.2 * i), [metal, "Cl"], pair)
    crystals["NaCl3"] = Structure(
        lattice, ["Na", "Cl", "Cl", "Cl"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    )
    plain = {name: -1.3 if len(s) == 1 else -3.0 for name, s in crystals.items()}
    crystals.update(structures or {})
    for name, structure in crystals.items():
        elements = sorted({site.specie.symbol for site in structure})
        role = "candidate" if len(elements) > 1 else "competing"
        proposal = made.candidate(name, structure=structure, formula=name, chemsys="-".join(elements), role=role)
        run.ledger.add_candidates(run.campaign_id, [proposal])
        run.ledger.add_calculations([told(run, name, structure, {**plain, **energies}[name])])
    found = assess_screened(run)
    publish(run, found, gather_pool(run, found))
    return {row["material_id"]: row for row in run.ledger.rows(run.campaign_id)}


@pytest.mark.parametrize("energy", [-1e8, 1e8, -310.0, float("-inf")])
def test_an_absurd_energy_costs_its_own_row_and_no_other(run: Run, energy: float) -> None:
    rows = halides(run, {"NaCl3": energy})
    assert rows["NaCl3"]["status"] == "failed"
    assert "exploded" in rows["NaCl3"]["message"]
    assert ("no finite number" if energy < -1e9 else f"{energy:.4g} eV/atom") in rows["NaCl3"]["message"]
    assert rows["NaCl3"]["energy_above_hull"] is None
    for name in ("NaCl", "KCl", "RbCl"):
        assert rows[name]["status"] == "screened"
        assert rows[name]["formation_energy_per_atom"] == pytest.approx(-1.7)
    (failure,) = run.ledger.failures(run.campaign_id)
    assert (failure.material_id, failure.stage, failure.error) == ("NaCl3", "assess", "exploded")


@pytest.mark.parametrize("energy", [-1e8, -310.0])
def test_of_an_element_whose_only_phase_is_absurd_no_compound_has_a_hull(run: Run, energy: float) -> None:
    rows = halides(run, {"Na": energy})
    for name in ("NaCl", "NaCl3"):
        assert rows[name]["status"] == "failed"
        assert "no phase of Na" in rows[name]["message"]
    for name in ("KCl", "RbCl"):
        assert rows[name]["formation_energy_per_atom"] == pytest.approx(-1.7)
    failed = {failure.material_id: failure.message for failure in run.ledger.failures(run.campaign_id)}
    assert failed.keys() == {"Na", "NaCl", "NaCl3"}
    assert f"{energy:.4g} eV/atom" in failed["Na"]


def test_a_collapsed_crystal_in_an_older_ledger_is_no_phase(run: Run) -> None:
    collapsed = Structure(
        Lattice.cubic(4.0), ["Na", "Cl", "Cl", "Cl"], [[0, 0, 0], [0.5, 0.5, 0], [0.075, 0, 0], [0, 0.5, 0.5]]
    )
    rows = halides(run, {"NaCl3": -4.0}, {"NaCl3": collapsed})
    assert rows["NaCl3"]["status"] == "failed"
    assert "Na and Cl are 0.30 Å apart" in rows["NaCl3"]["message"]
    assert rows["NaCl"]["decomposition_energy_per_atom"] == pytest.approx(-1.7)
    (failure,) = run.ledger.failures(run.campaign_id)
    assert (failure.material_id, failure.error) == ("NaCl3", "exploded")
    assert phases_of(run)
    assert "NaCl3" not in {entry.entry_id for entry in phases_of(run)}


def proposed(run: Run, *names: str, role: Role = "candidate") -> None:
    crystals = [
        made.candidate(
            name,
            structure=Structure(Lattice.cubic(4.0), elements, [[0, 0, 0], [0.5, 0.5, 0.5]][: len(elements)]),
            formula=name,
            chemsys="-".join(sorted(elements)),
            role=role,
        )
        for name in names
        for elements in [re.findall("[A-Z][a-z]?", name)]
    ]
    run.ledger.add_candidates(run.campaign_id, crystals)


def test_a_missing_reference_is_told_before_anything_is_computed_with_the_lines_to_add(run: Run) -> None:
    said: list[str] = []
    object.__setattr__(run, "progress", Progress(said.append))
    proposed(run, "NaCl", "BaS", "BaCl")
    proposed(run, "Na", "Cl", role="competing")
    tell_missing_references(run)
    (told,) = said
    assert told.startswith("2 of 3 candidates have no hull: nothing proposes a phase of Ba, S. ")
    lines = told.split("\n", 1)[1].rsplit("\n", 1)[0]
    content = run.campaign.model_dump(mode="json", exclude={"competing"}) | yaml.safe_load(lines)
    (source,) = Campaign.model_validate(content).competing
    assert isinstance(source, Prototypes)
    found = prototypes.propose(roles=source.roles, n_elements=source.n_elements, prototypes=source.prototypes)
    assert {candidate.chemsys for candidate in found if isinstance(candidate, Candidate)} == {"Ba", "S"}
    proposed(run, "Ba", role="competing")
    proposed(run, "S")  # a candidate is a phase, too
    tell_missing_references(run)
    assert len(said) == 1


def test_a_reference_that_was_refused_is_none(run: Run) -> None:
    proposed(run, "NaCl", "Na", "Cl")
    refused = Failure(material_id="Cl", stage="propose", error="UncoveredElement", message="Cl")
    run.ledger.add_failures(run.campaign_id, [refused])
    said: list[str] = []
    object.__setattr__(run, "progress", Progress(said.append))
    tell_missing_references(run)
    assert said[0].startswith("1 of 2 candidates have no hull: nothing proposes a phase of Cl. ")


def test_without_any_hull_nothing_is_computed(run: Run) -> None:
    proposed(run, "NaCl", "BaS")
    with pytest.raises(MissingTerminals, match=r"roles: \{element: \[Ba, Cl, Na, S\]\}"):
        tell_missing_references(run)


def test_where_there_are_competing_phases_the_line_goes_among_them(run: Run) -> None:
    content = run.campaign.model_dump(mode="json")
    competing = [{"kind": "prototypes", "roles": {"A": ["Na"], "X": ["Cl"]}}]
    object.__setattr__(run, "campaign", Campaign.model_validate(content | {"competing": competing}))
    proposed(run, "NaCl", "BaCl", "Na", "Cl")
    said: list[str] = []
    object.__setattr__(run, "progress", Progress(said.append))
    tell_missing_references(run)
    line = "  - {kind: prototypes, roles: {element: [Ba]}, n_elements: [1]}\n"
    assert f"add under competing in the campaign file:\n{line}" in said[0]


def test_elements_and_small_cells_are_screened_first(run: Run) -> None:
    proposed(run, "NaCl", "BaS")
    large = Structure(Lattice.cubic(8.0), ["Na"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    run.ledger.add_candidates(
        run.campaign_id,
        [
            made.candidate("larger", structure=SALT * (2, 1, 1), formula="NaCl", chemsys="Cl-Na"),
            made.candidate("large element", structure=large, formula="Na", chemsys="Na", role="competing"),
        ],
    )
    proposed(run, "Na", "Ba", role="competing")
    assert list(_missing(run)) == ["Ba", "Na", "large element", "BaS", "NaCl", "larger"]


def test_what_has_no_hull_is_not_counted_as_unconverged(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(run.progress, "say", lines.append)
    for name in ("Na", "Cl", "NaCl", "KCl", "LiCl"):
        symbols = re.findall("[A-Z][a-z]?", name)
        crystal = Structure(Lattice.cubic(4.0), symbols, [[0, 0, 0], [0.5, 0.5, 0.5]][: len(symbols)])
        role: Role = "candidate" if len(symbols) > 1 else "competing"
        chemsys = "-".join(sorted(symbols))
        proposal = made.candidate(name, structure=crystal, formula=name, chemsys=chemsys, role=role)
        run.ledger.add_candidates(run.campaign_id, [proposal])
        calculation = told(run, name, crystal, -1.0)
        run.ledger.add_calculations([replace(calculation, status="max_steps") if name == "LiCl" else calculation])
    assess_screened(run)
    assert "Screened 5: 1 not converged (1 max_steps), 1 left out of the hull, 0 relaxed" in lines[-1]

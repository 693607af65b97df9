"""A table as arrays: what the potential says of a row, and what describes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from flows.config.campaign import Screening
from flows.config.load import load_campaign
from flows.output.progress import Progress
from flows.replay.dataset import _change, _features, _open, _priors
from flows.replay.labelled_structures import open_rows
from flows.replay.request import Request
from flows.stages.assess import phases_of
from flows.stages.propose import propose
from materials.records import WrittenCalculation
from materials.stability.conventions import Change
from materials.stability.corrections import MP2020_LEVEL
from materials.stability.hull import HullEntry
from materials.stability.stability import assess
from materials.store.ledger import Ledger
from materials.store.rows import write_calculation
from tests.unit.materials import made_records as made

ENERGY, FORMATION = "decomposition_energy_per_atom", "formation_energy_per_atom"
ABOVE = "energy_above_hull"


def salt(symbols: Sequence[str], a: float = 5.0) -> Structure:
    return Structure(Lattice.cubic(a), symbols, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0]][: len(symbols)])


def screened(structure: Structure, energy: float, latent: list[float] | None = None) -> WrittenCalculation:
    properties = {} if latent is None else {"latent": latent}
    return write_calculation(made.calculation(structure=structure, energy=energy, properties=properties))


def phase(name: str, energy: float, **amounts: float) -> HullEntry:
    return HullEntry(
        entry_id=name, amounts=amounts, energy=energy, level_of_theory="PBE+U/MP2020", method="chgnet-0.3.0"
    )


PHASES = [
    phase("Na", -1.3, Na=1),
    phase("Cl2", -3.6, Cl=2),
    phase("K", -1.1, K=1),
    phase("NaCl", -6.8, Na=1, Cl=1),
    phase("KCl", -6.7, K=1, Cl=1),
]


def test_a_row_stands_against_the_competing_phases_alone() -> None:
    structures = [salt(["Na", "Cl"]), salt(["Na", "Cl"], 4.9), salt(["Na", "Cl"]), salt(["Na", "K", "Cl"])]
    energies = [-6.5, -9.0, -6.5, -8.4]
    rows = [screened(s, e) for s, e in zip(structures, energies, strict=True)]
    found = _priors(PHASES, structures, rows)
    for i, (structure, energy) in enumerate(zip(structures, energies, strict=True)):
        amounts = {str(element): float(count) for element, count in structure.composition.items()}
        (alone,) = assess(PHASES, [phase("it", energy, **amounts)], fidelity="mlip")
        assert found[ENERGY][i] == pytest.approx(alone.decomposition_energy_per_atom, abs=1e-4)
        assert found[FORMATION][i] == pytest.approx(alone.formation_energy_per_atom, abs=1e-4)
        assert found[ABOVE][i] == pytest.approx(alone.energy_above_hull, abs=1e-4)
    assert found[ABOVE][:3].tolist() == pytest.approx([0.15, 0, 0.15])  # the row at -9.0 is no rival
    assert found[ENERGY][0] == found[ENERGY][2] == pytest.approx(found[ENERGY][1] + 1.25)
    np.testing.assert_allclose(found["volume_per_atom"], [s.volume / len(s) for s in structures], atol=1e-4)


def test_a_row_stands_in_the_convention_of_the_answers() -> None:
    """Without MP2020, which gives 0.614 eV to a chloride ion, a row is less stable, and so is what it competes with."""
    structures = [salt(["Na", "Cl"]), salt(["Na", "K", "Cl"])]
    rows = [screened(s, e) for s, e in zip(structures, [-6.5, -8.4], strict=True)]
    change = Change(out="MP2020", into=None)
    raw = [change.entry(p, lambda: salt(["Na", "Cl"])) for p in PHASES[:3]]
    before, after = _priors(PHASES[:3], structures, rows), _priors(raw, structures, rows, change)
    np.testing.assert_allclose(after[ENERGY] - before[ENERGY], [0.614 / 2, 0.614 / 3], atol=1e-3)
    np.testing.assert_allclose(after[FORMATION] - before[FORMATION], [0.614 / 2, 0.614 / 3], atol=1e-3)


@pytest.mark.parametrize(
    ("column", "changes"),
    [
        (None, False),
        (["PBE/gpaw-setups-1.2.1/PW450", "PBE/gpaw-setups-1.2.1/PW600"], True),
        (["PBE+U/MP2020", "PBE+U/MP2020"], False),
        (["PBE/gpaw-setups-1.2.1/PW450", "PBE+U/MP2020"], False),
    ],
)
def test_a_table_tells_the_convention_of_its_answers(tmp_path: Path, column: list[str] | None, changes: bool) -> None:
    table = pd.DataFrame(
        {"structure": [salt(["Na", "Cl"], a).to(fmt="poscar") for a in (5.0, 5.1)], ENERGY: [0.1, 0.2]}
    )
    if column:
        table["level_of_theory"] = column
    table.to_csv(tmp_path / "table.csv", index=False)
    request = Request(table=str(tmp_path / "table.csv"), folder=tmp_path)
    with open_rows(request.table, str(tmp_path / "assay.db"), [ENERGY]) as (ledger, labelled):
        run = _open(ledger, request, Progress(lambda _: None), "x", [], Screening())
        change = _change(run, labelled)
    assert (change == Change(out="MP2020", into=None)) is changes
    assert (change is None) is not changes


@pytest.mark.parametrize("energy", [-1e8, -400.0])
def test_a_row_with_an_absurd_energy_has_none(energy: float) -> None:
    structures = [salt(["Na", "Cl"]), salt(["Na", "Cl"], 4.9), salt(["K", "Cl"])]
    rows = [screened(s, e) for s, e in zip(structures, [-6.5, energy, -6.0], strict=True)]
    found = _priors(PHASES, structures, rows)
    for name in (ENERGY, ABOVE, FORMATION):
        assert np.isfinite(found[name]).tolist() == [True, False, True]


@pytest.mark.parametrize("phases", [PHASES, []])
def test_without_a_reference_for_its_elements_a_row_has_no_energy(phases: list[HullEntry]) -> None:
    structures = [salt(["Na", "Br"]), salt(["Na", "Cl"])]
    found = _priors(phases, structures, [screened(s, -6.0) for s in structures])
    for name in (ENERGY, FORMATION):
        assert np.isfinite(found[name]).tolist() == [False, bool(phases)]
    assert np.isfinite(found["volume_per_atom"]).all()


def crystals() -> list[Structure]:
    return [
        salt(symbols, 4.5 + 0.1 * i) for i in range(6) for symbols in (["Na", "Cl"], ["K", "Cl"], ["Na", "K", "Br"])
    ]


def test_latents_with_holes_leave_features_finite() -> None:
    structures = crystals()
    latents = np.random.default_rng(0).normal(size=(len(structures), 8))
    latents[3, 2] = np.nan
    latents[5] = np.nan
    latents[:, 7] = np.nan
    rows = [screened(s, -6.0, list(z)) for s, z in zip(structures, latents, strict=True)]
    assert "null" in rows[3].properties
    found = _features(structures, rows)
    for features in found.values():
        assert features.matrix.shape == (len(structures), sum(features.widths))
        assert np.isfinite(features.matrix).all()
    again = _features(structures, [screened(s, -6.0) for s in structures])
    np.testing.assert_allclose(found["composition"].matrix, again["composition"].matrix, atol=1e-9)
    *known, latent = found["all"].widths
    assert latent > 0
    assert again["all"].widths == (*known, 0)
    np.testing.assert_allclose(found["all"].matrix[:, : sum(known)], again["all"].matrix, atol=1e-9)


def test_where_one_has_no_latent_none_counts() -> None:
    structures = crystals()
    rows = [screened(s, -6.0, [1.0 * i, 2.0 * i**2]) for i, s in enumerate(structures)]
    without = _features(structures, [screened(s, -6.0) for s in structures])
    some = _features(structures, [*rows[:-1], screened(structures[-1], -6.0)])
    np.testing.assert_array_equal(some["all"].matrix, without["all"].matrix)
    assert json.loads(rows[0].properties)["latent"] == [0.0, 0.0]


def test_one_row_has_nothing_to_tell_it_by() -> None:
    found = _features([salt(["Na", "Cl"])], [screened(salt(["Na", "Cl"]), -6.0, [1.0, 2.0])])
    assert found["all"].matrix.shape == found["composition"].matrix.shape == (1, 0)


def test_a_campaigns_competing_phases_are_proposed_as_such(tmp_path: Path) -> None:
    """Of fewer elements than its candidates, where it names none: the quickstart's are binaries and elements."""
    quickstart = load_campaign(Path(__file__).parents[4] / "configs" / "quickstart.yaml")
    with Ledger.open(f"sqlite:///{tmp_path / 'assay.db'}") as ledger:
        run = _open(
            ledger, Request(table="t.csv"), Progress(lambda _: None), "replay-t", quickstart.competing, Screening()
        )
        propose(run, roles=["competing"])
        roles = ledger.roles(run.campaign_id)
        assert set(roles.values()) == {"competing"}
        systems = {c.chemsys for c in ledger.candidates(run.campaign_id, material_ids=sorted(roles))}
    assert {len(system.split("-")) for system in systems} == {1, 2}


def test_phases_that_a_database_has_computed_are_on_the_hull(tmp_path: Path) -> None:
    with Ledger.open(f"sqlite:///{tmp_path / 'assay.db'}") as ledger:
        run = _open(ledger, Request(table="t.csv"), Progress(lambda _: None), "replay-t", [], Screening())
        identity = run.potential_identity
        known, relaxed = salt(["Na", "Cl"]), salt(["K", "Cl"])
        ledger.add_candidates(
            run.campaign_id,
            [made.candidate(name, structure=s, role="competing") for name, s in (("a", known), ("b", relaxed))],
        )
        ledger.add_calculations(
            [
                made.calculation("a", structure=known, method="mp", fidelity="dft", level_of_theory=MP2020_LEVEL),
                made.calculation(
                    "b",
                    structure=relaxed,
                    method=identity.method,
                    level_of_theory=identity.level_of_theory,
                    settings_hash=run.screening_hash,
                ),
            ]
        )
        assert identity.level_of_theory == MP2020_LEVEL
        assert {phase.entry_id for phase in phases_of(run)} == {"a", "b"}

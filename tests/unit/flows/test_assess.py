"""From the potential's calculations to the table, without a potential: who relaxed into whom, and who is described."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from flows.campaign import Campaign
from flows.cluster_file import Cluster
from flows.context import Run
from flows.progress import Progress
from flows.stages.assess import assess_screened
from flows.stages.choose import gather_pool
from flows.stages.publish import publish
from materials.records import Calculation
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made

SALT = Structure(Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
OTHER = Structure(Lattice.hexagonal(4.0, 6.5), ["Na", "Cl"], [[0, 0, 0], [1 / 3, 2 / 3, 0.4]])
ELEMENTS = {name: Structure(Lattice.cubic(4.0), [name], [[0, 0, 0]]) for name in ("Na", "Cl")}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Ledger.open(str(tmp_path / "assay.db")) as ledger:
        campaign = Campaign.model_validate(
            {
                "name": "made",
                "sources": [{"kind": "prototypes", "roles": {"A": ["Na"], "X": ["Cl"]}}],
                "targets": [{"property": "decomposition_energy_per_atom", "at_most": 0.05}],
                "dft": {"budget": 0},
            }
        )
        yield Run(
            campaign=campaign,
            cluster=Cluster(),
            campaign_id=ledger.add_campaign(campaign.name, campaign.identity()),
            ledger=ledger,
            folder=tmp_path,
            progress=Progress(lambda _: None),
        )


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
    assert "first" not in found.calculations
    assert run.ledger.equivalences(run.campaign_id) == {"first": "second"}
    publish(run, found, gather_pool(run, found))
    rows = {row["material_id"]: row for row in run.ledger.table(run.campaign_id)}
    assert rows.keys() == {"second", "third"}
    assert rows["second"]["parents"] == "wurtzite: Na on 2b; CsCl: Na on 1a"
    assert rows["second"]["known_as"] == "mp-1"
    assert rows["third"]["parents"] == "NiAs: Na on 2a"


def test_without_dft_nobody_is_described_and_the_table_is_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    screened(run)
    found = assess_screened(run)
    plain = gather_pool(run, found)
    assert plain.features.shape == (2, 0)
    publish(run, found, plain)
    before = run.ledger.ranked(run.campaign_id)
    monkeypatch.setattr("flows.stages.choose._learns", lambda _: True)
    described = gather_pool(run, found)
    assert described.features.shape[1] > 0
    assert np.isfinite(described.features).all()
    assert publish(run, found, described) == 0
    assert run.ledger.ranked(run.campaign_id) == before

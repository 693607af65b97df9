"""What the surrogate starts from: the potential's hull in the convention of DFT's, by hand and by the campaign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.stages.prior import prior_stabilities
from materials.store.ledger import Ledger
from tests.unit.flows.stages.test_cost import Play

ENERGY, FORMATION = "decomposition_energy_per_atom", "formation_energy_per_atom"
TERMS = {"F": -0.462, "Cl": -0.614, "Br": -0.534}  # eV an anion, doi:10.1038/s41598-021-94550-5


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(str(tmp_path / "assay.db")) as opened:
        yield opened


def played(ledger: Ledger, folder: Path, **dft: Any) -> Play:
    return Play(ledger, folder, 9, dft={"budget": 100, "preset": "quick", "relax_best": 0} | dft)


def test_the_prior_of_raw_dft_has_no_corrections_in(ledger: Ledger, tmp_path: Path) -> None:
    """A salt decomposes into its elements here, which have no term: what was added to the salt is taken out."""
    game = played(ledger, tmp_path, anion_corrections=False)
    for row, name in enumerate(game.pool.material_ids):
        own = game.screened.stabilities[name]
        term = next(value for anion, value in TERMS.items() if name.endswith(anion)) / 2
        assert game.pool.priors[ENERGY][row] == pytest.approx(own.decomposition_energy_per_atom - term, abs=2e-3)
        assert game.pool.priors[FORMATION][row] == pytest.approx(own.formation_energy_per_atom - term, abs=2e-3)
    # The ledger, and the table with it, keep the potential's own.
    kept = ledger.stabilities(game.run.campaign_id, "mlip")
    assert {m: s.decomposition_energy_per_atom for m, s in kept.items()} == {
        m: s.decomposition_energy_per_atom for m, s in game.screened.stabilities.items()
    }


@pytest.mark.parametrize("anions", [None, True])
def test_with_the_same_terms_on_both_sides_the_prior_is_the_potentials_own(
    ledger: Ledger, tmp_path: Path, anions: bool | None
) -> None:
    game = played(ledger, tmp_path, anion_corrections=anions)
    own = [game.screened.stabilities[m].decomposition_energy_per_atom for m in game.pool.material_ids]
    np.testing.assert_allclose(game.pool.priors[ENERGY], own, atol=1e-4)
    assert prior_stabilities(game.run, game.screened, game.pool.material_ids) is game.screened.stabilities


def test_without_dft_it_is_the_potentials_own(ledger: Ledger, tmp_path: Path) -> None:
    game = played(ledger, tmp_path, anion_corrections=False, budget=0)
    own = [game.screened.stabilities[m].decomposition_energy_per_atom for m in game.pool.material_ids]
    np.testing.assert_allclose(game.pool.priors[ENERGY], own, atol=1e-4)


def test_what_another_campaign_answered_starts_from_the_same_convention(ledger: Ledger, tmp_path: Path) -> None:
    raw = {"budget": 100, "preset": "quick", "relax_best": 0, "anion_corrections": False}
    before = played(ledger, tmp_path, anion_corrections=False)
    ledger.end_run(
        ledger.start_run(before.run.campaign_id, versions={}, weights_hash="", config={}, budget=0), "finished"
    )
    before.answer(before.choose(1))
    after = Play(ledger, tmp_path, 9, name="after", dft=raw)
    earlier = after.pool.earlier
    assert earlier is not None
    known = earlier.rows >= 0
    assert known.any()
    np.testing.assert_allclose(earlier.priors[ENERGY][known], after.pool.priors[ENERGY][earlier.rows[known]], atol=1e-9)

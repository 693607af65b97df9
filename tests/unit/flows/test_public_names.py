"""The three public names: importing the packages costs nothing, and what they hold is what the commands use."""

import subprocess
import sys
from pathlib import Path

import pytest

import flows
import materials
import models

HEAVY = ("torch", "pymatgen", "pandas", "prefect", "distributed", "sqlalchemy", "ase", "scipy", "matplotlib")


def test_importing_the_packages_imports_nothing_heavy() -> None:
    code = f"import sys, flows, materials, models; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_three_nouns() -> None:
    from flows import Campaign
    from flows.config import campaign as config
    from materials import Ledger
    from models import Potential

    assert issubclass(Campaign, config.Campaign)
    assert (Ledger.__module__, Potential.__module__) == ("materials.store.ledger", "models.notebook")
    assert [package.__all__ for package in (flows, materials, models)] == [["Campaign"], ["Ledger"], ["Potential"]]
    for package in (flows, materials, models):
        with pytest.raises(AttributeError, match="Nothing"):
            package.Nothing  # noqa: B018


def test_a_campaign_is_the_same_from_its_file(tmp_path: Path) -> None:
    from flows import Campaign
    from flows.config.load import load_campaign

    for file in Path("configs").glob("*.yaml"):
        campaign = Campaign.load(file, budget=2)
        assert campaign.identity() == load_campaign(file).identity()
        assert campaign.dft.budget == 2

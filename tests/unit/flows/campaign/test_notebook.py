"""A campaign from a script: loaded, shown, run, looked at."""

from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

from flows import Campaign
from flows.config.cluster import Cluster
from materials import Ledger
from materials.errors import CampaignError, InputError, QueryError

POTENTIAL = {"kind": "ase", "model": "tests.peers.calculators:Balls", "level_of_theory": "toy"}


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    write(tmp_path / "metals.extxyz", [bulk("Cu"), bulk("Ag"), bulk("CuAg", "cesiumchloride", a=3.0)])
    content = {
        "name": "metals",
        "description": "What <b>mixes</b>?",
        "sources": [{"kind": "files", "path": str(tmp_path / "metals.extxyz")}],
        "screening": {"potential": POTENTIAL},
    }
    return Campaign.model_validate(content)


@pytest.mark.slow
def test_it_runs_to_a_table_that_the_ledger_holds(campaign: Campaign, tmp_path: Path) -> None:
    campaign.check(use_dft=False)
    cluster = Cluster.model_validate({"workers": {"count": 1, "memory_gib": 1}})
    database = str(tmp_path / "assay.db")
    result = campaign.run(ledger=database, cluster=cluster, folder=tmp_path / "runs", use_dft=False)
    assert len(result.table) == 3
    assert "# metals" in result.summary
    assert "<table" in result._repr_html_()
    with Ledger.open(database, must_exist=True) as ledger:
        mixed = ledger.table("metals", where="has Cu and has Ag", sort="-energy_above_hull")
        assert list(mixed["formula"]) == ["CuAg"]
        assert ledger.table("metals", where="has Xe").columns.tolist() == result.table.columns.tolist()
        assert ledger.table("metals", columns="rank, formula").columns.tolist() == ["rank", "formula"]
        structures = ledger.structures("metals", where="has Ag", limit=1)
        assert [s.composition.contains_element_type("transition_metal") for s in structures.values()] == [True]
        name = mixed["material_id"][0]
        assert ledger.explain(name).startswith(f"{name}: CuAg, Ag-Cu, 2 sites")
        assert set(ledger.calculations([name])) == {name}
        with pytest.raises(QueryError, match="energy_above_hul"):
            ledger.table("metals", where="energy_above_hul < 1")


def test_it_shows_itself_as_text_and_not_as_markup(campaign: Campaign) -> None:
    shown = campaign._repr_html_()
    assert "What &lt;b&gt;mixes&lt;/b&gt;?" in shown
    assert "energy above hull at most 0.05 eV/atom" in shown


def test_what_it_lacks_is_said_before_it_runs(campaign: Campaign, tmp_path: Path) -> None:
    (tmp_path / "metals.extxyz").unlink()
    with pytest.raises(InputError, match=r"metals\.extxyz"):
        campaign.check(use_dft=False)
    (tmp_path / "bad.yaml").write_text("name: x\nsources: [{kind: nothing}]\n")
    with pytest.raises(CampaignError, match=r"bad.yaml: sources\[0\]"):
        Campaign.load(tmp_path / "bad.yaml")

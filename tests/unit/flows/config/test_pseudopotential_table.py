"""The table of pseudopotentials: what is wrong is told with its file and key, before anything runs."""

import re
from pathlib import Path

import pytest

from flows.config.campaign import Campaign
from flows.config.load import load_campaign
from flows.config.pseudopotential_table import load_family
from flows.config.sources import elements_of
from materials.errors import CampaignError
from models.dft.espresso.code import Espresso
from models.dft.espresso.pseudopotentials import functional_named, read_header

HEADER = (
    '<UPF version="2.0.1">\n<PP_HEADER\n element="{element}"\n functional="{functional}"\n z_valence="{valence}"/>\n'
)
VERSION_1 = """<PP_INFO>
</PP_INFO>
<PP_HEADER>
   0                   Version Number
  Rh                   Element
   US                  Ultrasoft pseudopotential
    F                  Nonlinear Core Correction
 SLA  PW   PBE  PBE     PBE  Exchange-Correlation functional
    9.00000000000      Z valence
</PP_HEADER>
"""
TABLE = """
family: mine-1
functional: PBE
folder: files
elements:
  Li: {file: Li.upf, cutoff_ry: 40, density_cutoff_ry: 320}
  P: {file: P.upf, cutoff_ry: 30.5, density_cutoff_ry: 244}
"""
CAMPAIGN = """
name: c
sources:
  - {kind: prototypes, roles: {I: [Li], V: [P, As]}, prototypes: [rocksalt]}
dft: {code: espresso, pseudopotentials: tables/table.yaml}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    files = tmp_path / "tables" / "files"
    files.mkdir(parents=True)
    (files / "Li.upf").write_text(HEADER.format(element="Li", functional=" SLA  PW   PBX  PBC", valence="3.0"))
    (files / "P.upf").write_text(HEADER.format(element=" P", functional="PBE", valence="5.0000000E+00"))
    path = tmp_path / "tables" / "table.yaml"
    path.write_text(TABLE)
    return path


def wrong(table: Path, old: str, new: str) -> str:
    table.write_text(TABLE.replace(old, new))
    with pytest.raises(CampaignError) as error:
        load_family(table)
    return str(error.value)


def test_a_table_is_read_and_its_files_looked_at(table: Path) -> None:
    family = load_family(table)
    assert (family.name, family.functional) == ("mine-1", "PBE")
    assert family.folder == table.parent / "files"
    assert family.elements["P"].valence == 5.0
    assert family.elements["P"].cutoff_ev == pytest.approx(30.5 * 13.605693, rel=1e-7)
    assert family.cutoffs_ev(["P"])[0] < family.cutoffs_ev(["P", "Li"])[0] == family.cutoffs_ev(["Xe"])[0]


def test_the_family_is_known_by_its_files_and_not_by_where_they_lie(table: Path, tmp_path: Path) -> None:
    before = load_family(table).identity
    assert before.startswith("mine-1-")
    (tmp_path / "tables").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "table.yaml"
    moved.write_text(TABLE.replace("40", "50"))  # a cut-off is in the level of theory on its own
    assert load_family(moved).identity == before
    with open(moved.parent / "files" / "P.upf", "a") as file:
        file.write("<!-- another -->")
    assert load_family(moved).identity != before


def test_files_that_do_not_fit_are_told_with_table_and_key(table: Path) -> None:
    assert f"{table}: elements.P.file: there is no file" in wrong(table, "P.upf", "Q.upf")
    assert "elements.P.file: " in wrong(table, "P.upf", "Li.upf")
    assert "is a pseudopotential of Li, not of P" in wrong(table, "P.upf", "Li.upf")
    said = wrong(table, "functional: PBE", "functional: LDA")
    assert "elements.Li.file" in said
    assert "was made for PBE, and the table's functional is LDA" in said
    (table.parent / "files" / "P.upf").write_text("nothing")
    assert "not a UPF file" in wrong(table, "x", "y")


def test_values_that_do_not_fit_are_told_with_table_and_key(table: Path) -> None:
    assert "elements.P.cutoff_ry: is missing" in wrong(table, "cutoff_ry: 30.5, ", "")
    assert "elements.P: density_cutoff_ry is 44; at least four times cutoff_ry is needed" in wrong(table, "244", "44")
    assert "elements.P.cutof_ry: unknown key; did you mean 'cutoff_ry'?" in wrong(
        table, "cutoff_ry: 30.5", "cutof_ry: 3"
    )
    assert "'Pp' is no chemical element" in wrong(table, "  P:", "  Pp:")
    assert "family:" in wrong(table, "mine-1", "mine/1")


def test_version_1_of_the_format_is_read(tmp_path: Path) -> None:
    (tmp_path / "Rh.UPF").write_text(VERSION_1)
    header = read_header(tmp_path / "Rh.UPF")
    assert (header.element, header.functional, header.valence) == ("Rh", "PBE", 9.0)


@pytest.mark.parametrize(
    ("spelled", "named"),
    [
        (" SLA  PZ   NOGX NOGC", "LDA"),
        ("lda", "LDA"),
        ("PBESOL", "PBEsol"),
        ("sla pw psx psc", "PBEsol"),
        ("SLA PW WCX PBC", "SLA PW WCX PBC"),
    ],
)
def test_functionals_have_one_name(spelled: str, named: str) -> None:
    assert functional_named(spelled) == named


def test_a_campaign_finds_its_table_and_refuses_what_it_lacks(table: Path, tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN)
    campaign = load_campaign(path)
    choice = campaign.dft.choice()
    assert choice.pseudopotentials is not None
    with pytest.raises(CampaignError, match=r"dft.pseudopotentials: mine-1 has none for As, which the sources name"):
        Espresso(choice.pseudopotentials).find_potentials(elements_of(campaign.sources))
    path.write_text(CAMPAIGN.replace(", As", ""))
    Espresso(choice.pseudopotentials).find_potentials(elements_of(load_campaign(path).sources))


@pytest.mark.parametrize("dft", ["{code: espresso}", "{pseudopotentials: table.yaml}"])
def test_code_and_table_go_together(tmp_path: Path, dft: str) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN.split("dft:")[0] + f"dft: {dft}\n")
    with pytest.raises(CampaignError, match=r"dft: code: espresso and pseudopotentials: table.yaml go together"):
        load_campaign(path)


def test_a_campaign_without_a_table_is_the_one_that_it_was(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN.split("dft:")[0])
    assert "pseudopotentials" not in load_campaign(path).identity()["dft"]
    assert Campaign.model_fields["dft"].default.pseudopotentials is None


@pytest.mark.skipif(not Path("/usr/share/espresso/pseudo").exists(), reason="no quantum-espresso-data")
def test_the_readme_shows_a_campaign_and_a_table_that_go_together(tmp_path: Path, root: Path) -> None:
    blocks = re.findall(r"```yaml\n(.+?)```", (root / "models/dft/README.md").read_text(), re.DOTALL)
    (dft,) = [block for block in blocks if block.startswith("dft: {code: espresso")]
    (table,) = [block for block in blocks if block.startswith("family:")]
    (tmp_path / "debian-lda.yaml").write_text(table)
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN.split("dft:")[0] + dft)
    family = load_campaign(path).dft.choice().pseudopotentials
    assert family is not None
    assert f"LDA/{family.identity}/PW{family.cutoffs_ev(['Al'])[0]:g}/" in table

"""Campaigns with VASP's stand-in and the frozen Materials Project: on its hull, and beside it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedStructureEntry

from materials.records import Calculation
from materials.store.ledger import Ledger
from tests.integration.conftest import run
from tests.peers import materials_project as database
from tests.peers import vasp as peer

CAMPAIGN = Path(__file__).parents[2] / "configs" / "materials-project-vasp.yaml"
SYMBOLS = ["Li_sv", "Mg_pv", "Zn", "P", "As", "N"]
MP = "PBE+U/MP2020"
MATPES = "PBE/POTCAR-PBE_64/MatPESStaticSet"
NAME = "name: materials-project-vasp\n"
SYSTEMS = "[Li-P-Zn, Li-Mg-P, As-Li-Zn, As-Li-Mg]"
DFT = "{code: vasp, input_set: MPStaticSet, budget: 2, relax_best: 1}"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the campaign has run on the Materials Project's hull, and another with MatPES's set."""
    folder = tmp_path_factory.mktemp("vasp")
    peer.make_potcars(folder / "potcars", {"PBE": SYMBOLS, "PBE_64": SYMBOLS})
    program = peer.install(folder / "bin", told={"model": "chgnet"})
    text = CAMPAIGN.read_text()
    assert all(words in text for words in (SYSTEMS, DFT, NAME))
    # A nitride is among these: MP2020 corrects it.
    (folder / "mp.yaml").write_text(text.replace(SYSTEMS, "[Li-N-Zn, As-Li-Mg]"))
    dft = "{code: vasp, input_set: MatPESStaticSet, budget: 1, competing_within: 0, competing_polymorphs: 1"
    other = text.replace(SYSTEMS, "[As-Li-Mg]").replace(DFT, f"{dft}, relax_best: 0}}").replace(NAME, "name: matpes\n")
    (folder / "matpes.yaml").write_text(other)
    with pytest.MonkeyPatch.context() as patch, database.running() as server:
        patch.setenv("MP_API_ENDPOINT", server.url)
        patch.setenv("MP_API_KEY", database.KEY)
        patch.setenv("PMG_VASP_PSP_DIR", str(folder / "potcars"))
        patch.setenv("ASSAY_VASP_COMMAND", str(program))
        (folder / "said.txt").write_text(run(folder, "run", "mp.yaml"))
        (folder / "matpes.txt").write_text(run(folder, "run", "matpes.yaml"))
        yield folder


def validated(folder: Path, campaign: str) -> list[dict]:
    rows = run(folder, "table", campaign, "--where", "status = validated", "--format", "json")
    return json.loads(rows)


def calculations(folder: Path, level: str) -> list[Calculation]:
    """All that VASP computed at a level: each in a folder of its own."""
    keys = [path.name for path in (folder / "assay-runs" / "dft").iterdir()]
    with Ledger.open(f"sqlite:///{folder / 'assay.db'}") as ledger:
        found = ledger.calculations_by_id(keys)
    assert len(found) == len(keys)
    assert all(calculation.method == "vasp-6.4.2" for calculation in found.values())
    return [calculation for calculation in found.values() if calculation.level_of_theory == level]


def test_the_hull_is_the_materials_projects(folder: Path) -> None:
    rows = validated(folder, "materials-project-vasp")
    assert len(rows) == 2
    assert all((row["fidelity"], row["level_of_theory"]) == ("dft", MP) for row in rows)
    assert all(row["band_gap"] == pytest.approx(1.2) for row in rows)
    # Nothing but the candidates was computed: two static ones, and the best relaxed.
    ours = calculations(folder, MP)
    assert sorted((c.material_id, c.properties["mode"]) for c in ours) == sorted(
        [(row["material_id"], "static") for row in rows] + [(rows[0]["material_id"], "relax")]
    )
    said = (folder / "said.txt").read_text()
    assert "DFT (vasp, MPStaticSet)" in said
    assert "the hull is its own" in said
    assert f"({MP})" in said


def documents() -> list[ComputedStructureEntry]:
    peer_of_mp = database.Peer()
    database.load_documents(peer_of_mp)
    return [
        ComputedStructureEntry.from_dict(document["entries"][document["energy_type"]])
        for document in peer_of_mp.thermo
        if document["thermo_type"] == "GGA_GGA+U"
    ]


def test_corrections_and_distances_are_pymatgens_own(folder: Path) -> None:
    rows = {row["material_id"]: row for row in validated(folder, "materials-project-vasp")}
    scheme = MaterialsProject2020Compatibility(check_potcar=True)
    corrections = []
    for calculation in calculations(folder, MP):
        found = calculation.properties
        assert found["run_type"] == "GGA"
        entry = scheme.process_entry(
            ComputedStructureEntry(
                calculation.structure,
                found["uncorrected_energy"],
                parameters={
                    "run_type": found["run_type"],
                    "hubbards": found["hubbards"],
                    "potcar_symbols": [spec["titel"] for spec in found["potcar_spec"]],
                },
            )
        )
        assert entry is not None
        assert calculation.energy == pytest.approx(entry.energy, abs=1e-6)
        assert found["correction"] == pytest.approx(entry.correction, abs=1e-6)
        corrections.append(found["correction"])
        # Against all of the Materials Project's entries of other compositions.
        row = rows[calculation.material_id]
        others = [d for d in documents() if d.entry_id.removesuffix("-GGA") != row["known_as"]]
        assert len(others) == len(documents()) - 1
        inside = [d for d in others if set(d.composition.elements) <= set(entry.composition.elements)]
        distance = PhaseDiagram(inside).get_phase_separation_energy(entry)
        if found["mode"] == "static":
            assert row["decomposition_energy_per_atom"] == pytest.approx(distance, abs=1e-5)
    assert min(corrections) == pytest.approx(-0.361, abs=1e-3)  # of a nitrogen, Wang et al. 2021, table 2
    assert max(corrections) == 0.0


def test_matpes_has_references_of_its_own(folder: Path) -> None:
    (row,) = validated(folder, "matpes")
    assert row["level_of_theory"] == f"{MATPES}/MP2020-anions"  # of the hull; the calculations are raw
    ours = calculations(folder, MATPES)
    # The candidate, the corners of its hull, and what it decomposes into; not the energies that were there before.
    assert {c.structure.composition.reduced_formula for c in ours} >= {"LiMgAs", "Li", "Mg", "As", "Li3As"}
    assert all("correction" not in c.properties for c in ours)
    assert row["material_id"] in {c.material_id for c in calculations(folder, MP)}


def test_a_missing_potcar_is_told_before_anything_is_spent(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(tmp_path))
    said = run(tmp_path, "run", str(CAMPAIGN), code=1)
    assert "There is no POTCAR" in said
    assert "PMG_VASP_PSP_DIR" in said
    assert "Traceback" not in said
    monkeypatch.setenv("ASSAY_VASP_COMMAND", "no-such-vasp")
    said = run(tmp_path, "run", str(CAMPAIGN), code=1)
    assert "There is no no-such-vasp on the path" in said
    assert not (tmp_path / "assay.db").exists()

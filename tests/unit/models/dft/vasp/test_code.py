"""VASP behind the contract, without running it: input sets, POTCARs, what its energies mean, how its files are read."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import ase.test
import numpy as np
import pytest
from ase.io import read as ase_read
from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility
from pymatgen.core import SETTINGS, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar
from pymatgen.io.vasp.outputs import Vasprun
from pymatgen.io.vasp.sets import MatPESStaticSet, MPRelaxSet, MPStaticSet

from materials.errors import CodeNotInstalled, DFTError, HullError, LevelOfTheoryMismatch
from materials.stability.corrections import MP2020_LEVEL, correction_of_vasp, foreign_potcars
from materials.stability.stability import assess, entry_from
from models.dft.base import DFTResult, DFTSettings, Limits
from models.dft.calculation_record import calculation_from, calculation_id, level_of_theory
from models.dft.presets import symmetrised
from models.dft.vasp.code import Vasp, corrected, input_files
from models.dft.vasp.input_sets import SetChoice
from models.dft.vasp.output import gap_of, read_run, site_moments
from models.learning.dft_cost import relative_cost
from tests.peers import vasp as peer

SYMBOLS = {
    "PBE": ["Li_sv", "Mg_pv", "P", "Fe_pv", "O", "Mn_pv", "F"],
    "PBE_54": ["Li_sv", "Mg_pv", "P", "Fe_pv", "O"],
    "PBE_64": ["Li_sv", "Mg_pv", "P", "Fe_pv", "O"],
}
REAL = Path(ase.test.__file__).parent / "testdata" / "vasp"  # of a real VASP 6.3


@pytest.fixture(autouse=True, scope="module")
def potcars(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("potcars")
    peer.make_potcars(folder, SYMBOLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(folder))
        yield folder


def half_heusler(a: float = 6.02) -> Structure:
    return Structure.from_spacegroup(
        "F-43m", Lattice.cubic(a), ["Li", "Mg", "P"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)]
    )


def rock_salt(cation: str, anion: str = "O", a: float = 4.3) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [(0, 0, 0), (0.5, 0.5, 0.5)])


def settings(structure: Structure, name: str = "MPStaticSet", *, relax: bool | None = None, **choice) -> DFTSettings:
    elements = [element.symbol for element in structure.composition.elements]
    return Vasp(SetChoice(name=name, **choice)).settings("standard", elements, structure, relax=relax)


# Settings


def test_calculations_of_before_keep_their_names() -> None:
    before = DFTSettings(
        code="gpaw",
        preset="quick",
        potentials="gpaw-setups-1",
        cutoff_ev=300.0,
        kpoints=(2, 2, 2),
        kpoint_shift=(True, True, True),
        gap_kpoints=(2, 2, 2),
        smearing_ev=0.05,
        convergence_energy_ev=5e-4,
        convergence_density=1e-4,
        max_scf_steps=100,
    )
    assert before.settings_hash == "9ad18f8dcd83504e"
    assert calculation_id("Si-1", "gpaw-26.7.0", before) == "0d028b78c80aa18a"
    assert level_of_theory(before) == "PBE/gpaw-setups-1/PW300"


@pytest.mark.parametrize(
    ("name", "relax", "made", "mode", "cutoff", "level"),
    [
        ("MPStaticSet", None, "MPStaticSet", "static", 520, MP2020_LEVEL),
        ("MPStaticSet", True, "MPRelaxSet", "relax", 520, MP2020_LEVEL),
        ("MPRelaxSet", None, "MPRelaxSet", "relax", 520, MP2020_LEVEL),
        ("MPRelaxSet", False, "MPStaticSet", "static", 520, MP2020_LEVEL),
        ("MatPESStaticSet", None, "MatPESStaticSet", "static", 680, "PBE/POTCAR-PBE_64/MatPESStaticSet"),
        ("MatPESRelaxSet", None, "MatPESRelaxSet", "relax", 680, "PBE/POTCAR-PBE_64/MatPESRelaxSet"),
    ],
)
def test_a_set_decides_everything(name: str, relax: bool | None, made: str, mode: str, cutoff: int, level: str) -> None:
    asked = settings(half_heusler(), name, relax=relax)
    assert (asked.preset, asked.mode, asked.cutoff_ev, level_of_theory(asked)) == (made, mode, cutoff, level)
    assert (
        asked.potentials
        == Vasp(SetChoice(name=name)).potentials()
        == level.split("/")[-2].replace("PBE+U", "POTCAR-PBE")
    )
    json.dumps(asked.content(), allow_nan=False)
    assert relative_cost(half_heusler(), asked) > 0


def test_the_functional_of_matpes_is_in_its_level() -> None:
    asked = settings(half_heusler(), "MatPESStaticSet", functional="r2SCAN")
    assert level_of_theory(asked) == "r2SCAN/POTCAR-PBE_64/MatPESStaticSet"
    assert asked.inputs["INCAR"]["METAGGA"].upper() == "R2SCAN"
    with pytest.raises(DFTError, match="r2SCAN needs"):
        settings(half_heusler(), "MPStaticSet", functional="r2SCAN")


def test_an_unknown_set_names_the_known() -> None:
    with pytest.raises(DFTError, match=r"'MPStatic'.*MPStaticSet, MPRelaxSet"):
        settings(half_heusler(), "MPStatic")


def test_meshes_are_those_that_vasp_makes() -> None:
    assert settings(half_heusler()).kpoints == (7, 7, 7)
    assert settings(half_heusler()).kpoint_shift == (False, False, False)  # an fcc cell: Γ on the mesh
    cube = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.5), ["Li", "P"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    even = settings(cube)
    assert (even.kpoints, even.kpoint_shift) == ((8, 8, 8), (True, True, True))  # Monkhorst's
    # https://www.vasp.at/wiki/index.php/KSPACING: 2π/3.5/0.22 = 8.2
    assert settings(cube, "MatPESStaticSet").kpoints == (9, 9, 9)


def test_what_decides_the_number_decides_the_hash(potcars: Path, tmp_path: Path, monkeypatch) -> None:
    asked = settings(half_heusler())
    assert asked.settings_hash == settings(half_heusler()).settings_hash
    assert asked.settings_hash != settings(half_heusler(), relax=True).settings_hash
    assert asked.settings_hash != settings(rock_salt("Mg")).settings_hash
    other = replace(asked, inputs={**asked.inputs, "INCAR": {**asked.inputs["INCAR"], "ENCUT": 600}})
    assert asked.settings_hash != other.settings_hash
    assert calculation_id("a", "vasp-6.4.2", asked) != calculation_id("a", "vasp-6.4.3", asked)
    # Another file under the same title.
    peer.make_potcars(tmp_path, SYMBOLS)
    file = tmp_path / "POT_GGA_PAW_PBE" / "POTCAR.P"
    file.write_text(file.read_text().replace("0.0", "0.1"))
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path))
    assert settings(half_heusler()).settings_hash != asked.settings_hash
    with pytest.raises(DFTError, match="POTCAR P has changed"):
        input_files(half_heusler(), asked)


def test_spin_and_u_are_the_sets() -> None:
    asked = settings(rock_salt("Fe"))
    assert asked.magnetic_moments["Fe"] == 5.0
    assert asked.inputs["INCAR"]["LDAUU"] == [5.3, 0]
    assert asked.level == MP2020_LEVEL
    assert not settings(Structure(Lattice.cubic(2.87), ["Fe"], [(0, 0, 0)])).inputs["INCAR"].get("LDAU")


def test_orders_and_moments_that_are_not_tried_are_told_and_decide_nothing() -> None:
    iron_oxide = rock_salt("Fe")
    asked = settings(iron_oxide)
    (line,) = [line for line in asked.orders_left_out if "starts ferromagnetic" in line]
    assert line.startswith("antiferromagnetic (½ ½ ½), ")
    assert line.endswith("MPStaticSet starts ferromagnetic")
    for moments in ([4.0, -4.0, 4.0, -4.0, 0, 0, 0, 0], [[0, 0, 4.0]] * 2 + [[4.0, 0, 0]] * 2 + [[0, 0, 0]] * 4):
        iron_oxide.add_site_property("magmom", moments)
        given = settings(iron_oxide)
        assert given.orders_left_out[-1].startswith("the moments that the structure came with: MPStaticSet")
        assert given.orders_left_out[:-1] == asked.orders_left_out
        assert given.settings_hash == asked.settings_hash
    assert settings(half_heusler()).orders_left_out == ()
    kept = calculation_from(DFTResult(status="converged"), "FeO", "vasp-6.4.2", asked)
    assert kept.properties["orders_left_out"] == list(asked.orders_left_out)


# POTCARs and the program


def test_other_potcars_are_another_level() -> None:
    asked = settings(half_heusler(), potcars="PBE_54")
    assert level_of_theory(asked) == "PBE/POTCAR-PBE_54/MPStaticSet"


def test_the_elements_of_the_hull_decide_together() -> None:
    # P has one title in both releases: alone it would pass, and then its energy could not meet that of LiMgP.
    code, phosphorus = Vasp(SetChoice(potcars="PBE_54")), Structure(Lattice.cubic(2.4), ["P"], [(0, 0, 0)])
    together = code.settings("", ["Li", "Mg", "P"], phosphorus)
    assert level_of_theory(together) == "PBE/POTCAR-PBE_54/MPStaticSet"


def test_a_u_that_cannot_be_corrected_is_refused() -> None:
    with pytest.raises(DFTError, match=r"U on Fe.*MP2020.*Fe_pv.*MatPESStaticSet"):
        settings(rock_salt("Fe"), potcars="PBE_54")


def test_no_library_no_file_and_no_release_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DFTError, match=r"no POTCAR Ca_sv of PBE.*pmg config -p"):
        Vasp().find_potentials(["Li", "Ca"])
    with pytest.raises(DFTError, match="no POTCAR for Es"):
        Vasp().find_potentials(["Es"])
    with pytest.raises(DFTError, match="PBE_99"):
        settings(half_heusler(), potcars="PBE_99")
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "gone"))
    with pytest.raises(CodeNotInstalled, match=r"gone.*no such folder"):
        settings(half_heusler())
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR")
    with pytest.raises(CodeNotInstalled, match=r"PMG_VASP_PSP_DIR.*\.pmgrc\.yaml"):
        Vasp().find_potentials([])


@pytest.mark.parametrize("cation", ["Ca", "Es"])
def test_a_crystal_without_a_potcar_fails_and_nothing_else_does(tmp_path: Path, cation: str) -> None:
    asked = settings(rock_salt(cation))
    assert asked.inputs["lacking"] == [cation]
    Vasp().write_inputs(tmp_path, rock_salt(cation), asked, Limits())
    assert json.loads((tmp_path / "task.json").read_text())["lacking"] == [cation]
    assert not (tmp_path / "POTCAR").exists()


def test_the_program_tells_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ASSAY_VASP_VERSION", raising=False)
    monkeypatch.delenv("ASSAY_VASP_COMMAND", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CodeNotInstalled, match=r"no vasp_std on the path.*ASSAY_VASP_COMMAND.*ASSAY_VASP_VERSION"):
        Vasp().version()
    peer.install(tmp_path)
    assert Vasp().version() == "6.4.2"
    silent = tmp_path / "vasp_gam"
    silent.write_text("#!/bin/sh\n")
    silent.chmod(0o755)
    monkeypatch.setenv("ASSAY_VASP_COMMAND", "vasp_gam")
    with pytest.raises(DFTError, match="say it in ASSAY_VASP_VERSION"):
        Vasp().version()
    monkeypatch.setenv("ASSAY_VASP_VERSION", "6.5.0")
    monkeypatch.setenv("ASSAY_VASP_COMMAND", "nowhere-here")
    assert Vasp().version() == "6.5.0"


# Inputs


@pytest.mark.parametrize(
    ("name", "theirs"), [("MPStaticSet", MPStaticSet), ("MPRelaxSet", MPRelaxSet), ("MatPESStaticSet", MatPESStaticSet)]
)
@pytest.mark.parametrize("structure", [half_heusler(), rock_salt("Fe")], ids=["LiMgP", "FeO"])
def test_inputs_are_pymatgens(tmp_path: Path, name: str, theirs: type, structure: Structure) -> None:
    asked = settings(structure, name)
    Vasp(SetChoice(name=name)).write_inputs(tmp_path / "a", structure, asked, Limits(walltime_s=7.0))
    folder = tmp_path / "a"
    with warnings.catch_warnings(action="ignore"):
        made = theirs(symmetrised(structure))
        assert Incar.from_file(folder / "INCAR") == Incar.from_str(str(made.incar))
        if made.kpoints is None:
            assert not (folder / "KPOINTS").exists()
        else:
            ours = Kpoints.from_file(folder / "KPOINTS")
            assert (ours.style, ours.kpts) == (made.kpoints.style, made.kpoints.kpts)
        poscar = Poscar.from_file(folder / "POSCAR")
        assert poscar.structure.matches(structure)
        assert poscar.site_symbols == made.poscar.site_symbols
        titles = [line.split()[3] for line in (folder / "POTCAR").read_text().splitlines() if "TITEL" in line]
        assert titles == made.potcar_symbols
    task = json.loads((folder / "task.json").read_text())
    assert task["walltime_s"] == 7.0
    assert task["program"] == ["vasp_std"]
    assert task["settings"]["level"] == asked.level


def test_what_custodian_mended_stays_when_a_calculation_goes_on(tmp_path: Path) -> None:
    code, asked = Vasp(), settings(half_heusler())
    code.write_inputs(tmp_path, half_heusler(), asked, Limits())
    (tmp_path / "INCAR").write_text("ALGO = Normal\n")
    code.write_inputs(tmp_path, half_heusler(), asked, Limits())
    assert len((tmp_path / "INCAR").read_text().splitlines()) > 5
    (tmp_path / "checkpoint.json").write_text("{}")
    (tmp_path / "INCAR").write_text("ALGO = Normal\n")
    code.write_inputs(tmp_path, half_heusler(), asked, Limits())
    assert (tmp_path / "INCAR").read_text() == "ALGO = Normal\n"


def test_the_driver_starts_the_ranks(tmp_path: Path) -> None:
    command = Vasp().command(tmp_path, ("srun", "--ntasks=4"))
    assert command[-4:] == ["vasp", str(tmp_path), "srun", "--ntasks=4"]


# What an energy means


FE_TITLES = ["PAW_PBE Fe_pv 06Sep2000", "PAW_PBE O 08Apr2002"]


def found(energy: float, structure: Structure, **properties) -> DFTResult:
    return DFTResult(status="converged", energy=energy, structure=structure, properties=properties)


@pytest.mark.parametrize(
    ("structure", "run_type", "hubbards", "titles"),
    [
        (rock_salt("Mg"), "GGA", {}, ["PAW_PBE Mg_pv 06Sep2000", "PAW_PBE O 08Apr2002"]),
        (rock_salt("Fe"), "GGA+U", {"Fe": 5.3}, FE_TITLES),
        (rock_salt("Li", "F"), "GGA", {}, ["PAW_PBE Li_sv 23Jan2001", "PAW_PBE F 08Apr2002"]),
        (half_heusler(), "GGA", {}, ["PAW_PBE Li_sv 23Jan2001", "PAW_PBE Mg_pv 06Sep2000", "PAW_PBE P 17Jan2003"]),
        (Structure(Lattice.cubic(2.87), ["Fe"], [(0, 0, 0)]), "GGA", {}, FE_TITLES[:1]),
    ],
    ids=["MgO", "FeO", "LiF", "LiMgP", "Fe"],
)
def test_the_correction_is_pymatgens_own(
    structure: Structure, run_type: str, hubbards: dict[str, float], titles: list[str]
) -> None:
    parameters = {"run_type": run_type, "hubbards": hubbards, "potcar_symbols": titles}
    theirs = MaterialsProject2020Compatibility(check_potcar=True).process_entry(
        ComputedStructureEntry(structure, -50.0, parameters=parameters)
    )
    ours = corrected(
        found(-50.0, structure, run_type=run_type, hubbards=hubbards, potcar_spec=[{"titel": t} for t in titles]),
        MP2020_LEVEL,
    )
    assert ours.energy == pytest.approx(theirs.energy, abs=1e-9)
    assert ours.properties["uncorrected_energy"] == -50.0
    assert ours.properties["correction"] == pytest.approx(theirs.correction, abs=1e-9)
    record = calculation_from(ours, "x", "vasp-6.4.2", settings(half_heusler()))
    assert record.level_of_theory == MP2020_LEVEL
    assert record.energy - record.properties["correction"] == record.properties["uncorrected_energy"]


def test_iron_oxide_has_a_correction_worth_minding() -> None:
    # Wang et al. 2021, table 2: Fe in oxides -2.256, oxide -0.687 eV each.
    value = correction_of_vasp(rock_salt("Fe"), run_type="GGA+U", hubbards={"Fe": 5.3}, potcar_titles=FE_TITLES)
    assert value == pytest.approx(4 * (-2.256 - 0.687), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"potcar_titles": ["PAW_PBE Fe_pv 02Aug2007", FE_TITLES[1]]}, "Fe_pv 02Aug2007"),  # the same symbol
        ({"potcar_titles": ["PAW_PBE Fe 06Sep2000", FE_TITLES[1]]}, "Fe 06Sep2000"),
        ({"potcar_titles": FE_TITLES[:1]}, "none of O"),
        ({"hubbards": {}, "run_type": "GGA"}, "U value"),
        ({"hubbards": {"Fe": 4.0}}, "U value"),
        ({"run_type": "r2SCAN"}, "run type"),
    ],
)
def test_what_is_not_the_materials_projects_is_refused(monkeypatch, change: dict, words: str) -> None:
    monkeypatch.setitem(SETTINGS, "PMG_POTCAR_CHECKS", False)  # a setting that would let anything pass
    asked = {"run_type": "GGA+U", "hubbards": {"Fe": 5.3}, "potcar_titles": FE_TITLES} | change
    with pytest.raises(HullError, match=words):
        correction_of_vasp(rock_salt("Fe"), **asked)
    spec = [{"titel": title} for title in asked["potcar_titles"]]
    result = corrected(
        found(-5.0, rock_salt("Fe"), run_type=asked["run_type"], hubbards=asked["hubbards"], potcar_spec=spec),
        MP2020_LEVEL,
    )
    assert (result.status, result.energy) == ("failed", None)
    assert words in result.message


def test_a_run_that_cannot_be_corrected_is_a_row_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbles(*_: object, **__: object) -> None:
        raise KeyError("Es")

    spec = [{"titel": title} for title in FE_TITLES]
    ended = found(-5.0, rock_salt("Fe"), run_type="GGA+U", hubbards={"Fe": 5.3}, potcar_spec=spec)
    monkeypatch.setattr(MaterialsProject2020Compatibility, "process_entry", stumbles)
    result = corrected(ended, MP2020_LEVEL)
    assert (result.status, result.energy) == ("failed", None)
    assert "MP2020 corrections failed: KeyError('Es')" in result.message
    without = corrected(found(-5.0, rock_salt("Fe"), run_type="GGA+U"), MP2020_LEVEL)
    assert (without.status, without.energy) == ("failed", None)
    assert "hubbards" in without.message


def test_energies_of_other_levels_stay_raw() -> None:
    raw = found(-5.0, rock_salt("Mg"), run_type="GGA", hubbards={}, potcar_spec=[])
    assert corrected(raw, "PBE/POTCAR-PBE_64/MatPESStaticSet") is raw


def test_they_cannot_meet_in_one_hull() -> None:
    records = [
        calculation_from(found(-10.0, half_heusler()), name, "vasp-6.4.2", settings(half_heusler(), **choice))
        for name, choice in {
            "a": {},
            "b": {"name": "MatPESStaticSet"},
            "c": {"name": "MatPESStaticSet", "functional": "r2SCAN"},
            "d": {"potcars": "PBE_54"},
        }.items()
    ]
    assert len({record.level_of_theory for record in records}) == 4
    for record in records[1:]:
        with pytest.raises(LevelOfTheoryMismatch):
            assess([entry_from(records[0]), entry_from(record)], fidelity="dft")


def test_foreign_potcars_are_named() -> None:
    assert foreign_potcars(["Fe", "O"], FE_TITLES) == ""
    assert foreign_potcars(["Fe", "O"], [*FE_TITLES, "PAW_PBE P 17Jan2003"]) == "PAW_PBE P 17Jan2003"


# Reading


def test_a_real_vasprun_is_read_as_others_read_it(tmp_path: Path) -> None:
    atoms = ase_read(REAL / "vasprun_pstress.xml", format="vasp-xml")
    run = Vasprun(REAL / "vasprun_pstress.xml", parse_potcar_file=False)
    result = read_run(run, tmp_path / "OUTCAR")
    # Diamond that is pulled apart by 166 kBar: VASP writes -166, ASE has it positive.
    assert np.array(result["properties"]["stress"]) == pytest.approx(atoms.get_stress(voigt=False), abs=1e-7)
    assert result["properties"]["stress"][0][0] > 0
    assert np.array(result["properties"]["forces"]) == pytest.approx(atoms.get_forces(), abs=1e-9)
    assert result["max_stress"] == pytest.approx(165.996 / 1602.1766, rel=1e-4)
    assert result["max_force"] == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=1e-9)
    assert result["numbers"] == [6, 6]
    assert result["band_gap"] == pytest.approx(run.eigenvalue_band_properties[0], abs=1e-6)
    assert result["properties"]["run_type"] == "GGA"
    assert result["properties"]["potcar_spec"] == [{"titel": "PAW C 22Mar2012"}]
    assert result["properties"]["vasp_version"] == "6.3.0"
    assert result["properties"]["hubbards"] == {}
    assert "total_magnetization" not in result["properties"]


@pytest.mark.parametrize("lacking", [("stress",), ("forces", "stress")])
def test_a_vasprun_without_stress_or_forces_has_its_energy_all_the_same(
    tmp_path: Path, lacking: tuple[str, ...]
) -> None:
    text = (REAL / "vasprun_pstress.xml").read_text()
    for name in lacking:
        text = re.sub(f'<varray name="{name}" >.*?</varray>', "", text, flags=re.DOTALL)
    (tmp_path / "vasprun.xml").write_text(text)
    result = read_run(Vasprun(tmp_path / "vasprun.xml", parse_potcar_file=False), tmp_path / "OUTCAR")
    whole = read_run(Vasprun(REAL / "vasprun_pstress.xml", parse_potcar_file=False), tmp_path / "OUTCAR")
    assert (result["energy"], result["band_gap"]) == (whole["energy"], whole["band_gap"])
    assert result["max_stress"] is None
    assert (result["max_force"] is None) == ("forces" in lacking)
    assert {"forces", "stress"} - result["properties"].keys() == set(lacking)


OUTCAR = """
 total charge

# of ion       s       p       d       tot
------------------------------------------
    1        0.300   0.400   5.100   5.800
    2        1.500   3.500   0.000   5.000
--------------------------------------------------
tot          1.800   3.900   5.100  10.800


 magnetization (x)

# of ion       s       p       d       tot
------------------------------------------
    1        0.010   0.020   {0:.3f}   3.730
    2       -0.001  -0.040   0.000  -0.041
{1}

    1        0.000   0.000   9.000   9.000
"""


@pytest.mark.parametrize("total", ["-" * 50 + "\ntot          0.009  -0.020   3.700   3.689", ""])
def test_moments_of_the_sites_are_those_after_the_last_step(tmp_path: Path, total: str) -> None:
    path = tmp_path / "OUTCAR"
    path.write_text(OUTCAR.format(1.0, total).replace("3.730", "1.030") + OUTCAR.format(3.7, total))
    assert site_moments(path) == [3.730, -0.041]
    path.write_text(OUTCAR.format(3.7, total).partition(" magnetization")[0])
    assert site_moments(path) == []
    assert site_moments(tmp_path / "nowhere") == []


class Bands:
    """What `gap_of` asks of a Vasprun: two k-points, of which the second counts three times."""

    actual_kpoints_weights = (0.25, 0.75)

    def __init__(self, *channels) -> None:
        from pymatgen.electronic_structure.core import Spin

        self.eigenvalues = dict(zip((Spin.up, Spin.down), map(np.array, channels), strict=False))


@pytest.mark.parametrize(
    ("channels", "gap"),
    [
        # Smeared over a gap of 0.1 eV: 1.98 electrons below, 0.02 above, and still two that fill one band.
        ([[[(-1.0, 1.0), (0.4, 0.0)], [(-0.1, 0.99), (0.0, 0.01)]]], 0.1),
        ([[[(-1.0, 1.0), (0.4, 0.0)], [(-0.1, 0.7), (0.0, 0.0)]]], 0.0),  # a band that is partly full
        ([[[(-1.0, 1.0), (-0.5, 0.0)], [(-0.1, 1.0), (0.0, 0.0)]]], 0.0),  # bands that overlap
        # A magnet: two electrons up, none down; the gap is between the channels.
        ([[[(-1.0, 1.0), (-0.5, 1.0), (2.0, 0.0)]] * 2, [[(0.3, 0.0), (1.0, 0.0), (3.0, 0.0)]] * 2], 0.8),
    ],
)
def test_gaps_are_found_by_counting_bands(channels, gap: float) -> None:
    assert gap_of(Bands(*channels)) == pytest.approx(gap)


def test_without_a_result_it_crashed_and_the_log_says_more(tmp_path: Path) -> None:
    (tmp_path / "vasp.out").write_text("one\n\ntwo\n")
    (tmp_path / "driver.log").write_text("VASP ended without a result\n")
    result = Vasp().parse(tmp_path)
    assert (result.status, result.energy) == ("crashed", None)
    assert "two\nVASP ended" in result.message


@pytest.mark.parametrize(
    ("status", "had", "has", "finished"),
    [
        ("converged", Limits(walltime_s=1), Limits(walltime_s=100), True),
        ("walltime", Limits(walltime_s=1), Limits(walltime_s=2), False),
        ("out_of_memory", Limits(memory_gib=1), Limits(memory_gib=2), False),
    ],
)
def test_more_generous_limits_open_what_they_could_better(
    tmp_path: Path, status: str, had: Limits, has: Limits, finished: bool
) -> None:
    code = Vasp()
    code.write_inputs(tmp_path, half_heusler(), settings(half_heusler()), had)
    code.give_up(tmp_path, DFTResult(status=status, message="m", wall_time_s=2.0))
    assert code.finished(tmp_path, has) is finished
    assert code.parse(tmp_path).status == status

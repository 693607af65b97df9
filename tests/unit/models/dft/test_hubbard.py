"""Hubbard U: whose, on which shell, and in which words each code takes it."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ase import Atoms
from ase.io.espresso import read_espresso_in, write_espresso_in
from pymatgen.io.vasp.sets import MPRelaxSet

from flows.config.load import load_campaign
from materials.errors import AssayError, DFTError
from models.dft.base import DFTSettings
from models.dft.calculation_record import level_of_theory
from models.dft.espresso import code as espresso
from models.dft.espresso.calculation import species, with_hubbard
from models.dft.espresso.code import Espresso, has_hubbard_card
from models.dft.gpaw import code as gpaw
from models.dft.gpaw.calculation import hubbard_setups
from models.dft.gpaw.code import Gpaw
from models.dft.hubbard import hubbard_of, shell_of
from tests.unit.models.dft.espresso.test_code import FAMILY, NICKEL, SILICON
from tests.unit.models.dft.gpaw.test_code import SETTINGS

NIO = Atoms("NiO", cell=[[0, 2.1, 2.1], [2.1, 0, 2.1], [2.1, 2.1, 0]], scaled_positions=[[0] * 3, [0.5] * 3], pbc=True)


@pytest.mark.parametrize(
    ("symbol", "shell"),
    [("Ti", "3d"), ("Mn", "3d"), ("Zn", "3d"), ("Mo", "4d"), ("W", "5d"), ("La", "4f"), ("Ce", "4f"), ("Lu", "4f"),
     ("U", "5f"), ("O", "2p"), ("N", "2p"), ("Cl", "3p"), ("As", "4p")],
)  # fmt: skip
def test_the_shell_that_u_acts_on(symbol: str, shell: str) -> None:
    assert shell_of(symbol) == shell


@pytest.mark.parametrize("symbol", ["Li", "Mg", "H", "He", "Ne"])
def test_elements_without_a_shell_for_u(symbol: str) -> None:
    with pytest.raises(DFTError, match=f"no d, f or p shell of {symbol}"):
        shell_of(symbol)


def campaign(folder: Path, **dft: Any):
    path = folder / "campaign.yaml"
    sources = [{"kind": "prototypes", "roles": {"A": ["Mn"], "X": ["O"]}}]
    path.write_text(yaml.safe_dump({"name": "made", "sources": sources, "dft": dft}))
    return load_campaign(path)


@pytest.mark.parametrize(
    ("hubbard", "words"),
    [
        ({"Xx": 3.9}, r"dft\.hubbard: there is no element Xx"),
        ({"Mn": -3.9}, r"the U of Mn is -3\.9; it takes a number of eV above 0"),
        ({"Mn": 0}, r"the U of Mn is 0"),
        ({"Mn": 390}, r"the U of Mn is 390; .*at most 20"),
        ({"Mn": float("nan")}, "the U of Mn is nan"),
        ({"Mg": 2}, "no d, f or p shell of Mg"),
        ({"Mn": "high"}, r"takes none, materials_project, or U \(eV\) by element, such as {Mn: 3\.9}"),
        ({"Mn": True}, "takes none, materials_project"),
        ("materials-project", "takes none, materials_project"),
        ({}, "takes none, materials_project"),
        (None, "takes none, materials_project"),
    ],
)
def test_what_means_nothing_is_refused(tmp_path: Path, hubbard: Any, words: str) -> None:
    with pytest.raises(AssayError, match=words):
        campaign(tmp_path, hubbard=hubbard)


def test_vasp_has_its_own_u(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="VASP's input sets have their own U"):
        campaign(tmp_path, code="vasp", hubbard={"Mn": 3.9})
    assert campaign(tmp_path, code="vasp", hubbard="none").dft.hubbard == "none"


def test_a_campaign_without_u_is_the_one_that_it_was(tmp_path: Path) -> None:
    assert "hubbard" not in campaign(tmp_path, hubbard="none").identity()["dft"]
    assert campaign(tmp_path, hubbard={"Mn": 3.9}).identity()["dft"]["hubbard"] == {"Mn": 3.9}


def test_the_materials_projects_values_are_for_hulls_with_oxygen_or_fluorine() -> None:
    oxides = MPRelaxSet.CONFIG["INCAR"]["LDAUU"]["O"]
    assert oxides == MPRelaxSet.CONFIG["INCAR"]["LDAUU"]["F"]
    for anion in ("O", "F"):
        for symbol, u in oxides.items():
            assert hubbard_of("materials_project", [symbol, "Li", anion]) == {f"{symbol}-{shell_of(symbol)}": u}
    assert hubbard_of("materials_project", ["Mn", "Fe", "O", "F"]) == {"Fe-3d": 5.3, "Mn-3d": 3.9}
    assert hubbard_of("materials_project", ["Mn", "Li", "S"]) == {}
    assert hubbard_of("materials_project", ["Cu", "Li", "O"]) == {}
    assert hubbard_of({"Mn": 4, "Fe": 5}, ["Mn", "S"]) == {"Mn-3d": 4.0}
    assert hubbard_of("none", ["Mn", "O"]) == {}


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpaw.Installation(python="python", version="26.7.0", setups="1.2.1")
    monkeypatch.setattr(gpaw, "find_installation", lambda: found)
    monkeypatch.setattr(espresso, "find_installation", lambda: espresso.Installation(program="pw.x", version="6.7MaX"))


def test_all_phases_of_a_hull_are_of_one_level_that_names_u_and_projectors(codes: None) -> None:
    u = {"Ni": 6.2, "Co": 3.32}
    for code, level in (
        (Gpaw(u), "PBE+U(Ni6.2)/gpaw-setups-1.2.1/PW450/U-in-spheres"),
        (Espresso(FAMILY, u), f"LDA+U(Ni6.2)/{FAMILY.identity}/PW408.171/RHO4081.71/U-atomic"),
    ):
        settings = [code.settings("quick", ["Ni", "Si"], structure) for structure in (NICKEL, SILICON)]
        assert {level_of_theory(asked) for asked in settings} == {level}
        # A hull without the element is the one that it always was.
        plain = type(code)() if isinstance(code, Gpaw) else Espresso(FAMILY)
        assert code.settings("quick", ["Si"], SILICON) == plain.settings("quick", ["Si"], SILICON)
        assert "hubbard" not in plain.settings("quick", ["Si"], SILICON).content()


def test_gpaw_takes_u_on_a_shell_as_its_spheres_hold_it() -> None:
    assert hubbard_setups({"Mn-3d": 3.9, "O-2p": 4.0, "Ce-4f": 5}) == {
        "Mn": ":d,3.9,0",
        "O": ":p,4.0,0",
        "Ce": ":f,5,0",
    }
    parse = pytest.importorskip("gpaw.hubbard").parse_hubbard_string
    kind, term = parse(hubbard_setups({"Mn-3d": 3.9})["Mn"])
    assert kind == "paw"
    assert (term.l, term.scale) == ([2], [False])
    assert term.U[0] * 27.211386 == pytest.approx(3.9, abs=1e-4)


def written(atoms: Atoms, hubbard: dict[str, float], *, card: bool) -> str:
    """What pw.x would read."""
    wanted = {"input_data": {"ecutwfc": 30.0}, "pseudopotentials": {s: f"{s}.upf" for s in set(atoms.symbols)}}
    task = {"settings": {"hubbard": hubbard}, "hubbard_card": card}
    text = io.StringIO()
    write_espresso_in(text, atoms, **with_hubbard(wanted, atoms, task))
    return text.getvalue()


def splits(*moments: float) -> Atoms:
    atoms = NIO * (2, 1, 1)
    atoms.set_initial_magnetic_moments(moments)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "numbers"),
    [
        (NIO, [1]),
        (NIO[::-1], [2]),
        (splits(1.2, 0, 1.2, 0), [1]),
        (splits(1.2, 0, -1.2, 0), [1, 3]),  # antiparallel: two species of nickel
        (splits(1.2, 0.1, -1.2, -0.1)[::-1], [2, 4]),
    ],
)
def test_a_pw_before_the_card_takes_u_by_the_number_of_the_species(atoms: Atoms, numbers: list[int]) -> None:
    text = written(atoms, {"Ni-3d": 6.2, "Mn-3d": 3.9}, card=False).lower()
    system = text.split("&system")[1].split("/")[0]
    assert "lda_plus_u       = .true." in system
    assert "u_projection_type = 'atomic'" in system
    assert [f"hubbard_u({i})" in system for i in range(1, 5)] == [i in numbers for i in range(1, 5)]
    # The numbers are those of the list that pw.x reads.
    listed = [line.split()[0] for line in text.split("atomic_species\n")[1].split("\n\n")[0].splitlines()]
    assert [i for i, label in enumerate(listed, 1) if label.startswith("ni")] == numbers
    assert listed == [label.lower() for _, label in species(atoms)]
    assert "hubbard (" not in text


@pytest.mark.parametrize(
    ("atoms", "lines"),
    [
        (NIO, ["U Ni-3d 6.2"]),
        (splits(1.2, 0, 1.2, 0), ["U Ni-3d 6.2"]),
        (splits(1.2, 0, -1.2, 0), ["U Ni-3d 6.2", "U Ni1-3d 6.2"]),
    ],
)
def test_a_pw_with_the_card_takes_u_by_the_name_of_the_shell(atoms: Atoms, lines: list[str]) -> None:
    text = written(atoms, {"Ni-3d": 6.2, "Mn-3d": 3.9}, card=True)
    assert text.split("HUBBARD (atomic)\n")[1].splitlines()[: len(lines)] == lines
    assert "lda_plus_u" not in text.lower()
    labels = {line.split()[0] for line in text.split("ATOMIC_SPECIES\n")[1].split("\n\n")[0].splitlines()}
    assert {line.split()[1].split("-")[0] for line in lines} <= labels
    # ASE reads it as the crystal that it is.
    assert sorted(read_espresso_in(io.StringIO(text.removesuffix("EOF"))).symbols) == sorted(atoms.symbols)


def test_phases_without_the_element_are_computed_as_without_u() -> None:
    bare = written(NIO, {}, card=False)
    assert written(NIO, {"Mn-3d": 3.9}, card=False) == bare
    assert written(NIO, {"Mn-3d": 3.9}, card=True) == bare


@pytest.mark.parametrize(
    ("version", "card"), [("6.7MaX", False), ("7.0", False), ("7.1", True), ("7.3.1", True), ("6.4.1", False)]
)
def test_which_pw_reads_the_card(version: str, card: bool) -> None:
    assert has_hubbard_card(version) == card


def test_what_an_older_pw_has_no_shell_for_is_refused_before_anything_runs(
    codes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for symbol in ("S", "Sc", "La"):
        code = Espresso(FAMILY, {symbol: 3.0})
        with pytest.raises(DFTError, match=f"of {symbol} from version 7.1 on"):
            code.settings("quick", ["Ni", symbol], NICKEL)
    monkeypatch.setattr(espresso, "find_installation", lambda: SimpleNamespace(version="7.2", program="pw.x"))
    family = FAMILY.__class__(
        name="more", functional="PBE", folder=Path(), elements=FAMILY.elements | {"S": FAMILY.elements["Si"]}
    )
    assert Espresso(family, {"S": 3.0}).settings("quick", ["Ni", "S"], NICKEL).hubbard == {"S-3p": 3.0}


def test_settings_of_before_have_the_hash_that_they_had() -> None:
    assert SETTINGS.settings_hash == DFTSettings(**{**SETTINGS.__dict__, "hubbard": {}}).settings_hash
    assert SETTINGS.settings_hash == "9ad18f8dcd83504e"

"""CIFs that pymatgen reads as another crystal without a word: read rightly here, or refused with the reason."""

import re
from pathlib import Path

import moyopy
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from materials.crystals.serialization import structure_from_json, structure_to_json
from materials.sources.files.cif import parse_cif
from materials.sources.files.usable import StructureTrouble

CUBIC = "5.64 5.64 5.64 90 90 90"
SALT = ["Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5"]
COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
P1 = "_symmetry_space_group_name_H-M 'P 1'"


def cif(
    head: str = P1, cell: str = CUBIC, sites: list[str] = SALT, columns: tuple[str, ...] = COLUMNS, name: str = "x"
) -> str:
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"data_{name}", head, *(f"_cell_{tag} {value}" for tag, value in zip(tags, cell.split(), strict=True))]
    return "\n".join([*lines, "loop_", *(f"_atom_site_{column}" for column in columns), *sites, ""])


def read(text: str) -> Structure:
    (found,) = parse_cif(text)
    assert isinstance(found, Structure), found
    return found


def refused(text: str) -> StructureTrouble:
    (found,) = parse_cif(text)
    assert isinstance(found, StructureTrouble), found
    return found


def group(structure: Structure) -> int:
    cell = moyopy.Cell(
        structure.lattice.matrix.tolist(), structure.frac_coords.tolist(), list(structure.atomic_numbers)
    )
    return moyopy.MoyoDataset(cell, symprec=0.01).number


def test_blocks_of_one_name_are_both_read() -> None:
    potassium = [site.replace("Na", "K") for site in SALT]
    first, second = parse_cif(cif() + cif(sites=potassium))
    assert [s.formula for s in (first, second) if isinstance(s, Structure)] == ["Na1 Cl1", "K1 Cl1"]
    long = "a" * 80
    assert len(parse_cif(cif(name=long + "1") + cif(name=long + "2") + cif().upper().replace("DATA_X", "DATA_Y"))) == 3
    broken, whole = parse_cif(cif(sites=["Na1 Na 0 0 ."], name="sample") + cif(name="sample"))
    assert "data_sample" in str(broken)
    assert isinstance(whole, Structure)


def test_two_crystals_under_one_header_are_refused() -> None:
    assert "twice" in str(refused(cif() + cif(cell="6 6 6 90 90 90").replace("data_x\n", "")))
    # As the AMCSD writes every file.
    assert read(cif(f"{P1}\n_chemical_formula_sum 'Na Cl'\n_chemical_formula_sum ''")).formula == "Na1 Cl1"


@pytest.mark.parametrize("minus", "-−–‐﹣－")
def test_every_minus_is_one(minus: str) -> None:
    found = read(cif(sites=["Na1 Na 0 0 0", f"Cl1 Cl 0.5 0.5 {minus}0.112"]))
    assert found.frac_coords[:, 2].max() == pytest.approx(0.888)
    operations = f"loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'{minus}x, {minus}y, {minus}z'"
    assert len(read(cif(operations, sites=["Na1 Na 0.1 0.2 0.3"]))) == 2


@pytest.mark.parametrize("value", [".", "?", "0.5�", "one", "1e", "0.1.2", "nan", "inf", "1_0", "٠.٥x"])
def test_a_coordinate_that_is_no_number(value: str) -> None:
    assert "coordinate" in str(refused(cif(sites=[f"Na1 Na 0 0 {value}"])))


def test_numbers_as_files_write_them() -> None:
    found = read(cif(cell="5.640(2) 5.64(12 5,64 90 90.0(1) 9.0E1", sites=["Na1 Na 0.25(1) -.25 +0.5", "Cl1 Cl 0 0 0"]))
    assert found.lattice.abc == pytest.approx((5.64,) * 3)
    assert sorted(found.frac_coords.ravel()) == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    "cell",
    ["-5 5 5 90 90 90", "0 5 5 90 90 90", "5 5 ? 90 90 90", "5 5 5 90 90 180", "5 5 5 60 60 150", "5 5 1e9 90 90 90",
     "5 5 nan 90 90 90", ". 5 5 90 90 90"],
)  # fmt: skip
def test_a_cell_that_cannot_be(cell: str) -> None:
    assert refused(cif(cell=cell)).error == "UnreadableStructure"


def test_hydrogen_without_a_site() -> None:
    columns = ("label", *COLUMNS[2:])
    for label in ("OH1", "OH", "O-H1", "Wat1", "WAT", "H2O", "OW1", "Ow", "OH2", "OHA", "OH1A", "NH4", "NH4_1"):
        found = refused(cif(sites=["Mg1 0 0 0", f"{label} 0.3 0.3 0.3"], columns=columns))
        assert label in str(found)
        assert "hydrogen" in str(found)
        assert "hydrogen" in str(refused(cif(sites=["Mg1 Mg 0 0 0", f"X1 {label} 0.3 0.3 0.3"])))
    for label in ("OW1", "OH1", "Wat1"):
        assert "hydrogen" in str(refused(cif(sites=["Mg1 Mg 0 0 0", f"{label} O 0.3 0.3 0.3"])))
        whole = ["Mg1 Mg 0 0 0", f"{label} O 0.3 0.3 0.3", "H1 H 0.3 0.3 0.45"]
        assert read(cif(sites=whole)).formula == "Mg1 H1 O1"
    labels = ["Mg1 0 0 0", "OH1 0.3 0.3 0.3", "H1 0.3 0.3 0.45"]
    assert read(cif(sites=labels, columns=columns)).formula == "Mg1 H1 O1"
    water = ["Mg1 0 0 0", "Ow1 0.3 0.3 0.3", "Hw1 0.3 0.3 0.45", "Hw2 0.3 0.45 0.3"]
    assert read(cif(sites=water, columns=columns)).formula == "Mg1 H2 O1"
    attached = [f"{site} {n}" for site, n in zip(SALT, (0, 2), strict=True)]
    assert "hydrogen" in str(refused(cif(sites=attached, columns=(*COLUMNS, "attached_hydrogens"))))


@pytest.mark.parametrize(
    ("symbol", "element"),
    [("13C", "C"), ("2H", "H"), ("D", "H"), ("T", "H"), ("Fe3+", "Fe"), ("FE3+", "Fe"), ("fe", "Fe"), ("O2-", "O"),
     ("O-2", "O"), ("Cval", "C"), ("Siva", "Si"), ("Na1", "Na"), ("CO2+", "Co"), ("Co", "Co"), ("^7Li", "Li"),
     ("Vac", ""), ("Va", ""), ("Uue", ""), ("X", ""), ("M", ""), ("?", ""), (".", ""), ("Nb5+,Ta5+", ""), ("NO3", ""),
     ("'0.8Nb + 0.2Zr'", ""), ("Qq", ""), ("SO4", ""), ("Q1", ""), ("2H2O", ""), ("'Fe3+/Mn3+'", "")],
)  # fmt: skip
def test_type_symbols(symbol: str, element: str) -> None:
    text = cif(sites=[f"A1 {symbol} 0 0 0"])
    if element:
        found = read(text)
        assert {e.symbol for e in found.elements} == {element}
        assert (
            structure_from_json(structure_to_json(found)).composition.reduced_formula
            == found.composition.reduced_formula
        )
    else:
        assert refused(text).error in ("UnreadableStructure", "Disordered")


@pytest.mark.parametrize(
    ("labels", "elements"),
    [("Na1 Cl1", "Na Cl"), ("NA1 CL1", "Na Cl"), ("SiT1 OA1 OBm", "Si O"), ("Fe1a Fe1b O1'", "Fe O"),
     ("O(1) Ti(1)", "Ti O"),
     ("CO1 NI1", "Co Ni"), ("Ca1 CO1", ""), ("Fe1 M1", ""), ("Vac1 Na1", ""), ("VAC1 NA1", ""), ("Uue1", ""),
     ("CA1 CO1 O1", "Ca Co O"), ("NA1 NO3", ""), ("D1 O1", "H O"), ("Xx1", ""), ("Si1 T1", ""), ("AL1 LI1", "Al Li")],
)  # fmt: skip
def test_labels_alone(labels: str, elements: str) -> None:
    sites = [f"{label} 0.{n} 0.{n} 0.{n}" for n, label in enumerate(labels.split(), 1)]
    text = cif(sites=sites, columns=("label", *COLUMNS[2:]))
    if elements:
        assert {e.symbol for e in read(text).elements} == set(elements.split())
    else:
        assert refused(text).error == "UnreadableStructure"


def by_labels(labels: str, formula: str = "", types: str = "") -> str:
    """A CIF whose sites have these labels, and no type symbols where none are given."""
    head = f"{P1}\n_chemical_formula_sum '{formula}'" if formula else P1
    names = [" ".join(pair) for pair in zip(labels.split(), types.split(), strict=True)] if types else labels.split()
    sites = [f"{name} 0.{n} 0.{n} 0.{n}" for n, name in enumerate(names, 1)]
    return cif(head, sites=sites, columns=COLUMNS if types else ("label", *COLUMNS[2:]))


SHARED = ["Al0.5Ga0.5", "Mg50Fe50", "Na1K1", "Na:K", "Na-K", "Na&K", "Na|K", "Na;K", "Fe_Co", "Li0.9", "Na(K)", "Na+K",
          "Li1+Na1+", "Na1/K1", "Li_vac", "Fe1-Vac1"]  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_a_type_symbol_of_two_elements(name: str) -> None:
    found = refused(by_labels("A1 B1", types=f"{name} Cl"))
    assert found.error == "Disordered"
    assert name in str(found)


@pytest.mark.parametrize(
    "name",
    [*SHARED, "Na/K1", "Fe1/Co1", "Li/Vac", "NaK", "AlSi1", "CaNa", "FeCo", "NaVac", "KNa1", "ALSI1", "OF1", "O1F",
     "CuI", "SiB", "Na1K", "SiO4", "Fe\u25a1"],
)  # fmt: skip
def test_a_label_of_two_elements(name: str) -> None:
    found = refused(by_labels(f"{name} Cl1"))
    assert found.error == "Disordered"
    assert name in str(found)


@pytest.mark.parametrize(
    ("labels", "formula", "elements"),
    [("Fe1A Fe1B Fe1C", "", "Fe"), ("O1' O1_2 O(2)", "", "O"), ("Fe_oct Fe_tet O_br", "", "Fe O"),
     ("Ti-1 O-2", "", "Ti O"), ("SiA SiB SiC", "", "Si"), ("AlT1 SiT1o NaM1 OCo OB1", "", "Al Si Na O"),
     ("Cu(I) Cu(II) Fe(III)", "", "Cu Fe"), ("CuI CuII", "", "Cu"), ("CaNa Cl1", "Ca Cl", "Ca Cl"),
     ("CB N1", "C N", "C N"), ("OF1 Mg1", "Mg O", "Mg O"), ("Fe3+ O2-", "", "Fe O"), ("SI1 CA1 O1", "", "Si Ca O"),
     ("Cl1_a Na1_b", "", "Cl Na"), ("C1B Cu1_1", "", "C Cu"), ("O1A O1B O1C O1D O1E O1F", "", "O"),
     ("HA1 HN1 HC1 C1", "", "H C"), ("Fe1Oct Mg1", "", "Fe Mg"), ("Mn1+ Pda1 KM ClX", "", "Mn Pd K Cl"),
     ("AlO AlT O1", "Al O", "Al O"), ("AlY AlZ NaX", "Al Na", "Al Na"), ("AlVI AlIV", "", "Al")],
)  # fmt: skip
def test_labels_with_more_than_an_element(labels: str, formula: str, elements: str) -> None:
    found = parse_cif(by_labels(labels, formula))[0]
    if isinstance(found, StructureTrouble):  # amounts are not what is asked here
        assert "add up" in str(found)
        assert "only one" not in str(found)
    else:
        assert {e.symbol for e in found.elements} == set(elements.split())


@pytest.mark.parametrize(
    "name",
    ["Fe+3", "Fe2.5+", "Fe+2.5", "Fe(III)", "Fe1A", "Fe_oct", "Fe(1)", "Fe1'", "'Fe 3+'", "Fe12", "Fe*", "Fe1B"],
)  # fmt: skip
def test_a_type_symbol_with_more_than_an_element(name: str) -> None:
    assert read(by_labels("A1", types="Fe").replace("A1 Fe", f"A1 {name}")).composition.chemical_system == "Fe"


WET = ["O1W", "O1w", "O_w", "O(W)", "O-w", "O1H", "O_water", "O(H)", "O_H", "O(1W)", "O(5)W", "O1_OH", "O1WA"]


@pytest.mark.parametrize("label", [*WET, "W1", "Aq", "Aq1", "W(2)", "HO1"])
def test_water_by_the_label_of_an_oxygen(label: str) -> None:
    assert "hydrogen" in str(refused(by_labels(f"{label} Mg1", types="O Mg")))
    assert read(by_labels(f"{label} Mg1 H1", types="O Mg H")).formula == "Mg1 H1 O1"
    if label in WET:
        assert label in str(refused(by_labels(f"{label} Mg1")))
        assert read(by_labels(f"{label} Mg1 H1")).formula == "Mg1 H1 O1"


def test_labels_that_only_look_like_water() -> None:
    assert read(by_labels("O1G O1H Mg1", types="O O Mg")).formula == "Mg1 O2"
    assert read(by_labels("O_hex Mg1 W1", types="O Mg W")).formula == "Mg1 W1 O1"
    assert read(by_labels("W1 O1 O2 O3")).formula == "W1 O3"
    assert read(by_labels("W1 O1 O2 O3", "W O3")).formula == "W1 O3"
    assert "hydrogen" in str(refused(by_labels("Mg1 W1", "Mg H2 O")))
    assert read(by_labels("Mg1 W1 H1 H2", "Mg H2 O")).formula == "Mg1 H2 O1"


def test_holmium_or_hydroxyl() -> None:
    acid = "B1 O1 O2 HO1 HO2"
    assert "Ho or H" in str(refused(by_labels(acid)))
    assert read(by_labels(acid, "B O2 H2")).formula == "B1 H2 O2"
    assert read(by_labels(acid, "B O2 Ho2")).formula == "Ho2 B1 O2"
    assert "hydroxyl" in str(refused(by_labels("A1 B1", types="HO CL")))
    assert read(by_labels("A1 B1", "Ho Cl", types="HO CL")).formula == "Ho1 Cl1"
    assert read(by_labels("A1 B1", types="HO3+ CL1-")).formula == "Ho1 Cl1"
    assert read(by_labels("Ho1 Cl1")).formula == "Ho1 Cl1"


@pytest.mark.parametrize(
    ("word", "error"),
    [("0,5", "Disordered"), ("0.5", "Disordered"), ("0.97(1)", "Disordered"), ("1", ""), ("1.0000", ""),
     ("1.00(1)", ""),
     ("1,00", ""), (".", ""), ("1.00002", ""), ("0", "UnreadableStructure"), ("0.0", "UnreadableStructure"),
     ("-1", "UnreadableStructure"), ("2", "UnreadableStructure"), ("full", "UnreadableStructure")],
)  # fmt: skip
def test_occupancies(word: str, error: str) -> None:
    text = cif(sites=[f"{SALT[0]} {word}", f"{SALT[1]} 1"], columns=(*COLUMNS, "occupancy"))
    if error:
        assert refused(text).error == error
    else:
        assert read(text).formula == "Na1 Cl1"


def test_alternatives_of_a_site() -> None:
    columns = (*COLUMNS, "disorder_assembly", "disorder_group")
    sites = ["Na1 Na 0 0 0 . .", "Cl1A Cl 0.5 0.5 0.5 A 1", "Cl1B Cl 0.5 0.5 0.8 A 2"]
    assert refused(cif(sites=sites, columns=columns)).error == "Disordered"
    assert refused(cif(sites=[sites[0], "Cl1 Cl 0.5 0.5 0.5 . -1"], columns=columns)).error == "Disordered"
    assert read(cif(sites=sites[:2], columns=columns)).formula == "Na1 Cl1"


HEAD = "_symmetry_space_group_name_H-M '{}'"


@pytest.mark.parametrize(
    ("symbol", "cell", "n_sites"),
    [("F m -3 m", CUBIC, 8), ("Fm3m", CUBIC, 8), ("F 4/m -3 2/m", CUBIC, 8), ("F m -3 m:1", CUBIC, 0),
     ("F 4/m -3 2/m (origin at Na)", CUBIC, 0), ("cubic", CUBIC, 0), ("F m -3 m", "5 5 6 90 90 90", 0),
     ("Pm-3m", CUBIC, 2), ("P 1", CUBIC, 2), ("P1", CUBIC, 2), ("?", CUBIC, 0)],
)  # fmt: skip
def test_space_groups_by_symbol(symbol: str, cell: str, n_sites: int) -> None:
    text = cif(HEAD.format(symbol), cell)
    if n_sites:
        assert len(read(text)) == n_sites
    else:
        assert refused(text).error == "UnknownSymmetry"


ZIRCONIA = ["Zr1 Zr 0.2754 0.0395 0.2083", "O1 O 0.07 0.3317 0.3447", "O2 O 0.4496 0.7569 0.4792"]


@pytest.mark.parametrize("symbol", ["P 21/c", "P21/c", "P 2_1/c", "P 1 21/c 1", "P 1 2_1/c 1"])
def test_short_symbols_of_monoclinic_groups(symbol: str) -> None:
    found = read(cif(HEAD.format(symbol), "5.1505 5.2116 5.3173 90 99.23 90", ZIRCONIA))
    assert (found.composition.formula, group(found)) == ("Zr4 O8", 14)
    turned = [f"{a} {b} {z} {x} {y}" for a, b, x, y, z in map(str.split, ZIRCONIA)]
    again = read(cif(HEAD.format("P 1 1 21/a"), "5.3173 5.1505 5.2116 90 90 99.23", turned))
    assert np.allclose(*(np.sort(s.distance_matrix, axis=None) for s in (found, again)))


@pytest.mark.parametrize(("choice", "at", "number"), [(":2", 0.125, 8), (":1", 0, 8), (" Z", 0.125, 8), (" S", 0, 8)])
def test_choices_of_origin(choice: str, at: float, number: int) -> None:
    sites = [f"Si1 Si {at} {at} {at}"]
    assert len(read(cif(HEAD.format(f"F d -3 m{choice}"), "5.431 5.431 5.431 90 90 90", sites))) == number


@pytest.mark.parametrize("at", [0, 0.125])
def test_an_origin_that_is_not_named_follows_from_the_formula(at: float) -> None:
    cell, sites = "5.431 5.431 5.431 90 90 90", [f"Si1 Si {at} {at} {at}"]
    content = "\n_chemical_formula_sum Si\n_cell_formula_units_Z 8"
    found = read(cif(HEAD.format("F d -3 m") + content, cell, sites))
    assert (len(found), group(found)) == (8, 227)
    assert "origin" in str(refused(cif(HEAD.format("F d -3 m"), cell, sites)))


def test_an_origin_that_is_not_named_follows_from_the_ratios() -> None:
    spinel = ["Mg1 Mg 0.125 0.125 0.125", "Al1 Al 0.5 0.5 0.5", "O1 O 0.2624 0.2624 0.2624"]
    head = HEAD.format("F d -3 m") + "\n_chemical_formula_sum 'Al2 Mg O4'"
    assert read(cif(head, "8.08 8.08 8.08 90 90 90", spinel)).formula == "Mg8 Al16 O32"


def test_axes_of_rhombohedral_groups() -> None:
    rhombohedral, hexagonal = "4.746 4.746 4.746 57.23 57.23 57.23", "4.546 4.546 11.862 90 90 120"
    for choice in ("", ":R", " R"):
        found = read(cif(HEAD.format(f"R -3 m{choice}"), rhombohedral, ["Bi1 Bi 0.234 0.234 0.234"]))
        assert (len(found), group(found)) == (2, 166)
    for choice in ("", ":H", " H"):
        assert len(read(cif(HEAD.format(f"R -3 m{choice}"), hexagonal, ["Bi1 Bi 0 0 0.234"]))) == 6
    for choice, cell in ((":R", hexagonal), (":H", rhombohedral)):
        assert "axes" in str(refused(cif(HEAD.format(f"R -3 m{choice}"), cell, ["Bi1 Bi 0 0 0.234"])))
    wrong = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-y,x-y,z\ny-x,-x,z"
    assert "axes" in str(refused(cif(wrong, rhombohedral, ["Bi1 Bi 0 0 0.234"])))


def test_names_that_contradict_each_other() -> None:
    assert "contradict" in str(refused(cif(f"{P1}\n_symmetry_Int_Tables_number 225")))
    assert len(read(cif("_symmetry_Int_Tables_number 225"))) == 8
    assert len(read(cif("_space_group_name_Hall '-F 4 2 3'"))) == 8
    assert refused(cif("_symmetry_Int_Tables_number 999")).error == "UnknownSymmetry"


def test_no_symmetry_named_is_no_p1() -> None:
    assert refused(cif("_audit_creation_method hand")).error == "UnknownSymmetry"
    all_there = "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 1"
    assert len(read(cif(all_there, "3.99 3.99 3.99 60 60 60"))) == 2
    assert "8 by its formula" in str(refused(cif(all_there.replace("Z 1", "Z 4"))))


@pytest.mark.parametrize("z", ["4", "1", "?", ""])
def test_the_cells_content_as_the_formula(z: str) -> None:
    head = "_symmetry_Int_Tables_number 225\n_chemical_formula_sum 'Na4 Cl4'"
    assert len(read(cif(head + (f"\n_cell_formula_units_Z {z}" if z else "")))) == 8


@pytest.mark.parametrize(
    "written",
    ["'x, y, z'\n'-x, -y, -z'", "x,y,z\n-x,-y,-z", "x, y, z\n-x, -y, -z", "'X, Y, Z'\n'-X, -Y, -Z'",
     "+x,+y,+z\n0-x,-y,-z"],
)  # fmt: skip
def test_operations_as_files_write_them(written: str) -> None:
    assert len(read(cif(f"loop_\n_space_group_symop_operation_xyz\n{written}", sites=["Na1 Na 0.1 0.2 0.3"]))) == 2
    shifted = "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'x+.3333,1+y,z-1'\n'.667+x,y,z'"
    assert len(read(cif(shifted, sites=["Na1 Na 0.1 0.2 0.3"]))) == 3


@pytest.mark.parametrize("operation", ["x,y", "x,y,w", "x,y,", "x,x,z", "2x,y,z", "x,y,z+1/0", "�x,y,z"])
def test_operations_that_are_none(operation: str) -> None:
    assert refused(cif(f"loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'{operation}'")).error == "UnknownSymmetry"


@pytest.mark.parametrize("far", [1e6, -1e6, 1e9])
def test_a_site_far_away_is_taken_into_the_cell(far: float) -> None:
    found = read(cif(sites=[SALT[0], f"Cl1 Cl {far + 0.5:.1f} 0.5 0.5"]))
    assert np.all((found.frac_coords >= 0) & (found.frac_coords < 1))
    assert found.get_distance(0, 1) == pytest.approx(5.64 * 3**0.5 / 2)
    assert "cells away" in str(refused(cif(sites=[f"Na1 Na {far * 1e12} 0 0"])))


MOMENTS = "\n".join(
    ["loop_", "_atom_site_moment.label", *(f"_atom_site_moment.crystalaxis_{axis}" for axis in "xyz"), "Ni1 0 0 {}", ""]
)
NICKEL = ["Ni1 Ni 0 0 0", "O1 O 0.5 0.5 0.5"]


def test_magnetic_symmetry_that_is_not_told() -> None:
    text = cif(sites=NICKEL) + MOMENTS
    assert read(text.format("1.7")).site_properties["magmom"][0] == pytest.approx([0, 0, 1.7])
    assert "moment" in str(refused(text.format("?")))
    assert "labels" in str(refused(text.format("1.7").replace("Ni1 0 0", "Ni9 0 0")))
    unknown = cif(HEAD.format("F m -3 m"), sites=NICKEL) + MOMENTS
    assert "turn" in str(refused(unknown.format("1.7")))
    operations = "loop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1\n−x,−y,−z,{}"
    assert len(read(cif(operations.format("-1"), sites=["Ni1 Ni 0.1 0.2 0.3"]) + MOMENTS.format("1.7"))) == 2
    assert refused(cif(operations.format("2"), sites=NICKEL) + MOMENTS.format("1.7")).error == "UnknownSymmetry"


MAGNETIC = "loop_\n_space_group_symop_magn_operation.xyz\n{}\nloop_\n_space_group_symop_magn_centering.xyz\n{}"


@pytest.mark.parametrize(
    ("operations", "centerings", "whole"),
    [
        ("x,y,z,+1\n-x,-y,-z,-1", "x,y,z,+1", True),
        ("x,y,z,+1\n-x,y,-z,+1\n-x,-y,-z,-1\nx,-y,z,-1", "x,y,z,+1\nx+1/2,y+1/2,z+1/2,-1", True),
        # The fourth misspelt, one missing, and one that turns moments where it should not.
        ("x,y,z,+1\n-x,y,-z,+1\n-x,-y,-z,-1\nx,-y,z+1/2,-1", "x,y,z,+1", False),
        ("x,y,z,+1\n-x,y,-z,+1\n-x,-y,-z,-1", "x,y,z,+1", False),
        ("x,y,z,+1\n-x,y,-z,+1\n-x,-y,-z,-1\nx,-y,z,+1", "x,y,z,+1", False),
        ("x,y,z,+1", "x,y,z,+1\nx+1/3,y,z,-1", False),
    ],
)
def test_magnetic_operations_are_a_group(operations: str, centerings: str, whole: bool) -> None:
    text = cif(MAGNETIC.format(operations, centerings), sites=["Ni1 Ni 0.1 0.2 0.3"]) + MOMENTS.format("0")
    if whole:
        assert len(read(text)) in (2, 8)
    else:
        trouble = refused(text)
        assert trouble.error == "UnknownSymmetry"
        assert "not a whole group" in str(trouble)


def test_modulated_crystals_are_refused() -> None:
    assert "modulated" in str(refused(cif(f"{P1}\n_cell_modulation_dimension 1")))


def test_text_around_what_matters() -> None:
    text = cif(
        f"{P1}\n_publ_section_title\n;\n it's a data_x loop_ _cell_length_a 9\n;\n_note 'a # b' # c\n_x 'O'Neil'"
    )
    assert read(text.replace("\n", "\r\n")).formula == "Na1 Cl1"
    assert read("\ufeff" + re.sub("_cell_length_a", "_Cell.Length_A", text)).lattice.a == 5.64
    single = "\n".join(
        ["data_x", HEAD.format("F m -3 m"), *(f"_cell_length_{x} 3.61" for x in "abc"), "_atom_site_label Cu1"]
        + [f"_atom_site_fract_{x} 0" for x in "xyz"]
    )
    assert read(single).formula == "Cu4"


@pytest.mark.parametrize(
    "text", ["", "data_x", "data_x\nloop_\n_cell_length_a\n", cif()[:-30], cif().replace("loop_", ""), cif(sites=[])]
)
def test_damaged_files(text: str) -> None:
    try:
        found = parse_cif(text)
    except StructureTrouble:
        return
    assert all(isinstance(one, StructureTrouble) for one in found)


def test_long_lists_are_refused(tmp_path: Path) -> None:
    assert refused(cif(sites=[f"Na{n} Na 0 0 {n / 1e4}" for n in range(6000)])).error == "TooManySites"


OPERATIONS = "loop_\n_symmetry_equiv_pos_as_xyz\n{}"
INVERSION = "x,y,z\n-x,-y,-z"
GLIDE = "x,y,z\n-x,y+1/2,-z+1/2\n-x,-y,-z"
BADDELEYITE = "5.1505 5.2116 5.3173 90 99.23 90"
P21C = HEAD.format("P 1 21/c 1") + "\n"


@pytest.mark.parametrize(
    ("operations", "cell", "sites", "missing"),
    [(GLIDE, BADDELEYITE, ZIRCONIA, "'x,-y+1/2,z+1/2'"),
     (f"{GLIDE}\nx,-y+1/4,z+1/2", BADDELEYITE, ZIRCONIA, "not among them"),
     (f"{INVERSION}\nx+1/2,y,z", CUBIC, SALT, "'-x+1/2,-y,-z'"),
     ("-x,-y,-z", CUBIC, SALT, "'x,y,z'"),
     ("x,y,z\nx+.3333,y,z", CUBIC, SALT, "'x+2/3,y,z'")],
)  # fmt: skip
def test_operations_that_are_no_group(operations: str, cell: str, sites: list[str], missing: str) -> None:
    found = refused(cif(OPERATIONS.format(operations), cell, sites))
    assert found.error == "UnknownSymmetry"
    assert missing in str(found)
    whole = read(cif(P21C + OPERATIONS.format(f"{GLIDE}\nx,1.5-y,z-1/2"), BADDELEYITE, ZIRCONIA))
    assert whole.formula == "Zr4 O8"


@pytest.mark.parametrize(
    ("names", "listed", "said"),
    [(HEAD.format("F m -3 m"), "x,y,z", "192"), (HEAD.format("F d -3 m"), INVERSION, "192"),
     (HEAD.format("P 1"), INVERSION, "'P 1'"), ("_symmetry_Int_Tables_number 225", "x,y,z", "number 225"),
     ("_space_group_name_Hall '-F 4 2 3'", "x,y,z", "'-F 4 2 3'"),
     (HEAD.format("Xyz") + "\n_symmetry_Int_Tables_number 225", INVERSION, "number 225"),
     (P1 + "\n_symmetry_Int_Tables_number 225", "x,y,z", "number 225")],
)  # fmt: skip
def test_operations_that_are_not_those_of_the_space_group(names: str, listed: str, said: str) -> None:
    sites = ["Na1 Na 0.1 0 0", "Cl1 Cl 0.6 0.5 0.5"]
    head = f"{names}\n{OPERATIONS.format(listed)}"
    n_sites = 2 * len(listed.split("\n"))
    found = refused(cif(head, sites=sites))
    assert found.error == "UnknownSymmetry"
    assert said in str(found)
    assert f"lists {n_sites // 2} symmetry operation" in str(found)
    head = "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z {}\n" + head
    assert len(read(cif(head.format(n_sites // 2), sites=sites))) == n_sites
    assert isinstance(parse_cif(cif(head.format(5), sites=sites))[0], StructureTrouble)


def test_a_density_or_multiplicities_tell_which_operations_are_right() -> None:
    head = HEAD.format("F m -3 m") + "\n" + OPERATIONS.format(INVERSION)
    sites = ["Na1 Na 0.1 0 0", "Cl1 Cl 0.6 0.5 0.5"]
    density = read(cif(OPERATIONS.format(INVERSION), sites=sites)).density
    assert len(read(cif(f"_exptl_crystal_density_diffrn {density:.2f}(2)\n{head}", sites=sites))) == 4
    assert refused(cif(f"_exptl_crystal_density_diffrn {density * 2:.2f}\n{head}", sites=sites))
    columns = (*COLUMNS, "symmetry_multiplicity")
    assert len(read(cif(head, sites=[f"{site} 2" for site in sites], columns=columns))) == 4
    assert refused(cif(head, sites=[f"{site} 8" for site in sites], columns=columns))


def test_a_symbol_beside_a_list_of_all_atoms() -> None:
    head = HEAD.format("F m -3 m") + "\n" + OPERATIONS.format("x,y,z")
    corners = ["0 0 0", "0 .5 .5", ".5 0 .5", ".5 .5 0"]
    edges = [".5 .5 .5", ".5 0 0", "0 .5 0", "0 0 .5"]
    sites = [f"Na{n} Na {at}" for n, at in enumerate(corners)] + [f"Cl{n} Cl {at}" for n, at in enumerate(edges)]
    assert len(read(cif(head, sites=sites))) == 8
    assert refused(cif(head, sites=sites[:-1])).error == "UnknownSymmetry"


def test_names_that_cannot_be_compared_with_operations() -> None:
    body_centred = INVERSION + "\nx+1/2,y+1/2,z+1/2\n1/2-x,1/2-y,1/2-z"
    for names in ("_x 1", HEAD.format("I -1"), HEAD.format("my own"), "_space_group_name_Hall '-Q 1'",
                  HEAD.format("I -1") + "\n_symmetry_Int_Tables_number 2",
                  HEAD.format("my own") + "\n_symmetry_Int_Tables_number 2",
                  HEAD.format("I -1") + "\n_space_group_name_H-M_ref 'P -1'"):  # fmt: skip
        text = cif(f"{names}\n{OPERATIONS.format(body_centred)}", sites=["Na1 Na 0.1 0.2 0.3"])
        assert len(read(text)) == 4
    # F m -3 m in its primitive cell.
    primitive = HEAD.format("F m -3 m") + "\n_symmetry_Int_Tables_number 225\n" + OPERATIONS.format(INVERSION)
    assert "48" not in str(refused(cif(primitive, "3.99 3.99 3.99 60 60 60")))


def test_two_lists_of_operations() -> None:
    second = "\nloop_\n_space_group_symop_operation_xyz\n{}"
    sites = ["Na1 Na 0.1 0.2 0.3"]
    found = refused(cif(OPERATIONS.format("x,y,z") + second.format(INVERSION), sites=sites))
    assert "1 as _symmetry_equiv_pos_as_xyz and 2 as _space_group_symop_operation_xyz" in str(found)
    assert "twice" in str(refused(cif(OPERATIONS.format("x,y,z\nx,-y,z") + second.format(INVERSION), sites=sites)))
    assert len(read(cif(OPERATIONS.format(INVERSION) + second.format("1-x,-y,-z\nx,y,z"), sites=sites))) == 2


def test_multiplicities_that_the_symmetry_does_not_give() -> None:
    columns = (*COLUMNS, "symmetry_multiplicity")
    rows = [f"{site} 4" for site in SALT]
    assert "8 by _atom_site_symmetry_multiplicity" in str(refused(cif(sites=rows, columns=columns)))
    head = HEAD.format("F m -3 m")
    assert len(read(cif(head, sites=rows, columns=columns))) == 8
    # As SHELXL-97 writes it: operations that leave the site in place.
    assert len(read(cif(head, sites=[f"{site} 48" for site in SALT], columns=columns))) == 8
    assert len(read(cif(head, sites=[f"{site} ?" for site in SALT], columns=columns))) == 8
    content = "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 1\n"
    assert len(read(cif(content + P1, sites=rows, columns=columns))) == 2


def hexagonal(a: float, c: float) -> Lattice:
    return Lattice.hexagonal(a, c)


WRITTEN: dict[str, tuple[Lattice, list[str], list[list[float]]]] = {
    "R-3m": (hexagonal(4.385, 30.49), ["Bi", "Te", "Te"], [[0, 0, 0.4], [0, 0, 0], [0, 0, 0.209]]),
    "P6_3/mmc": (hexagonal(3.16, 12.3), ["Mo", "S"], [[1 / 3, 2 / 3, 0.25], [1 / 3, 2 / 3, 0.621]]),
    "I4_1/amd": (Lattice.tetragonal(3.785, 9.514), ["Ti", "O"], [[0, 0, 0], [0, 0, 0.208]]),
    "C2/c": (Lattice.monoclinic(4.684, 3.423, 5.129, 99.5), ["Cu", "O"], [[0.25, 0.25, 0], [0, 0.416, 0.25]]),
    "Fd-3m": (Lattice.cubic(5.431), ["Si"], [[0, 0, 0]]),
    "Pnma": (Lattice.orthorhombic(5.44, 7.64, 5.38), ["Ca", "Ti", "O", "O"],
             [[0.036, 0.25, -0.007], [0, 0, 0.5], [0.484, 0.25, 0.071], [0.289, 0.037, -0.288]]),
    "Pa-3": (Lattice.cubic(5.417), ["Fe", "S"], [[0, 0, 0], [0.385, 0.385, 0.385]]),
    "P3_121": (hexagonal(4.913, 5.405), ["Si", "O"], [[0.47, 0, 1 / 3], [0.413, 0.267, 0.119 + 1 / 3]]),
    "I-42d": (Lattice.tetragonal(5.29, 10.42), ["Cu", "Fe", "S"], [[0, 0, 0], [0, 0, 0.5], [0.257, 0.25, 0.125]]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_pymatgen_writes_is_read(name: str) -> None:
    made = Structure.from_spacegroup(name, *WRITTEN[name])
    for text in (CifWriter(made, symprec=0.01), CifWriter(made)):
        found = read(str(text))
        assert found.composition.reduced_formula == made.composition.reduced_formula
        assert found.volume / len(found) == pytest.approx(made.volume / len(made), rel=1e-4)


def test_a_text_that_is_never_closed() -> None:
    potassium = cif(name="two", sites=[site.replace("Na", "K") for site in SALT])
    open_end = "_publ_section_title\n;\n never closed\n\n"
    first, second = parse_cif(cif(name="zero") + cif() + open_end + potassium)
    assert isinstance(first, Structure)
    for said in ("line ", "_publ_section_title", "data_two", "(block data_x)"):
        assert said in str(second)
    assert "_publ_section_title" in str(refused(cif() + open_end))
    publication, salt = parse_cif(cif() + "data_publication\n" + open_end + potassium)[::-1]
    assert isinstance(salt, Structure)
    assert "data_two" in str(publication)
    with pytest.raises(StructureTrouble, match="closes"):
        parse_cif(";\n a note\n" + cif())
    assert read(cif() + "_publ_section_title\n;\n closed\n;\n;\n").formula == "Na1 Cl1"


def test_dummy_atoms_are_no_atoms() -> None:
    columns = (*COLUMNS, "calc_flag", "occupancy")
    sites = ["X1 O 0.5 0 0.5 dum 1", *(f"{site} d 1" for site in SALT), "Cg1 . 0.5 0 0 Dum ?"]
    assert read(cif(sites=sites, columns=columns)).formula == "Na1 Cl1"
    assert refused(cif(sites=sites[:1], columns=columns)).error == "UnreadableStructure"

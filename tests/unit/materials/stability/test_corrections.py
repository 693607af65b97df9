"""The MP2020 corrections against their published values."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from monty.serialization import loadfn
from pymatgen.analysis import compatibility
from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.vasp.sets import MPRelaxSet

from materials.errors import HullError
from materials.stability.corrections import ANIONS, anion_corrected, correct, correction
from tests.unit.materials import made_records as made


def rock_salt(cation: str, anion: str, a: float) -> Structure:
    faces = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    edges = [[x + 0.5, y, z] for x, y, z in faces]
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, faces + edges)


@pytest.mark.parametrize(
    ("cation", "anion", "a", "per_atom"),
    # Wang et al. 2021, table 2 (eV per anion or metal): oxide -0.687, Cl -0.614, Mn in oxides -1.668, Si +0.071
    [
        ("Mg", "O", 4.24, -0.687 / 2),
        ("Na", "Cl", 5.69, -0.614 / 2),
        ("Mn", "O", 4.44, (-0.687 - 1.668) / 2),
        ("Ga", "As", 5.6, 0.0),
        ("Mg", "Si", 5.4, 0.071 / 2),
    ],
)
def test_published_values(cation: str, anion: str, a: float, per_atom: float) -> None:
    structure = rock_salt(cation, anion, a)
    assert correction("MP2020", structure) / len(structure) == pytest.approx(per_atom, abs=1e-3)


def test_peroxide_is_told_from_oxide_by_its_bond() -> None:
    lattice = Lattice.hexagonal(3.14, 7.7)
    coords = [[0, 0, 0], [0, 0, 0.5], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
    oxygen = [[1 / 3, 2 / 3, 0.649], [1 / 3, 2 / 3, 0.851], [2 / 3, 1 / 3, 0.149], [2 / 3, 1 / 3, 0.351]]
    structure = Structure(lattice, ["Li"] * 4 + ["O"] * 4, coords + oxygen)
    assert correction("MP2020", structure) / 4 == pytest.approx(-0.465, abs=1e-3)


def test_elements_are_left_alone() -> None:
    assert correction("MP2020", Structure(Lattice.cubic(3.0), ["Mn"], [[0, 0, 0]])) == 0


def test_the_energy_is_shifted_by_the_same_amount_whatever_it_is_and_extensively() -> None:
    structure = rock_salt("Mn", "O", 4.44)
    shift = correction("MP2020", structure)
    assert correct("MP2020", structure, -60.0) == pytest.approx(-60.0 + shift, abs=1e-12)
    assert correct("MP2020", structure, 0.0) == pytest.approx(shift, abs=1e-12)
    assert correction("MP2020", structure * (2, 1, 1)) == pytest.approx(2 * shift, abs=1e-9)
    assert correction("MP2020", structure) == shift  # nothing is kept between two questions


def test_without_a_rule_nothing_is_done() -> None:
    """What was trained on corrected energies (CHGNet) is never corrected again."""
    assert correct(None, rock_salt("Mn", "O", 4.44), -60.123) == -60.123


def apart(counts: dict[str, int]) -> Structure:
    """Atoms so far from each other that no two are bonded."""
    symbols = [symbol for symbol, count in counts.items() for _ in range(count)]
    edge = math.ceil(len(symbols) ** (1 / 3))
    places = list(itertools.product(range(edge), repeat=3))[: len(symbols)]
    return Structure(Lattice.cubic(6.0 * edge), symbols, np.array(places) / edge)


def by_pymatgen(structure: Structure) -> float:
    """With the oxidation states that it guesses itself."""
    elements = sorted(structure.composition.elements)
    u = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(elements[-1].symbol, {})
    hubbards = {e.symbol: u[e.symbol] for e in elements if u.get(e.symbol)}
    entry = ComputedStructureEntry(
        structure, 0.0, parameters={"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards}
    )
    with warnings.catch_warnings(action="ignore"):  # where it guesses none, it says so
        return float(MaterialsProject2020Compatibility(check_potcar=False).process_entry(entry).correction)


@pytest.mark.parametrize(
    ("formula", "expected"),
    # Wang et al. 2021, table 2 (eV an atom): oxide -0.687, F -0.462, sulfide -0.503
    [
        ("Mg17Al12", 0.0),
        ("Li7La3Zr2O12", 12 * -0.687),
        ("Ca5P3O12F", 12 * -0.687 - 0.462),
        ("Li10GeP2S12", -6.036),
    ],
)
def test_formulas_of_more_than_twenty_atoms_are_corrected_without_oxidation_states(
    formula: str, expected: float
) -> None:
    structure = apart({str(element): int(n) for element, n in Composition(formula).items()})
    assert correction("MP2020", structure) == pytest.approx(expected, abs=2e-3)
    assert correction("MP2020", structure) == pytest.approx(by_pymatgen(structure), abs=1e-9)


def test_random_compositions_are_corrected_as_pymatgen_does() -> None:
    rng = random.Random(14)
    # Noble gases have no electronegativity, by which U is chosen.
    metals = sorted(MPRelaxSet.CONFIG["POTCAR"].keys() - {"D", "T", "He", "Ne", "Ar", "Kr", "Xe"})
    others = ["O", "O", "F", "Cl", "Br", "I", "S", "Se", "Te", "N", "P", "H", "Si", "Sb"]
    large = 0
    for _ in range(420):
        symbols = {*rng.sample(metals, rng.randint(1, 3)), *rng.sample(others, rng.randint(0, 2))}
        structure = apart({symbol: rng.randint(1, 12) for symbol in sorted(symbols)})
        assert correction("MP2020", structure) == pytest.approx(by_pymatgen(structure), abs=1e-9), structure.formula
        large += structure.composition.reduced_composition.num_atoms > 20
    assert 100 < large < 320


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(HullError, match="MP2021"):
        correction("MP2021", rock_salt("Mg", "O", 4.24))


# The terms for anions alone, for raw PBE of any code

LI2O2 = Structure.from_spacegroup(
    "P6_3/mmc",
    Lattice.hexagonal(3.16, 7.69),
    ["Li", "Li", "O"],
    [[0, 0, 0], [1 / 3, 2 / 3, 0.75], [1 / 3, 2 / 3, 0.149]],
)
KO2 = Structure.from_spacegroup("I4/mmm", Lattice.tetragonal(4.03, 6.70), ["K", "O"], [[0, 0, 0], [0, 0, 0.4045]])
H2O2 = Structure(
    Lattice.tetragonal(4.06, 8.0),
    ["O", "O", "H", "H"],
    [[0.32, 0.5, 0.5], [0.68, 0.5, 0.5], [0.3, 0.7, 0.54], [0.7, 0.3, 0.54]],
)
LI3N = Structure(
    Lattice.hexagonal(3.65, 3.87),
    ["Li", "Li", "Li", "N"],
    [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0], [0, 0, 0.5], [0, 0, 0]],
)
BACLF = Structure(
    Lattice.tetragonal(4.39, 7.23),
    ["Ba", "Ba", "Cl", "Cl", "F", "F"],
    [[0, 0.5, 0.205], [0.5, 0, 0.795], [0, 0.5, 0.647], [0.5, 0, 0.353], [0, 0, 0], [0.5, 0.5, 0]],
)
LIOH = Structure(
    Lattice.tetragonal(3.55, 4.34),
    ["Li", "Li", "O", "O", "H", "H"],
    [[0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.194], [0.5, 0, 0.806], [0, 0.5, 0.413], [0.5, 0, 0.587]],
)


@pytest.mark.parametrize(
    ("structure", "total"),
    # Wang et al. 2021, table 2 (eV per anion), times the anions in the cell
    [
        (LI2O2, 4 * -0.465),
        (KO2, 4 * -0.161),
        (H2O2, 2 * -0.687),  # pymatgen looks for O-H bonds before O-O bonds
        (LI3N, -0.361),
        (rock_salt("Mg", "S", 5.20), 4 * -0.503),
        (rock_salt("Na", "Cl", 5.69), 4 * -0.614),
        (rock_salt("Li", "H", 4.08), 4 * -0.179),
        (rock_salt("K", "Br", 6.60), 4 * -0.534),
        (rock_salt("K", "I", 7.07), 4 * -0.379),
        (rock_salt("Mg", "Se", 5.46), 4 * -0.472),
        (rock_salt("Sr", "Te", 6.66), 4 * -0.422),
        (rock_salt("La", "Sb", 6.50), 4 * -0.192),
        (rock_salt("Ca", "Si", 6.00), 4 * 0.071),
        (BACLF, 2 * (-0.614 - 0.462)),
        (LIOH, 2 * -0.687),  # its hydrogen is no anion
        (rock_salt("La", "P", 6.03), 0.0),  # nothing was fitted for P and As
        (rock_salt("La", "As", 6.15), 0.0),
        (Structure(Lattice.cubic(2.9), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]]), 0.0),
    ],
    ids=lambda value: value.composition.reduced_formula if isinstance(value, Structure) else "",
)
def test_terms_for_anions(structure: Structure, total: float) -> None:
    assert correction(ANIONS, structure) == pytest.approx(total, abs=1e-9)
    # Without a metal whose U the Materials Project sets, its whole scheme is the same.
    assert correction("MP2020", structure) == pytest.approx(total, abs=1e-9)
    assert correction(ANIONS, structure * (1, 2, 1)) == pytest.approx(2 * total, abs=1e-9)


@pytest.mark.parametrize(
    "structure", [rock_salt("Mn", "O", 4.44), rock_salt("Ni", "O", 4.18), rock_salt("V", "F", 4.2)]
)
def test_the_terms_that_tie_gga_to_gga_and_u_are_left_out(structure: Structure) -> None:
    per_anion = {"O": -0.687, "F": -0.462}[structure[-1].specie.symbol]
    assert correction(ANIONS, structure) == pytest.approx(4 * per_anion)
    assert correction("MP2020", structure) < correction(ANIONS, structure) - 4


@pytest.mark.parametrize("symbol", ["O", "N", "F", "Cl", "S", "Si", "H", "I"])
def test_no_element_has_a_term_for_anions(symbol: str) -> None:
    assert correction(ANIONS, Structure(Lattice.cubic(8.0), [symbol] * 2, [[0, 0, 0], [0.15, 0, 0]])) == 0


@pytest.mark.filterwarnings("ignore:Failed to guess oxidation states")
def test_the_compounds_that_the_scheme_was_fitted_to_get_what_pymatgen_gives_them_but_for_metals() -> None:
    """Its own 420 entries, with the POTCARs and U of each, against our structures of the same composition."""
    found = 0
    scheme = MaterialsProject2020Compatibility(check_potcar=False)
    for entry in loadfn(Path(compatibility.__file__).with_name("calc_compounds.json.gz")).values():
        composition = entry.composition.reduced_composition
        if composition.num_atoms > 10 or entry.data["oxide_type"] not in ("oxide", "None") or len(composition) == 1:
            continue
        if "S" in composition and "O" in composition:
            continue  # a sulfate is known by its bonds
        terms = scheme.get_adjustments(entry)
        expected = sum(term.value for term in terms if "mixing" not in term.name) / entry.composition.num_atoms
        # A row of atoms 3 Å apart: no O-O bond.
        symbols = [element.symbol for element, n in composition.items() for _ in range(round(n))]
        row = Lattice.orthorhombic(5, 5, 3 * len(symbols))
        structure = Structure(row, symbols, [[0, 0, i / len(symbols)] for i in range(len(symbols))])
        assert correction(ANIONS, structure) / len(structure) == pytest.approx(expected, abs=1e-9), entry.name
        found += 1
    assert found > 150


def test_species_with_charges_are_the_same_compound() -> None:
    plain = rock_salt("Mg", "O", 4.24)
    charged = plain.copy().add_oxidation_state_by_element({"Mg": 2, "O": -2})
    assert correction(ANIONS, charged) == correction(ANIONS, plain)


@pytest.mark.parametrize(
    "level", ["PBE/gpaw-setups-1.2.1/PW600", "PBE/POTCAR-PBE_64/MatPESStaticSet", "PBE+U(Mn3.9)/x/PW600"]
)
def test_a_raw_pbe_energy_is_corrected_once_and_its_level_says_so(level: str) -> None:
    raw = made.calculation(structure=rock_salt("Na", "Cl", 5.69), energy=-27.0, fidelity="dft", level_of_theory=level)
    corrected = anion_corrected(raw)
    assert corrected.energy == pytest.approx(-27.0 - 4 * 0.614)
    assert corrected.level_of_theory == f"{level}/MP2020-anions"
    with pytest.raises(HullError, match="none yet"):
        anion_corrected(corrected)


@pytest.mark.parametrize(
    "level", ["r2SCAN/POTCAR-PBE_64/MatPESStaticSet", "PBE+U/MP2020", "LDA/debian/PW400", "PBEsol/x/PW400"]
)
def test_no_other_energy_gets_the_terms_for_anions(level: str) -> None:
    with pytest.raises(HullError, match="are for energies of PBE"):
        anion_corrected(made.calculation(structure=rock_salt("Na", "Cl", 5.69), level_of_theory=level))

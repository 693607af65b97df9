"""What makes no sense is refused, with a code that can be counted; what exists passes."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from materials.crystals.validation import charges_balance, check, too_close
from materials.sources.prototypes.library import example, library_names


@pytest.mark.parametrize("name", library_names())
def test_real_crystals_pass(name: str) -> None:
    assert check(example(name)) is None


@pytest.mark.parametrize(
    ("structure", "options", "code", "words"),
    [
        (Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]]), {}, "Disordered", "occupied"),
        (example("rocksalt"), {"elements": {"Na", "F"}}, "UncoveredElement", "Cl"),
        (example("spinel"), {"max_sites": 14}, "TooManySites", "56 sites"),
        (Structure(Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.2, 0, 0]]), {}, "TooClose", r"1\.13 Å"),
        (Structure(Lattice.cubic(5.64), ["Na", "Na"], [[0, 0, 0], [1, 1, 1]]), {}, "TooClose", r"0\.00 Å"),
        (Structure(Lattice.cubic(0.564), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]), {}, "TooDense", "unit"),
        (Structure(Lattice.cubic(40), ["Na", "Cl"], [[0, 0, 0], [0.05, 0.05, 0]]), {}, "TooSparse", "unit"),
        (Structure(Lattice.cubic(5), ["Na"], [[np.nan, 0, 0]]), {}, "NotFinite", "finite"),
        (example("Li3N").replace_species({"N": "O"}), {"charge_balance": True}, "ChargesUnbalanced", "Li3O"),
    ],
)
def test_nonsense_is_refused(structure: Structure, options: dict, code: str, words: str) -> None:
    found = check(structure, **options)
    assert found is not None
    assert found[0] == code
    assert re.search(words, found[1])


@pytest.mark.parametrize(
    ("pair", "distance", "refused"),
    [
        (("O", "O"), 0.95, True),  # 0.72 of the sum of the radii, and shorter than any bond
        (("F", "F"), 0.95, True),
        (("N", "O"), 1.06, False),  # as in NOBF4
        (("N", "N"), 1.10, False),
        (("H", "H"), 0.50, True),
        (("H", "H"), 0.74, False),
        (("O", "H"), 0.96, False),
        (("K", "K"), 2.63, False),  # what a potential leaves in KMgN
        (("U", "O"), 1.75, False),
        (("Ni", "O"), 0.30, True),
    ],
)
def test_no_two_atoms_are_closer_than_any_bond(pair: tuple[str, str], distance: float, refused: bool) -> None:
    structure = Structure(Lattice.cubic(5), pair, [[0, 0, 0], [distance / 5, 0, 0]])
    found = too_close(structure.lattice.matrix, structure.cart_coords, np.array([site.specie.Z for site in structure]))
    assert (found is not None) == refused
    if refused:
        assert f"{distance:.2f} Å apart" in found


def test_the_first_atoms_own_image_counts() -> None:
    thin = Structure(Lattice.orthorhombic(1.2, 8, 8), ["Fe"], [[0, 0, 0]])
    assert check(thin)[0] in ("TooClose", "TooDense")


@given(st.floats(0.3, 1.0))
def test_a_larger_ratio_refuses_more(ratio: float) -> None:
    crystal = example("rocksalt")
    # Na and Cl stand at 2.82 Å; their covalent radii are 1.66 and 1.02 Å.
    expected = ratio > 2.82 / (1.66 + 1.02)
    assert (check(crystal, min_distance_ratio=ratio) is not None) == expected


@pytest.mark.parametrize(
    "formula",
    [
        "NaCl",
        "Fe2O3",
        "Fe3O4",
        "LiMn2O4",
        "CuFeO2",
        "Cu2O",
        "LiFePO4",
        "BaTiO3",
        "Mg3N2",
        "FeS2",
        "NaMgP",
        "MgZn2",
        "Si",
    ],
)
def test_charges_of_known_compounds_balance(formula: str) -> None:
    assert charges_balance(Composition(formula))


@pytest.mark.parametrize("formula", ["NaCl2", "Mg2O", "KF2", "Al2O", "CaF", "Li3O", "NaMgCl"])
def test_charges_of_impossible_compounds_do_not(formula: str) -> None:
    assert not charges_balance(Composition(formula))

"""The MP2020 corrections against their published values."""

from __future__ import annotations

import pytest
from pymatgen.core import Lattice, Structure

from materials.corrections import correct, correction
from materials.errors import HullError


def rock_salt(cation: str, anion: str, a: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


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


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(HullError, match="MP2021"):
        correction("MP2021", rock_salt("Mg", "O", 4.24))

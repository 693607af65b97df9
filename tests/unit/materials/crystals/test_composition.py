"""What a structure is made of, as pymatgen says it."""

import pytest
from hypothesis import given
from pymatgen.core import Lattice, Structure

from materials.crystals.composition import amounts_of, occupant, reduced_formula, species_of
from tests.unit.materials import made_records as made


@given(crystal=made.structures())
def test_formula_and_amounts_are_pymatgens(crystal: Structure) -> None:
    plain = crystal.composition.element_composition
    assert amounts_of(crystal) == plain.get_el_amt_dict()
    assert reduced_formula(crystal) == plain.reduced_formula
    assert species_of(crystal) == [site.specie for site in crystal]


def test_partly_occupied_sites_count_in_part() -> None:
    alloy = Structure(Lattice.cubic(3.6), [{"Cu": 0.75, "Au": 0.25}, {"Cu2+": 0.5}], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert amounts_of(alloy) == {"Cu": 1.25, "Au": 0.25}
    assert reduced_formula(alloy) == alloy.composition.element_composition.reduced_formula
    with pytest.raises(ValueError, match="too many values"):
        species_of(alloy)


def test_peroxides_and_molecules_keep_their_formulas() -> None:
    assert reduced_formula(Structure(Lattice.cubic(4), ["Li", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])) == "Li2O2"
    assert reduced_formula(Structure(Lattice.cubic(4), ["O"], [[0, 0, 0]])) == "O2"


def test_what_sits_on_a_site_is_shared() -> None:
    assert occupant("Fe3+") is occupant("Fe3+")
    assert str(occupant("Fe3+").elements[0]) == "Fe3+"

"""Crystals without sites say what pymatgen's structures say."""

import numpy as np
from hypothesis import given, settings
from pymatgen.core import Structure

from materials.crystals.composition import amounts_of, species_of
from materials.crystals.crystal import crystal_from_json, crystal_of
from materials.crystals.serialization import structure_to_json
from tests.unit.materials import made_records as made


@settings(deadline=None, max_examples=60)
@given(structure=made.structures())
def test_a_crystal_is_its_structure_to_the_last_bit(structure: Structure) -> None:
    if not structure.is_ordered:
        return
    for crystal in (crystal_of(structure), crystal_from_json(structure_to_json(structure))):
        assert (crystal.matrix == structure.lattice.matrix).all()
        assert (crystal.frac_coords == structure.frac_coords).all()
        assert crystal.species == tuple(map(str, species_of(structure)))
        assert crystal.amounts == amounts_of(structure)
        assert list(crystal.amounts) == list(amounts_of(structure))
        assert crystal.volume == structure.volume
        assert crystal.structure() == structure


def test_volumes_of_skewed_cells_are_pymatgens() -> None:
    random = np.random.default_rng(0)
    for _ in range(1000):
        structure = Structure(random.normal(0, 5, (3, 3)), ["Li"], [[0, 0, 0]])
        assert crystal_of(structure).volume == structure.volume

"""The potential that a notebook loads."""

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.stress import voigt_6_to_full_3x3_stress
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from models import Potential

COPPER = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.5), ["Cu"], [[0, 0, 0]])
ALLOY = Structure(Lattice.cubic(3.0), ["Cu", "Au"], [[0, 0, 0], [0.52, 0.5, 0.5]])
SALT = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture(scope="module")
def potential() -> Potential:
    return Potential.load("ase", model="ase.calculators.emt:EMT", level_of_theory="EMT")


@pytest.mark.parametrize("structure", [COPPER, ALLOY], ids=["copper", "alloy"])
def test_it_evaluates_as_ase_does_signs_and_units_too(potential: Potential, structure: Structure) -> None:
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = EMT()
    (found,) = potential.evaluate([structure])
    assert found.energy == pytest.approx(atoms.get_potential_energy())
    assert found.forces == pytest.approx(atoms.get_forces(), abs=1e-9)
    assert found.stress == pytest.approx(voigt_6_to_full_3x3_stress(atoms.get_stress()), abs=1e-9)
    assert found.message == ""


def test_what_it_does_not_cover_is_nan_with_a_reason_and_its_neighbours_are_as_they_are(potential: Potential) -> None:
    disordered = Structure(Lattice.cubic(3.0), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    found = potential.evaluate([disordered, COPPER, COPPER])
    assert np.isnan(found[0].energy)
    assert "not one atom" in found[0].message
    assert found[1].energy == found[2].energy == pytest.approx(potential.evaluate([COPPER])[0].energy)
    assert potential.evaluate([]) == []


def test_it_relaxes_in_order(potential: Potential) -> None:
    relaxed = potential.relax([ALLOY, COPPER], fmax=0.02)
    assert [one.status for one in relaxed] == ["converged", "converged"]
    assert relaxed[1].structure.lattice.a == pytest.approx(3.59, abs=0.02)  # EMT's copper
    assert relaxed[0].structure.composition == ALLOY.composition
    (held,) = potential.relax([COPPER], cell="fixed")
    assert held.structure.lattice.a == pytest.approx(3.5)


def test_it_names_itself(potential: Potential) -> None:
    assert "EMT" in repr(potential)
    assert potential.correction is None

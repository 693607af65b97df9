from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materials.errors import AnchorMismatch, PotentialNotInstalled
from models.potentials.ase_calculator import AsePotential
from models.potentials.registry import identify, load_potential
from models.relaxation.relax import relax
from models.relaxation.settings import RelaxationSettings
from tests.unit.models.potentials import crystals
from tests.unit.models.potentials.contract import PotentialContract

LENNARD_JONES = {"sigma": 2.3, "epsilon": 0.4, "rc": 6.0, "smooth": True}


@pytest.fixture(scope="module")
def potential() -> AsePotential:
    return load_potential(
        "ase",
        model="ase.calculators.lj:LennardJones",
        level_of_theory="Lennard-Jones",
        calculator_arguments=LENNARD_JONES,
    )


class TestContract(PotentialContract):
    energy_noise = 1e-9
    force_noise = 1e-8
    step = 1e-4


def test_relaxes_to_the_known_minimum(potential: AsePotential) -> None:
    structure = Structure(Lattice.cubic(3.9), ["Ar"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    ((_, outcome),) = relax(potential, [structure], RelaxationSettings(fmax=1e-4))
    from ase.build import bulk
    from ase.calculators.lj import LennardJones

    energies = []
    spacings = np.linspace(3.3, 3.8, 51)
    for a in spacings:
        atoms = bulk("Ar", "fcc", a=a)
        atoms.calc = LennardJones(**LENNARD_JONES)
        energies.append(atoms.get_potential_energy())
    assert outcome.status == "converged"
    assert outcome.energy is not None
    assert outcome.energy / 4 <= min(energies) + 1e-6
    assert outcome.structure.volume ** (1 / 3) == pytest.approx(spacings[np.argmin(energies)], abs=0.01)


def test_a_calculator_that_raises_harms_nobody() -> None:
    emt = load_potential("ase", model="ase.calculators.emt:EMT", level_of_theory="EMT")
    copper, salt = crystals.copper(), crystals.half_heusler()
    outcomes = dict(relax(emt, [copper, salt, copper], RelaxationSettings()))
    assert [outcomes[k].status for k in range(3)] == ["converged", "failed", "converged"]
    assert "NotImplementedError" in outcomes[1].message
    assert outcomes[0].energy == pytest.approx(outcomes[2].energy)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(PotentialNotInstalled, match="import path"):
        identify("ase", model="EMT")
    with pytest.raises(PotentialNotInstalled, match="level_of_theory"):
        identify("ase", model="ase.calculators.emt:EMT")
    with pytest.raises(PotentialNotInstalled, match="install its package"):
        load_potential("ase", model="no_such_package:Calculator", level_of_theory="PBE")
    with pytest.raises(PotentialNotInstalled, match="raised TypeError"):
        load_potential(
            "ase",
            model="ase.build:bulk",
            level_of_theory="EMT",
            calculator_arguments={"no_such_argument": 1},
        )


def test_arguments_are_part_of_the_weights() -> None:
    path = "ase.calculators.lj:LennardJones"
    one, two = (
        identify("ase", model=path, level_of_theory="x", calculator_arguments={"sigma": s}).weights_hash
        for s in (1.0, 2.0)
    )
    assert one != two


def test_nonsense_is_caught_by_the_anchors() -> None:
    with pytest.raises(AnchorMismatch, match="MgO"):
        load_potential(
            "ase",
            model="ase.calculators.lj:LennardJones",
            level_of_theory="PBE",
            calculator_arguments=LENNARD_JONES,
        )

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure

from models.potentials import chgnet_kernel
from models.potentials.chgnet import ChgnetPotential
from models.potentials.interface import batch_of, crystal_of
from models.potentials.load import load_potential
from tests.unit.models.potentials import crystals
from tests.unit.models.potentials.contract import PotentialContract, ask

GPA = 160.21766208
no_electronegativity = pytest.mark.filterwarnings("ignore:No Pauling electronegativity:UserWarning")
# The package turns tensors that carry gradients into numbers; torch warns of it.
from_package = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")


@pytest.fixture(scope="module")
def potential() -> ChgnetPotential:
    return load_potential("chgnet")


@pytest.fixture(scope="module")
def package():
    from chgnet.model import CHGNet

    with contextlib.redirect_stdout(io.StringIO()):
        return CHGNet.load(use_device="cpu", verbose=False)


class TestContract(PotentialContract):
    slope_noise = 2e-2  # CHGNet's energy is rough where a bond passes 3 Å


class TestContractWithoutTheCompiledKernel(PotentialContract):
    slope_noise = 2e-2

    @pytest.fixture(scope="class")
    @classmethod
    def potential(cls) -> ChgnetPotential:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chgnet_kernel, "library", lambda: None)
            return load_potential("chgnet")


class TestContractInDoublePrecision(PotentialContract):
    energy_noise = 1e-9
    force_noise = 1e-6
    step = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def potential(cls) -> ChgnetPotential:
        return load_potential("chgnet", precision="float64")


def varied() -> list[Structure]:
    symmetric = [
        crystals.half_heusler(),
        crystals.spinel(),
        crystals.perovskite(),
        crystals.copper(),
        crystals.hematite(),
        crystals.layered(),
        crystals.molecule(),
        crystals.skewed(),
        crystals.perovskite() * (2, 1, 1),
        Structure(Lattice.cubic(2.9), ["W"], [[0, 0, 0]]),
        Structure(Lattice.cubic(5.2), ["Xe"], [[0, 0, 0]]),  # neighbours, but no bond short enough for an angle
    ]
    return symmetric + [crystals.shaken(structure, seed) for seed, structure in enumerate(symmetric[:9])]


def every_element() -> list[Structure]:
    """Disordered-looking cells of five elements that together hold all that CHGNet was trained on."""
    numbers = [n for n in range(1, 95) if n not in (84, 85, 86, 87, 88)]
    rng = np.random.default_rng(3)
    made = []
    for start in range(0, len(numbers), 5):
        symbols = [Element.from_Z(n).symbol for n in numbers[start : start + 5]]
        sites = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5]])[: len(symbols)]
        cell = Lattice.from_parameters(4.4, 4.7, 4.5, 80 + 3 * rng.random(), 95, 104)
        made.append(Structure(cell, symbols, sites + rng.normal(scale=0.02, size=sites.shape)))
    return made


@no_electronegativity
@from_package
def test_equals_the_package(potential: ChgnetPotential, package) -> None:
    structures = [*varied(), *every_element()]
    answer = ask(potential, [crystal_of(structure) for structure in structures])
    assert answer.problems == [None] * len(structures)
    for k, structure in enumerate(structures):
        expected = package.predict_structure(structure, return_crystal_feas=True)
        n = len(structure)
        assert answer.energies[k] / n == pytest.approx(float(expected["e"]), abs=1e-5)
        assert np.abs(answer.forces[k] - expected["f"]).max() < 1e-4
        assert np.abs(answer.stresses[k] - expected["s"] / GPA).max() < 1e-5
        assert answer.magmoms is not None
        assert answer.latents is not None
        assert np.abs(answer.magmoms[k] - expected["m"]).max() < 1e-4
        assert np.abs(answer.latents[k] - expected["crystal_fea"] / n).max() < 1e-3


def test_classes_change_nothing_but_the_work(potential: ChgnetPotential) -> None:
    from dataclasses import replace

    from models.neighbours import half_list
    from models.potentials.chgnet_graph import classes_of, geometry_of

    exact = replace(potential, merge=False)
    found = [crystal_of(structure) for structure in varied()]
    merged, full = ask(potential, found), ask(exact, found)
    for k, crystal in enumerate(found):
        assert merged.energies[k] == pytest.approx(full.energies[k], abs=2e-6 * len(crystal))
        assert np.abs(merged.forces[k] - full.forces[k]).max() < 5e-5
        assert np.abs(merged.stresses[k] - full.stresses[k]).max() < 2e-6
    spinel = batch_of([crystal_of(crystals.spinel())])
    geometry = geometry_of(spinel, half_list(spinel, 6.0), 3.0)
    classes = classes_of(geometry)
    assert len(classes.atom_number) == 3  # Mg, Al and O are one orbit each
    assert len(classes.message_bond) < 2 * len(geometry.length) / 10


def test_the_last_digits_do_not_depend_on_the_company(potential: ChgnetPotential) -> None:
    """Soft crystals would carry them on to another end: a campaign that was killed and goes on must find the same."""
    found = [crystal_of(structure) for structure in varied()]
    together = ask(potential, found)
    backwards = ask(potential, found[::-1])
    for k, crystal in enumerate(found):
        alone = ask(potential, [crystal])
        for other, place in ((alone, 0), (backwards, -1 - k)):
            assert other.energies[place] == pytest.approx(together.energies[k], abs=1e-9)
            assert np.abs(other.forces[place] - together.forces[k]).max() < 1e-6


def test_trouble_stays_with_its_crystal(potential: ChgnetPotential) -> None:
    good = crystal_of(crystals.half_heusler())
    coincident = crystal_of(Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 1e-9]]))
    isolated = crystal_of(Structure(Lattice.cubic(12), ["He"], [[0, 0, 0]]))
    flat = crystal_of(Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 3, 0.01]]), ["Na"], [[0, 0, 0]]))
    heavy = crystal_of(Structure(Lattice.cubic(4), ["Cm"], [[0, 0, 0]]))
    unknown = crystal_of(crystals.copper())
    unknown.positions[0, 0] = np.nan
    batch = ask(potential, [coincident, good, isolated, flat, heavy, unknown, good])
    alone = ask(potential, [good])
    assert [problem is None for problem in batch.problems] == [False, True, False, False, False, False, True]
    assert batch.energies[[1, 6]] == pytest.approx(alone.energies[0], abs=1e-6)
    assert np.isnan(batch.energies[[0, 2, 3, 4, 5]]).all()
    assert np.abs(batch.forces[6] - alone.forces[0]).max() < 1e-6
    assert "closer" in str(batch.problems[0])
    assert "no neighbour" in str(batch.problems[2])


@from_package
def test_r2scan_weights_equal_the_package() -> None:
    from chgnet.model import CHGNet

    potential = load_potential("chgnet", model="r2scan")
    with contextlib.redirect_stdout(io.StringIO()):
        package = CHGNet.load(model_name="r2scan", use_device="cpu", verbose=False)
    structure = crystals.shaken(crystals.perovskite(), 1)
    expected = package.predict_structure(structure)
    answer = ask(potential, [crystal_of(structure)])
    assert answer.energies[0] / len(structure) == pytest.approx(float(expected["e"]), abs=1e-5)
    assert np.abs(answer.forces[0] - expected["f"]).max() < 1e-4
    assert potential.level_of_theory == "r2SCAN"
    assert "Yb" not in potential.elements

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from materials.errors import AnchorMismatch, PotentialNotInstalled
from models.potentials.base import batch_of, crystal_of
from models.potentials.chgnet.identity import chgnet_path
from models.potentials.matgl.line_graph import line_graph
from models.potentials.matgl.potential import MatglPotential
from models.potentials.neighbor_list import half_list
from models.potentials.registry import identify, load_potential
from tests.unit.models.potentials import crystals
from tests.unit.models.potentials.contract import PotentialContract, ask

ELEMENTS = ("Li", "Zn", "P", "Sr", "Ti", "O")
GPA = 160.21766208
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


@pytest.fixture(scope="module", params=["TensorNet", "M3GNet", "CHGNet"])
def folder(request, tmp_path_factory) -> Path:
    """A model with random weights, saved as matgl saves: enough for parity, of no use for anything else."""
    import matgl.models
    from matgl.apps.pes import Potential

    torch.manual_seed(1)
    extensive = {} if request.param == "CHGNet" else {"is_intensive": False}
    model = getattr(matgl.models, request.param)(element_types=ELEMENTS, **extensive)
    target = tmp_path_factory.mktemp(request.param)
    Potential(model, data_std=1.7, element_refs=[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]).save(target)
    return target


@pytest.fixture(scope="module")
def potential(folder: Path) -> MatglPotential:
    return load_potential("matgl", model=str(folder), level_of_theory="random")


@pytest.fixture(scope="module")
def converted() -> MatglPotential:
    """CHGNet's own weights in matgl's CHGNet."""
    return load_potential("matgl", model="CHGNet-0.3.0")


class TestContract(PotentialContract):
    energy_noise = 1e-5
    force_noise = 2e-4
    slope_noise = 3e-2


class TestContractOfConvertedChgnet(PotentialContract):
    energy_noise = 5e-6
    slope_noise = 2e-2  # CHGNet's energy is rough where a bond passes 3 Å

    @pytest.fixture
    def potential(self, converted: MatglPotential) -> MatglPotential:
        return converted


class TestContractOfConvertedChgnetInDoublePrecision(PotentialContract):
    energy_noise = 1e-9
    force_noise = 1e-6
    step = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def potential(cls) -> MatglPotential:
        return load_potential("matgl", model="CHGNet-0.3.0", precision="float64")


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
        Structure(Lattice.cubic(5.2), ["Xe"], [[0, 0, 0]]),  # neighbours, but no bond short enough for an angle
    ]
    return symmetric + [crystals.shaken(structure, seed) for seed, structure in enumerate(symmetric)]


def assert_equals_its_calculator(potential: MatglPotential, pes, structures: list[Structure]) -> None:
    from matgl.ext.ase import PESCalculator

    calculator = PESCalculator(pes, stress_unit="eV/A3", use_voigt=True)
    answer = ask(potential, [crystal_of(structure) for structure in structures])
    for k, structure in enumerate(structures):
        atoms = AseAtomsAdaptor.get_atoms(structure)
        atoms.calc = calculator
        assert answer.energies[k] == pytest.approx(atoms.get_potential_energy(), abs=1e-5 * len(atoms))
        assert np.abs(answer.forces[k] - atoms.get_forces()).max() < 1e-4
        assert np.abs(answer.stresses[k] - atoms.get_stress(voigt=False)).max() < 1e-5
        assert (answer.magmoms is None) == ("magmoms" not in calculator.results)
        if answer.magmoms is not None:
            assert np.abs(answer.magmoms[k] - np.abs(calculator.results["magmoms"][:, 0])).max() < 1e-4


def test_equals_matgls_own_calculator(folder: Path, potential: MatglPotential) -> None:
    import matgl

    structures = [
        crystals.half_heusler(),
        crystals.shaken(crystals.half_heusler(), 1),
        crystals.shaken(crystals.perovskite() * (2, 1, 1), 2),
        crystals.skewed(),
    ]
    assert_equals_its_calculator(potential, matgl.load_model(folder), structures)


@pytest.mark.filterwarnings("ignore:No Pauling electronegativity:UserWarning")
def test_converted_chgnet_equals_matgls_own_calculator(converted: MatglPotential) -> None:
    from models.potentials.matgl.chgnet_weights import chgnet_in_matgl

    assert_equals_its_calculator(converted, chgnet_in_matgl(chgnet_path("0.3.0")), varied())


# The package turns tensors that carry gradients into numbers; torch warns of it.
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
@pytest.mark.filterwarnings("ignore:No Pauling electronegativity:UserWarning")
@pytest.mark.parametrize("name", ["0.3.0", "r2scan"])
def test_converted_chgnet_equals_its_package(name: str) -> None:
    from chgnet.model import CHGNet

    converted = load_potential("matgl", model=f"CHGNet-{name}")
    with contextlib.redirect_stdout(io.StringIO()):
        package = CHGNet.load(model_name=name, use_device="cpu", verbose=False)
    structures = varied()
    answer = ask(converted, [crystal_of(structure) for structure in structures])
    assert answer.magmoms is not None
    for k, structure in enumerate(structures):
        expected = package.predict_structure(structure)
        assert answer.energies[k] / len(structure) == pytest.approx(float(expected["e"]), abs=1e-5)
        assert np.abs(answer.forces[k] - expected["f"]).max() < 1e-4
        assert np.abs(answer.stresses[k] - expected["s"] / GPA).max() < 1e-5
        assert np.abs(answer.magmoms[k] - expected["m"]).max() < 1e-4


def test_what_converted_chgnet_is(converted: MatglPotential) -> None:
    said, package = identify("matgl", model="CHGNet-0.3.0"), identify("chgnet")
    assert (said.method, said.level_of_theory, said.correction) == ("matgl-CHGNet-0.3.0", "PBE+U/MP2020", None)
    assert (said.weights_hash, said.elements) == (package.weights_hash, package.elements)
    assert (converted.method, converted.weights_hash) == (said.method, said.weights_hash)
    (problem,) = ask(converted, [crystal_of(Structure(Lattice.cubic(3.3), ["Po"], [[0, 0, 0]]))]).problems
    assert problem is not None
    assert "does not cover" in problem


def test_a_checkpoint_of_another_architecture_is_refused() -> None:
    from models.potentials.matgl.chgnet_weights import chgnet_in_matgl

    older = chgnet_path("0.3.0").parent.parent / "0.2.0"
    with pytest.raises(PotentialNotInstalled, match="architecture"):
        chgnet_in_matgl(next(older.glob("*.pth.tar")))


def test_weights_for_another_version_of_matgl_are_refused(tmp_path: Path) -> None:
    """As those of matgl 2, whose messages put a centre's features before its neighbour's: elements alone are right."""
    from models.potentials.matgl.chgnet_weights import chgnet_in_matgl

    pes = chgnet_in_matgl(chgnet_path("0.3.0"))
    pes.save(tmp_path / "sound")
    loaded = load_potential("matgl", model=str(tmp_path / "sound"), level_of_theory="PBE+U/MP2020")
    for layer in pes.model.atom_graph_layers:
        for branch in (layer.conv.node_update_func.value, layer.conv.node_update_func.gate):
            neighbour, bond, centre = branch.layers[0].weight.data.split(64, dim=1)
            branch.layers[0].weight.data = torch.cat([centre, bond, neighbour], 1)
    pes.save(tmp_path / "swapped")
    with pytest.raises(AnchorMismatch, match="another version of its package"):
        load_potential("matgl", model=str(tmp_path / "swapped"), level_of_theory="PBE+U/MP2020")
    swapped = load_potential("matgl", model=str(tmp_path / "swapped"), level_of_theory="unknown")
    copper = crystal_of(crystals.copper())
    assert ask(swapped, [copper]).energies == pytest.approx(ask(loaded, [copper]).energies, abs=1e-5)


def test_the_line_graph_has_the_angles_of_matgls() -> None:
    from matgl.graph._compute import create_directed_line_graph

    batch = batch_of([crystal_of(structure) for structure in varied()])
    pairs = half_list(batch, 5.0)
    bonds = torch.stack([torch.cat([pairs.first, pairs.second]), torch.cat([pairs.second, pairs.first])])
    vectors = torch.cat([pairs.vector, -pairs.vector])
    images = torch.cat([pairs.shift, -pairs.shift]).double()
    for cutoff in (3.0, 0.1):
        mine, theirs = (
            made(bonds, images, vectors, vectors.norm(dim=1), cutoff)
            for made in (line_graph, create_directed_line_graph)
        )
        assert sorted(mine[0].T.tolist()) == sorted(theirs[0].T.tolist())
        for one, other in zip(mine[1:], theirs[1:], strict=True):
            assert torch.equal(one, other)


def test_its_identity_is_read_without_the_model(folder: Path, potential: MatglPotential) -> None:
    identity = identify("matgl", model=str(folder), level_of_theory="PBE")
    assert identity.elements == set(ELEMENTS)
    assert identity.weights_hash == potential.weights_hash


def test_what_is_missing_is_said(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PotentialNotInstalled, match="needs a model"):
        identify("matgl")
    with pytest.raises(PotentialNotInstalled, match="level_of_theory"):
        identify("matgl", model=str(folder))
    with pytest.raises(PotentialNotInstalled, match=r"lacks model\.json"):
        identify("matgl", model=str(tmp_path), level_of_theory="PBE")
    with contextlib.redirect_stderr(io.StringIO()):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(PotentialNotInstalled, match="give its folder"):
            identify("matgl", model="TensorNet-PES-MatPES-PBE-1900.1")

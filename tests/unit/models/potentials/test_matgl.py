from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pymatgen.io.ase import AseAtomsAdaptor

from materials.errors import PotentialNotInstalled
from models.potentials.interface import crystal_of
from models.potentials.load import identify, load_potential
from models.potentials.matgl import MatglPotential
from tests.unit.models.potentials import crystals
from tests.unit.models.potentials.contract import PotentialContract

ELEMENTS = ("Li", "Zn", "P", "Sr", "Ti", "O")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


@pytest.fixture(scope="module", params=["TensorNet", "M3GNet", "CHGNet"])
def folder(request, tmp_path_factory) -> Path:
    """A model with random weights, saved as matgl saves: enough for parity, of no use for anything else."""
    import matgl.models
    import torch
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


class TestContract(PotentialContract):
    energy_noise = 1e-5
    force_noise = 2e-4
    slope_noise = 3e-2


def test_equals_matgls_own_calculator(folder: Path, potential: MatglPotential) -> None:
    import matgl
    from matgl.ext.ase import PESCalculator

    calculator = PESCalculator(matgl.load_model(folder), stress_unit="eV/A3", use_voigt=True)
    structures = [
        crystals.half_heusler(),
        crystals.shaken(crystals.half_heusler(), 1),
        crystals.shaken(crystals.perovskite() * (2, 1, 1), 2),
        crystals.skewed(),
    ]
    answer = potential.evaluate([crystal_of(structure) for structure in structures])
    for k, structure in enumerate(structures):
        atoms = AseAtomsAdaptor.get_atoms(structure)
        atoms.calc = calculator
        assert answer.energies[k] == pytest.approx(atoms.get_potential_energy(), abs=1e-5 * len(atoms))
        assert np.abs(answer.forces[k] - atoms.get_forces()).max() < 1e-4
        assert np.abs(answer.stresses[k] - atoms.get_stress(voigt=False)).max() < 1e-5


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

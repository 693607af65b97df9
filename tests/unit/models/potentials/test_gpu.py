"""The same on a GPU: the contract, the package's numbers, relaxations that end as on the CPU."""

from __future__ import annotations

import pytest
import torch

from models.potentials.base import batch_of, crystal_of
from models.potentials.chgnet.potential import ChgnetPotential
from models.potentials.neighbor_list import half_list
from models.potentials.registry import load_potential
from models.relaxation.relax import relax
from models.relaxation.settings import RelaxationSettings
from tests.unit.models.potentials import crystals
from tests.unit.models.potentials.contract import PotentialContract, ask

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


@pytest.fixture(scope="module")
def potential() -> ChgnetPotential:
    return load_potential("chgnet", device="cuda")


class TestContract(PotentialContract):
    slope_noise = 2e-2
    force_noise = 1e-4


def pool() -> list[crystals.Structure]:
    ideal = [crystals.half_heusler(), crystals.spinel(), crystals.perovskite(), crystals.layered(), crystals.hematite()]
    return [*ideal, *(crystals.shaken(structure, seed) for seed, structure in enumerate(ideal * 4))]


def test_equals_the_cpu(potential: ChgnetPotential) -> None:
    found = [crystal_of(structure) for structure in pool()]
    here, there = ask(load_potential("chgnet"), found), ask(potential, found)
    for k, crystal in enumerate(found):
        assert there.energies[k] == pytest.approx(here.energies[k], abs=1e-5 * len(crystal))
        assert abs(there.forces[k] - here.forces[k]).max() < 1e-4
        assert abs(there.stresses[k] - here.stresses[k]).max() < 1e-5


def test_pairs_are_found_on_the_device() -> None:
    batch = batch_of([crystal_of(structure) for structure in pool()])
    here, there = half_list(batch, 6.0), half_list(batch_of(batch.crystals(), "cuda"), 6.0)
    assert there.first.device.type == "cuda"
    lengths = [pairs.vector.norm(dim=1).cpu().sort().values for pairs in (here, there)]
    assert torch.allclose(*lengths, atol=1e-9)


@pytest.mark.parametrize("keep_symmetry", [False, True])
def test_relaxations_end_as_on_the_cpu(potential: ChgnetPotential, keep_symmetry: bool) -> None:
    settings = RelaxationSettings(keep_symmetry=keep_symmetry)
    here = dict(relax(load_potential("chgnet"), pool(), settings))
    there = dict(relax(potential, pool(), settings))
    for k, structure in enumerate(pool()):
        assert there[k].status == here[k].status == "converged"
        assert there[k].energy == pytest.approx(here[k].energy, abs=2e-3 * len(structure))

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core import Structure

from materials.errors import AnchorMismatch, PotentialNotInstalled
from models.potentials.base import Crystal, Potential, batch_of, crystal_of
from models.potentials.registry import identify, load_potential
from models.potentials.torch_sim_model import TorchSimPotential, state_of
from models.relaxation.relax import relax
from models.relaxation.settings import RelaxationSettings
from tests.unit.models.potentials import crystals
from tests.unit.models.potentials.contract import PotentialContract, ask
from tests.unit.models.potentials.crystals import shaken

BALLS = "tests.peers.torchsim_balls:Balls"
LENNARD_JONES = {"sigma": 2.3, "epsilon": 0.4, "rc": 6.0}


def balls(**more: Any) -> TorchSimPotential:
    potential = load_potential(
        "torchsim",
        model=BALLS,
        level_of_theory="Lennard-Jones",
        precision="float64",
        calculator_arguments=LENNARD_JONES | more,
    )
    assert isinstance(potential, TorchSimPotential)
    return potential


@pytest.fixture(scope="module")
def chgnet() -> Potential:
    model = "tests.peers.torchsim_chgnet:ChgnetModel"
    return load_potential("torchsim", model=model, level_of_theory="PBE+U/MP2020")


class TestContractOfBalls(PotentialContract):
    energy_noise = 1e-9
    force_noise = 1e-8
    step = 1e-4

    @pytest.fixture
    def potential(self) -> Potential:
        return balls()


class TestContractOfChgnet(PotentialContract):
    slope_noise = 2e-2  # CHGNet's energy is rough where a bond passes 3 Å

    @pytest.fixture
    def potential(self, chgnet: Potential) -> Potential:
        return chgnet

    def test_is_chgnet(self, potential: Potential, crystals: list[Crystal]) -> None:
        here, there = ask(potential, crystals), ask(load_potential("chgnet"), crystals)
        for k, crystal in enumerate(crystals):
            assert here.energies[k] == pytest.approx(there.energies[k], abs=1e-6 * len(crystal))
            assert np.abs(here.forces[k] - there.forces[k]).max() < 1e-5
            assert np.abs(here.stresses[k] - there.stresses[k]).max() < 1e-6


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_is_what_ase_says_of_the_same_calculator(precision: str) -> None:
    theirs = load_potential(
        "ase",
        model="ase.calculators.lj:LennardJones",
        level_of_theory="Lennard-Jones",
        calculator_arguments=LENNARD_JONES | {"smooth": True},
    )
    far = crystals.skewed()
    far.translate_sites(list(range(len(far))), [40.0, -30.0, 0.3], frac_coords=True, to_unit_cell=False)
    found = [crystal_of(s) for s in (shaken(crystals.perovskite(), 1), shaken(crystals.hematite(), 2), far)]
    here, there = ask(balls(dtype=precision), found), ask(theirs, found)
    exact = precision == "float64"
    for k, crystal in enumerate(found):
        assert here.energies[k] == pytest.approx(there.energies[k], abs=1e-10 * len(crystal), rel=0 if exact else 1e-5)
        assert np.abs(here.forces[k] - there.forces[k]).max() < (1e-9 if exact else 1e-3)
        assert np.abs(here.stresses[k] - there.stresses[k]).max() < (1e-10 if exact else 1e-4)


def test_states_are_what_torch_sim_makes_of_the_structures() -> None:
    from torch_sim.io import structures_to_state

    found = [shaken(crystals.perovskite(), 1), crystals.copper(), shaken(crystals.layered(), 3)]
    inside = [Structure(s.lattice, s.species, s.frac_coords % 1) for s in found]
    there = structures_to_state(inside, torch.device("cpu"), torch.float64)
    here = state_of(batch_of([crystal_of(s) for s in found]), torch.float64)
    assert torch.equal(here.cell, there.cell)
    assert torch.allclose(here.positions, there.positions, atol=1e-12)
    for name in ("atomic_numbers", "system_idx"):
        assert torch.equal(getattr(here, name), getattr(there, name))
        assert getattr(here, name).dtype == getattr(there, name).dtype
    assert np.array_equal(here.pbc, there.pbc)
    turned = replace(crystal_of(found[0]), cell=-found[0].lattice.matrix)
    assert torch.allclose(state_of(batch_of([turned]), torch.float64).cell, here.cell[:1], atol=1e-12)
    assert here.masses.shape == there.masses.shape


def test_a_model_of_torch_sims_own_answers_as_torch_sim_lets_it() -> None:
    from torch_sim import static

    cubic = shaken(crystals.perovskite(), 1, strain=0.0)  # its own pair potentials take no other cells, see there
    found = [cubic, cubic * (2, 1, 1)]
    potential = load_potential(
        "torchsim",
        model="torch_sim.models.lennard_jones:LennardJonesModel",
        level_of_theory="Lennard-Jones",
        precision="float64",
        calculator_arguments={"sigma": 2.3, "epsilon": 0.4},
    )
    assert isinstance(potential, TorchSimPotential)
    assert potential.model.dtype == torch.float64
    there = static(found, potential.model)
    here = ask(potential, [crystal_of(structure) for structure in found])
    for k in range(2):
        assert here.energies[k] == pytest.approx(there[k]["potential_energy"].item(), abs=1e-10)
        assert np.abs(here.forces[k] - there[k]["forces"].numpy()).max() < 1e-9
        assert np.abs(here.stresses[k] - there[k]["stress"].numpy()).max() < 1e-10


def test_all_crystals_go_in_one_pass_and_what_is_wrong_stays_out() -> None:
    potential = balls()
    good = crystal_of(crystals.half_heusler())
    close = replace(good, positions=good.positions * [1, 1, 0] * 1e-3)
    lost = replace(good, positions=good.positions + np.nan)
    ghost = replace(good, numbers=good.numbers * 0)
    answer = ask(potential, [good, close, lost, ghost, good])
    assert [problem is None for problem in answer.problems] == [True, False, False, False, True]
    assert "closer than" in str(answer.problems[1])
    assert np.isnan(answer.energies[1:4]).all()
    assert answer.energies[0] == answer.energies[4] == ask(potential, [good]).energies[0]
    assert potential.model.passes == [2, 1]


def test_a_model_that_raises_harms_nobody() -> None:
    copper = crystals.copper()
    krypton = crystals.copper()
    krypton.replace(0, "Kr")
    outcomes = dict(relax(balls(), [copper, krypton, copper], RelaxationSettings()))
    assert [outcomes[k].status for k in range(3)] == ["converged", "failed", "converged"]
    assert "not to my taste" in outcomes[1].message


def test_costs_go_with_what_the_model_says_of_its_memory() -> None:
    wide = crystals.copper()
    wide.scale_lattice(2 * wide.volume)
    batch = batch_of([crystal_of(crystals.copper()), crystal_of(wide)])
    one, other = balls().costs(batch).tolist()
    assert one == pytest.approx(2 * other)
    assert balls(memory="n_atoms").costs(batch).tolist() == [1.0, 1.0]


def test_the_models_elements_count_where_it_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.peers import torchsim_balls

    class Table:
        zs = (29, 47)

    monkeypatch.setattr(torchsim_balls.Balls, "z_table", Table, raising=False)
    potential = balls()
    assert potential.elements == {"Cu", "Ag"}
    assert "does not cover" in str(ask(potential, [crystal_of(crystals.half_heusler())]).problems[0])


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PotentialNotInstalled, match="a torchsim potential is an import path"):
        identify("torchsim", model="MaceModel")
    with pytest.raises(PotentialNotInstalled, match="level_of_theory"):
        identify("torchsim", model=BALLS)
    for path in ("no_such_package:Model", "tests.peers.torchsim_balls:Bricks"):
        with pytest.raises(PotentialNotInstalled, match="install its package"):
            load_potential("torchsim", model=path, level_of_theory="PBE")
    with pytest.raises(PotentialNotInstalled, match="raised TypeError"):
        balls(no_such_argument=1)
    with pytest.raises(PotentialNotInstalled, match="raised TypeError"):
        load_potential("torchsim", model="ase:__version__", level_of_theory="PBE")
    with pytest.raises(PotentialNotInstalled, match="Atoms: not a ModelInterface"):
        load_potential("torchsim", model="ase:Atoms", level_of_theory="PBE")
    with pytest.raises(PotentialNotInstalled, match="no stress"):
        balls(compute_stress=False)
    monkeypatch.delitem(sys.modules, "torch_sim.models.mace", raising=False)
    monkeypatch.setitem(sys.modules, "mace", None)
    with pytest.raises(PotentialNotInstalled, match=r"MaceModel with .* raised .*; ModuleNotFoundError: .*mace"):
        load_potential("torchsim", model="torch_sim.models.mace:MaceModel", level_of_theory="PBE")
    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    with pytest.raises(PotentialNotInstalled, match="pip install 'torch-sim-atomistic"):
        balls()


def test_it_is_identified_by_path_arguments_and_version() -> None:
    one, two = (
        identify("torchsim", model=BALLS, level_of_theory="x", calculator_arguments={"sigma": s}) for s in (1.0, 2.0)
    )
    assert one.weights_hash != two.weights_hash
    lennard_jones = "torch_sim.models.lennard_jones:LennardJonesModel"
    assert identify("torchsim", model=lennard_jones, level_of_theory="x").method.endswith("LennardJonesModel-0.3.0")


def test_nonsense_is_caught_by_the_anchors() -> None:
    with pytest.raises(AnchorMismatch, match="MgO"):
        load_potential("torchsim", model=BALLS, level_of_theory="PBE", calculator_arguments=LENNARD_JONES)

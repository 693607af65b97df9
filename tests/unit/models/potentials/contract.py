"""What every potential must do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from pymatgen.core import Structure
from scipy.spatial.transform import Rotation

from models.potentials.base import Crystal, Potential, batch_of, crystal_of
from tests.unit.models.potentials.crystals import half_heusler, perovskite, shaken


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An evaluation as arrays, what belongs to atoms taken apart by crystal."""

    energies: np.ndarray
    forces: list[np.ndarray]
    stresses: np.ndarray
    latents: np.ndarray | None
    magmoms: list[np.ndarray] | None
    problems: list[str | None]


def ask(potential: Potential, crystals: Sequence[Crystal]) -> Answer:
    answer = potential.evaluate(batch_of(crystals, potential.device))
    ends = np.cumsum([len(crystal) for crystal in crystals])[:-1]
    return Answer(
        energies=answer.energies.cpu().numpy(),
        forces=np.split(answer.forces.cpu().numpy(), ends) if crystals else [],
        stresses=answer.stresses.cpu().numpy(),
        latents=None if answer.latents is None else answer.latents.cpu().numpy(),
        magmoms=None if answer.magmoms is None else np.split(answer.magmoms.cpu().numpy(), ends),
        problems=[answer.problems.get(k) for k in range(len(crystals))],
    )


class PotentialContract:
    """Inherit, and give a fixture `potential`; `structures` where the potential covers other elements."""

    energy_noise = 2e-6  # eV/atom
    force_noise = 5e-5  # eV/Å
    slope_noise = 2e-3  # relative, of finite differences
    step = 1e-3  # Å of displacement and, halved, of strain

    @pytest.fixture
    def structures(self) -> list[Structure]:
        return [shaken(half_heusler(), 5), shaken(perovskite(), 6)]

    @pytest.fixture
    def crystals(self, structures: list[Structure]) -> list[Crystal]:
        return [crystal_of(structure) for structure in structures]

    def test_names_itself(self, potential: Potential, structures: list[Structure]) -> None:
        assert potential.method
        assert potential.level_of_theory
        assert len(potential.weights_hash) == 16
        for structure in structures:
            assert {site.specie.symbol for site in structure} <= potential.elements

    def test_an_empty_batch(self, potential: Potential) -> None:
        answer = ask(potential, [])
        assert answer.energies.shape == (0,)
        assert answer.stresses.shape == (0, 3, 3)
        assert answer.forces == []

    def test_a_batch_equals_its_members(self, potential: Potential, crystals: list[Crystal]) -> None:
        together = ask(potential, crystals)
        for k, crystal in enumerate(crystals):
            alone = ask(potential, [crystal])
            assert together.problems[k] is None
            assert together.energies[k] == pytest.approx(alone.energies[0], abs=self.energy_noise * len(crystal))
            assert np.abs(together.forces[k] - alone.forces[0]).max() < self.force_noise
            assert np.abs(together.stresses[k] - alone.stresses[0]).max() < self.force_noise / 10
            if alone.latents is not None:
                assert together.latents is not None
                assert np.abs(together.latents[k] - alone.latents[0]).max() < 1e-3

    def test_a_supercell_has_so_many_times_the_energy(self, potential: Potential, structures: list[Structure]) -> None:
        small, large = (ask(potential, [crystal_of(s)]) for s in (structures[0], structures[0] * (1, 2, 1)))
        n = len(structures[0])
        assert large.energies[0] == pytest.approx(2 * small.energies[0], abs=2 * n * self.energy_noise)
        assert np.abs(large.stresses[0] - small.stresses[0]).max() < self.force_noise / 10
        if small.latents is not None:
            assert large.latents is not None
            assert np.abs(large.latents[0] - small.latents[0]).max() < 1e-3

    def test_turning_moving_and_renumbering_change_nothing(self, potential: Potential, crystals: list[Crystal]) -> None:
        crystal = crystals[1]
        turn = Rotation.from_rotvec([0.4, -0.9, 0.7]).as_matrix()
        order = np.random.default_rng(1).permutation(len(crystal))
        other = Crystal(
            numbers=crystal.numbers[order],
            positions=(crystal.positions[order] + [0.3, -4.0, 17.0]) @ turn.T,
            cell=crystal.cell @ turn.T,
        )
        one, two = ask(potential, [crystal]), ask(potential, [other])
        assert two.energies[0] == pytest.approx(one.energies[0], abs=4 * self.energy_noise * len(crystal))
        assert np.abs(two.forces[0] - one.forces[0][order] @ turn.T).max() < 2 * self.force_noise
        assert np.abs(two.stresses[0] - turn @ one.stresses[0] @ turn.T).max() < self.force_noise / 5

    def test_forces_are_the_slope_of_the_energy(self, potential: Potential, crystals: list[Crystal]) -> None:
        rng = np.random.default_rng(2)
        for crystal in crystals:
            direction = rng.normal(size=crystal.positions.shape)
            h = self.step
            ends = [replace(crystal, positions=crystal.positions + sign * h * direction) for sign in (1, -1)]
            up, down = ask(potential, ends).energies
            expected = -float(np.vdot(ask(potential, [crystal]).forces[0], direction))
            noise = len(crystal) * self.energy_noise / h
            assert (up - down) / (2 * h) == pytest.approx(expected, rel=self.slope_noise, abs=noise)

    def test_stress_is_the_slope_of_the_energy(self, potential: Potential, crystals: list[Crystal]) -> None:
        rng = np.random.default_rng(3)
        for crystal in crystals:
            direction = rng.normal(size=(3, 3))
            direction += direction.T
            h = self.step / 2
            strains = [np.eye(3) + sign * h * direction for sign in (1, -1)]
            ends = [replace(crystal, positions=crystal.positions @ s, cell=crystal.cell @ s) for s in strains]
            up, down = ask(potential, ends).energies
            volume = abs(np.linalg.det(crystal.cell))
            expected = volume * float(np.vdot(ask(potential, [crystal]).stresses[0], direction))
            noise = len(crystal) * self.energy_noise / h
            assert (up - down) / (2 * h) == pytest.approx(expected, rel=self.slope_noise, abs=noise)

    def test_a_larger_crystal_costs_more(self, potential: Potential, structures: list[Structure]) -> None:
        found = [crystal_of(s) for s in (structures[0], structures[0] * (2, 2, 2))]
        costs = potential.costs(batch_of(found, potential.device)).tolist()
        assert 0 < costs[0] < costs[1]
        assert potential.batch_cost > 0

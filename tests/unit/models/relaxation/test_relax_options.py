"""Held sites, a stress criterion, trajectories, and memory that ran out once: what a user may ask of a relaxation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from materials.errors import DeviceLost
from models.potentials.base import Batch, Evaluation, Potential, fixed_sites
from models.potentials.registry import load_potential
from models.relaxation.relax import Relaxed, relax
from models.relaxation.settings import RelaxationSettings

FILTERS = {
    "free": {},
    "fixed": {"mask": [False] * 6},
    "fixed_shape": {"hydrostatic_strain": True},
    "fixed_volume": {"constant_volume": True},
}


@pytest.fixture(scope="module")
def emt() -> Potential:
    return load_potential("ase", model="ase.calculators.emt:EMT", level_of_theory="EMT")


def alloy(seed: int, held: Sequence[int] = ()) -> Structure:
    """Eight atoms of four metals on a shaken fcc lattice."""
    rng = np.random.default_rng(seed)
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.8), ["Cu"], [[0, 0, 0]]) * (2, 1, 1)
    for site, symbol in ((1, "Ni"), (2, "Au"), (5, "Pd")):
        structure.replace(site, symbol)
    structure.perturb(0.1, seed=seed)
    structure.apply_strain(rng.uniform(-0.02, 0.02, 3))
    if len(held):
        structure.add_site_property("selective_dynamics", [[i not in held] * 3 for i in range(len(structure))])
    return structure


def one(potential: Potential, structure: Structure, **options: object) -> Relaxed:
    ((_, outcome),) = relax(potential, [structure], RelaxationSettings(**options))
    return outcome


def residual(outcome: Relaxed, cell: str, pressure: float) -> float:
    """The largest force that ASE sees, cell included (eV/Å)."""
    held = fixed_sites(outcome.structure)
    atoms = AseAtomsAdaptor.get_atoms(outcome.structure.copy(site_properties={}), msonable=False)
    atoms.calc = EMT()
    atoms.set_constraint(FixAtoms(mask=held))
    forces = FrechetCellFilter(atoms, scalar_pressure=pressure, **FILTERS[cell]).get_forces()
    return float(np.linalg.norm(forces, axis=1).max())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 50),
    cell=st.sampled_from(sorted(FILTERS)),
    pressure=st.sampled_from([-0.01, 0.0, 0.03]),
    held=st.sets(st.integers(0, 7), max_size=4),
    max_steps=st.sampled_from([3, 500]),
)
def test_no_status_is_better_than_ases_verdict(
    emt: Potential, seed: int, cell: str, pressure: float, held: set[int], max_steps: int
) -> None:
    outcome = one(emt, alloy(seed, sorted(held)), cell=cell, pressure=pressure, max_steps=max_steps)
    assert outcome.status in ("converged", "max_steps")
    assert (residual(outcome, cell, pressure) < 0.05 + 1e-6) == (outcome.status == "converged")


# What pulls two atoms into each other, and where it leaves them is at rest.
BOTTOMLESS = {"r0": 0.4, "epsilon": 10.0, "rho0": 1.0, "rcut1": 6.0, "rcut2": 6.9}


@pytest.mark.parametrize("cell", sorted(FILTERS))
@pytest.mark.parametrize("max_steps", [4, 500])
def test_a_collapsed_crystal_has_not_converged(cell: str, max_steps: int) -> None:
    morse = load_potential(
        "ase", model="ase.calculators.morse:MorsePotential", level_of_theory="Morse", calculator_arguments=BOTTOMLESS
    )
    lattice = Lattice.cubic(4.2)
    near, far = (Structure(lattice, ["Na", "Cl"], [[0, 0, 0], [x, x, x]]) for x in (0.22, 0.5))
    (_, collapsed), (_, still) = sorted(
        relax(morse, [near, far], RelaxationSettings(cell=cell, max_steps=max_steps)), key=lambda found: found[0]
    )
    distance = collapsed.structure.get_distance(0, 1)
    if cell != "fixed_shape":  # whose atoms are brought together by their forces as well
        assert distance < 1
    assert collapsed.status == "exploded"
    assert f"Na and Cl are {distance:.2f} Å apart" in collapsed.message
    assert still.status == "converged"


def test_held_sites_stay_where_they_are_in_the_cell(emt: Potential) -> None:
    structure = alloy(3, held=[0, 4])
    outcome = one(emt, structure)
    moved = np.abs(outcome.structure.frac_coords - structure.frac_coords).max(axis=1)
    assert moved[[0, 4]].max() < 1e-12
    assert moved[[1, 2, 3, 5, 6, 7]].min() > 1e-5
    assert not np.allclose(outcome.structure.lattice.matrix, structure.lattice.matrix)
    assert fixed_sites(outcome.structure).tolist() == fixed_sites(structure).tolist()
    assert outcome.max_force < 0.05
    assert outcome.energy > one(emt, alloy(3)).energy


def test_a_site_held_in_part_is_told_and_not_guessed(emt: Potential) -> None:
    structure = alloy(0)
    structure.add_site_property("selective_dynamics", [[True, True, False], *[[True] * 3] * 7])
    outcome = one(emt, structure)
    assert outcome.status == "unsupported"
    assert "site 0" in outcome.message


@pytest.mark.parametrize("flags", [[True, False] * 4, [[True, True]] * 8])
def test_flags_of_another_shape_are_told(emt: Potential, flags: list[object]) -> None:
    structure = alloy(0)
    structure.add_site_property("selective_dynamics", flags)
    outcome = one(emt, structure)
    assert outcome.status == "unsupported"
    assert "three flags" in outcome.message


def test_all_sites_held_leaves_the_cell_to_relax(emt: Potential) -> None:
    outcome = one(emt, alloy(1, held=range(8)))
    assert outcome.status == "converged"
    assert outcome.max_force == 0.0


def test_fixed_positions_and_shape_leave_the_volume_that_ase_finds(emt: Potential) -> None:
    structure = Structure(Lattice.cubic(3.4), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.45, 0.4]])
    outcome = one(emt, structure, cell="fixed_shape", positions="fixed", fmax=1e-4)
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = EMT()
    atoms.set_constraint(FixAtoms(mask=[True] * len(atoms)))
    LBFGS(FrechetCellFilter(atoms, hydrostatic_strain=True), logfile=None).run(fmax=1e-4)
    assert outcome.status == "converged"
    assert np.allclose(outcome.structure.frac_coords, structure.frac_coords)
    assert outcome.structure.lattice.angles == pytest.approx((90, 90, 90))
    assert outcome.structure.volume == pytest.approx(atoms.get_volume(), rel=1e-4)
    assert "selective_dynamics" not in outcome.structure.site_properties


def test_a_stress_criterion_is_met_in_its_own_terms(emt: Potential) -> None:
    loose = one(emt, alloy(5), fmax=0.02, pressure=0.01)
    tight = one(emt, alloy(5), fmax=0.02, pressure=0.01, max_stress=1e-5)
    stress = AseAtomsAdaptor.get_atoms(tight.structure, msonable=False)
    stress.calc = EMT()
    excess = stress.get_stress(voigt=False) + 0.01 * np.eye(3)
    assert tight.status == "converged"
    assert np.abs(excess).max() < 1e-5 + 1e-9
    assert tight.n_steps > loose.n_steps
    squeezed = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.4), ["Cu"], [[0, 0, 0]])  # no forces, much stress
    generous = one(emt, squeezed, max_stress=10.0)
    assert (generous.status, generous.n_steps) == ("converged", 0)
    assert residual(generous, "free", 0.0) > 0.05  # the virial was not asked for


def test_options_that_are_not_used_leave_the_settings_hash_alone() -> None:
    plain = RelaxationSettings().content()
    assert RelaxationSettings(trajectory=True).content() == plain
    assert RelaxationSettings(max_stress=0.01).content() != plain
    assert RelaxationSettings(positions="fixed").content() != plain
    assert set(plain) == {"fmax", "max_steps", "cell", "pressure", "keep_symmetry", "symprec"}


def test_a_trajectory_goes_downhill_from_the_first_structure_to_the_last(emt: Potential) -> None:
    structure = alloy(7)
    outcome = one(emt, structure, trajectory=True)
    energies = [point.energy for point in outcome.trajectory]
    assert len(energies) > 3
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] == outcome.energy
    assert np.allclose(outcome.trajectory[0].crystal.positions, structure.cart_coords)
    for point in outcome.trajectory[::3]:
        atoms = AseAtomsAdaptor.get_atoms(structure.copy(site_properties={}), msonable=False)
        atoms.set_cell(point.crystal.cell)
        atoms.positions = point.crystal.positions
        atoms.calc = EMT()
        assert point.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert np.allclose(point.forces, atoms.get_forces(), atol=1e-9)
    assert one(emt, structure).trajectory == ()


@dataclass(kw_only=True)
class Cramped:
    """EMT on a device whose memory holds `room` atoms."""

    inner: Potential
    room: int
    method: str
    level_of_theory: str = "EMT"
    correction: None = None
    weights_hash: str = "0" * 16
    batch_cost: float = 64.0
    overflows: int = 0
    batches: list[int] = field(default_factory=list)

    @property
    def elements(self) -> frozenset[str]:
        return self.inner.elements

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def costs(self, batch: Batch) -> torch.Tensor:
        return batch.sizes.double()

    def evaluate(self, batch: Batch) -> Evaluation:
        atoms = len(batch.numbers)
        self.batches.append(atoms)
        if atoms > self.room:
            self.overflows += 1
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.inner.evaluate(batch)


def test_memory_that_ran_out_is_remembered_by_the_next_chunk(emt: Potential) -> None:
    cramped = Cramped(inner=emt, room=40, method="cramped")
    pool = [alloy(seed) for seed in range(12)]
    first = dict(relax(cramped, pool, RelaxationSettings()))
    assert {outcome.status for outcome in first.values()} == {"converged"}
    assert cramped.overflows == 1
    cramped.batches.clear()
    assert all(outcome.status == "converged" for _, outcome in relax(cramped, pool, RelaxationSettings()))
    assert cramped.overflows == 1
    assert max(cramped.batches) <= 40


def test_a_lost_gpu_is_no_crystals_fault(emt: Potential) -> None:
    class Lost(Cramped):
        def evaluate(self, batch: Batch) -> Evaluation:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(DeviceLost, match="illegal memory access"):
        list(relax(Lost(inner=emt, room=40, method="lost"), [alloy(0), alloy(1)], RelaxationSettings()))


def test_a_crystal_that_alone_does_not_fit_fails_alone(emt: Potential) -> None:
    cramped = Cramped(inner=emt, room=15, method="cramped by one")
    outcomes = dict(relax(cramped, [alloy(0), alloy(1) * (2, 1, 1), alloy(2)], RelaxationSettings()))
    assert [outcomes[k].status for k in range(3)] == ["converged", "out_of_memory", "converged"]
    assert "out of memory" in outcomes[1].message


def test_a_crystal_that_fits_nowhere_says_nothing_of_the_others(emt: Potential) -> None:
    cramped = Cramped(inner=emt, room=63, method="cramped by a giant")
    outcomes = dict(relax(cramped, [alloy(0) * (2, 2, 2)], RelaxationSettings()))
    assert outcomes[0].status == "out_of_memory"
    cramped.batches.clear()
    pool = [alloy(seed) for seed in range(7)]
    assert all(outcome.status == "converged" for _, outcome in relax(cramped, pool, RelaxationSettings()))
    assert max(cramped.batches) == 56

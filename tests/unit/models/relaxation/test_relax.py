from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import moyopy
import numpy as np
import pytest
import torch
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from models.potentials.base import Batch, Crystal, Evaluation, Potential, crystal_of, fixed_sites
from models.potentials.registry import load_potential
from models.relaxation.relax import Relaxed, relax
from models.relaxation.settings import RelaxationSettings
from tests.unit.models.potentials import crystals
from tests.unit.models.potentials.contract import ask

from_package = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")


@pytest.fixture(scope="module")
def potential() -> Potential:
    return load_potential("chgnet")


def relaxed(potential: Potential, structures: Sequence[Structure], **settings: object) -> list[Relaxed]:
    found = list(relax(potential, structures, RelaxationSettings(**settings)))
    assert sorted(index for index, _ in found) == list(range(len(structures)))
    return [outcome for _, outcome in sorted(found, key=lambda pair: pair[0])]


def everyday() -> list[Structure]:
    return [
        crystals.half_heusler(),
        crystals.shaken(crystals.half_heusler(), 1),
        crystals.shaken(crystals.perovskite(), 2),
        crystals.spinel(),
        crystals.shaken(crystals.layered(), 3),
        crystals.shaken(crystals.copper(), 4),
    ]


@from_package
def test_ase_agrees_that_it_has_converged_and_where(potential: Potential) -> None:
    from ase.optimize import BFGS
    from chgnet.model.dynamics import CHGNetCalculator

    with contextlib.redirect_stdout(io.StringIO()):
        calculator = CHGNetCalculator(use_device="cpu")
    structures = everyday()
    outcomes = relaxed(potential, structures)
    for outcome in outcomes:
        assert outcome.status == "converged"
        atoms = AseAtomsAdaptor.get_atoms(outcome.structure)
        atoms.calc = calculator
        assert np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1).max() < 0.0505
        assert outcome.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5 * len(atoms))
    atoms = AseAtomsAdaptor.get_atoms(structures[2])
    atoms.calc = calculator
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.05, steps=200)
    assert outcomes[2].energy == pytest.approx(atoms.get_potential_energy(), abs=1e-3 * len(atoms))
    assert StructureMatcher().fit(outcomes[2].structure, AseAtomsAdaptor.get_structure(atoms))


def test_neighbours_in_the_batch_do_not_matter(potential: Potential) -> None:
    together = relaxed(potential, everyday())
    for structure, outcome in zip(everyday(), together, strict=True):
        (alone,) = relaxed(potential, [structure])
        assert outcome.energy == pytest.approx(alone.energy, abs=1e-9)
        assert outcome.n_steps == alone.n_steps


@pytest.mark.parametrize("cell", ["fixed", "fixed_shape", "fixed_volume"])
def test_what_is_to_stay_stays(potential: Potential, cell: str) -> None:
    structure = crystals.shaken(crystals.half_heusler(), 7)
    (outcome,) = relaxed(potential, [structure], cell=cell)
    assert outcome.status == "converged"
    assert outcome.max_force is not None
    assert outcome.max_force < 0.05
    before, after = structure.lattice, outcome.structure.lattice
    if cell == "fixed":
        assert np.abs(before.matrix - after.matrix).max() < 1e-12
    elif cell == "fixed_volume":
        assert after.volume == pytest.approx(before.volume, rel=1e-9)
        assert np.abs(np.array(before.abc) - after.abc).max() > 1e-3
    else:
        assert np.abs(np.array(before.angles) - after.angles).max() < 1e-9
        assert np.ptp(np.array(after.abc) / before.abc) < 1e-9
        assert abs(after.volume - before.volume) > 1e-3


def test_pressure_is_met_by_the_stress(potential: Potential) -> None:
    (outcome,) = relaxed(potential, [crystals.half_heusler()], pressure=0.06, fmax=1e-3)
    (free,) = relaxed(potential, [crystals.half_heusler()])
    stress = ask(potential, [crystal_of(outcome.structure)]).stresses[0]
    assert stress == pytest.approx(-0.06 * np.eye(3), abs=1e-4)
    assert outcome.structure.volume < 0.97 * free.structure.volume


def space_group(structure: Structure, symprec: float) -> int:
    cell = moyopy.Cell(
        structure.lattice.matrix.tolist(), structure.frac_coords.tolist(), list(structure.atomic_numbers)
    )
    return moyopy.MoyoDataset(cell, symprec=symprec).number


def test_symmetry_is_kept(potential: Potential) -> None:
    structure = crystals.hematite()
    assert space_group(structure, 1e-3) == 167
    loose = replace(potential, merge=False)
    (outcome,) = relaxed(loose, [structure], keep_symmetry=True, fmax=0.005)
    assert outcome.status == "converged"
    assert space_group(outcome.structure, 1e-6) == 167


@from_package
@pytest.mark.parametrize("held", [False, True])
def test_in_its_symmetry_too_ase_agrees_that_it_has_converged(potential: Potential, held: bool) -> None:
    """Noise within symprec is taken out, and no operation takes a held site onto a free one."""
    from chgnet.model.dynamics import CHGNetCalculator

    noisy = crystals.spinel()
    noisy.perturb(0.02, seed=1)
    layers = crystals.layered()
    if held:
        layers.add_site_property("selective_dynamics", [[k != len(layers) - 1] * 3 for k in range(len(layers))])
    with contextlib.redirect_stdout(io.StringIO()):
        calculator = CHGNetCalculator(use_device="cpu")
    for structure, symprec in ((noisy, 0.1), (layers, 0.01)):
        (outcome,) = relaxed(potential, [structure], keep_symmetry=True, symprec=symprec)
        assert outcome.status == "converged"
        atoms = AseAtomsAdaptor.get_atoms(outcome.structure.copy(site_properties={}))
        atoms.calc = calculator
        atoms.set_constraint(FixAtoms(mask=fixed_sites(outcome.structure)))
        assert np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1).max() < 0.0505
    (outcome,) = relaxed(potential, [noisy], keep_symmetry=True, symprec=0.1)
    assert space_group(noisy, 1e-3) == 1
    assert space_group(outcome.structure, 1e-5) == 227


def test_a_large_supercell_finds_its_symmetry(potential: Potential) -> None:
    (outcome,) = relaxed(potential, [crystals.copper() * (4, 4, 4)], keep_symmetry=True)
    assert outcome.status == "converged"


def test_a_symmetry_that_cannot_be_kept_fails_its_own_structure_only(
    potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.relaxation.symmetry import symmetrised

    def only_small(crystal: Crystal, *others: object) -> object:
        if len(crystal) > 3:
            raise ValueError("operations do not permute the atoms")
        return symmetrised(crystal, *others)

    monkeypatch.setattr("models.relaxation.relax.symmetrised", only_small)
    outcomes = relaxed(potential, [crystals.half_heusler(), crystals.perovskite()], keep_symmetry=True)
    assert [outcome.status for outcome in outcomes] == ["converged", "failed"]
    assert "do not permute" in outcomes[1].message


def test_each_trouble_has_its_status_and_harms_nobody(potential: Potential) -> None:
    good = crystals.half_heusler()
    troubled = {
        "coincident": Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 1e-8]]),
        "isolated": Structure(Lattice.cubic(14), ["Ar"], [[0, 0, 0]]),
        "uncovered": Structure(Lattice.cubic(3.3), ["Po"], [[0, 0, 0]]),
        "disordered": Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]]),
        "overlapping": Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.05]]),
        "not a number": Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [np.nan, 0, 0.5]]),
    }
    structures = [good, *troubled.values(), good]
    outcomes = relaxed(potential, structures)
    assert [outcome.status for outcome in outcomes[1:-1]] == ["unsupported"] * len(troubled)
    assert all(outcome.message and outcome.energy is None for outcome in outcomes[1:-1])
    (alone,) = relaxed(potential, [good])
    for outcome in (outcomes[0], outcomes[-1]):
        assert outcome.status == "converged"
        assert outcome.energy == pytest.approx(alone.energy, abs=1e-5)


def test_running_out_of_steps_is_not_convergence(potential: Potential) -> None:
    (outcome,) = relaxed(potential, [crystals.shaken(crystals.perovskite(), 9)], max_steps=2)
    assert outcome.status == "max_steps"
    assert outcome.n_steps == 2
    assert "0.05" in outcome.message


@pytest.mark.parametrize("positions", ["fixed", "free"])
def test_the_shortest_bonds_are_no_collapse(potential: Potential, positions: str) -> None:
    molecules = [("H", "H", 0.74), ("N", "N", 1.10), ("O", "O", 1.21), ("F", "F", 1.41), ("C", "O", 1.13)]
    structures = [Structure(Lattice.cubic(5), [a, b], [[0, 0, 0], [d / 5, 0, 0]]) for a, b, d in molecules]
    structures.append(Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.08), ["Li", "H"], [[0, 0, 0], [0.5] * 3]))
    structures.append(Structure(Lattice.hexagonal(2.46, 6.8), ["C"] * 2, [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0]]))
    structures.append(
        Structure(Lattice.hexagonal(2.29, 3.58), ["Be"] * 2, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])
    )
    outcomes = relaxed(potential, structures, cell="fixed", positions=positions)
    assert [outcome.status for outcome in outcomes] == ["converged"] * len(structures)


def test_an_explosion_is_called_one(potential: Potential) -> None:
    sparse = Structure(Lattice.cubic(3.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (outcome,) = relaxed(potential, [sparse], pressure=-2.0)
    assert outcome.status == "exploded"
    assert "volume" in outcome.message


@dataclass(frozen=True, kw_only=True)
class Moody:
    """A potential that raises, or answers NaN, wherever it meets certain elements."""

    inner: Potential
    method: str = "moody"
    level_of_theory: str = "none"
    correction: None = None
    weights_hash: str = "0" * 16
    batch_cost: float = 100.0

    @property
    def elements(self) -> frozenset[str]:
        return self.inner.elements

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def costs(self, batch: Batch) -> torch.Tensor:
        return self.inner.costs(batch)

    def evaluate(self, batch: Batch) -> Evaluation:
        if 79 in batch.numbers:
            raise RuntimeError("gold makes it raise")
        if len(batch.numbers) > 12:
            raise MemoryError("more than twelve atoms")
        answer = self.inner.evaluate(batch)
        answer.forces[batch.numbers == 47] = np.nan
        return answer


def test_an_exception_and_a_nan_are_pinned_on_their_crystal(potential: Potential) -> None:
    gold, silver = (
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.1), [symbol], [[0, 0, 0]]) for symbol in ("Au", "Ag")
    )
    good = crystals.half_heusler()
    outcomes = relaxed(Moody(inner=potential), [good, gold, good, silver, good, good, good])
    statuses = [outcome.status for outcome in outcomes]
    assert statuses == ["converged", "failed", "converged", "failed", "converged", "converged", "converged"]
    assert "gold makes it raise" in outcomes[1].message
    assert "not a number" in outcomes[3].message


class Rising:
    """A potential whose energy rises with every call, whatever its forces say: no line of descent can trust it."""

    batch_cost = 100.0
    method, level_of_theory, correction, weights_hash = "rising", "none", None, "0" * 16

    def __init__(self, inner: Potential) -> None:
        self.inner, self.elements, self.device, self.calls = inner, inner.elements, inner.device, 0

    def costs(self, batch: Batch) -> torch.Tensor:
        return torch.ones(len(batch))

    def evaluate(self, batch: Batch) -> Evaluation:
        self.calls += 1
        answer = self.inner.evaluate(batch)
        return replace(answer, energies=answer.energies + self.calls)


def test_where_energies_mislead_fire_finds_the_way(potential: Potential) -> None:
    structure = crystals.shaken(crystals.half_heusler(), 11)
    (straight,) = relaxed(potential, [structure])
    (astray,) = relaxed(Rising(potential), [structure])
    assert astray.status == "converged"
    assert astray.n_steps > straight.n_steps
    assert StructureMatcher(stol=0.1).fit(straight.structure, astray.structure)


def test_settings_say_what_they_are() -> None:
    content = RelaxationSettings(fmax=0.02).content()
    assert content["fmax"] == 0.02
    assert content != RelaxationSettings().content()


def test_oxidation_states_survive(potential: Potential) -> None:
    structure = crystals.half_heusler()
    structure.add_oxidation_state_by_element({"Li": 1, "Zn": 2, "P": -3})
    (outcome,) = relaxed(potential, [structure])
    assert outcome.structure.species == structure.species


def test_moments_that_a_structure_came_with_stay_at_their_sites(potential: Potential) -> None:
    cell = crystals.shaken(crystals.half_heusler(), 1)
    cell.add_site_property("magmom", [float(k) for k in range(len(cell))])
    for symmetric in (False, True):
        (outcome,) = relaxed(potential, [cell], max_steps=2, keep_symmetry=symmetric)
        assert outcome.structure.site_properties["magmom"] == [float(k) for k in range(len(cell))]
        assert [site.specie for site in outcome.structure] == [site.specie for site in cell]

"""The law of a calculation's cost: against synthetic laws, spglib, and seconds that GPAW took."""

import functools
import itertools
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from scipy.stats import spearmanr

from models.dft.presets import mesh, settings_for, symmetrised
from models.learning.dft_cost import (
    EXPONENTS,
    SCATTER,
    features_of,
    irreducible,
    law_of,
    learn_cost,
    relative_cost,
    valence,
)
from tests.benchmarks import dft_convergence

LAW = law_of("gpaw")
PRESETS = Path(__file__).parents[3] / "benchmarks" / "dft-presets.md"


class Code:
    """What settings ask of a code."""

    name = "gpaw"

    def potentials(self) -> str:
        return "gpaw-setups-9.9"


@functools.cache
def crystals() -> dict[str, Structure]:
    return dft_convergence.crystals()


def work(n: int, seed: int = 0) -> np.ndarray:
    """Features such as calculations have, drawn at random."""
    rng = np.random.default_rng(seed)
    atoms = rng.integers(1, 20, n)
    electrons = atoms * rng.integers(1, 14, n)
    waves = atoms * rng.uniform(10, 30, n) * rng.choice([450.0, 600.0], n) ** 1.5
    sizes = np.log(np.column_stack([rng.integers(1, 200, n), electrons, waves, atoms]))
    return np.column_stack([sizes, rng.integers(0, 2, n), rng.integers(0, 2, n)])


def measured() -> tuple[np.ndarray, np.ndarray]:
    """Features and seconds of the compounds in the table of the presets, four meshes each."""
    features, seconds = [], []
    for name in dft_convergence.HALF_HEUSLERS:
        cells = re.search(rf"^\| {name} \|(.*)\|$", PRESETS.read_text(), re.MULTILINE)
        made = dft_convergence.variants(crystals()[name], Code())
        took = re.findall(r"\((\d+) s\)", cells[1])
        for label, s in zip(("quick", "standard", "accurate", "strict"), took, strict=True):
            features.append(features_of(crystals()[name], made[f"k:{label}"]))
            seconds.append(float(s))
    return np.array(features), np.array(seconds)


def test_exponents_are_found_again() -> None:
    rng = np.random.default_rng(1)
    features = work(400)
    true = np.array([0.9, 1.3, 0.8, 0.2, math.log(1.7), math.log(6)])
    seconds = np.exp(-12 + features @ true + rng.normal(scale=0.3, size=400))
    model = learn_cost(features, seconds, LAW)
    assert np.allclose(model.exponents[[0, 4, 5]], true[[0, 4, 5]], atol=0.1)
    # Electrons, waves and atoms grow together: what counts is what they say of others.
    new = work(200, seed=2)
    assert np.std(np.log(model.expect(new)) - (-12 + new @ true)) < 0.06
    assert 0.2 < model.scatter < 0.33  # of the bulk: a little below the standard deviation


def test_few_move_the_level_and_leave_the_exponents() -> None:
    features = work(3)
    seconds = 100 * np.exp(-16.2 + features @ EXPONENTS)
    one = learn_cost(features[:1], seconds[:1], LAW)
    assert np.allclose(one.exponents, EXPONENTS)
    three = learn_cost(features, seconds, LAW)
    assert np.allclose(three.exponents, EXPONENTS, atol=0.15)
    before = LAW.expect(features) / seconds
    after = three.expect(features) / seconds
    assert np.all(before < 0.02)
    assert np.all((after > 0.5) & (after < 2))


def test_without_any_it_is_the_law_that_ships() -> None:
    model = learn_cost([], [], LAW)
    assert (model.n_learned, model.scatter) == (0, SCATTER)
    assert np.array_equal(model.exponents, EXPONENTS)
    features = work(50)
    doubled = features + np.array([math.log(2), 0, 0, 0, 0, 0])
    assert np.allclose(model.expect(doubled), 2 * model.expect(features))
    assert np.allclose(model.expect(features + np.array([0, 0, 0, 0, 1, 0])), 2 * model.expect(features))


def test_one_that_hung_teaches_little() -> None:
    features = work(30)
    rng = np.random.default_rng(3)
    seconds = np.exp(-16 + features @ EXPONENTS + rng.normal(scale=0.2, size=30))
    hung = seconds.copy()
    hung[[4, 17]] *= 200
    ratio = learn_cost(features, hung, LAW).expect(features) / learn_cost(features, seconds, LAW).expect(features)
    assert np.all((ratio > 0.7) & (ratio < 1.6))
    plain = np.linalg.lstsq(np.column_stack([np.ones(30), features]), np.log(hung), rcond=None)[0]
    off = np.exp(np.column_stack([np.ones(30), features]) @ plain) / seconds
    assert np.median(off) > 1.2  # plain least squares would have been led astray


@settings(deadline=None, max_examples=50)
@given(
    seconds=st.lists(
        st.one_of(st.floats(-1e3, 1e12), st.sampled_from([math.nan, math.inf, 0.0, 1e-300])), min_size=0, max_size=12
    ),
    seed=st.integers(0, 100),
    same=st.booleans(),
)
def test_a_cost_is_always_a_number_above_zero(seconds: list[float], seed: int, same: bool) -> None:
    features = work(len(seconds), seed)
    if same:
        features[:] = 1.0
    model = learn_cost(features, seconds, LAW)
    expected = model.expect(work(20, seed + 1))
    assert np.isfinite(expected).all()
    assert (expected > 0).all()
    assert model.n_learned == sum(math.isfinite(s) and s > 0 for s in seconds)


def test_theory_orders_what_was_measured_and_learning_tells_the_seconds() -> None:
    features, seconds = measured()
    assert len(seconds) == 20
    theory = LAW.expect(features)
    assert spearmanr(theory, seconds).statistic > 0.9
    assert np.all((theory / seconds > 1 / 3) & (theory / seconds < 3))
    for out in np.array_split(np.arange(20), 5):  # each compound by the other four
        kept = np.setdiff1d(np.arange(20), out)
        ratio = learn_cost(features[kept], seconds[kept], LAW).expect(features[out]) / seconds[out]
        assert np.median(np.abs(np.log(ratio))) < math.log(1.8)


def test_theory_orders_relaxations() -> None:
    # CPU seconds of GPAW 26.7 on one core: cells and positions, 700 eV.
    fcc = [(0, 0, 0), (0.5, 0.5, 0.5)]
    made = {
        "GaAs": (7, Structure.from_spacegroup("F-43m", Lattice.cubic(5.65), ["Ga", "As"], [(0, 0, 0), (0.25,) * 3])),
        "MgO": (9, Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], fcc)),
        "SrTiO3": (
            29,
            Structure.from_spacegroup(
                "Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [(0, 0, 0), (0.5,) * 3, (0.5, 0.5, 0)]
            ),
        ),
        "LiCoO2": (
            154,
            Structure.from_spacegroup(
                "R-3m", Lattice.hexagonal(2.82, 14.05), ["Li", "Co", "O"], [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.26)]
            ),
        ),
    }
    costs = [
        relative_cost(crystal, settings_for("quick", [], crystal, code=Code(), relax=True))
        for _, crystal in made.values()
    ]
    assert spearmanr(costs, [seconds for seconds, _ in made.values()]).statistic > 0.75
    assert costs[-1] == max(costs)


def half_heusler() -> Structure:
    return crystals()["LiMgAs"]


def test_work_is_that_of_the_primitive_cell() -> None:
    asked = settings_for("quick", ["Li"], half_heusler(), code=Code())
    assert features_of(half_heusler() * (2, 1, 1), asked) == pytest.approx(features_of(half_heusler(), asked))
    assert math.exp(features_of(half_heusler(), asked)[3]) == pytest.approx(3)
    relaxing = settings_for("quick", ["Li"], half_heusler(), code=Code(), relax=True)
    assert relative_cost(half_heusler(), asked) < relative_cost(half_heusler(), relaxing)


@pytest.mark.parametrize("name", ["Li", "Mg", "As", "LiMgAs", "low"])
def test_k_points_are_as_many_as_spglib_finds(name: str) -> None:
    spglib = pytest.importorskip("spglib")
    low = Structure(Lattice.from_parameters(3, 4, 5, 80, 95, 103), ["Na", "Cl", "O"], np.eye(3) * 0.4)
    cell = symmetrised(low if name == "low" else crystals()[name])
    lattice = (cell.lattice.matrix, cell.frac_coords, [s.specie.Z for s in cell])
    for density, shifted in itertools.product((1.6, 3.0), (True, False)):
        divisions, shift = mesh(cell, density)
        if not shifted:
            shift = (False, False, False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # spglib on its own error handling
            mapping, _ = spglib.get_ir_reciprocal_mesh(divisions, lattice, is_shift=np.array(shift, int), symprec=0.05)
        assert irreducible(cell, divisions, shift) == len(np.unique(mapping))


@pytest.mark.parametrize(("divisions", "points"), [((13, 13, 6), 63), ((11, 11, 4), 32), ((16, 16, 6), 90)])
def test_the_points_of_hexagonal_close_packing_are_those_that_gpaw_computes(
    divisions: tuple[int, int, int], points: int
) -> None:
    """As GPAW 26.7 counted them."""
    assert irreducible(symmetrised(crystals()["Zn"]), divisions, (False, False, True)) == points


def test_the_mesh_of_the_gap_is_computed_too_where_there_may_be_one() -> None:
    quick = {name: settings_for("quick", [], crystals()[name], code=Code()) for name in ("Zn", "LiMgAs")}
    points = {name: math.exp(features_of(crystals()[name], asked)[0]) for name, asked in quick.items()}
    cells = {name: symmetrised(crystals()[name]) for name in quick}
    alone = {name: irreducible(cells[name], quick[name].kpoints, quick[name].kpoint_shift) for name in quick}
    assert points["Zn"] == pytest.approx(alone["Zn"])  # a metal
    gap = irreducible(cells["LiMgAs"], quick["LiMgAs"].gap_kpoints, (False, False, False))
    assert points["LiMgAs"] == pytest.approx(alone["LiMgAs"] + gap)


@pytest.mark.parametrize(("symbol", "electrons"), [("H", 1), ("N", 5), ("K", 9), ("Ca", 10), ("Zn", 12), ("As", 5)])
def test_valence_is_that_of_usual_frozen_cores(symbol: str, electrons: int) -> None:
    from pymatgen.core import Element

    assert valence(Element(symbol).Z) == electrons


def test_spin_and_orders_cost_what_they_are() -> None:
    oxide = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.17), ["Ni", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    costs = {
        magnetism: relative_cost(oxide, settings_for("quick", [], oxide, code=Code(), magnetism=magnetism))
        for magnetism in ("none", "ferromagnetic", "auto", "antiferromagnetic")
    }
    assert costs["ferromagnetic"] == pytest.approx(2 * costs["none"])
    assert costs["auto"] == pytest.approx(1.5 * costs["antiferromagnetic"])  # three orders, or two
    assert costs["auto"] > 3 * costs["ferromagnetic"]  # each in a cell of four times as many atoms

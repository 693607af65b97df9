"""Reduced cells and fits are pymatgen's own, however strained, shaken or skewed the cell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from materials.crystals.composition import reduced_formula
from materials.crystals.crystal import crystal_of
from materials.duplicates.lattice_mapping import find_bases
from materials.duplicates.niggli import niggli_matrices, reduced_cells
from materials.duplicates.structure_matcher import fits
from materials.sources.prototypes.library import example

MATCHER = StructureMatcher(ltol=0.2, stol=0.1, angle_tol=5, primitive_cell=True, scale=True)
NAMES = [
    "TiNiSi",
    "LiGaGe",
    "rutile",
    "wurtzite",
    "Na3As",
    "half-Heusler",
    "corundum",
    "K2NiF4",
    "marcasite",
    "fluorite",
]
LATTICES = {
    "cubic": Lattice.cubic(4.0),
    "face-centred": Lattice([[0, 2, 2], [2, 0, 2], [2, 2, 0]]),
    "body-centred": Lattice([[-2, 2, 2], [2, -2, 2], [2, 2, -2]]),
    "hexagonal": Lattice.hexagonal(3.0, 5.0),
    "rhombohedral": Lattice.rhombohedral(5.0, 50.0),
    "nearly right": Lattice.from_parameters(3.0, 4.0, 5.0, 90.3, 89.8, 90.4),
    "triclinic": Lattice.from_parameters(4.0, 5.0, 6.0, 70.0, 80.0, 95.0),
    "left-handed": Lattice([[0, 3, 0], [4, 0, 0], [0.5, 0.2, 5]]),
}


def deformed(structure: Structure, rng: np.random.Generator, strain: float, noise: float) -> Structure:
    """The crystal strained by up to `strain`, turned, rescaled, its sites shuffled, shifted and moved (Å)."""
    stretch = rng.normal(size=(3, 3))
    stretch = (stretch + stretch.T) / 2
    stretch *= strain / np.abs(np.linalg.eigvalsh(stretch)).max()
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(len(structure))
    lattice = Lattice(structure.lattice.matrix @ (np.eye(3) + stretch) @ turn * rng.uniform(0.9, 1.1))
    moves = rng.normal(size=(len(structure), 3))
    moves *= noise / np.linalg.norm(moves, axis=1)[:, None]
    coords = structure.frac_coords[order] + rng.uniform(size=3) + lattice.get_fractional_coords(moves)
    return Structure(lattice, [structure[i].specie for i in order], coords)


def skewed(lattice: Lattice, rng: np.random.Generator, steps: int) -> Lattice:
    """Another cell of the same lattice."""
    matrix = lattice.matrix.copy()
    for _ in range(steps):
        i, j = rng.permutation(3)[:2]
        matrix[i] += rng.integers(-2, 3) * matrix[j]
    return Lattice(matrix)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(list(LATTICES)), steps=st.integers(0, 9))
def test_niggli_cell_is_pymatgens(seed: int, name: str, steps: int) -> None:
    given_lattice = skewed(LATTICES[name], np.random.default_rng(seed), steps)
    ours = Lattice(niggli_matrices(given_lattice.matrix[None])[0])
    theirs = given_lattice.get_niggli_reduced_lattice()
    assert ours.parameters == pytest.approx(theirs.parameters, abs=1e-6)
    steps_to_ours = ours.matrix @ np.linalg.inv(given_lattice.matrix)
    assert steps_to_ours == pytest.approx(np.round(steps_to_ours), abs=1e-6)
    assert np.linalg.det(ours.matrix) > 0
    assert niggli_matrices(np.empty((0, 3, 3))).shape == (0, 3, 3)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    one=st.sampled_from(list(LATTICES)),
    other=st.sampled_from(list(LATTICES)),
    tolerances=st.sampled_from([(0.2, 5.0), (0.4, 15.0), (0.01, 1.0)]),
)
def test_bases_are_pymatgens(seed: int, one: str, other: str, tolerances: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    strained = Lattice(LATTICES[one].matrix @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))))
    wanted = LATTICES[other]
    found = find_bases(
        strained.matrix[None],
        np.array([wanted.lengths]),
        np.array([wanted.angles]),
        length_tolerance=tolerances[0],
        angle_tolerance=tolerances[1],
    )
    ours = {tuple(np.round(np.linalg.inv(inverse)).astype(int).ravel()) for inverse in found.inverses}
    theirs = {
        tuple(scale.ravel())
        for _, _, scale in strained.find_all_mappings(wanted, *tolerances, skip_rotation_matrix=True)
        if abs(abs(np.linalg.det(scale)) - 1) < 0.5
    }
    assert ours == theirs
    assert len(found.owners) == len(ours)
    for matrix, lengths, angles in zip(found.matrices, found.lengths, found.angles, strict=True):
        assert Lattice(matrix).parameters == pytest.approx([*lengths, *angles])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(NAMES), noise=st.floats(0, 0.3))
def test_reduced_cell_is_pymatgens(seed: int, name: str, noise: float) -> None:
    rng = np.random.default_rng(seed)
    crystal = deformed(example(name), rng, rng.uniform(0, 0.05), noise)
    if len(crystal) <= 6:
        crystal.make_supercell(rng.integers(1, 3, 3))
    (ours,) = reduced_cells([crystal_of(crystal)])
    theirs = MATCHER._get_reduced_structure(crystal)
    scale = (20 * len(theirs) / theirs.volume) ** (1 / 3)
    assert sorted(ours.symbols) == sorted(site.specie.symbol for site in theirs)
    assert ours.lengths == pytest.approx(np.array(theirs.lattice.abc) * scale, abs=1e-5)
    assert ours.angles == pytest.approx(theirs.lattice.angles, abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), strain=st.floats(0, 0.2), noise=st.floats(0, 0.45))
def test_fits_are_pymatgens(seed: int, strain: float, noise: float) -> None:
    """Around the tolerances, where it is one or the other."""
    rng = np.random.default_rng(seed)
    crystals = [deformed(example(name), rng, strain, noise) for name in rng.choice(NAMES, 3) for _ in range(2)]
    pairs = [(a, b) for a in crystals for b in crystals if reduced_formula(a) == reduced_formula(b)]
    cells = dict(zip(map(id, crystals), reduced_cells([crystal_of(crystal) for crystal in crystals]), strict=True))
    ours = fits([(cells[id(a)], cells[id(b)]) for a, b in pairs])
    assert ours.tolist() == [MATCHER.fit(a, b) for a, b in pairs]


def test_each_crystal_fits_itself_and_no_other_size() -> None:
    crystals = [example(name) for name in NAMES]
    cells = reduced_cells([crystal_of(crystal) for crystal in crystals])
    assert fits([(cell, cell) for cell in cells]).all()
    assert not fits([(cells[0], cells[2])]).any()
    assert fits([]).shape == (0,)
    assert reduced_cells([]) == []

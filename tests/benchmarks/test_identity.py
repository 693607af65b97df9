"""How fast duplicates are found: 3,000 structures of one formula, and twice as many for the growth; 131 sources that
overlap, and the memory that one crystal takes which comes many times; and that duplicates are
those that pymatgen's StructureMatcher finds pair by pair, in pools made to mislead."""

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from materials.duplicates.duplicates import Merged, group_duplicates
from materials.duplicates.tolerances import ALIKE, ROUNDED, Tolerances
from materials.records import Candidate
from materials.sources.prototypes.source import propose
from materials.store.rows import write_candidate

MATCHER = StructureMatcher(ltol=0.2, stol=0.1, angle_tol=5, primitive_cell=True, scale=True)
SYMBOLS = ("Li", "Zn", "P")
Random = np.random.Generator

# Space groups with positions on them that leave a coordinate free: sites of one sort for all three elements.
POSITIONS: dict[str, tuple[Callable[[Random], Lattice], Callable[[Random], list[float]]]] = {
    "Pnma": (lambda r: Lattice.orthorhombic(*r.uniform(4, 7, 3)), lambda r: [r.random(), 0.25, r.random()]),
    "P4/nmm": (lambda r: Lattice.tetragonal(*r.uniform(3, 7, 2)), lambda r: [0.25, 0.25, r.random()]),
    "P6_3/mmc": (lambda r: Lattice.hexagonal(*r.uniform(3, 9, 2)), lambda r: [1 / 3, 2 / 3, r.random()]),
    "R-3m": (lambda r: Lattice.hexagonal(r.uniform(3, 5), r.uniform(12, 24)), lambda r: [0, 0, r.random()]),
    "I4mm": (lambda r: Lattice.tetragonal(*r.uniform(3, 7, 2)), lambda r: [0, 0, r.random()]),
    "P2_1/c": (lambda r: Lattice.monoclinic(*r.uniform(3.5, 7, 3), r.uniform(90, 115)), lambda r: list(r.random(3))),
    "P-1": (
        lambda r: Lattice.from_parameters(*r.uniform(3.5, 6, 3), *r.uniform(75, 105, 3)),
        lambda r: list(r.random(3)),
    ),
}


def prototypes() -> list[Structure]:
    """The 1:1:1 crystals that LiZnP could be."""
    found = propose(
        roles={"I": ["Li"], "II": ["Zn"], "V": ["P"]},
        charges={"I": 1, "II": 2, "V": -3},
        prototypes=["library", "aflow"],
        decorate="all",
        max_sites=12,
    )
    return [c.structure for c in found]


def deformed(crystal: Structure, rng: Random, strain: float, noise: float) -> Structure:
    """The crystal strained by `strain` at most, rescaled, turned, its sites shuffled and each moved by `noise` in Å."""
    stretch = rng.normal(size=(3, 3))
    stretch = (stretch + stretch.T) / 2
    stretch *= strain / np.abs(np.linalg.eigvalsh(stretch)).max()
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    lattice = Lattice(crystal.lattice.matrix @ (np.eye(3) + stretch) @ turn * rng.uniform(0.95, 1.05))
    moves = rng.normal(size=(len(crystal), 3))
    moves *= noise / np.linalg.norm(moves, axis=1)[:, None]
    order = rng.permutation(len(crystal))
    coords = crystal.frac_coords[order] + rng.uniform(size=3) + lattice.get_fractional_coords(moves)
    found = Structure(lattice, [crystal[i].specie for i in order], coords)
    if len(found) <= 6 and rng.random() < 0.25:
        found.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 2]])
    return found


def pool(n: int) -> list[Structure]:
    """Distorted, rescaled and shaken copies."""
    rng, base = np.random.default_rng(0), prototypes()
    return [deformed(base[i % len(base)], rng, 0.02, 0.03) for i in range(n)]


def orderings(n: int, rng: Random) -> list[Structure]:
    """Three elements at random on the face-centred cubic lattice: the same near neighbours again and again."""
    lattice = Structure(Lattice([[0, 2, 2], [2, 0, 2], [2, 2, 0]]), ["Li"], [[0, 0, 0]])
    lattice.make_supercell([2, 1, 3])
    return [Structure(lattice.lattice, list(rng.permutation(SYMBOLS * 2)), lattice.frac_coords) for _ in range(n)]


def symmetric(n: int, rng: Random) -> list[Structure]:
    """Crystals in random cells with a symmetry, atoms no nearer than 1.2 Å, each with a relative at the tolerance."""
    found: list[Structure] = []
    while len(found) < n:
        group = str(rng.choice(list(POSITIONS)))
        lattice, position = POSITIONS[group]
        crystal = Structure.from_spacegroup(group, lattice(rng), list(SYMBOLS), [position(rng) for _ in SYMBOLS])
        if len(crystal) <= 12 and (crystal.distance_matrix + 9 * np.eye(len(crystal))).min() > 1.2:
            crystal.scale_lattice(20 * len(crystal))
            found += [crystal, deformed(crystal, rng, rng.uniform(0, 0.1), rng.uniform(0.1, 0.4))]
    return found[:n]


def one_by_one(structures: list[Structure]) -> list[list[int]]:
    """First fit, with nothing between the pair and the matcher but that cells are reduced once."""
    reduced = [MATCHER._get_reduced_structure(s) for s in structures]
    groups: list[list[int]] = []
    for i, structure in enumerate(reduced):
        fitting = (g for g in groups if MATCHER.fit(reduced[g[0]], structure, skip_structure_reduction=True))
        home = next(fitting, None)
        if home is None:
            groups.append([i])
        else:
            home.append(i)
    return groups


@pytest.mark.parametrize("n", [1500, 3000])
def test_group_duplicates(benchmark, n: int) -> None:  # type: ignore[no-untyped-def]
    structures = pool(n)
    groups = benchmark.pedantic(group_duplicates, args=(structures,), rounds=1)
    assert sum(map(len, groups)) == n
    if n == 3000:
        assert benchmark.stats.stats.total < 10  # seconds


def test_time_is_linear_in_the_number_of_duplicates(benchmark) -> None:  # type: ignore[no-untyped-def]
    few, many = pool(500), pool(1500)
    start = time.process_time()
    group_duplicates(few)
    short = time.process_time() - start
    benchmark.pedantic(group_duplicates, args=(many,), rounds=1)
    assert benchmark.stats.stats.total < 6 * short


OVERLAPPING = 131  # sources


def salts() -> list[Candidate]:
    return list(
        propose(
            roles={"A": ["Na", "K"], "X": ["Cl", "O"]},
            charges={"Cl": -1, "O": -2, "A": 1},
            charge_neutral=False,
            decorate="all",
        )
    )


def peak_mib(work: Callable[[], object]) -> float:
    """Memory that something took at most, arrays among it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_overlapping_sources_cost_what_one_of_them_does(benchmark) -> None:  # type: ignore[no-untyped-def]
    one = [write_candidate(candidate) for candidate in salts()]
    merged = benchmark.pedantic(Merged, args=(one * OVERLAPPING,), rounds=1)
    assert len(merged) == len(Merged(one))
    assert benchmark.stats.stats.total < 5  # seconds
    assert peak_mib(lambda: Merged(one * OVERLAPPING)) < peak_mib(lambda: Merged(one)) + 50


@pytest.mark.parametrize("tolerances", [ALIKE, ROUNDED], ids=["alike", "rounded"])
def test_memory_is_bounded_where_one_crystal_comes_many_times(benchmark, tolerances: Tolerances) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    one = [candidate.structure for candidate in salts()]
    many = [Structure(s.lattice, s.species, s.frac_coords + rng.random(3)) for _ in range(8) for s in one]
    groups = benchmark.pedantic(group_duplicates, args=(many, tolerances), rounds=1)
    assert len(groups) == len(group_duplicates(one, tolerances))
    assert peak_mib(lambda: group_duplicates(many, tolerances)) < 200


@pytest.mark.slow
def test_structures_of_one_formula_are_grouped_as_the_matcher_groups_them() -> None:
    rng, base = np.random.default_rng(11), prototypes()
    structures = [deformed(base[i % len(base)], rng, rng.uniform(0, 0.02), rng.uniform(0, 0.1)) for i in range(75)]
    structures += [deformed(base[i % 40], rng, rng.uniform(0, 0.03), rng.uniform(0.2, 0.4)) for i in range(50)]
    structures += [deformed(base[i % 40], rng, rng.uniform(0.05, 0.2), rng.uniform(0, 0.2)) for i in range(50)]
    structures += orderings(40, rng)
    structures += symmetric(40, rng)
    structures = [structures[i] for i in rng.permutation(len(structures))]
    groups = group_duplicates(structures)
    assert groups == one_by_one(structures)
    assert 50 < len(groups) < 200

"""How fast duplicates are found: 3,000 structures of one formula, and twice as many for the growth."""

import time

import numpy as np
import pytest
from pymatgen.core import Structure

from materials.identity import group_duplicates
from materials.sources.prototypes import propose


def pool(n: int) -> list[Structure]:
    """Distorted, rescaled and shaken copies of the 1:1:1 crystals that LiZnP could be."""
    rng = np.random.default_rng(0)
    found = propose(
        roles={"I": ["Li"], "II": ["Zn"], "V": ["P"]},
        charges={"I": 1, "II": 2, "V": -3},
        prototypes=["library", "aflow"],
        decorate="all",
        max_sites=12,
    )
    base = [c.structure for c in found]
    structures = []
    for i in range(n):
        crystal = base[i % len(base)]
        strain = rng.normal(0, 0.01, (3, 3))
        matrix = crystal.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2) * rng.uniform(0.95, 1.05)
        structures.append(Structure(matrix, crystal.species, crystal.frac_coords).perturb(0.03))
    return structures


@pytest.mark.parametrize("n", [1500, 3000])
def test_group_duplicates(benchmark, n: int) -> None:  # type: ignore[no-untyped-def]
    structures = pool(n)
    groups = benchmark.pedantic(group_duplicates, args=(structures,), rounds=1)
    assert sum(map(len, groups)) == n


def test_time_is_linear_in_the_number_of_duplicates(benchmark) -> None:  # type: ignore[no-untyped-def]
    few, many = pool(500), pool(1500)
    start = time.process_time()
    group_duplicates(few)
    short = time.process_time() - start
    benchmark.pedantic(group_duplicates, args=(many,), rounds=1)
    assert benchmark.stats.stats.total < 6 * short

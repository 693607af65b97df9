"""Relaxations per second: what a screening worker does all day. `pytest --benchmark-only tests/benchmarks`."""

from itertools import islice

from pytest_benchmark.fixture import BenchmarkFixture

from materials.sources.prototypes.source import propose
from models.potentials.registry import load_potential
from models.relaxation.relax import relax
from models.relaxation.settings import RelaxationSettings

ROLES = {"I": ["Li", "Na", "K"], "II": ["Mg", "Zn"], "V": ["P", "As", "Sb"]}


def test_relaxations_of_prototype_candidates(benchmark: BenchmarkFixture) -> None:
    """Forty ternaries of 3 to 12 sites, as a campaign proposes them, on one thread."""
    import torch

    torch.set_num_threads(1)
    charges = {"I": 1, "II": 2, "V": -3}
    proposals = propose(roles=ROLES, charges=charges, prototypes=["half-Heusler", "PbFCl", "TiNiSi"])
    structures = [candidate.structure for candidate in islice(proposals, 40)]
    potential = load_potential("chgnet")
    results = benchmark.pedantic(
        lambda: list(relax(potential, structures, RelaxationSettings())), rounds=2, warmup_rounds=1
    )
    benchmark.extra_info["relaxations_per_second"] = len(structures) / benchmark.stats.stats.mean
    assert {relaxed.status for _, relaxed in results} == {"converged"}

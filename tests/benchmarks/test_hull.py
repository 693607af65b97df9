"""Hull queries: 10,000 phases in six elements, and the many small systems of a screening."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core import Composition
from pymatgen.entries.computed_entries import ComputedEntry

from materials.stability.hull import Hull, HullEntry, fractions_of
from materials.stability.stability import assess

ELEMENTS = ("Al", "Fe", "Li", "Mg", "O", "P")


def phases(n: int, elements: tuple[str, ...], seed: int) -> list[HullEntry]:
    random = np.random.default_rng(seed)
    made = [
        HullEntry(entry_id=f"el-{e}", amounts={e: 1}, energy=-3.0, level_of_theory="PBE", method="m") for e in elements
    ]
    for i in range(n):
        chosen = random.choice(elements, random.integers(2, len(elements) + 1), replace=False)
        amounts = {str(e): int(random.integers(1, 9)) for e in chosen}
        shares = np.array(list(amounts.values())) / sum(amounts.values())
        depth = -3 - (1 - (shares**2).sum()) + random.normal(0, 0.15)
        energy = float(depth * sum(amounts.values()))
        name = f"{'-'.join(elements)}-{i}"
        made.append(HullEntry(entry_id=name, amounts=amounts, energy=energy, level_of_theory="PBE", method="m"))
    return made


@pytest.mark.benchmark(group="hull")
def test_build_ten_thousand_phases_of_six_elements(benchmark) -> None:
    entries = phases(10_000, ELEMENTS, 0)
    benchmark.pedantic(lambda: Hull(entries, ELEMENTS).potentials, rounds=3)


@pytest.mark.benchmark(group="hull")
@pytest.mark.parametrize("what", ["energies", "decompositions"])
def test_ask_ten_thousand_times(benchmark, what: str) -> None:
    hull = Hull(phases(10_000, ELEMENTS, 0), ELEMENTS)
    questions = fractions_of(hull.entries, ELEMENTS)
    assert len(hull.potentials) > 100
    benchmark.extra_info["questions"] = len(questions)
    benchmark(getattr(hull, what), questions)
    assert benchmark.stats.stats.median / len(questions) < 20e-6  # seconds


@pytest.mark.benchmark(group="hull")
def test_ask_each_phase_of_the_hull_without_its_composition(benchmark) -> None:
    hull = Hull(phases(10_000, ELEMENTS, 0), ELEMENTS)
    of_hull = [entry for entry in hull.entries if entry.entry_id in hull.vertices and len(entry.elements) > 1]
    points = fractions_of(of_hull, ELEMENTS)
    benchmark.extra_info["questions"] = len(points)
    benchmark(lambda: [hull.facet(point, of_others=True) for point in points])
    # They are few: over all phases it is still less than the time of a question.
    assert benchmark.stats.stats.median / len(hull.entries) < 20e-6  # seconds


def test_ten_thousand_phases_have_pymatgens_hull() -> None:
    entries = phases(10_000, ELEMENTS, 0)
    hull = Hull(entries, ELEMENTS)
    diagram = PhaseDiagram([ComputedEntry(Composition(e.amounts), e.energy, entry_id=e.entry_id) for e in entries])
    assert hull.vertices == {entry.entry_id for entry in diagram.stable_entries}
    asked = [hull.entries[i] for i in np.random.default_rng(1).choice(len(hull.entries), 200, replace=False)]
    points = fractions_of(asked, ELEMENTS)
    for entry, energy, parts in zip(asked, hull.energies(points), hull.decompositions(points), strict=True):
        composition = Composition(entry.amounts)
        assert energy == pytest.approx(diagram.get_hull_energy_per_atom(composition), abs=1e-8)
        expected = {phase.entry_id: share for phase, share in diagram.get_decomposition(composition).items()}
        assert parts == pytest.approx(expected, abs=1e-8)


@pytest.mark.benchmark(group="hull")
def test_assess_a_screening_of_five_hundred_systems(benchmark) -> None:
    random = np.random.default_rng(1)
    symbols = tuple(f"X{i:02d}" for i in range(40))
    systems = [tuple(sorted(random.choice(symbols, 3, replace=False))) for _ in range(500)]
    entries = [phase for system in sorted(set(systems)) for phase in phases(20, system, int(system[0][1:]))[3:]]
    entries += phases(0, symbols, 0)
    found = benchmark.pedantic(lambda: assess(entries, fidelity="mlip"), rounds=1)
    assert len(found) == len(entries)

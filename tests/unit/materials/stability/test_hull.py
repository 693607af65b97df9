"""Hulls against pymatgen's, and what must hold of any hull."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from materials.errors import HullError, LevelOfTheoryMismatch, MissingTerminals
from materials.records import Calculation
from materials.stability.hull import Hull, HullEntry, fractions_of
from materials.stability.stability import Systems, assess, competing_phases, entry_from

ELEMENTS = ("Al", "Fe", "Li", "Mg", "O", "P")


def entry(entry_id: str, formula: str, per_atom: float, level: str = "PBE", method: str = "model") -> HullEntry:
    amounts = Composition(formula).get_el_amt_dict()
    return HullEntry(
        entry_id=entry_id,
        amounts=amounts,
        energy=per_atom * sum(amounts.values()),
        level_of_theory=level,
        method=method,
    )


def random_set(seed: int) -> list[HullEntry]:
    """Random systems of 1 to 6 elements, every third one degenerate.

    A coarse grid of energies makes planes tie, and polymorphs; every ninth holds nothing but mixtures of its elements,
    on their tie lines to a millionth of an eV/atom, or above them.
    """
    random = np.random.default_rng(seed)
    elements = random.choice(ELEMENTS, random.integers(1, 7), replace=False)
    entries = [entry(f"el-{e}", e, float(random.uniform(-5, -1))) for e in elements]
    for i in range(int(random.integers(0, 60))):
        chosen = random.choice(elements, random.integers(1, len(elements) + 1), replace=False)
        amounts = {str(e): int(n) for e, n in zip(chosen, random.integers(1, 5, len(chosen)), strict=True)}
        mixed = sum(n * entries[list(elements).index(e)].energy for e, n in amounts.items())
        depth = float(random.normal(-0.3, 0.4)) if seed % 3 else float(random.integers(-1, 2)) * 0.25
        if seed % 9 == 0:
            depth = float(random.choice([0.0, 0.0, -1e-6, 0.25]))
        energy = mixed + depth * sum(amounts.values())
        entries.append(HullEntry(entry_id=f"e{i}", amounts=amounts, energy=energy, level_of_theory="PBE", method="m"))
    return entries


def as_pymatgen(entries: list[HullEntry]) -> dict[str, ComputedEntry]:
    return {e.entry_id: ComputedEntry(Composition(e.amounts), e.energy, entry_id=e.entry_id) for e in entries}


@pytest.mark.parametrize("seed", range(100))
def test_hull_equals_pymatgens(seed: int) -> None:
    entries = random_set(seed)
    theirs = as_pymatgen(entries)
    diagram = PhaseDiagram(list(theirs.values()))
    hull = Hull(entries, {e for phase in entries for e in phase.elements})
    fractions = fractions_of(hull.entries, hull.elements)
    ours = hull.energies(fractions)
    expected = [diagram.get_hull_energy_per_atom(Composition(e.amounts)) for e in hull.entries]
    assert ours == pytest.approx(expected, abs=1e-8)
    for point, energy, parts in zip(fractions, ours, hull.decompositions(fractions), strict=True):
        rows = [hull.entries[[e.entry_id for e in hull.entries].index(name)] for name in parts]
        shares = np.array(list(parts.values()))
        assert shares @ fractions_of(rows, hull.elements) == pytest.approx(point, abs=1e-8)
        assert shares @ [row.energy_per_atom for row in rows] == pytest.approx(energy, abs=1e-8)
        assert shares.min() > 0


def without_composition(entries: Iterable[ComputedEntry], mine: ComputedEntry) -> list[ComputedEntry]:
    """All entries but those whose reduced composition is the same."""
    reduced = mine.composition.reduced_composition
    return [entry for entry in entries if entry.composition.reduced_composition != reduced]


@pytest.mark.parametrize("seed", range(100))
def test_stability_equals_pymatgens(seed: int) -> None:
    entries = random_set(seed)
    theirs = as_pymatgen(entries)
    whole = PhaseDiagram(list(theirs.values()))
    energies = {e.entry_id: e.energy_per_atom for e in entries}
    diagrams: dict[Composition, PhaseDiagram] = {}
    for i, stability in enumerate(assess(entries, fidelity="mlip")):
        mine = theirs[stability.material_id]
        assert stability.energy_above_hull == pytest.approx(whole.get_e_above_hull(mine), abs=1e-8)
        assert stability.formation_energy_per_atom == pytest.approx(whole.get_form_energy_per_atom(mine), abs=1e-8)
        ours = stability.decomposition_energy_per_atom
        if i % 9 == seed % 9 or mine.is_element:  # an iterative solver, and slow
            assert ours == pytest.approx(whole.get_phase_separation_energy(mine), abs=1e-6)
        if mine.is_element:
            assert ours == pytest.approx(whole.get_e_above_hull(mine), abs=1e-8)
        else:
            reduced = mine.composition.reduced_composition
            if reduced not in diagrams:
                same = any(e.composition.reduced_composition == reduced for e in whole.stable_entries)
                diagrams[reduced] = PhaseDiagram(without_composition(theirs.values(), mine)) if same else whole
            diagram = diagrams[reduced]
            assert ours == pytest.approx(diagram.get_e_above_hull(mine, allow_negative=True), abs=1e-8)
        assert stability.material_id not in stability.decomposition
        if stability.decomposition:
            parts = [next(e for e in entries if e.entry_id == name) for name in stability.decomposition]
            shares = np.array(list(stability.decomposition.values()))
            made_of = shares @ fractions_of(parts, ELEMENTS)
            assert made_of == pytest.approx([mine.composition.get_atomic_fraction(e) for e in ELEMENTS], abs=1e-8)
            below = mine.energy_per_atom - shares @ [energies[name] for name in stability.decomposition]
            assert below == pytest.approx(ours, abs=1e-8)


@given(seed=st.integers(100, 100_000))
@settings(deadline=None, max_examples=100)
def test_above_the_hull_is_above_other_compositions_or_the_lowest_polymorph(seed: int) -> None:
    entries = random_set(seed)
    by_composition: dict[Composition, dict[str, float]] = {}
    for e in entries:
        reduced = Composition(e.amounts).reduced_composition
        by_composition.setdefault(reduced, {})[e.entry_id] = e.energy_per_atom
    of = {name: energies for energies in by_composition.values() for name in energies}
    for stability in assess(entries, fidelity="mlip"):
        energies, name = of[stability.material_id], stability.material_id
        rivals = [energies[name] - energy for other, energy in energies.items() if other != name]
        expected = max(0.0, stability.decomposition_energy_per_atom, *rivals)
        assert stability.energy_above_hull == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("seed", range(1, 40))
def test_a_polymorph_changes_no_decomposition_energy_of_its_composition(seed: int) -> None:
    entries = random_set(seed)
    before = {s.material_id: s for s in assess(entries, fidelity="dft")}
    for twin in [e for e in entries if len(e.elements) > 1][::7]:
        polymorph = replace(twin, entry_id="new", energy=twin.energy - 0.3 * twin.n_atoms)
        cell = {element: 3 * amount for element, amount in twin.amounts.items()}
        for new in (polymorph, replace(polymorph, amounts=cell, energy=3 * polymorph.energy)):
            for stability in assess([*entries, new], fidelity="dft"):
                of_it = stability.material_id == twin.entry_id
                if of_it or stability.material_id == "new":
                    shift = 0.0 if of_it else -0.3
                    was = before[twin.entry_id].decomposition_energy_per_atom + shift
                    assert stability.decomposition_energy_per_atom == pytest.approx(was, abs=1e-9)
                    if seed % 3:  # of two mixtures that tie either will do
                        expected = before[twin.entry_id].decomposition
                        assert stability.decomposition == pytest.approx(expected, abs=1e-8)


def test_fractions_that_differ_by_rounding_are_of_one_composition() -> None:
    def oxide(name: str, per_atom: float, li: float, o: float) -> HullEntry:
        return replace(entry(name, "Li2O", 0), amounts={"Li": li, "O": o}, energy=per_atom * (li + o))

    entries = [
        entry("Li", "Li", 0),
        entry("O", "O", 0),
        oxide("a", -2.0, 2, 1),
        oxide("b", -1.5, 0.2 / 3, 0.1 / 3),
        oxide("c", -1.2, 2 + 1e-9, 1),
        oxide("d", -1.1, 2 + 3e-7, 1),  # another composition: it holds a little more lithium
    ]
    diagram = PhaseDiagram(list(as_pymatgen(entries).values()))
    mine = ComputedEntry(Composition("Li2O"), -6.0)
    assert diagram.get_phase_separation_energy(mine) == pytest.approx(-0.9, abs=1e-6)
    for stability, energy in zip(assess(entries, fidelity="dft")[2:5], (-2.0, -1.5, -1.2), strict=True):
        assert set(stability.decomposition) == {"O", "d"}
        assert stability.decomposition_energy_per_atom == pytest.approx(energy + 1.1, abs=1e-6)


def test_known_binary_by_hand() -> None:
    entries = [entry("Li", "Li", 0), entry("O", "O", 0), entry("a", "Li2O", -2.0), entry("b", "Li2O2", -1.6)]
    by_id = {s.material_id: s for s in assess([*entries, entry("c", "Li2O", -1.9)], fidelity="dft")}
    # On the line from Li2O (1/3 O) to O, at 1/2 O: three quarters of -2.0.
    assert by_id["b"].decomposition_energy_per_atom == pytest.approx(-0.1)
    assert by_id["b"].decomposition == pytest.approx({"a": 0.75, "O": 0.25})
    # On the line from Li to LiO, at 1/3 O: two thirds of -1.6, whatever polymorphs there are.
    assert by_id["a"].decomposition_energy_per_atom == pytest.approx(-2.0 + 1.6 * 2 / 3)
    assert by_id["c"].decomposition_energy_per_atom == pytest.approx(-1.9 + 1.6 * 2 / 3)
    assert by_id["a"].decomposition == by_id["c"].decomposition == pytest.approx({"Li": 1 / 3, "b": 2 / 3})
    assert by_id["c"].energy_above_hull == pytest.approx(0.1)
    assert by_id["a"].energy_above_hull == 0
    assert {s.fidelity for s in by_id.values()} == {"dft"}


def test_an_element_stands_above_its_ground_state() -> None:
    entries = [entry("hcp", "Li", -1.9), entry("bcc", "Li2", -2.0), entry("O2", "O2", -5.0)]
    hcp, bcc, oxygen = assess(entries, fidelity="dft")
    theirs = as_pymatgen(entries)
    diagram = PhaseDiagram(list(theirs.values()))
    for stability in (hcp, bcc, oxygen):
        expected = diagram.get_phase_separation_energy(theirs[stability.material_id])
        assert stability.decomposition_energy_per_atom == pytest.approx(expected, abs=1e-12)
    assert (hcp.decomposition, bcc.decomposition, oxygen.decomposition) == ({"bcc": 1.0}, {}, {})
    assert (bcc.energy_above_hull, oxygen.decomposition_energy_per_atom) == (0, 0)
    (lower,) = assess(entries, [entry("new", "Li", -2.1)], fidelity="dft")
    assert (lower.energy_above_hull, lower.decomposition) == (0, {"bcc": 1.0})
    assert lower.decomposition_energy_per_atom == pytest.approx(-0.1)


def test_a_query_that_is_no_entry_is_judged_against_all() -> None:
    entries = [entry("Na", "Na", 0), entry("Cl", "Cl", 0), entry("salt", "NaCl", -2.0)]
    above, below, same = assess(
        entries,
        [entry("x", "NaCl", -1.5), entry("y", "NaCl", -2.25), entry("salt", "NaCl", -2.0)],
        fidelity="mlip",
    )
    assert above.energy_above_hull == pytest.approx(0.5)
    assert above.decomposition_energy_per_atom == pytest.approx(-1.5)
    assert (below.energy_above_hull, below.decomposition_energy_per_atom) == (0, pytest.approx(-2.25))
    assert below.decomposition == pytest.approx({"Na": 0.5, "Cl": 0.5})
    assert same.decomposition_energy_per_atom == pytest.approx(-2.0)


@given(seed=st.integers(0, 10_000), depth=st.floats(-3, 1), data=st.data())
@settings(deadline=None, max_examples=30)
def test_adding_a_phase_never_raises_the_hull(seed: int, depth: float, data: st.DataObject) -> None:
    entries = random_set(seed)
    elements = sorted({e for phase in entries for e in phase.elements})
    amounts = data.draw(st.dictionaries(st.sampled_from(elements), st.integers(1, 6), min_size=1))
    new = HullEntry(entry_id="new", amounts=amounts, energy=depth * 4, level_of_theory="PBE", method="m")
    points = np.random.default_rng(seed).dirichlet(np.ones(len(elements)), 50)
    before, after = Hull(entries, elements).energies(points), Hull([*entries, new], elements).energies(points)
    assert (after <= before + 1e-9).all()


@given(seed=st.integers(0, 10_000), factor=st.integers(2, 5), shuffle=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_supercells_and_order_change_nothing(seed: int, factor: int, shuffle) -> None:
    entries = random_set(seed)
    larger = [
        HullEntry(
            entry_id=e.entry_id,
            amounts={name: amount * factor for name, amount in reversed(e.amounts.items())},
            energy=e.energy * factor,
            level_of_theory="PBE",
            method="m",
        )
        for e in entries
    ]
    shuffle.shuffle(larger)
    before = {s.material_id: s for s in assess(entries, fidelity="mlip")}
    for s in assess(larger, fidelity="mlip"):
        old = before[s.material_id]
        assert s.decomposition_energy_per_atom == pytest.approx(old.decomposition_energy_per_atom, abs=1e-8)
        assert s.energy_above_hull == pytest.approx(old.energy_above_hull, abs=1e-8)
    flipped = assess(entries[::-1], fidelity="mlip")
    assert [s.reference_version for s in flipped] == [before[s.material_id].reference_version for s in flipped]


@pytest.mark.parametrize("seed", range(0, 60, 4))
def test_leaving_out_in_place_equals_building_without(seed: int) -> None:
    entries = random_set(seed)
    elements = {e for phase in entries for e in phase.elements}
    hull = Hull(entries, elements)
    for point in np.unique(hull.fractions[hull.fractions.max(axis=1) < 1], axis=0):
        kept = [e for e in entries if np.abs(fractions_of([e], hull.elements)[0] - point).max() > 1e-8]
        rest = Hull(kept, elements)
        assert hull.facet(point, of_others=True).energy == pytest.approx(rest.energies(point[None])[0], abs=1e-9)
        assert hull.facet(point).energy == pytest.approx(hull.energies(point[None])[0], abs=1e-9)


def test_competing_phases_are_products_first_then_near_ones() -> None:
    entries = [
        entry("K", "K", 0),
        entry("Mg", "Mg", 0),
        entry("Sb", "Sb", 0),
        entry("K3Sb", "K3Sb", -0.6),
        entry("Mg3Sb2", "Mg3Sb2", -0.5),
        entry("near", "KSb", -0.55),
        entry("far", "K5Sb4", -0.3),
        entry("other", "NaCl", -2.0),
        entry("me", "KMgSb", -0.7),
        entry("twin", "KMgSb", -0.66),
    ]
    me = entries[-2]
    found = competing_phases(entries, me)
    assert found[0] == ("twin", 0.0)
    assert {name for name, _ in found} <= {"twin", "K3Sb", "Mg3Sb2", "near", "K", "Mg", "Sb", "far"}
    without_twin = competing_phases(entries[:-1], me, within=0.2)
    others = [e for name, e in as_pymatgen(entries[:-1]).items() if name not in ("me", "other")]
    products = {e.entry_id for e in PhaseDiagram(others).get_decomposition(Composition("KMgSb"))}
    assert {name for name, _ in without_twin[: len(products)]} == products == {"K3Sb", "Mg3Sb2"}
    assert [d for _, d in without_twin] == sorted(d for _, d in without_twin)
    assert "other" not in dict(without_twin)
    assert {name for name, distance in without_twin} < {
        name for name, _ in competing_phases(entries[:-1], me, within=9)
    }


@pytest.mark.parametrize("seed", range(20))
def test_distance_is_how_far_a_phase_must_fall_before_it_is_felt(seed: int) -> None:
    entries = random_set(seed)
    elements = {e for phase in entries for e in phase.elements}
    me = HullEntry(entry_id="me", amounts=dict.fromkeys(elements, 1), energy=-9.0, level_of_theory="PBE", method="m")
    point = Composition(me.amounts)
    before = PhaseDiagram(list(as_pymatgen(entries).values())).get_hull_energy_per_atom(point)
    found = competing_phases([*entries, me], me, within=10.0)
    assert {name for name, _ in found} == {e.entry_id for e in entries}
    for name, distance in found[:: max(1, len(found) // 8)]:
        phase = next(e for e in entries if e.entry_id == name)
        if len(phase.elements) == 1:
            continue  # another reference would move with it

        def energy_after(fall: float, phase: HullEntry = phase) -> float:
            lowered = replace(phase, entry_id="lowered", energy=phase.energy - fall * phase.n_atoms)
            diagram = PhaseDiagram(list(as_pymatgen([*entries, lowered]).values()))
            return diagram.get_hull_energy_per_atom(point)

        assert energy_after(distance - 1e-6) == pytest.approx(before, abs=1e-9)
        assert energy_after(distance + 1e-3) < before - 1e-6


def test_levels_are_never_mixed_but_methods_may_be() -> None:
    entries = [entry("Na", "Na", 0), entry("Cl", "Cl", 0)]
    with pytest.raises(LevelOfTheoryMismatch, match=r"PBE .*r2SCAN"):
        assess([*entries, entry("salt", "NaCl", -2, level="r2SCAN")], fidelity="mlip")
    with pytest.raises(LevelOfTheoryMismatch):
        assess(entries, [entry("salt", "NaCl", -2, level="r2SCAN")], fidelity="mlip")
    with pytest.raises(LevelOfTheoryMismatch):
        competing_phases(entries, entry("salt", "NaCl", -2, level="r2SCAN"))
    ours = assess([*entries, entry("salt", "NaCl", -2)], fidelity="mlip")[-1]
    other = assess([*entries, entry("salt", "NaCl", -2, method="another")], fidelity="mlip")[-1]
    assert ours.reference_version != other.reference_version
    assert ours.energy_above_hull == other.energy_above_hull


def test_a_missing_element_is_named() -> None:
    with pytest.raises(MissingTerminals, match="element Cl"):
        assess([entry("Na", "Na", 0), entry("salt", "NaCl", -2)], fidelity="mlip")


def test_two_phases_of_one_id_and_nan_are_refused() -> None:
    with pytest.raises(HullError, match="called Na"):
        assess([entry("Na", "Na", 0), entry("Na", "Na2", 0.1)], fidelity="mlip")
    with pytest.raises(HullError, match="energy of Na"):
        assess([entry("Na", "Na", float("nan"))], fidelity="mlip")


def test_version_is_of_this_system_and_of_a_tenth_of_a_mev() -> None:
    entries = [entry("Na", "Na", 0), entry("Cl", "Cl", 0), entry("K", "K", 0), entry("salt", "NaCl", -2)]
    version = Systems(entries).hull({"Na", "Cl"}).version
    shifted = [*entries[:2], entry("K", "K", -1), entry("salt", "NaCl", -2.00001)]
    assert Systems(shifted).hull({"Na", "Cl"}).version == version
    assert Systems([*entries[:3], entry("salt", "NaCl", -2.001)]).hull({"Na", "Cl"}).version != version


def test_entry_from_a_calculation() -> None:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    settings_ = {"method": "chgnet-0.3.0", "fidelity": "mlip", "level_of_theory": "PBE", "settings_hash": "s"}
    done = Calculation(material_id="m", status="converged", structure=salt, energy=-27.0, **settings_)
    made = entry_from(done)
    assert (made.amounts, made.energy_per_atom) == ({"Na": 4.0, "Cl": 4.0}, -27.0 / 8)
    with pytest.raises(HullError, match="exploded"):
        entry_from(Calculation(material_id="m", status="exploded", structure=None, energy=None, **settings_))

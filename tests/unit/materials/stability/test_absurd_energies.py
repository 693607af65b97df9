"""Absurd energies are found, an element's own too, whatever zero a code or a potential counts from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from materials.stability.absurd_energies import absurd_energies
from materials.stability.hull import HullEntry


def made_up(rng: np.random.Generator, symbols: list[str], n: int, spread: float) -> list[HullEntry]:
    """Each element, and compounds of two or three; total energies with `spread` eV/atom between the elements."""
    shares = {symbol: rng.uniform(-9, -1) - spread * rng.random() for symbol in symbols}
    amounts = [{symbol: 1.0} for symbol in symbols]
    for _ in range(n):
        chosen = rng.choice(symbols, size=rng.integers(2, 4), replace=False)
        amounts.append({str(symbol): float(rng.integers(1, 4)) for symbol in chosen})
    return [
        HullEntry(
            entry_id=f"phase {i}",
            amounts=some,
            energy=sum(k * shares[e] for e, k in some.items())
            + sum(some.values()) * rng.uniform(-4, 6) * (len(some) > 1),
            level_of_theory="PBE",
            method="made up",
        )
        for i, some in enumerate(amounts)
    ]


@pytest.mark.parametrize("spread", [0.0, 2000.0])
@pytest.mark.parametrize("off", [-30.0, -400.0, -1e6, -1e8, 40.0, 1e5, np.nan, np.inf])
def test_an_absurd_energy_is_found_whatever_energies_count_from(spread: float, off: float) -> None:
    rng = np.random.default_rng(5)
    symbols = ["Fe", "K", "N", "Na", "O"]
    for _ in range(10):
        entries = made_up(rng, symbols, 30, spread)
        assert absurd_energies(entries) == {}
        for i in (1, 2, 12):  # an element's only phase, and a compound
            wrong = replace(entries[i], energy=entries[i].energy + off * entries[i].n_atoms)
            found = absurd_energies([*entries[:i], wrong, *entries[i + 1 :]])
            assert found.keys() == {f"phase {i}"}
            assert f"{wrong.energy_per_atom:.4g} eV/atom" in found[f"phase {i}"]


def test_an_elements_phase_is_doubted_before_its_only_compound() -> None:
    others = [phase("Cl", {"Cl": 1}, -1.8), phase("K", {"K": 1}, -1.0), phase("KCl", {"K": 1, "Cl": 1}, -3.3)]
    salt = phase("NaCl", {"Na": 1, "Cl": 1}, -3.4)
    assert absurd_energies([*others, salt, phase("Na", {"Na": 1}, -500.0)]).keys() == {"Na"}
    assert absurd_energies([*others, replace(salt, energy=-1000.0), phase("Na", {"Na": 1}, -1.3)]).keys() == {"NaCl"}
    assert absurd_energies([]) == {}
    assert absurd_energies([phase("Na", {"Na": 1}, -1e6)]) == {}  # all electrons may count


def phase(name: str, amounts: dict[str, float], per_atom: float) -> HullEntry:
    return HullEntry(
        entry_id=name, amounts=amounts, energy=per_atom * sum(amounts.values()), level_of_theory="x", method="y"
    )


# eV/atom of pseudopotential codes, whose cores differ: sane energies of which each looks odd beside the others.
TOTALS = {"H": -15.9, "Li": -203.0, "C": -155.0, "O": -440.0, "Mg": -445.0, "Cl": -450.0, "Ca": -1020.0, "Fe": -3400.0}


@pytest.mark.parametrize("seed", range(40))
def test_sane_total_energies_with_core_electrons_are_let_in(seed: int) -> None:
    rng = np.random.default_rng(seed)
    symbols = [str(symbol) for symbol in rng.choice(sorted(TOTALS), size=rng.integers(2, 4), replace=False)]
    entries = [phase(symbol, {symbol: 1.0}, TOTALS[symbol]) for symbol in symbols]
    for i in range(rng.integers(0, 4)):
        amounts = {symbol: float(rng.integers(1, 5)) for symbol in symbols[: rng.integers(2, len(symbols) + 1)]}
        mixed = sum(n * TOTALS[symbol] for symbol, n in amounts.items()) / sum(amounts.values())
        formation = rng.uniform(-1.5, 1.5, size=rng.integers(1, 7))  # eV/atom, of each polymorph
        entries += [phase(f"{i}-{j}", amounts, mixed + energy) for j, energy in enumerate(formation)]
    assert absurd_energies(entries) == {}


def test_many_polymorphs_of_one_formula_do_not_outvote_an_element() -> None:
    mixed = (-203 - 6 * 15.9) / 7
    several = [phase(f"LiH6-{i}", {"Li": 1.0, "H": 6.0}, mixed - 0.1 + 0.01 * i) for i in range(3)]
    assert absurd_energies([phase("Li", {"Li": 1.0}, -203.0), phase("H2", {"H": 2.0}, -15.9), *several]) == {}


def test_nothing_is_said_of_an_element_without_a_phase_of_its_own() -> None:
    silicon = [phase(f"Si-{i}", {"Si": 1.0}, -160.0 + 0.01 * i) for i in range(6)]
    assert absurd_energies([*silicon, phase("SiGe", {"Si": 1.0, "Ge": 1.0}, -2080.0)]) == {}

"""Which compounds have open shells, against textbooks, and which of them a calculation gives spin."""

from math import prod

import numpy as np
import pytest
from ase.data import atomic_numbers, ground_state_magnetic_moments
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from models.dft.magnetism import magnetism_of, open_shells
from models.dft.presets import symmetrised

# Formula -> unpaired electrons of the metal's ion in its usual spin state: Greenwood and Earnshaw; CRC Handbook.
OPEN = {
    "TiF3": ("Ti", 1), "Ti2O3": ("Ti", 1), "VO2": ("V", 1), "V2O3": ("V", 2), "Cr2O3": ("Cr", 3), "CrCl3": ("Cr", 3),
    "MnO": ("Mn", 5), "MnF2": ("Mn", 5), "MnO2": ("Mn", 3), "LaMnO3": ("Mn", 4), "Fe2O3": ("Fe", 5), "FeO": ("Fe", 4),
    "LiFePO4": ("Fe", 4), "CoO": ("Co", 3), "CoF3": ("Co", 4), "NiO": ("Ni", 2), "CuO": ("Cu", 1), "KCuF3": ("Cu", 1),
    "AgF2": ("Ag", 1), "MoCl3": ("Mo", 3), "NbO2": ("Nb", 1), "RuCl3": ("Ru", 1), "RuO2": ("Ru", 2), "OsO2": ("Os", 2),
    "IrO2": ("Ir", 1), "Na2IrO3": ("Ir", 1), "ReO3": ("Re", 1), "Gd2O3": ("Gd", 7), "EuO": ("Eu", 7), "YbF3": ("Yb", 1),
    "NdCl3": ("Nd", 3), "Ce2S3": ("Ce", 1), "UO2": ("U", 2), "UCl3": ("U", 3), "BaFe12O19": ("Fe", 5),
}  # fmt: skip
MIXED = {"LiMn2O4": ("Mn", 3.5), "Fe3O4": ("Fe", 14 / 3), "YBa2Cu3O7": ("Cu", 4 / 3), "Cu12Sb4S13": ("Cu", 1 / 6)}
CLOSED = [
    "TiO2", "SrTiO3", "V2O5", "KMnO4", "Sc2O3", "ZrO2", "Nb2O5", "WO3", "CeO2", "La2O3", "Lu2O3", "UO3", "YbS",
    "ZnO", "CdTe", "HgS", "GaAs", "Cu2O", "CuCl", "AgBr", "AuCl3", "PdO", "PtCl2", "PtO2", "Rh2O3", "CuInSe2",
    "LiMgP", "LiZnAs", "CuMgP", "AgMgAs", "Cu3P", "Cu3N", "CuP2", "AgZn", "Na3As", "Mg3Sb2", "CaCu5", "SnO2", "PbTe",
    "Li4Ti5O12", "Li7La3Zr2O12", "Ca5P3O12F", "Ca5P3O13H", "Li10GeP2S12", "Mg17Al12",
]  # fmt: skip


def spread(formula: str) -> Structure:
    """Atoms of a formula unit, far from each other."""
    symbols = [e.symbol for e, n in Composition(formula).items() for _ in range(int(n))]
    places = np.random.default_rng(0).random((len(symbols), 3))
    return Structure(Lattice.cubic(10.0), symbols, places)


@pytest.mark.parametrize("formula", OPEN)
def test_open_shells_of_textbooks(formula: str) -> None:
    symbol, moment = OPEN[formula]
    assert open_shells(spread(formula)) == {symbol: moment}


@pytest.mark.parametrize("formula", MIXED)
def test_mixed_valence_is_between_its_ions(formula: str) -> None:
    symbol, moment = MIXED[formula]
    assert open_shells(spread(formula)) == {symbol: pytest.approx(moment, abs=1e-3)}


@pytest.mark.parametrize("formula", CLOSED)
def test_closed_shells_have_no_spin(formula: str) -> None:
    assert open_shells(spread(formula)) == {}


def test_cobalt_is_left_to_find_its_spin_state() -> None:
    assert 0 < open_shells(spread("LiCoO2"))["Co"] < 1


@pytest.mark.parametrize("symbol", ["Fe", "Co", "Ni", "Mn", "Cr", "Gd", "Nd"])
def test_elements_that_order(symbol: str) -> None:
    assert open_shells(spread(symbol))[symbol] > 1


@pytest.mark.parametrize("symbol", ["Li", "Na", "K", "Ca", "Al", "Ti", "Cu", "Zn", "Ag", "Pd", "W", "Pt", "Yb", "As"])
def test_elements_that_do_not(symbol: str) -> None:
    assert open_shells(spread(symbol)) == {}


@pytest.mark.parametrize("formula", ["MnAs", "ZrZn2", "TiAu", "Fe3Al", "FeSi", "UGe2", "GdCo5", "NiSi", "MoSi2"])
def test_alloys_of_open_shells_are_computed_with_spin(formula: str) -> None:
    assert open_shells(spread(formula))


def boxed(symbols: str, length: float = 1.2, box: float = 9.0) -> Structure:
    """Atoms in a row, in a box."""
    names = symbols.split()
    return Structure(Lattice.cubic(box), names, [(0, 0, n * length / box) for n in range(len(names))])


MOLECULES = {
    ("O O", 1.22): 2, ("N N", 1.10): 0, ("N O", 1.15): 1, ("C O", 1.13): 0, ("H H", 0.75): 0, ("O H", 0.97): 1,
    ("F F", 1.41): 0, ("Cl Cl", 1.99): 0, ("S O", 1.48): 2, ("O C O", 1.16): 0, ("O Cl O", 1.5): 1, ("C N", 1.17): 1,
}  # fmt: skip


@pytest.mark.parametrize(("symbols", "length"), MOLECULES)
def test_molecules(symbols: str, length: float) -> None:
    found = magnetism_of(boxed(symbols, length))
    assert sum(found.moments) == pytest.approx(MOLECULES[symbols, length], abs=1e-3)
    assert len(found.centres) == (1 if MOLECULES[symbols, length] else 0)


@pytest.mark.parametrize("symbol", ["H", "Li", "B", "C", "N", "O", "F", "Na", "Si", "P", "Cl", "Fe", "Ne", "Zn"])
def test_single_atoms_obey_hund(symbol: str) -> None:
    # ASE's are measured ground states.
    atom = magnetism_of(Structure(Lattice.cubic(14.0), [symbol], [(0, 0, 0)]))
    wanted = ground_state_magnetic_moments[atomic_numbers[symbol]]
    assert sum(atom.moments) == pytest.approx(wanted if symbol != "Fe" else 3.0)
    assert atom.centres == ()


def cubic_salt(cation: str, bond: float) -> Structure:
    """Rock salt of a cation and of two oxygens a bond (Å) apart."""
    return Structure.from_spacegroup(
        "I4/mmm", Lattice.tetragonal(4.03, 6.70), [cation, "O"], [(0, 0, 0), (0, 0, 0.5 - bond / 2 / 6.70)]
    )


def test_superoxides_and_peroxides() -> None:
    superoxide = symmetrised(cubic_salt("K", 1.30))
    found = magnetism_of(superoxide)
    assert sum(found.moments) == pytest.approx(1.0)  # KO2
    assert [len(unit) for unit in found.centres] == [2]
    assert found.of_elements([site.specie.symbol for site in superoxide]) == {"O": 0.5}
    assert not any(magnetism_of(cubic_salt("Ba", 1.49)).moments)  # a peroxide
    assert sum(magnetism_of(symmetrised(cubic_salt("Na", 1.34))).moments) == pytest.approx(1.0)


def test_salts_of_closed_shells_and_simple_metals() -> None:
    rock_salt = [("Na", "Cl"), ("Mg", "O"), ("Ca", "S"), ("K", "H")]
    for cation, anion in rock_salt:
        made = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.0), [cation, anion], [(0, 0, 0), (0.5, 0.5, 0.5)])
        assert not any(magnetism_of(made).moments)
    carbon_dioxide = Structure.from_spacegroup("Pa-3", Lattice.cubic(5.62), ["C", "O"], [(0, 0, 0), (0.118,) * 3])
    assert not any(magnetism_of(carbon_dioxide).moments)
    for symbol, a in (("Na", 4.2), ("K", 5.2), ("Cs", 6.1)):  # odd, and metals
        assert not any(
            magnetism_of(Structure.from_spacegroup("Im-3m", Lattice.cubic(a), [symbol], [(0, 0, 0)])).moments
        )
    electride = Structure.from_spacegroup(
        "R-3m", Lattice.hexagonal(3.62, 19.1), ["Ca", "N"], [(0, 0, 0.268), (0, 0, 0)]
    )
    assert not any(magnetism_of(electride).moments)  # Ca2N: its odd electron is in a band


def test_an_anion_short_of_electrons_is_a_radical() -> None:
    made = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.8), ["Na", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    assert sum(magnetism_of(symmetrised(made)).moments) == 1.0


@given(st.integers(0, 2**31), st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 2)]))
@settings(max_examples=10, deadline=None)
def test_cell_and_order_of_the_sites_do_not_matter(seed: int, scaling: tuple[int, int, int]) -> None:
    made = cubic_salt("K", 1.30) * scaling
    order = np.random.default_rng(seed).permutation(len(made))
    found = magnetism_of(Structure.from_sites([made[int(k)] for k in order]))
    assert sum(found.moments) == pytest.approx(2 * prod(scaling))
    assert len(found.centres) == 2 * prod(scaling)

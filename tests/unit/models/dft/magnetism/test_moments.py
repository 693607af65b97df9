"""Which compounds have open shells, against textbooks, and which of them a calculation gives spin."""

from itertools import product
from math import ceil, prod

import numpy as np
import pytest
from ase.data import atomic_numbers, ground_state_magnetic_moments
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from models.dft.magnetism import moments
from models.dft.magnetism.moments import magnetism_of
from models.dft.magnetism.polyanions import polyanions_of
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


def open_shells(structure: Structure) -> dict[str, float]:
    return moments.open_shells(structure, polyanions_of(structure))


def states_of(structure: Structure) -> dict[str, float]:
    return moments.states_of(structure, polyanions_of(structure))


def spread(formula: str) -> Structure:
    """Atoms of a formula unit, far from each other."""
    symbols = [e.symbol for e, n in Composition(formula).items() for _ in range(int(n))]
    n = ceil(len(symbols) ** (1 / 3) - 1e-9)
    places = np.array(list(product(range(n), repeat=3))[: len(symbols)]) / n
    return Structure(Lattice.cubic(4.0 * n), symbols, places)


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


def made(group: str, lattice: Lattice, **sites: tuple[float, float, float]) -> Structure:
    return Structure.from_spacegroup(group, lattice, list(sites), list(sites.values()))


def pyrite(cation: str, anion: str, a: float, u: float) -> Structure:
    return Structure.from_spacegroup("Pa-3", Lattice.cubic(a), [cation, anion], [(0, 0, 0), (u, u, u)])


def ullmannite(cation: str, pnictogen: str, chalcogen: str, a: float) -> Structure:
    """Pyrite with pairs of two elements."""
    return Structure.from_spacegroup(
        "P2_13", Lattice.cubic(a), [cation, pnictogen, chalcogen], [(-0.01,) * 3, (0.385,) * 3, (0.615,) * 3]
    )


def marcasite(cation: str, anion: str, abc: tuple[float, float, float], x: float, y: float) -> Structure:
    return Structure.from_spacegroup("Pnnm", Lattice.orthorhombic(*abc), [cation, anion], [(0, 0, 0), (x, y, 0)])


def skutterudite(cation: str, anion: str, a: float, y: float, z: float, *filler: str) -> Structure:
    places = [(0.25, 0.25, 0.25), (0, y, z), (0, 0, 0)]
    return Structure.from_spacegroup("Im-3", Lattice.cubic(a), [cation, anion, *filler], places[: 2 + len(filler)])


def arsenopyrite(cation: str, pnictogen: str, other: str) -> Structure:
    cell = Lattice.from_parameters(5.741, 5.649, 5.756, 90, 111.93, 90)
    places = [(0.283, -0.006, 0.294), (0.148, 0.128, 0.364), (0.665, 0.130, 0.322)]
    return Structure.from_spacegroup("P2_1/c", cell, [cation, pnictogen, other], places)


def thiophosphate(cation: str) -> Structure:
    cell = Lattice.from_parameters(5.947, 10.3, 6.722, 90, 107.16, 90)
    places = [(0, 0.3326, 0), (0.0566, 0, 0.1696), (0.7502, 0, 0.2470), (0.2488, 0.1659, 0.2470)]
    return Structure.from_spacegroup("C2/m", cell, [cation, "P", "S", "S"], places)


# Measured cells of crystals whose anions are bonded to each other, the charge of the metal, and the moment to start
# from: in low spin, but where exchange is stronger than the field of the anions (hauerite, MnS2).
POLYANIONS = {
    "pyrite": (pyrite("Fe", "S", 5.418, 0.385), "Fe", 2, 0.6),
    "cattierite": (pyrite("Co", "S", 5.535, 0.389), "Co", 2, 1.0),
    "vaesite": (pyrite("Ni", "S", 5.687, 0.394), "Ni", 2, 2.0),
    "hauerite": (pyrite("Mn", "S", 6.104, 0.401), "Mn", 2, 5.0),
    "laurite": (pyrite("Ru", "S", 5.610, 0.388), "Ru", 2, 0.0),
    "MnTe2": (pyrite("Mn", "Te", 6.943, 0.386), "Mn", 2, 5.0),
    "PtP2": (pyrite("Pt", "P", 5.696, 0.390), "Pt", 4, 0.0),
    "marcasite": (marcasite("Fe", "S", (4.443, 5.425, 3.387), 0.200, 0.378), "Fe", 2, 0.6),
    "ferroselite": (marcasite("Fe", "Se", (4.804, 5.784, 3.586), 0.213, 0.369), "Fe", 2, 0.6),
    "frohbergite": (marcasite("Fe", "Te", (5.265, 6.265, 3.869), 0.224, 0.362), "Fe", 2, 0.6),
    "loellingite": (marcasite("Fe", "As", (5.300, 5.984, 2.882), 0.176, 0.363), "Fe", 4, 2.0),
    "FeSb2": (marcasite("Fe", "Sb", (5.833, 6.538, 3.197), 0.188, 0.357), "Fe", 4, 2.0),
    "cobaltite": (ullmannite("Co", "As", "S", 5.58), "Co", 3, 0.6),
    "ullmannite": (ullmannite("Ni", "Sb", "S", 5.93), "Ni", 3, 1.0),
    "CoSb3": (skutterudite("Co", "Sb", 9.039, 0.335, 0.158), "Co", 3, 0.6),
    "IrSb3": (skutterudite("Ir", "Sb", 9.253, 0.340, 0.154), "Ir", 3, 0.0),
    "CoP3": (skutterudite("Co", "P", 7.707, 0.348, 0.145), "Co", 3, 0.6),
    "LaFe4P12": (skutterudite("Fe", "P", 7.832, 0.354, 0.149, "La"), "Fe", 2.25, 0.7),
    "MnPS3": (thiophosphate("Mn"), "Mn", 2, 5.0),  # P2S6 4-, whose sulfur is what the metal has about it
    "FePS3": (thiophosphate("Fe"), "Fe", 2, 4.0),
    "CoAs2": (arsenopyrite("Co", "As", "As"), "Co", 4, 1.0),
    "arsenopyrite": (arsenopyrite("Fe", "As", "S"), "Fe", 3, 1.0),
    "a peroxide in the pyrite type": (pyrite("Zn", "O", 4.871, 0.413), "Zn", 2, 0.0),
}


@pytest.mark.parametrize("name", POLYANIONS)
def test_pairs_and_rings_of_anions_are_counted_by_their_bonds(name: str) -> None:
    structure, symbol, state, moment = POLYANIONS[name]
    for cell in (structure, structure * (2, 1, 1), symmetrised(structure)):
        assert states_of(cell)[symbol] == pytest.approx(state)
        assert open_shells(cell).get(symbol, 0.0) == pytest.approx(moment)


def test_low_spin_that_is_closed_has_no_orders_to_try() -> None:
    found = magnetism_of(POLYANIONS["pyrite"][0])
    assert found.moments == (0.6,) * 4 + (0.0,) * 8  # with spin all the same
    assert found.centres == ()
    assert len(magnetism_of(POLYANIONS["hauerite"][0]).centres) == 4


@pytest.mark.parametrize(
    ("structure", "symbol", "moment"),
    [
        (made("P-3m1", Lattice.hexagonal(3.93, 5.39), Ir=(0, 0, 0), Te=(1 / 3, 2 / 3, 0.255)), "Ir", 1.0),  # CdI2 type
        (made("P6_3/mmc", Lattice.hexagonal(3.72, 5.71), Mn=(0, 0, 0), As=(1 / 3, 2 / 3, 0.25)), "Mn", 4.0),  # NiAs
        (made("Fm-3m", Lattice.cubic(5.22), Mn=(0, 0, 0), S=(0.5, 0.5, 0.5)), "Mn", 5.0),
        # A square net of antimony: its long bonds are none of two electrons each.
        (made("P4/mmm", Lattice.tetragonal(3.05 * 2**0.5, 5.5), Mn=(0, 0, 0.5), Sb=(0.5, 0, 0)), "Mn", 4.0),
        # Antimony with three bonds to sulfur is Sb3+ by any rule, and iron beside it in high spin.
        (made("P-43m", Lattice.cubic(5.0), Fe=(0.5, 0.5, 0.5), Sb=(0, 0, 0), S=(0.28, 0.28, 0.28)), "Fe", 5.0),
    ],
)
def test_anions_that_are_not_bonded_to_each_other_count_by_the_formula(
    structure: Structure, symbol: str, moment: float
) -> None:
    assert polyanions_of(structure) is None
    assert open_shells(structure)[symbol] == moment


def test_nickel_above_two_is_in_low_spin() -> None:
    assert open_shells(spread("LiNiO2")) == {"Ni": 1.0}
    assert open_shells(spread("NiO2")) == {"Ni": 0.6}


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

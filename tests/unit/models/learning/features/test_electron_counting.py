import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Element

from models.learning.features.electron_counting import closed_shell_charges, count_electrons


def counted(formula):
    amounts = Composition(formula).get_el_amt_dict()
    return count_electrons(tuple((Element(symbol).Z, int(amount)) for symbol, amount in amounts.items()))


# What has a gap in experiment, and what has none.
INSULATORS = ("NaCl", "MgO", "Al2O3", "SrTiO3", "GaAs", "ZnO", "Cu2O", "PbTiO3", "LiCoO2", "CsPbI3", "LaAlO3", "KMgSb")
METALS = ("NaCl3", "TiN", "NbO", "ReO3", "SrVO3", "Ti2O3", "LaNiO3")


@pytest.mark.parametrize("formula", INSULATORS)
def test_shells_of_known_insulators_close(formula):
    assert counted(formula)[0] == 0
    assert counted(formula)[2] == 0


@pytest.mark.parametrize("formula", METALS)
def test_shells_of_known_metals_do_not(formula):
    shells, _, odd = counted(formula)
    assert shells > 0 or odd


@pytest.mark.parametrize(
    ("symbol", "charges"),
    [
        ("Na", (1,)),
        ("Ti", (4,)),
        ("Zn", (2,)),
        ("Pb", (-4, 2, 4)),
        ("Co", (3,)),
        ("Au", (1, 3)),
        ("O", (-2,)),
        ("As", (-3, 3, 5)),
        ("He", (0,)),
        ("H", (-1, 1)),
    ],
)
def test_charges_that_close_shells(symbol, charges):
    assert closed_shell_charges(symbol) == charges


@given(st.dictionaries(st.integers(1, 103), st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 4))
def test_the_size_of_the_cell_does_not_matter(amounts, times):
    once = count_electrons(tuple(sorted(amounts.items())))
    assert count_electrons(tuple(sorted((z, times * n) for z, n in amounts.items()))) == once
    assert all(0 <= value < 30 for value in once)

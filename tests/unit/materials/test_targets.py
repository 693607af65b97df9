import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from materials.properties import unit_of
from materials.records import Target
from materials.targets import pareto_front

STABLE = Target(property="energy", goal="minimize")
GAP = Target(property="gap", goal="near", value=1.3, tolerance=0.3)
numbers = st.integers(-5, 5).map(lambda i: i / 2)


@given(st.lists(st.tuples(numbers, numbers), max_size=12))
def test_the_front_is_what_no_other_outdoes(pairs):
    rows = [{"energy": energy, "gap": gap} for energy, gap in pairs]
    badness = np.array([(energy, abs(gap - 1.3)) for energy, gap in pairs]).reshape(-1, 2)
    outdone = [any((other <= own).all() and (other < own).any() for other in badness) for own in badness]
    assert pareto_front([STABLE, GAP], rows) == [not worse for worse in outdone]


def test_an_unknown_value_leaves_it_open_and_one_wish_has_no_front():
    rows = [{"energy": 0.0, "gap": None}, {"energy": 0.5, "gap": 1.3}, {"gap": 1.0}]
    assert pareto_front([STABLE, GAP], rows) == [None, True, None]
    assert pareto_front([STABLE], rows) == [None, None, None]
    assert pareto_front([STABLE, STABLE], rows) == [None, None, None]


def test_thresholds_are_wishes_too():
    wishes = [Target(property="energy", goal="at_most", value=0.0), Target(property="gap", goal="at_least", value=1.0)]
    rows = [{"energy": -0.2, "gap": 1.1}, {"energy": -0.1, "gap": 2.0}, {"energy": -0.1, "gap": 1.0}]
    assert pareto_front(wishes, rows) == [True, True, False]


def test_units_are_those_of_the_property():
    names = ("band_gap", "volume_per_atom", "decomposition_energy_per_atom", "energy_above_hull")
    assert [unit_of(name) for name in names] == ["eV", "Å³/atom", "eV/atom", "eV/atom"]

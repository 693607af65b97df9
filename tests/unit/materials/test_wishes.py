"""Wishes as a person writes them."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from materials.errors import InputError
from materials.targets import Wish, all_hold, meets, read_wish

numbers = st.floats(-1e6, 1e6)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
blanks = st.sampled_from(["", " ", "  "])
OPERATORS = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


@given(name=names, value=numbers, operator=st.sampled_from(list(OPERATORS)), blank=blanks, other=numbers)
def test_one_bound_is_read_as_numpy_compares(name, value, operator, blank, other):
    wish = read_wish(f"{blank}{name}{blank}{operator}{blank}{value!r}{blank}")
    assert wish.property == name
    values = np.array([other, value, np.nextafter(value, -np.inf), np.nextafter(value, np.inf), np.nan])
    np.testing.assert_array_equal(wish.holds(values), OPERATORS[operator](values, value))


@given(
    name=names,
    low=numbers,
    high=numbers,
    above=st.sampled_from(["<", "<="]),
    below=st.sampled_from(["<", "<="]),
    other=numbers,
)
def test_two_bounds_are_read_as_numpy_compares(name, low, high, above, below, other):
    assume(low < high)
    wish = read_wish(f"{low!r} {above} {name} {below} {high!r}")
    values = np.array([other, low, high, (low + high) / 2, np.nan])
    expected = OPERATORS[above](low, values) & OPERATORS[below](values, high)
    np.testing.assert_array_equal(wish.holds(values), expected)
    assert wish == Wish(property=name, low=low, high=high, low_counts=above == "<=", high_counts=below == "<=")


@pytest.mark.parametrize("name", ["E (eV/atom)", "1name", "band gap", "gap [eV]", "x"])
def test_a_column_may_be_called_as_it_likes(name):
    assert read_wish(f" {name} < 0.5") == Wish(property=name, high=0.5, high_counts=False)
    assert read_wish(f"0.5<={name}<1") == Wish(property=name, low=0.5, high=1.0, high_counts=False)


@given(
    low=st.none() | st.integers(-(10**6), 10**6),
    width=st.none() | st.integers(1, 10**6),
    counts=st.tuples(st.booleans(), st.booleans()),
)
def test_it_is_written_as_it_is_read(low, width, counts):
    assume(low is not None or width is not None)
    low_, high = (
        (-math.inf if low is None else low / 1000),
        (math.inf if width is None else ((low or 0) + width) / 1000),
    )
    wish = Wish(
        property="x",
        low=low_,
        high=high,
        low_counts=counts[0] or low is None,
        high_counts=counts[1] or width is None,
    )
    assert read_wish(str(wish)) == wish


@given(low=st.integers(-(10**6), 10**6), width=st.integers(1, 10**6), share=st.floats(-0.5, 1.5))
def test_the_target_of_a_wish_is_met_by_what_the_wish_holds_for(low, width, share):
    low, high = low / 1000, (low + width) / 1000
    value = low + share * (high - low)
    assume(min(abs(value - low), abs(value - high)) > 2e-4)  # decisions are made of values rounded to 1e-4
    for wish in (
        Wish(property="x", low=low, high=high),
        Wish(property="x", low=low),
        Wish(property="x", high=high),
    ):
        assert meets([wish.target()], {"x": value}) == wish.holds(np.array([value]))[0]


def test_the_forms_of_the_readme():
    assert read_wish("decomposition_energy_per_atom < 0.5") == Wish(
        property="decomposition_energy_per_atom", high=0.5, high_counts=False
    )
    assert read_wish("0.5<band_gap<=3.5") == Wish(property="band_gap", low=0.5, high=3.5, low_counts=False)
    assert read_wish("band_gap >= -.5e-1") == Wish(property="band_gap", low=-0.05)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "band_gap",
        "band_gap < ",
        "< 0.5",
        "band_gap = 1",
        "band_gap == 1",
        "band_gap < one",
        "band_gap < nan",
        "3.5 > band_gap > 0.5",
        "0.5 < band_gap > 3.5",
        "0.5 < band_gap < 3.5 < 4",
        "band_gap < 1 and x < 2",
        "band_gap < 1_000",
        "band_gap < 1e999",
        "-1e999 < band_gap < 1",
    ],
)
def test_what_is_no_wish_is_told_with_an_example(text):
    with pytest.raises(InputError) as told:
        read_wish(text)
    assert str(told.value).startswith(f'--want "{text}": ')
    assert '"0.5 < band_gap < 3.5"' in str(told.value)


@pytest.mark.parametrize("text", ["3.5 < band_gap < 0.5", "1 < band_gap < 1", "1 <= band_gap < 1"])
def test_bounds_that_nothing_lies_between_are_refused(text):
    with pytest.raises(InputError, match="nothing lies above"):
        read_wish(text)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_all_hold_is_each_holds(rows):
    values = {"a": np.array([a for a, _ in rows]), "b": np.array([b for _, b in rows])}
    wishes = [Wish(property="a", high=0.0), Wish(property="b", low=-1.0, high=1.0), Wish(property="a", low=-1e5)]
    expected = [a <= 0 and -1 <= b <= 1 and a >= -1e5 for a, b in rows]
    np.testing.assert_array_equal(all_hold(wishes, values), expected)


def test_a_bound_that_is_none_is_infinite():
    assert Wish(property="x").low == -math.inf
    assert Wish(property="x").high == math.inf

"""The registry of properties: what the rest of the program takes from it."""

from dataclasses import fields
from typing import get_args

import pytest

from flows.config.campaign import TargetSection
from flows.report.table import HEADINGS
from materials.properties import (
    PROPERTIES,
    PropertyName,
    floor_of,
    is_of_dft_alone,
    learned_as,
    spoken,
    unit_of,
)
from materials.records import RankedCandidate, Target
from materials.store.schema import ranked_candidates
from materials.targets import contradiction
from models.learning.fit import EXPECTATIONS


def test_each_name_has_one_entry() -> None:
    assert set(get_args(PropertyName)) == set(PROPERTIES)
    assert all(name == one.name for name, one in PROPERTIES.items())
    assert set(TargetSection.model_json_schema()["properties"]["property"]["enum"]) == set(PROPERTIES)


@pytest.mark.parametrize("one", PROPERTIES.values(), ids=lambda one: one.name)
def test_an_entry_agrees_with_the_table_and_the_surrogate(one) -> None:  # type: ignore[no-untyped-def]
    columns = set(ranked_candidates.c.keys())
    assert one.name in columns
    assert one.name in {field.name for field in fields(RankedCandidate)}
    if one.prediction:
        assert {one.prediction, f"{one.prediction}_std"} <= columns
    assert HEADINGS.get(one.name, "") == one.heading
    assert one.unit in one.heading or not one.heading
    expected = EXPECTATIONS[one.name]
    assert (expected.prior, expected.center, expected.spread, expected.floor) == (
        one.prior,
        one.center,
        one.spread,
        one.floor,
    )
    assert (one.prior is None) == is_of_dft_alone(one.name)
    assert PROPERTIES[learned_as(one.name)].learned_as == learned_as(one.name)


def test_a_bound_of_a_property_is_told_where_a_target_asks_for_less() -> None:
    for one in PROPERTIES.values():
        told = contradiction([Target(property=one.name, goal="at_most", value=-1.0)])
        assert (told is not None) == (one.least is not None), one.name


def test_a_column_of_a_replays_own_table_has_defaults() -> None:
    assert (learned_as("bulk_modulus"), spoken("bulk_modulus"), unit_of("x"), floor_of("x"), is_of_dft_alone("x")) == (
        "bulk_modulus",
        "bulk modulus",
        "eV/atom",
        None,
        False,
    )

"""Wishes as a person writes them: `decomposition_energy_per_atom < 0.5`, `0.5 < band_gap <= 3.5`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from materials.errors import InputError
from materials.records import Target

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WISH = re.compile(
    rf"\s*(?:(?P<low>{_NUMBER})\s*(?P<above><=?)\s*)?(?P<name>[^<>=]*[^<>=\s])\s*(?P<op><=?|>=?)\s*(?P<value>{_NUMBER})\s*"
)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A property that is to lie within bounds; an infinite one is none."""

    property: str
    low: float = -math.inf
    high: float = math.inf
    low_counts: bool = True  # whether the bound itself is inside
    high_counts: bool = True

    def __str__(self) -> str:
        """Write it as it is read."""
        low = f"{self.low:.10g} <{'=' * self.low_counts} "
        high = f" <{'=' * self.high_counts} {self.high:.10g}"
        if math.isinf(self.high):
            return f"{self.property} >{'=' * self.low_counts} {self.low:.10g}"
        return f"{low if math.isfinite(self.low) else ''}{self.property}{high}"

    def target(self) -> Target:
        """Give the target that a campaign follows: to it, bounds are inside."""
        if math.isinf(self.low):
            return Target(property=self.property, goal="at_most", value=self.high)
        if math.isinf(self.high):
            return Target(property=self.property, goal="at_least", value=self.low)
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return Target(property=self.property, goal="near", value=middle, tolerance=half)

    def holds(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Say for each value whether it is what was wished for; NaN is not."""
        above = values >= self.low if self.low_counts else values > self.low
        below = values <= self.high if self.high_counts else values < self.high
        return above & below


def read_wish(text: str) -> Wish:
    """Read a wish.

    Raises:
        InputError: It is none, or no value can meet it.
    """
    found = _WISH.fullmatch(text)
    bounds = [float(found[name]) for name in ("low", "value") if found[name]] if found else []
    if found is None or (found["low"] and not found["op"].startswith("<")) or not all(map(math.isfinite, bounds)):
        raise InputError(
            f'--want "{text}": a wish is a property and its bounds, such as "decomposition_energy_per_atom < 0.5" or'
            ' "0.5 < band_gap < 3.5"'
        )
    value, counts = bounds[-1], found["op"].endswith("=")
    if found["op"].startswith(">"):
        return Wish(property=found["name"], low=value, low_counts=counts)
    if not found["low"]:
        return Wish(property=found["name"], high=value, high_counts=counts)
    low = bounds[0]
    if low >= value:
        raise InputError(f'--want "{text}": nothing lies above {low:g} and below {value:g}; the lower one comes first')
    return Wish(property=found["name"], low=low, high=value, low_counts=found["above"] == "<=", high_counts=counts)


def all_hold(wishes: Sequence[Wish], values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Say for each row whether it meets every wish."""
    return np.logical_and.reduce([wish.holds(values[wish.property]) for wish in wishes])

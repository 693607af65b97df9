"""Targets as text, and whether the known properties of a material meet them.

Decisions take values rounded to four decimals, energies thus to 0.1 meV: another batch size or processor changes the
digits behind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from materials.errors import InputError
from materials.properties import PROPERTIES, floor_of
from materials.records import Target

DIGITS = 4

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WISH = re.compile(
    rf"\s*(?:(?P<low>{_NUMBER})\s*(?P<above><=?)\s*)?(?P<name>[^<>=]*[^<>=\s])\s*(?P<op><=?|>=?)\s*(?P<value>{_NUMBER})\s*"
)


def is_threshold(target: Target) -> bool:
    """Whether a target can be met or missed; the others only order."""
    return target.goal in ("at_most", "at_least") or (target.goal == "near" and target.tolerance is not None)


def contradiction(targets: Sequence[Target]) -> str | None:
    """Say in a sentence why nothing can meet all targets; None where something may."""
    seen: set[tuple[str, str]] = set()
    bounds = {name: one.least for name, one in PROPERTIES.items() if one.least is not None}
    least, most = dict(bounds), dict[str, float]()
    for target in targets:
        name, goal = target.property, target.goal
        kind = "goal" if goal in ("minimize", "maximize") else goal
        if (name, kind) in seen:
            return f"{name} has two {kind} targets; keep one"
        seen.add((name, kind))
        if not is_threshold(target):
            continue
        half = target.tolerance or 0.0
        if goal != "at_least" and (high := _value(target) + half) < bounds.get(name, -math.inf):
            return f"{name} is never below {bounds[name]:g}, so that nothing is at most {high:g}; give another value"
        if goal != "at_most":
            least[name] = max(least.get(name, -math.inf), _value(target) - half)
        if goal != "at_least":
            most[name] = min(most.get(name, math.inf), _value(target) + half)
    for name, high in most.items():
        if (low := least.get(name, -math.inf)) > high:
            cure = "change near, within or the bound" if (name, "near") in seen else "swap the two"
            return f"{name} cannot be at least {low} and at most {high}; {cure}"
    high, low = (
        most.get("energy_above_hull", math.inf),
        least.get("decomposition_energy_per_atom", -math.inf),
    )
    if low > high:
        return (
            f"energy_above_hull is never below the decomposition energy: it cannot be at most {high:g} where"
            f" decomposition_energy_per_atom is at least {low:g}; change one of the two"
        )
    return None


def meets(targets: Sequence[Target], values: Mapping[str, float | None]) -> bool | None:
    """Say whether known values meet the targets.

    Args:
        targets: Those that only order (`minimize`, `maximize`, `near` without a tolerance) are not asked.
        values: Property -> value; None or missing is unknown.

    Returns:
        False when one target is missed, whatever else is unknown; None when one is unknown and none missed, or when
        nothing can be met; else True.
    """
    answers = [_met(target, values.get(target.property)) for target in targets if is_threshold(target)]
    if False in answers:
        return False
    return True if answers and None not in answers else None


def closeness(targets: Sequence[Target], values: Mapping[str, float | None]) -> tuple[float, ...]:
    """Say how far values are from what is wished: compare two of them, the smaller is better.

    First the number of targets missed, then the distances to values that are to be near, in tolerances and summed,
    then what is to be small or large, in the order of the targets. An unknown value is the worst.
    """
    known = [(target, rounded(values.get(target.property))) for target in targets]
    missed = float(sum(_met(target, value) is not True for target, value in known if is_threshold(target)))
    distances = [
        math.inf if value is None else abs(value - _value(target)) / (target.tolerance or 1.0)
        for target, value in known
        if target.goal == "near"
    ]
    wishes = [
        math.inf if value is None else (value if target.goal == "minimize" else -value)
        for target, value in known
        if target.goal in ("minimize", "maximize")
    ]
    return (missed, round(math.fsum(distances), 6), *wishes)


def pareto_front(targets: Sequence[Target], rows: Sequence[Mapping[str, float | None]]) -> list[bool | None]:
    """Say of each row whether no other is better in one wish and at least as good in all: what no other outdoes.

    A value that is to be near is the better the nearer; one that is to be at most something the better the lower.

    Returns:
        None where there are fewer than two wishes, or a value is unknown.
    """
    wishes = list({(target.property, target.goal, target.value): target for target in targets}.values())
    if len(wishes) < 2:
        return [None] * len(rows)
    known: dict[int, tuple[float, ...]] = {}
    for place, values in enumerate(rows):
        told = [rounded(values.get(target.property)) for target in wishes]
        if None not in told:
            known[place] = tuple(
                _badness(target, value) for target, value in zip(wishes, told, strict=True) if value is not None
            )
    found: list[bool | None] = [None] * len(rows)
    front: list[tuple[float, ...]] = []
    for place, own in sorted(known.items(), key=lambda item: item[1]):  # whoever outdoes one comes before it
        found[place] = not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in front)
        if found[place]:
            front.append(own)
    return found


def _badness(target: Target, value: float) -> float:
    if target.goal == "near":
        return round(abs(value - _value(target)), DIGITS)
    return -value if target.goal in ("maximize", "at_least") else value


def _met(target: Target, value: float | None) -> bool | None:
    known = rounded(value)
    if known is None:
        return None
    if target.goal == "at_most":
        return known <= _value(target)
    if target.goal == "at_least":
        return known >= _value(target)
    return round(abs(known - _value(target)), DIGITS) <= (target.tolerance or 0.0)


def _value(target: Target) -> float:
    if target.value is None:
        raise ValueError(f"the target {target.property} {target.goal} has no value")
    return target.value


def expected(name: str, mean: float) -> float:
    """Answer that a belief expects: its mean, or the floor where that lies below it."""
    floor = floor_of(name)
    return mean if floor is None else max(mean, floor)


def surprise(name: str, answer: float, mean: float, std: float) -> float:
    """How far an answer lies off, in standard deviations: one at the floor, where that was believed, not at all."""
    off, floor = (answer - mean) / std, floor_of(name)
    return min(off, 0.0) if floor is not None and answer <= floor else off


def rounded(value: float | None) -> float | None:
    """Round a value that decides something; NaN is unknown."""
    return None if value is None or math.isnan(value) else round(value, DIGITS) + 0.0


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

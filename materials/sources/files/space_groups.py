"""Symmetry operations of a space group by its name, in the setting of the cell at hand.

A name can be short of what it takes: `P 21/c` says no unique axis, `R -3 m` not which axes, `F d -3 m` not which
origin. The cell answers the first two. Where two origins are left, both are given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from materials.sources.files.cif_text import plain
from materials.sources.files.usable import StructureTrouble

# Of metric tensors, relative: a relaxed cell misses its symmetry by less, wrong axes by far more.
FIT = 0.03
_SAME_SHIFT = 0.01  # of a cell's edge: files write 0.33 for a third
_MOST_OPERATIONS = 2_000  # a cell of one lattice point has 48 at most, a face-centred one 192
_TERM = re.compile(r"([+-]?)(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:/([0-9]+))?\*?)?([xyz]?)")
_SUBSCRIPTS = str.maketrans("₁₂₃₄₅₆₀", "1234560")
# Names from before 1992, when a letter e for two glide planes at once was agreed.
_FORMER = {
    "abm2": "aem2", "bma2": "bme2", "b2cm": "b2em", "c2mb": "c2me", "cm2a": "cm2e", "ac2m": "ae2m",
    "aba2": "aea2", "bba2": "bbe2", "b2cb": "b2eb", "c2cb": "c2ce", "cc2a": "cc2e", "ac2a": "ae2a",
    "cmca": "cmce", "ccmb": "ccme", "abma": "aema", "acam": "aeam", "bbcm": "bbem", "bmab": "bmeb",
    "cmme": "cmma", "aemm": "abmm", "bmem": "bmcm",
}  # fmt: skip
_OF_ORIGIN_1 = {"ccce": "ccca", "aeaa": "abaa", "bbeb": "bbcb"}  # as the table writes them, and for origin 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A space group in one choice of axes and origin.

    Attributes:
        name: `F d -3 m :2`.
        axes: What the name is without its choice.
        number: 1 to 230.
        choice: Of origin, `1` or `2`, or of axes, `H` or `R`; empty where there is no choice.
        operations: As `-x+1/2,y,z`.
    """

    name: str
    axes: str
    number: int
    choice: str
    operations: tuple[str, ...]


def settings_named(
    metric: np.ndarray, *, symbols: Sequence[str] = (), hall: str | None = None, number: int | None = None
) -> list[Setting]:
    """Find what a space group's names can mean in a cell.

    Args:
        metric: Metric tensor of the cell (Å²), shape (3, 3).
        symbols: Hermann-Mauguin symbols, as a file writes them.
        hall: Hall symbol.
        number: Of the International Tables.

    Returns:
        One, or those of both origins; none where nothing is named.

    Raises:
        StructureTrouble: A name is unknown, two contradict each other, or none fits the cell.
    """
    table = _table()
    named = [*map(repr, symbols), *([repr(hall)] if hall is not None else [])]
    told = ", ".join([*named, *([f"number {number}"] if number is not None else [])])
    readings = [found for symbol in symbols if (found := _by_symbol(symbol, number))]
    if hall is not None and (found := table.by_hall.get(_hall(hall), [])):
        readings.insert(0, found)
    if number is not None and not named:
        readings = [table.standard.get(number, [])]
    if not told:
        return []
    if not readings or not readings[0]:
        raise _unknown(told)
    found = readings[0]
    numbers = {setting.number for setting in found}.intersection(
        *({setting.number for setting in reading} for reading in readings), *([{number}] if number is not None else [])
    )
    if not numbers:
        raise StructureTrouble("UnknownSymmetry", f"names space groups that contradict each other: {told}")
    found = [setting for setting in found if setting.number in numbers]
    misfits = {setting.name: misfit(setting.operations, metric) for setting in found}
    least = min(misfits.values())
    if least > FIT:
        raise StructureTrouble(
            "UnknownSymmetry",
            f"names space group {told}, whose axes its cell does not have (hexagonal or rhombohedral?"
            " another unique axis?); write its symmetry operations out",
        )
    best = next(setting for setting in found if misfits[setting.name] <= least + 1e-6)
    # Another choice of axes is another crystal; of origins the sites must tell.
    return [s for s in found if s is best or (s.choice in ("1", "2") and s.axes == best.axes)]


def misfit(operations: Sequence[str], metric: np.ndarray) -> float:
    """Say by how much operations change a cell's metric tensor, relative to its lengths."""
    rotations = np.unique(np.array([parse_operation(operation)[0] for operation in operations]), axis=0)
    turned = np.einsum("nki,kl,nlj->nij", rotations, metric, rotations)
    lengths = np.sqrt(np.diag(metric))
    return float(np.max(np.abs(turned - metric) / np.outer(lengths, lengths)))


def count_operations(operations: Sequence[str]) -> int:
    """Count the operations that differ by more than a whole step from cell to cell."""
    return sum(len(shifts) for shifts in _by_rotation(tuple(operations)).values())


@lru_cache(maxsize=1_000)
def check_group(operations: tuple[str, ...]) -> None:
    """Refuse operations that are not a whole group: any two of them, one after the other, make a third.

    Args:
        operations: Such as `-x,y+1/2,-z`, or `-x,y+1/2,-z,-1` of a magnetic group, whose last number is 1 or -1.

    Raises:
        StructureTrouble: They are none, since one is missing or misspelt.
    """
    if len(operations) > _MOST_OPERATIONS:
        raise StructureTrouble(
            "UnknownSymmetry",
            f"lists {len(operations)} symmetry operations, more than the {_MOST_OPERATIONS} of any cell",
        )
    held = {
        key: (np.reshape(key[:9], (3, 3)), key[9:], np.array(shifts))
        for key, shifts in _by_rotation(operations).items()
    }
    for first, first_reversal, first_shifts in held.values():
        for second, second_reversal, second_shifts in held.values():
            made = first @ second
            reversal = tuple(one * other for one, other in zip(first_reversal, second_reversal, strict=True))
            known = held.get((*made.ravel().tolist(), *reversal))
            for shift in first_shifts:
                shifts = shift + second_shifts @ first.T
                lost = np.ones(len(shifts), bool) if known is None else ~_is_same(shifts[:, None], known[2]).any(axis=1)
                if lost.any():
                    at = int(np.argmax(lost))
                    factors = (
                        _written(first, shift, first_reversal),
                        _written(second, second_shifts[at], second_reversal),
                    )
                    raise StructureTrouble(
                        "UnknownSymmetry",
                        f"lists symmetry operations that are not a whole group: {factors[0]!r} after {factors[1]!r}"
                        f" makes {_written(made, shifts[at], reversal)!r}, which is not among them; add what is"
                        " missing, mend what is misspelt, or leave the list out where the file names its space group",
                    )


# A file is asked several times, and thousands of files have the same operations.
@lru_cache(maxsize=1_000)
def _by_rotation(operations: tuple[str, ...]) -> Mapping[tuple[int, ...], Sequence[np.ndarray]]:
    found: dict[tuple[int, ...], list[np.ndarray]] = {}
    for operation in operations:
        words = operation.split(",")
        rotation, translation = parse_operation(",".join(words[:3]))
        shift = np.array([float(x) for x in translation])
        held = found.setdefault((*rotation.ravel().tolist(), *map(int, words[3:])), [])
        if not held or not _is_same(shift, np.array(held)).any():
            held.append(shift)
    return found


def _is_same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    off = one - other
    return np.asarray(np.all(np.abs(off - off.round()) < _SAME_SHIFT, axis=-1))


def _written(rotation: np.ndarray, shift: np.ndarray, reversal: Sequence[int] = ()) -> str:
    place = write_operation(rotation, [_as_fraction(Fraction(f"{x % 1:.4f}")) % 1 for x in shift])
    return ",".join([place, *(f"{one:+d}" for one in reversal)])


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """A space group's name that means another number of operations than a file lists.

    Attributes:
        name: As the file writes it.
        order: How many operations it means.
        settings: What it can mean in the cell; none where the cell has axes that it does not mean.
    """

    name: str
    order: int
    settings: tuple[Setting, ...]


def contradiction(
    operations: Sequence[str],
    metric: np.ndarray,
    *,
    symbols: Sequence[str] = (),
    hall: str | None = None,
    number: int | None = None,
) -> Contradiction | None:
    """Find the name of a space group that does not go with the operations listed beside it; None where all do.

    A name that is not known cannot be compared. Of a name for other axes, and of a number beside a symbol, only the
    rotations count: how often a lattice's points repeat in the cell is a choice of axes.
    """
    table = _table()
    order, n_rotations = count_operations(operations), len(_by_rotation(tuple(operations)))
    readings = [(repr(symbol), _by_symbol(symbol, None), True) for symbol in symbols]
    if hall is not None:
        readings.append((repr(hall), table.by_hall.get(_hall(hall), []), True))
    if number is not None:
        readings.append((f"number {number}", table.standard.get(number, []), not readings))
    for name, settings, in_these_axes in readings:
        fitting = [s for s in settings if misfit(s.operations, metric) <= FIT]
        if in_these_axes and fitting:
            found, orders = order, [len(setting.operations) for setting in fitting]
        else:
            found, orders = n_rotations, [len(_by_rotation(tuple(setting.operations))) for setting in settings]
        if orders and found not in orders:
            settled = [*fitting, *settings]
            return Contradiction(name=name, order=len(settled[0].operations), settings=tuple(fitting))
    return None


@lru_cache(maxsize=10_000)
def parse_operation(text: str) -> tuple[np.ndarray, tuple[Fraction, ...]]:
    """Read `-x+1/2, y, z` into a rotation of integers, shape (3, 3), and a translation.

    Raises:
        StructureTrouble: It is none.
    """
    words = re.sub(r"\s|_", "", plain(text)).lower().split(",")
    rotation, translation = np.zeros((3, 3)), [Fraction(0)] * 3
    wrong = StructureTrouble("UnknownSymmetry", f"has {text!r} as a symmetry operation, which is none")
    if len(words) != 3:
        raise wrong
    for row, word in enumerate(words):
        at = 0
        while at < len(word):
            match = _TERM.match(word, at)
            if match is None or match.end() == at or not (match[2] or match[4]) or (at and not match[1]):
                raise wrong
            at = match.end()
            size = Fraction(match[2] or "1")
            if match[3]:
                if int(match[3]) == 0:
                    raise wrong
                size /= int(match[3])
            size = -size if match[1] == "-" else size
            if match[4]:
                rotation[row, "xyz".index(match[4])] += float(size)
            else:
                translation[row] += size
    if not np.isclose(abs(np.linalg.det(rotation)), 1) or not (rotation == rotation.round()).all():
        raise wrong
    return rotation.astype(int), tuple(_as_fraction(x) for x in translation)


def write_operation(rotation: np.ndarray, translation: Sequence[Fraction]) -> str:
    """Write an operation so that pymatgen reads it."""
    words = []
    for row, shift in zip(rotation, translation, strict=True):
        word = "".join(
            f"{'-' if n < 0 else '+'}{'' if abs(n) == 1 else abs(n)}{axis}"
            for n, axis in zip(row, "xyz", strict=True)
            if n
        )
        if shift:
            size = abs(shift)
            shown = f"{size.numerator}/{size.denominator}" if size.denominator <= 24 else repr(float(size))
            word += f"{'-' if shift < 0 else '+'}{shown}"
        words.append(word.removeprefix("+"))
    return ",".join(words)


def _as_fraction(shift: Fraction) -> Fraction:
    """Take 0.3333 for a third: translations are whole 24ths, save from an origin of one's own."""
    whole = Fraction(round(shift * 24), 24)
    return whole if abs(whole - shift) < Fraction(1, 1000) else shift


def _unknown(told: str) -> StructureTrouble:
    return StructureTrouble(
        "UnknownSymmetry",
        f"names space group {told}, which is not known here: write out its symmetry operations, or 'P 1' if none",
    )


def _by_symbol(symbol: str, number: int | None) -> list[Setting]:
    table = _table()
    name, choice = _words_of(symbol)
    # What was Fm3m before 1983 is Fm-3m.
    cubic = re.sub(r"^([pfi][mndab])3([mncd]?)$", r"\1-3\2", name)
    found = next((table.by_symbol[n] for n in (name, _FORMER.get(name, name), cubic) if n in table.by_symbol), [])
    if not found and number is not None:
        every = [setting for setting in table.settings if setting.number == number]
        # The number says all where a group has one setting only.
        found = every if len(every) == 1 else []
    if choice:
        found = [setting for setting in found if setting.choice == choice]
    return found


def _words_of(symbol: str) -> tuple[str, str]:
    """Split a Hermann-Mauguin symbol into name and choice: `F d -3 m :2`, `F d -3 m Z`, `R -3 m H`."""
    text = plain(symbol).translate(_SUBSCRIPTS)
    text = re.sub(r"([0-9])[\u0304\u0305]", r"-\1", text)  # a bar above a digit
    text = re.sub(r"<[^>]*>", "", text)
    text = re.sub(r"\(([0-9])\)", r"\1", text)  # P 6(3)/m m c
    name = re.sub(r"[\s_'\"]", "", text).lower()
    if match := re.fullmatch(r"(.+):([12hr])", name):
        return match[1], match[2].upper()
    if match := re.fullmatch(r"(.+)\(?origin(?:choice)?([12])\)?", name):
        return match[1].rstrip("(,:"), match[2]
    if match := re.fullmatch(r"([pabcfi].*[0-9mabcdn])([sz])", name):  # as the ICSD does
        return match[1], {"s": "1", "z": "2"}[match[2]]
    if match := re.fullmatch(r"(r.*[0-9mc])([hr])s?", name):
        return match[1], match[2].upper()
    return name, ""


@dataclass(frozen=True, kw_only=True)
class _Table:
    settings: list[Setting]
    by_symbol: dict[str, list[Setting]]
    by_hall: dict[str, list[Setting]]
    standard: dict[int, list[Setting]]  # by number, all choices of origin and of rhombohedral axes


@cache
def _table() -> _Table:
    import moyopy
    import pymatgen.symmetry

    path = Path(str(pymatgen.symmetry.__file__)).with_name("symm_ops.json")
    table = _Table(settings=[], by_symbol={}, by_hall={}, standard={})
    for entry in json.loads(path.read_text(encoding="utf-8")):
        name, _, choice = entry["universal_h_m"].partition(":")
        axes = _joined(name)
        setting = Setting(
            name=entry["universal_h_m"],
            axes=_OF_ORIGIN_1.get(axes, axes),
            number=entry["number"],
            choice=choice.strip(),
            operations=tuple(entry["symops"]),
        )
        table.by_hall.setdefault(_hall(entry["hall"]), []).append(setting)
        keys = {axes}
        if "(" not in axes:  # axes of somebody's own: only who names them means them
            table.settings.append(setting)
            keys |= {_joined(entry["hermann_mauguin"]), _joined(entry["short_h_m"]), setting.axes}
            keys |= {e for e, named in _OF_ORIGIN_1.items() if named == axes}
            standard = table.standard.setdefault(setting.number, [])
            if not standard or standard[0].axes == setting.axes:
                standard.append(setting)
        for key in keys:
            table.by_symbol.setdefault(key, []).append(setting)
    for n in range(1, 531):  # whole symbols, `F 4/m -3 2/m`
        known = moyopy.HallSymbolEntry(n)
        whole = table.by_symbol.setdefault(_joined(known.hm_full), [])
        whole += [s for s in table.by_hall.get(_hall(known.hall_symbol), []) if s not in whole]
    return table


def _joined(symbol: str) -> str:
    return re.sub(r"[\s_]", "", symbol).lower()


def _hall(symbol: str) -> str:
    return re.sub(r"[\s_]", "", symbol).replace('"', "=").lower()

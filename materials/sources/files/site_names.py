"""Elements of CIF sites: from the type symbol, or from the label where there is none.

pymatgen takes the first letters that make an element: `Vac` for vanadium, `Uue` for uranium, and of `OH1` nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from materials.crystals.elements import SYMBOLS
from materials.sources.files.usable import StructureTrouble

_ELEMENTS = frozenset(SYMBOLS)
_HYDROGEN = {"D": "H", "T": "H"}
_SCATTERERS = {"Cval": "C", "Siva": "Si"}  # the International Tables' factors of bonded atoms
# What stands for an oxygen, or another atom, with hydrogen that has no site of its own.
_WATER = re.compile(r"(?i)O-?H|OW|WAT|H2O|HOH|HDO|D2O")
_GROUP = re.compile(rf"{_WATER.pattern}|[NC]H[1-4]")
_NO_ATOM = re.compile(r"(?i)(vac|va|void|uu[a-z]|dum|du|xx?|q)(?![a-z])")
# What an oxygen of water or hydroxyl is named in other ways: `O1W`, `O(H)`, `O_water`; and not by its own letter: `W1`.
_WET_END = re.compile(
    r"[Oo][^A-Za-z]*(?:[Ww]|[OoHh]*[Hh]|H2O|[Ww]at|WAT|[Aa][Qq]|[Ww]ater|[Hh]yd\w*)(?![a-z]|[A-Z]{2})"
)
_WET_START = re.compile(r"[Ww](?![Oo])|[Aa][Qq]|[HD]O(?![a-z])")  # WO1 is oxygen of tungsten
_VACANT = re.compile(r"(?i:vac|vacancy|void)|Va|\u25a1")
_ANIONS = frozenset({"N", "F", "S", "Cl", "Se", "Br", "Te", "I"})
_PART = re.compile(r"(?<![0-9])0\.[0-9]")  # of a site: `Na0.5`
_CHARGE = re.compile(r"\s*\(?(?:[0-9.]+[+-]+|[+-]+[0-9.]+)\)?")
_IONS = {"NO", "NO2", "NO3", "PO4", "CO3", "CN"}  # in capitals, their first two letters name an element, too


def elements_of(labels: Sequence[str], types: Sequence[str] | None, formula: Collection[str]) -> list[str]:
    """Name the element of each site.

    Args:
        labels: `Na1`, `O2a`.
        types: `Na`, `Fe3+`, `13C`; None where the file gives none.
        formula: Elements of the formula that the file states; empty where it states none.

    Raises:
        StructureTrouble: One is no element, or stands for atoms without a site.
    """
    if types is None:
        in_capitals = not any(re.match(r"[A-Z][a-z]", label) and label[:2] in _ELEMENTS for label in labels)
        symbols = [_of_label(label, formula, in_capitals) for label in labels]
        for label, symbol in zip(labels, symbols, strict=True):
            if not _WATER.match(label):
                _refuse_shared(label, label[_length(label, symbol) :], symbol, labels, formula)
    else:
        symbols = [_of_type(word, types, formula) for word in types]
    if "H" not in symbols:
        for label, symbol in zip(labels, symbols, strict=True):
            named = (_GROUP if types is None else _WATER).match(label)
            if named or (symbol == "O" and _is_wet(label, labels)):
                raise _hydrogen(label)
    return symbols


def _of_type(word: str, words: Sequence[str], formula: Collection[str]) -> str:
    text = word.strip()
    if " + " in text or "," in text or "/" in text:
        raise _shared(word)
    if text[:4] in _SCATTERERS:
        return _SCATTERERS[text[:4]]
    if _GROUP.match(text):
        raise _hydrogen(word)
    match = re.match(r"\^?[0-9]*([A-Za-z]+)(.*)", text)
    symbol = "" if match is None else match[1].capitalize()
    symbol = _HYDROGEN.get(symbol, symbol)
    molecule = match is not None and text[0].isdigit() and re.match("[0-9]*[A-Za-z]", match[2])  # 2H2O; 2H is fine
    if match is None or molecule or symbol not in _ELEMENTS or (text in _IONS and symbol not in formula):
        raise _no_element(word, "type symbol")
    charged = _CHARGE.fullmatch(match[2])
    if match[1] == "HO" and "Ho" not in formula and not charged:
        raise _unclear(word, "type symbol", "Ho or hydroxyl")
    if not charged:
        if re.search(r"[0-9]*\.[0-9]", match[2]):
            raise _shared(word)
        _refuse_shared(word, match[2], symbol, words, formula)
    return symbol


def _of_label(label: str, formula: Collection[str], in_capitals: bool) -> str:
    if "," in label or " + " in label:
        raise _shared(label)
    if re.match(r"(?i)(hw|dw)(?![a-z])", label):  # hydrogen of water
        return "H"
    if _WATER.match(label):  # its oxygen: whether there is hydrogen is asked afterwards
        return "O"
    if re.match(r"W(?![a-z])", label) and "W" not in formula and {"H", "O"} <= set(formula):  # water, and no tungsten
        return "O"
    match = re.match(r"[A-Za-z]+", label)
    if match is None or _NO_ATOM.match(label):
        raise _no_element(label, "site label")
    letters = match.group()
    two, one = letters[:2].capitalize(), letters[:1].upper()
    one_of = _HYDROGEN.get(one, one) if one == "D" else one
    if len(letters) == 1:
        if one_of not in _ELEMENTS:
            raise _no_element(label, "site label")
        return one_of
    if two in _ELEMENTS and (letters[1].islower() or one_of not in _ELEMENTS):
        return two  # Fe1, FeA, AL1
    if two in _ELEMENTS:  # CO1: cobalt, or carbon of a carbonyl? CA1: calcium
        if (two in formula) != (one_of in formula):
            return two if two in formula else one_of
        # HO1 is as often hydrogen of an oxygen as it is holmium, whatever the other labels are.
        if letters[1] in _ELEMENTS and (not in_capitals or label in _IONS or two == "Ho"):
            raise _unclear(label, "site label", f"{two} or {one_of}")
        return two
    if one_of in _ELEMENTS and letters[1].isupper():
        return one_of  # OA1, OXT
    raise _no_element(label, "site label")


def _length(label: str, symbol: str) -> int:
    """How many letters of a label are its element's."""
    return 2 if len(symbol) == 2 and label[:2].capitalize() == symbol else 1


def _refuse_shared(name: str, rest: str, symbol: str, names: Collection[str], formula: Collection[str]) -> None:
    """Refuse a name that has another element, or a vacancy, behind its own: `Na1K1`, `Fe_Co`, `NaVac`.

    Args:
        name: A label or a type symbol.
        rest: What follows the element in it.
        symbol: That element.
        names: All of its column: among `SiA`, `SiB` and `SiC`, the letters are no elements.
        formula: Elements of the formula that the file states, outside of which no second one is; empty: any.
    """
    if _PART.search(rest):
        raise _shared(name)
    start = len(name) - len(rest)
    for run in re.finditer(r"[A-Za-z\u25a1]+", rest):
        first = re.match(r"[A-Z][a-z]*", run[0])
        word = run[0] if run[0].isupper() or first is None else first[0]
        if _VACANT.fullmatch(word):
            raise _shared(name)
        other = word.capitalize()
        if first is None or other not in _ELEMENTS or other in ("H", symbol) or (formula and other not in formula):
            continue
        if symbol == "H" or (symbol == "O" and other not in _ANIONS):  # named after the atom that it is bound to
            continue
        # Octahedral `AlO` beside `AlT`; of `SiO4`, an oxygen that has no site is missed only where there is no formula.
        if other == "O" and formula and symbol not in _ANIONS:
            continue
        if _is_count(word, rest[: run.start()], rest[run.end() :]):
            continue
        if len(word) == 1 and _follows(name, start + run.start(), names):
            continue
        raise _shared(name, symbol)


def _is_count(word: str, before: str, after: str) -> bool:
    """Whether what could be an element tells sites of one element apart: `Cu(I)`, `C1B`."""
    if word in ("I", "V") and before.endswith("(") and after.startswith(")"):
        return True
    return word in ("B", "C") and bool(re.fullmatch(r"\(?[0-9]+\)?[_(]?", before)) and not after.strip(")'")


def _follows(name: str, at: int, names: Collection[str]) -> bool:
    """Whether the letter at a place of a name is one of a row: with `SiA` among the names, B of `SiB` is; or I, II."""
    letter = name[at]
    rows = [name[:at] + chr(ord(letter) - 1)] + ([name[:at] + "II"] if letter == "I" else [])
    return letter not in "Aa" and any(other.startswith(tuple(rows)) for other in names)


def _is_wet(label: str, labels: Collection[str]) -> bool:
    """Whether the label of an oxygen says that it is of water or hydroxyl."""
    if _WET_START.match(label):
        return True
    if not _WET_END.match(label):
        return False
    letter = re.fullmatch(r"[Oo][^A-Za-z]*([WwHh])[^A-Za-z]*", label)
    return letter is None or not _follows(label, letter.start(1), labels)  # O1G, O1H


def _shared(name: str, symbol: str = "") -> StructureTrouble:
    hint = f"; if it is {symbol} alone, write {symbol} as its _atom_site_type_symbol" if symbol else ""
    return StructureTrouble("Disordered", f"has a site shared or partly empty: {name}{hint}")


def _unclear(word: str, what: str, meanings: str) -> StructureTrouble:
    return StructureTrouble("UnreadableStructure", f"has {word!r} as a {what}: {meanings}? Give _atom_site_type_symbol")


def _no_element(word: str, what: str) -> StructureTrouble:
    return StructureTrouble("UnreadableStructure", f"has {word!r} as a {what}, which is no element")


def _hydrogen(word: str) -> StructureTrouble:
    return StructureTrouble(
        "UnreadableStructure",
        f"has {word!r} on a site, which is no element: water, hydroxyl or another group whose hydrogen has no site",
    )

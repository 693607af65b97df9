"""Which element a CIF's site is of: from its type symbol, or from its label where it has none.

pymatgen takes the first letters that make an element: `Vac` for vanadium, `Uue` for uranium, and of `OH1` nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from materials.elements import SYMBOLS
from materials.sources.sound import StructureTrouble

_ELEMENTS = frozenset(SYMBOLS)
_HYDROGEN = {"D": "H", "T": "H"}
_SCATTERERS = {"Cval": "C", "Siva": "Si"}  # the International Tables' factors of bonded atoms
# What stands for an oxygen, or another atom, with hydrogen that has no site of its own.
_WATER = re.compile(r"(?i)O-?H|OW|WAT|H2O|HOH|HDO|D2O")
_GROUP = re.compile(rf"{_WATER.pattern}|[NC]H[1-4]")
_NO_ATOM = re.compile(r"(?i)(vac|va|void|uu[a-z]|dum|du|xx?|q)(?![a-z])")
_IONS = {"NO2", "NO3", "PO4", "CO3", "CN"}  # in capitals, their first two letters name an element, too


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
    else:
        symbols = [_of_type(word, formula) for word in types]
    if "H" not in symbols:
        for label in labels:
            if (_GROUP if types is None else _WATER).match(label):
                raise _hydrogen(label)
    return symbols


def _of_type(word: str, formula: Collection[str]) -> str:
    text = word.strip()
    if " + " in text or "," in text or "/" in text:
        raise StructureTrouble("Disordered", f"has a site shared or partly empty: {word}")
    if text[:4] in _SCATTERERS:
        return _SCATTERERS[text[:4]]
    if _GROUP.match(text):
        raise _hydrogen(word)
    match = re.match(r"\^?[0-9]*([A-Za-z]+)(.*)", text)
    symbol = "" if match is None else match[1].capitalize()
    symbol = _HYDROGEN.get(symbol, symbol)
    molecule = match is not None and text[0].isdigit() and re.search("[A-Za-z]", match[2])  # 2H2O, where 2H is fine
    if match is None or molecule or symbol not in _ELEMENTS or (text in _IONS and symbol not in formula):
        raise _no_element(word, "type symbol")
    return symbol


def _of_label(label: str, formula: Collection[str], in_capitals: bool) -> str:
    if "," in label or " + " in label:
        raise StructureTrouble("Disordered", f"has a site shared or partly empty: {label}")
    if re.match(r"(?i)(hw|dw)(?![a-z])", label):  # hydrogen of water
        return "H"
    if _WATER.match(label):  # its oxygen: whether there is hydrogen is asked afterwards
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
        if letters[1] in _ELEMENTS and (not in_capitals or label in _IONS):
            raise StructureTrouble(
                "UnreadableStructure", f"has {label!r} as a site label: {two} or {one_of}? Give _atom_site_type_symbol"
            )
        return two
    if one_of in _ELEMENTS and letters[1].isupper():
        return one_of  # OA1, OXT
    raise _no_element(label, "site label")


def _no_element(word: str, what: str) -> StructureTrouble:
    return StructureTrouble("UnreadableStructure", f"has {word!r} as a {what}, which is no element")


def _hydrogen(word: str) -> StructureTrouble:
    return StructureTrouble(
        "UnreadableStructure",
        f"has {word!r} on a site, which is no element: water, hydroxyl or another group whose hydrogen has no site",
    )

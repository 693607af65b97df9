"""Caveats about the energies of DFT hulls, by level of theory and elements, a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from materials.records import RankedCandidate
from materials.stability.corrections import MP2020_LEVEL

# d metals whose ions have a closed or empty shell in nearly all of their oxides and fluorides are not among them.
OPEN_D = frozenset(
    [
        "Ti",
        "V",
        "Cr",
        "Mn",
        "Fe",
        "Co",
        "Ni",
        "Cu",
        "Nb",
        "Mo",
        "Tc",
        "Ru",
        "Rh",
        "Pd",
        "Ta",
        "W",
        "Re",
        "Os",
        "Ir",
        "Pt",
    ]
)
OPEN_F = frozenset(
    ["Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Pa", "U", "Np", "Pu", "Am", "Cm"]
)
MOLECULES = ("H", "N", "O", "F", "Cl", "Br", "I")  # elements that are of molecules of two


def caveats(rows: Iterable[RankedCandidate]) -> list[str]:
    """Say what the hulls of the rows that DFT has judged leave wrong."""
    judged = [row for row in rows if row.fidelity == "dft"]
    hulls = [(str(row.level_of_theory), row.chemsys.split("-")) for row in judged]
    told = [
        _without_u(hulls),
        _with_u(hulls),
        _fitted_otherwise(hulls),
        _without_correction(hulls),
        _ferromagnetic_alone(judged),
    ]
    return [line for line in told if line]


def _without_u(hulls: Sequence[tuple[str, Sequence[str]]]) -> str:
    open_shells = {
        symbol
        for level, elements in hulls
        if level != MP2020_LEVEL and {"O", "F"} & set(elements)
        for symbol in (OPEN_D | OPEN_F).intersection(elements) - _with_u_on(level)
    }
    return (
        f"no U on {_listed(open_shells)}, with open d or f shells beside O or F: energies there may be off by more than"
        " is asked for (dft.hubbard)"
        if open_shells
        else ""
    )


def _with_u(hulls: Sequence[tuple[str, Sequence[str]]]) -> str:
    corrected = {symbol for level, elements in hulls for symbol in _with_u_on(level) & set(elements)}
    return (
        f"U acts on {_listed(corrected)} in every phase: formation energies of the metal and of intermetallic phases,"
        " and from the metal, are not reliable"
        if corrected
        else ""
    )


def _fitted_otherwise(hulls: Sequence[tuple[str, Sequence[str]]]) -> str:
    return (
        "the corrections for anions (MP2020-anions) were fitted without this U and these projectors"
        if any(_with_u_on(level) and "MP2020" in level for level, _ in hulls)
        else ""
    )


def _without_correction(hulls: Sequence[tuple[str, Sequence[str]]]) -> str:
    raw = {symbol for level, elements in hulls if "MP2020" not in level for symbol in elements if symbol in MOLECULES}
    return (
        f"the reference of {_listed(raw)} is a molecule ({', '.join(f'{symbol}2' for symbol in sorted(raw))}), which"
        " density functionals bind wrongly, and no correction is added (dft.anion_corrections is for raw PBE)"
        if raw
        else ""
    )


def _ferromagnetic_alone(rows: Sequence[RankedCandidate]) -> str:
    by_vasp = sorted(
        row.material_id
        for row in rows
        if (row.level_of_theory == MP2020_LEVEL or "/POTCAR-" in str(row.level_of_theory))
        and row.magnetic_order not in (None, "none")
    )
    more = f" and {len(by_vasp) - 4} more" if len(by_vasp) > 4 else ""
    return (
        f"of {_listed(by_vasp[:4])}{more} the ferromagnetic start alone was tried, as VASP's input sets have it: an"
        " antiferromagnetic order may lie lower (dft.magnetism is for gpaw and espresso)"
        if by_vasp
        else ""
    )


def _with_u_on(level: str) -> set[str]:
    """Name the elements that carry U: "PBE+U(Fe5.3,Mn3.9)/…"."""
    found = re.match(r"[^/]*\+U\(([^)]*)\)", level)
    return set(re.findall(r"[A-Z][a-z]?", found[1])) if found else set()


def _listed(symbols: Iterable[str]) -> str:
    return ", ".join(sorted(symbols))

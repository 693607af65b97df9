"""Hubbard U: on which elements of a hull, on which of their shells, and by which projectors (Dudarev's form, U - J).

U acts on an element in every phase of a hull or in none, for an energy with U cannot be compared with one without: the
element's own crystal and its intermetallic phases carry it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from materials.errors import DFTError

# What a campaign says: none, the Materials Project's values, or element -> U (eV).
HubbardChoice = Literal["none", "materials_project"] | Mapping[str, float]

# How a code counts the electrons in a shell, as its levels of theory name it: GPAW by the PAW partial waves inside the
# augmentation spheres, as they are (VASP's way); Quantum ESPRESSO by the pseudopotential's atomic orbitals, as they
# are, which both of its input syntaxes know.
PROJECTORS = {"gpaw": "U-in-spheres", "espresso": "U-atomic"}
LARGEST = 20.0  # eV; a larger U is a mistake


def shell_of(symbol: str) -> str:
    """Name the shell that U acts on: "3d" of a transition metal, "4f" of a lanthanide, "2p" of an anion.

    Raises:
        DFTError: There is no such element, or it has no d, f or p shell of its own.
    """
    from pymatgen.core import Element

    if not Element.is_valid_symbol(symbol) or symbol in ("D", "T"):
        raise DFTError(f"there is no element {symbol}")
    element = Element(symbol)
    if element.is_lanthanoid or element.is_actinoid:
        return f"{element.row - 2}f"
    if element.block == "d":
        return f"{element.row - 1}d"
    if element.block == "p" and element.group < 18:
        return f"{element.row}p"
    raise DFTError(f"no d, f or p shell of {symbol} that U could act on")


def check_hubbard(choice: HubbardChoice) -> None:
    """Refuse what means nothing.

    Raises:
        DFTError: An element is none, has no shell for U, or its U is not a positive number of eV.
    """
    for symbol, u in {} if isinstance(choice, str) else choice.items():
        shell_of(symbol)
        if not 0 < u <= LARGEST:
            raise DFTError(f"the U of {symbol} is {u:g}; it takes a number of eV above 0 and at most {LARGEST:g}")


def hubbard_of(choice: HubbardChoice, elements: Iterable[str]) -> dict[str, float]:
    """Give the U of a hull's elements, as `DFTSettings.hubbard` has it: "Mn-3d" -> eV.

    Args:
        choice: What the campaign says. The Materials Project's values are for hulls that hold oxygen or fluorine.
        elements: Of the whole hull.

    Raises:
        DFTError: As `check_hubbard`.
    """
    present = sorted(set(elements))
    if choice == "none":
        return {}
    values = _of_materials_project(present) if isinstance(choice, str) else choice
    check_hubbard(values)
    return {f"{symbol}-{shell_of(symbol)}": float(values[symbol]) for symbol in present if symbol in values}


def named_in_level(hubbard: Mapping[str, float]) -> str:
    """Write U as it is added to the functional in a level of theory: "+U(Mn3.9)"; empty without."""
    told = [f"{shell.split('-')[0]}{u:g}" for shell, u in sorted(hubbard.items())]
    return f"+U({','.join(told)})" if told else ""


def _of_materials_project(elements: Iterable[str]) -> dict[str, float]:
    """Read the values of `MPRelaxSet`, which are the same for oxides and for fluorides."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    tables = MPRelaxSet.CONFIG["INCAR"]["LDAUU"]
    return {symbol: u for anion in elements for symbol, u in tables.get(anion, {}).items() if u > 0}

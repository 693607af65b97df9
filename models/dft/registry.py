"""Registry of the DFT codes, by their names in a campaign file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from materials.errors import DFTError
from models.dft.base import DFTCode
from models.dft.espresso.pseudopotentials import Family
from models.dft.hubbard import HubbardChoice
from models.dft.magnetism.orders import Magnetic


@dataclass(frozen=True, kw_only=True)
class CodeChoice:
    """Which DFT code validates, and what it has to be told.

    Attributes:
        name: Of the code.
        pseudopotentials: Those of Quantum ESPRESSO.
        input_set: VASP's, by pymatgen's name.
        functional: Of VASP's MatPES sets.
        potcars: The release of VASP's POTCARs, by pymatgen's name; empty: the input set's.
        hubbard: U of GPAW and Quantum ESPRESSO; VASP's input sets have their own.
        magnetism: Which magnetic orders are tried; VASP's input sets have their own start.
    """

    name: str
    pseudopotentials: Family | None = None
    input_set: str = "MPStaticSet"
    functional: Literal["PBE", "r2SCAN"] = "PBE"
    potcars: str = ""
    hubbard: HubbardChoice = "none"
    magnetism: Magnetic = "auto"


def open_code(choice: CodeChoice) -> DFTCode:
    """Find a DFT code; that it is installed shows when its `version` is asked.

    Raises:
        DFTError: There is no code of this name.
    """
    if choice.name == "gpaw":
        from models.dft.gpaw.code import Gpaw

        return Gpaw(choice.hubbard, choice.magnetism)
    if choice.name == "espresso":
        from models.dft.espresso.code import Espresso

        return Espresso(choice.pseudopotentials, choice.hubbard, choice.magnetism)
    if choice.name == "vasp":
        from models.dft.vasp.code import Vasp
        from models.dft.vasp.input_sets import SetChoice

        return Vasp(SetChoice(name=choice.input_set, functional=choice.functional, potcars=choice.potcars))
    raise DFTError(f"dft.code: there is no code {choice.name!r}")

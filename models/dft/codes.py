"""The DFT codes, by the names that a campaign file gives them."""

from __future__ import annotations

from dataclasses import dataclass

from materials.errors import DFTError
from models.dft.contract import DFTCode
from models.dft.pseudopotentials import Family


@dataclass(frozen=True, kw_only=True)
class CodeChoice:
    """Which DFT code validates, and what it has to be told.

    Attributes:
        name: Of the code.
        pseudopotentials: Those of Quantum ESPRESSO.
    """

    name: str
    pseudopotentials: Family | None = None


def open_code(choice: CodeChoice) -> DFTCode:
    """Find a DFT code; that it is installed shows when its `version` is asked.

    Raises:
        DFTError: There is no code of this name.
    """
    if choice.name == "gpaw":
        from models.dft.gpaw import Gpaw

        return Gpaw()
    if choice.name == "espresso":
        from models.dft.espresso import Espresso

        return Espresso(choice.pseudopotentials)
    raise DFTError(f"dft.code: there is no code {choice.name!r}")

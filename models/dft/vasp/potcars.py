"""POTCARs of VASP, found by pymatgen's settings."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from functools import cache

from materials.errors import CodeNotInstalled, DFTError

HOW_TO_POTCARS = (
    "pymatgen finds them by PMG_VASP_PSP_DIR, in ~/.config/.pmgrc.yaml or the environment: a folder with"
    " POT_GGA_PAW_PBE, POT_PAW_PBE_64 and so on in it, which `pmg config -p` makes from what VASP's licence gives you"
)


class NoPotcar(DFTError):
    """For one element there is no POTCAR."""


@dataclass(frozen=True, kw_only=True)
class PotcarFile:
    """One POTCAR of the library."""

    symbol: str
    title: str
    fingerprint: str
    electrons: float
    text: str


def potcar(symbol: str, release: str) -> PotcarFile:
    """Find a POTCAR by pymatgen's settings.

    Raises:
        NoPotcar: It is not there.
        DFTError: There is no such release.
        CodeNotInstalled: No POTCARs are.
    """
    return _potcar(symbol, release, library())


def library() -> str:
    """The folder of all POTCARs, by pymatgen's settings.

    Raises:
        CodeNotInstalled: There is none.
    """
    from pymatgen.core import SETTINGS

    folder = SETTINGS.get("PMG_VASP_PSP_DIR")
    if not folder:
        raise CodeNotInstalled(f"VASP's POTCARs are not set up; {HOW_TO_POTCARS}")
    if not os.path.isdir(folder):
        raise CodeNotInstalled(f"VASP's POTCARs should lie in {folder}, and there is no such folder; {HOW_TO_POTCARS}")
    return str(folder)


@cache
def _potcar(symbol: str, release: str, folder: str) -> PotcarFile:
    from pymatgen.io.vasp.inputs import PotcarSingle

    try:
        with quiet():
            found = PotcarSingle.from_symbol_and_functional(symbol, release)
    except KeyError:
        raise DFTError(f"dft.potcars: pymatgen knows no release {release!r} of POTCARs") from None
    except OSError as error:
        said = " ".join(str(error).split())
        raise NoPotcar(f"There is no POTCAR {symbol} of {release}: {said}; {HOW_TO_POTCARS}") from None
    return PotcarFile(
        symbol=symbol,
        title=str(found.TITEL),
        fingerprint=hashlib.sha256(found.data.encode()).hexdigest()[:16],
        electrons=float(found.ZVAL),
        text=found.data,
    )


def quiet() -> warnings.catch_warnings[None]:
    """Hush pymatgen, which warns of what it recommends otherwise, and of each POTCAR that its table does not know."""
    return warnings.catch_warnings(action="ignore")

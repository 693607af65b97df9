"""Quantum ESPRESSO as a DFT code: driver.py as an external process, which runs pw.x."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materials.errors import CampaignError, CodeNotInstalled, DFTError
from models.dft.base import DFTSettings, clean_environment
from models.dft.calculation_folder import DRIVER, DrivenCode
from models.dft.espresso.pseudopotentials import Family
from models.dft.hubbard import HubbardChoice
from models.dft.magnetism.orders import Magnetic
from models.dft.presets import settings_for

if TYPE_CHECKING:
    from pymatgen.core import Structure

HOW_TO = (
    "Quantum ESPRESSO is not installed: apt-get install quantum-espresso, or conda install -c conda-forge qe, or name "
    "its pw.x in ASSAY_PW. `--no-dft` runs everything else."
)
OLDEST = (6, 4)  # before it, the XML file does not say whether the density converged
# What the cut-offs of the table are multiplied with: those who publish them have converged energies with them.
CUTOFF_FACTORS = {"quick": 1.0, "standard": 1.0, "accurate": 1.25}
# Plane waves of a fixed cut-off press a cell together: to relax it takes more of them than an energy does.
FACTOR_TO_RELAX = 1.25
# Of the table of pw.x before 7.1: transition metals that it lacks, and the only elements whose p shell it takes.
NO_OLD_D = frozenset({"Sc", "Y"})
OLD_P = frozenset({"C", "N", "O"})


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A pw.x that was found, and its version."""

    program: str
    version: str


class Espresso(DrivenCode):
    """Quantum ESPRESSO, as `DFTCode` asks for it."""

    name = "espresso"
    logs = ("scf.pwo", "scf.err", "gap.pwo", "gap.err")

    def __init__(
        self, family: Family | None = None, hubbard: HubbardChoice = "none", magnetism: Magnetic = "auto"
    ) -> None:
        """Take the pseudopotentials, without which it only tells its version, U, and which orders are tried."""
        self._family = family
        self._hubbard = hubbard
        self._magnetism: Magnetic = magnetism

    @property
    def family(self) -> Family:
        """The pseudopotentials.

        Raises:
            DFTError: The campaign names none.
        """
        if self._family is None:
            raise DFTError("dft.pseudopotentials: Quantum ESPRESSO brings none; name a table of them")
        return self._family

    def version(self) -> str:
        """The version of pw.x.

        Raises:
            CodeNotInstalled: There is no pw.x that works.
        """
        return find_installation().version

    def potentials(self) -> str:
        """The family of pseudopotentials and a hash of its files.

        Raises:
            DFTError: The campaign names none.
        """
        return self.family.identity

    def find_potentials(self, elements: Iterable[str]) -> None:
        """Make sure that the table has a pseudopotential for each element.

        Raises:
            CampaignError: It lacks some.
            DFTError: The campaign names no table.
        """
        if lacking := sorted(set(elements) - self.family.elements.keys()):
            raise CampaignError(
                f"dft.pseudopotentials: {self.family.name} has none for {', '.join(lacking)}, which the sources name; "
                "add them to its table, or leave these elements out"
            )

    def settings(
        self,
        preset: str,
        elements: Iterable[str],
        structure: Structure,
        *,
        relax: bool | None = None,
        geometry: str = "",
    ) -> DFTSettings:
        """Settings as the presets of plane waves have them, but the cut-offs: those are the table's.

        Raises:
            DFTError: There is no such preset or U, or the campaign names no pseudopotentials.
        """
        settings = settings_for(
            preset,
            elements,
            structure,
            code=self,
            relax=relax,
            geometry=geometry,
            magnetism=self._magnetism,
            hubbard=self._hubbard,
        )
        if settings.hubbard and not has_hubbard_card(find_installation().version):
            check_old_syntax(settings.hubbard)
        cutoff, density_cutoff = self.family.cutoffs_ev(elements)
        factor = CUTOFF_FACTORS[preset]
        if settings.mode == "relax":
            factor = max(factor, FACTOR_TO_RELAX)
        return replace(
            settings,
            functional=self.family.functional,
            cutoff_ev=factor * cutoff,
            density_cutoff_ev=factor * density_cutoff,
        )

    def task(self, structure: Structure, settings: DFTSettings) -> dict[str, Any]:
        """What the physics will read, the program and the pseudopotentials among it."""
        symbols = sorted(element.symbol for element in structure.composition.elements)
        known = {symbol: self.family.elements[symbol] for symbol in symbols if symbol in self.family.elements}
        installation = find_installation()
        return super().task(structure, settings) | {
            "program": installation.program,
            "hubbard_card": has_hubbard_card(installation.version),
            "pseudopotentials": {
                "folder": str(self.family.folder.resolve()),
                "files": {symbol: pseudopotential.file for symbol, pseudopotential in known.items()},
                "valence": {symbol: pseudopotential.valence for symbol, pseudopotential in known.items()},
                "lacking": [symbol for symbol in symbols if symbol not in known],
            },
        }

    def command(self, folder: Path, mpi: Sequence[str]) -> list[str]:
        """The driver, in our own Python; the ranks that it starts are those of pw.x."""
        return [sys.executable, "-P", str(DRIVER.resolve()), self.name, str(folder.resolve()), *mpi]


def has_hubbard_card(version: str) -> bool:
    """Whether a pw.x reads U from a card of its own: from 7.1 on, and only from there; before, from &SYSTEM.

    Args:
        version: Such as "6.7MaX" or "7.3.1".
    """
    numbers = re.findall(r"\d+", version)
    return tuple(map(int, numbers[:2])) >= (7, 1)


def check_old_syntax(hubbard: Mapping[str, float]) -> None:
    """Refuse U on a shell that a pw.x without the card does not take for this element: its own table decides there.

    Raises:
        DFTError: There is one.
    """
    for name in hubbard:
        symbol, shell = name.split("-")
        if (shell[-1] == "d" and symbol in NO_OLD_D) or (shell[-1] == "p" and symbol not in OLD_P) or symbol == "La":
            raise DFTError(f"dft.hubbard: pw.x takes U on the {shell} shell of {symbol} from version 7.1 on")


@functools.cache
def find_installation() -> Installation:
    """Find a pw.x that works: ASSAY_PW, or the one on the path; once.

    Raises:
        CodeNotInstalled: There is none, or it is too old; the message says how to get one and what was tried.
    """
    named = os.environ.get("ASSAY_PW")
    program = shutil.which(named or "pw.x")
    if program is None:
        raise CodeNotInstalled(f"{HOW_TO} (ASSAY_PW: no program {named})" if named else HOW_TO)
    try:
        # It has no option for that: without an input it says who it is, and that it got none.
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [program],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                env=clean_environment(),
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CodeNotInstalled(f"{HOW_TO} (Tried {program}: {error})") from None
    found = re.search(r"Program PWSCF v\.(\S+)", done.stdout)
    if found is None:
        said = (done.stderr + done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise CodeNotInstalled(f"{HOW_TO} (Tried {program}: {said[-1]})")
    version = found[1]
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is not None and tuple(map(int, number.groups())) < OLDEST:
        raise CodeNotInstalled(
            f"{program} is version {version}, whose output does not say whether the density converged: Quantum ESPRESSO"
            f" {OLDEST[0]}.{OLDEST[1]} or later is needed; name its pw.x in ASSAY_PW. `--no-dft` runs everything else."
        )
    return Installation(program=str(Path(program).resolve()), version=version)

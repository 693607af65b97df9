"""GPAW as a DFT code: driver.py as an external process, in whichever Python has GPAW."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materials.errors import CodeNotInstalled
from models.dft.base import DFTSettings, clean_environment
from models.dft.calculation_folder import DRIVER, DrivenCode
from models.dft.hubbard import HubbardChoice
from models.dft.magnetism.orders import Magnetic
from models.dft.presets import settings_for

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYSTEM_PYTHON = "/usr/bin/python3"
HOW_TO = (
    "GPAW is not installed. `deploy/setup` builds it; without apt: conda install -c conda-forge gpaw; or name a Python "
    "that has it in ASSAY_GPAW_PYTHON. `--no-dft` runs everything else."
)
# GPAW may live in another Python, and its import may end the process that tries it: it is asked in its own.
PROBE = """
import gpaw, hashlib, json, os
from importlib import metadata
setups = [str(p) for p in gpaw.setup_paths if os.path.isdir(p)]
files = sorted((n, os.path.getsize(os.path.join(p, n))) for p in setups for n in os.listdir(p) if "PBE" in n)
try:
    packaged = len(setups) == 1 and "gpaw_data" in setups[0] and metadata.version("gpaw-data")
except metadata.PackageNotFoundError:
    packaged = False
fingerprint = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:8]
print(json.dumps({"version": gpaw.__version__, "files": len(files), "setups": packaged or fingerprint}))
"""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A GPAW that was found: the Python that has it, its version, and its PAW setups."""

    python: str
    version: str
    setups: str


class Gpaw(DrivenCode):
    """GPAW, as `DFTCode` asks for it."""

    name = "gpaw"
    logs = ("gpaw.txt",)

    def __init__(self, hubbard: HubbardChoice = "none", magnetism: Magnetic = "auto") -> None:
        self._hubbard = hubbard
        self._magnetism: Magnetic = magnetism

    def version(self) -> str:
        """GPAW's version.

        Raises:
            CodeNotInstalled: No Python here has a GPAW that works.
        """
        return find_installation().version

    def potentials(self) -> str:
        """The PAW setups: their package's version, or a fingerprint of the files.

        Raises:
            CodeNotInstalled: No Python here has a GPAW that works.
        """
        return f"gpaw-setups-{find_installation().setups}"

    def settings(
        self,
        preset: str,
        elements: Iterable[str],
        structure: Structure,
        *,
        relax: bool | None = None,
        geometry: str = "",
    ) -> DFTSettings:
        """Settings as the presets of plane waves have them.

        Raises:
            DFTError: There is no such preset, or no such U.
            CodeNotInstalled: No Python here has a GPAW that works.
        """
        return settings_for(
            preset,
            elements,
            structure,
            code=self,
            relax=relax,
            geometry=geometry,
            magnetism=self._magnetism,
            hubbard=self._hubbard,
        )

    def command(self, folder: Path, mpi: Sequence[str]) -> list[str]:
        """The driver; its ranks are GPAW's own Python."""
        python = find_installation().python
        run = [str(DRIVER.resolve()), self.name, str(folder.resolve())]
        if not mpi:
            return [python, "-P", *run]
        return [*mpi, python, "-P", "-m", "gpaw", "python", *run]


@functools.cache
def find_installation() -> Installation:
    """Find a Python with a GPAW that works: ASSAY_GPAW_PYTHON, this one, or the system's; in this order, once.

    Raises:
        CodeNotInstalled: None has it; the message says how to get it and what was tried.
    """
    named = os.environ.get("ASSAY_GPAW_PYTHON")
    tried = []
    for python in [named] if named else [sys.executable, SYSTEM_PYTHON]:
        answer = _probe(python)
        if isinstance(answer, str):
            tried.append(f"{python}: {answer}")
            continue
        return Installation(python=python, version=answer["version"], setups=answer["setups"])
    raise CodeNotInstalled(f"{HOW_TO} (Tried: {'; '.join(tried)})")


def _probe(python: str) -> dict[str, Any] | str:
    try:
        done = subprocess.run(
            [python, "-P", "-c", PROBE], capture_output=True, text=True, timeout=120, env=clean_environment()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer if answer["files"] else "it has no PAW setups: pip install gpaw-data, or gpaw install-data"

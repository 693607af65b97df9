"""VASP as a DFT code: pymatgen's input sets, and custodian around the program, in driver.py's process.

No VASP was at hand when this was written: it is tested with a program that reads and writes VASP's files.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materials.errors import CodeNotInstalled, DFTError, HullError
from materials.files import write_atomically
from materials.stability.corrections import MP2020_LEVEL, correction_of_vasp
from models.dft.base import DFTResult, DFTSettings, Limits
from models.dft.calculation_folder import DRIVER, DrivenCode, read_object
from models.dft.presets import symmetrised
from models.dft.vasp.input_sets import SetChoice, input_set, potcars_of, settings_of
from models.dft.vasp.potcars import library, potcar

if TYPE_CHECKING:
    from pymatgen.core import Structure

HOW_TO = (
    "Put VASP's program on the path, or name it in ASSAY_VASP_COMMAND (vasp_std if that is not set); where only the"
    " machines that compute have it, say its version in ASSAY_VASP_VERSION=6.4.2. `--no-dft` runs everything else"
)
# Every VASP carries the line that heads its OUTCAR: "vasp.6.4.2 20Jul23 (build ...)".
VERSION = re.compile(rb"vasp\.(\d+\.\d+(?:\.\d+)?)")


class Vasp(DrivenCode):
    """VASP, as `DFTCode` asks for it."""

    name = "vasp"
    logs = ("vasp.out", "std_err.txt")

    def __init__(self, choice: SetChoice | None = None) -> None:
        self.choice = choice or SetChoice()

    def version(self) -> str:
        """VASP's version: what ASSAY_VASP_VERSION says, or what stands in the program.

        Raises:
            CodeNotInstalled: VASP or custodian is not on this machine.
            DFTError: The program does not tell its version: it may be a script.
        """
        if importlib.util.find_spec("custodian") is None:
            raise CodeNotInstalled("VASP is run by custodian, which is not installed: pip install '.[vasp]'")
        if said := os.environ.get("ASSAY_VASP_VERSION"):
            return said
        program = words()[-1]
        path = shutil.which(program)
        if path is None:
            raise CodeNotInstalled(f"There is no {program} on the path. {HOW_TO}")
        found = _version_in(path)
        if found is None:
            raise DFTError(f"{path} does not tell VASP's version: say it in ASSAY_VASP_VERSION, such as 6.4.2")
        return found

    def potentials(self) -> str:
        """The release of POTCARs that the input set takes.

        Raises:
            DFTError: There is no such input set.
        """
        from pymatgen.core import Lattice, Structure

        any_crystal = Structure(Lattice.cubic(3.5), ["Li"], [[0, 0, 0]])
        return f"POTCAR-{input_set(self.choice, any_crystal).user_potcar_functional}"

    def find_potentials(self, elements: Iterable[str]) -> None:
        """Make sure that there is a POTCAR for each element, before anything is spent.

        Raises:
            DFTError: For one there is none; the message says where it was looked for.
            CodeNotInstalled: There are no POTCARs at all.
        """
        library()
        potcars_of(self.choice, elements, strict=True)

    def settings(
        self,
        preset: str,
        elements: Iterable[str],
        structure: Structure,
        *,
        relax: bool | None = None,
        geometry: str = "",
    ) -> DFTSettings:
        """Settings as the input set has them, whatever the preset says.

        Without a POTCAR for an element there are settings nevertheless: of a calculation that fails.

        Raises:
            DFTError: There is no such set; or the energy could stand in no hull.
            CodeNotInstalled: There are no POTCARs at all.
        """
        return settings_of(self.choice, elements, structure, relax=relax, geometry=geometry)

    def task(self, structure: Structure, settings: DFTSettings) -> dict[str, Any]:
        """What the physics will read: the cell as it is in POSCAR, what is asked, and the program."""
        cell = symmetrised(structure).get_sorted_structure()
        return {
            "settings": settings.content(),
            "numbers": [int(site.specie.Z) for site in cell],
            "cell": cell.lattice.matrix.tolist(),
            "scaled_positions": cell.frac_coords.tolist(),
            "program": words(),
            "lacking": settings.inputs.get("lacking", []),
        }

    def write_inputs(self, folder: Path, structure: Structure, settings: DFTSettings, limits: Limits) -> None:
        """Write VASP's four files and `task.json`; where a run has begun, custodian's corrections of them stay."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "checkpoint.json").exists() and "lacking" not in settings.inputs:
            for name, text in input_files(structure, settings).items():
                write_atomically(folder / name, text.encode())
        super().write_inputs(folder, structure, settings, limits)

    def command(self, folder: Path, mpi: Sequence[str]) -> list[str]:
        """The driver, in this Python; it starts the ranks of VASP."""
        return [sys.executable, "-P", str(DRIVER.resolve()), self.name, str(folder.resolve()), *mpi]

    def parse(self, folder: Path) -> DFTResult:
        """Read `result.json`, and bring the energy to its level of theory; without a result the process crashed."""
        result = super().parse(folder)
        if result.energy is None:
            return result
        try:
            level = str((read_object(folder / "task.json") or {})["settings"]["level"])
        except (KeyError, TypeError):  # nobody knows what the energy means
            return DFTResult(status="crashed", message=f"{folder / 'task.json'}: no task, so that its result is none")
        return corrected(result, level)


def corrected(result: DFTResult, level: str) -> DFTResult:
    """Put the corrections into the energy if its level of theory says that they are in; what VASP said is kept.

    A run that turns out not to be what the level says, or that cannot be corrected, has no energy: it has ended, and to
    read it again would end in the same way.
    """
    found = result.properties
    if level != MP2020_LEVEL or result.energy is None or result.structure is None:
        return result
    try:
        correction = correction_of_vasp(
            result.structure,
            run_type=found["run_type"],
            hubbards=found["hubbards"],
            potcar_titles=[spec["titel"] for spec in found["potcar_spec"]],
        )
    except Exception as error:  # noqa: BLE001 - pymatgen's, about this one crystal, whatever it is
        why = str(error) if isinstance(error, HullError) else f"The MP2020 corrections failed: {error!r}"
        return replace(result, status="failed", energy=None, message=f"{why}\n{result.message}".strip())
    properties = {**found, "uncorrected_energy": result.energy, "correction": correction}
    return replace(result, energy=result.energy + correction, properties=properties)


def input_files(structure: Structure, settings: DFTSettings) -> dict[str, str]:
    """INCAR, KPOINTS, POSCAR and POTCAR, exactly as the settings have them.

    Raises:
        DFTError: A POTCAR is not what it was when the settings were made.
    """
    from pymatgen.io.vasp.inputs import Incar, Poscar

    inputs = settings.inputs
    files = {
        "INCAR": str(Incar(inputs["INCAR"])),
        "POSCAR": Poscar(symmetrised(structure).get_sorted_structure()).get_str(significant_figures=16),
    }
    if inputs["KPOINTS"] is not None:
        files["KPOINTS"] = "\n".join([f"{settings.preset}", *inputs["KPOINTS"]]) + "\n"
    potcars = [potcar(symbol, settings.potentials.removeprefix("POTCAR-")) for symbol, _, _ in inputs["POTCAR"]]
    for file, (symbol, _, fingerprint) in zip(potcars, inputs["POTCAR"], strict=True):
        if file.fingerprint != fingerprint:
            raise DFTError(f"POTCAR {symbol} has changed since the calculation was planned: run the campaign again")
    files["POTCAR"] = "".join(file.text.rstrip("\n") + "\n" for file in potcars)
    return files


def words() -> list[str]:
    """The command that runs VASP, without what starts its ranks."""
    return shlex.split(os.environ.get("ASSAY_VASP_COMMAND") or "vasp_std")


@cache
def _version_in(path: str) -> str | None:
    found = VERSION.search(Path(path).read_bytes())
    return found[1].decode() if found else None

"""GPAW behind the contract: `gpaw_driver.py` as an external process, in whichever Python has GPAW."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materials.environment import without_secrets
from materials.errors import CodeNotInstalled, DFTError
from models.dft.contract import DFTResult, DFTSettings, Limits, last_lines
from models.dft.presets import settings_for, symmetrised

if TYPE_CHECKING:
    from pymatgen.core import Structure

DRIVER = Path(__file__).with_name("gpaw_driver.py")
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

# How a refused allocation reads: NumPy, C++, GPAW's C, the loader of shared libraries and the system each word it.
OUT_OF_MEMORY = (
    "MemoryError",
    "Unable to allocate",
    "bad_alloc",
    "gpaw_malloc",
    "failed to map segment",
    "Cannot allocate",
)


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A GPAW that was found: the Python that has it, its version, and its PAW setups."""

    python: str
    version: str
    setups: str


class Gpaw:
    """GPAW, as `DFTCode` asks for it."""

    name = "gpaw"

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
            DFTError: There is no such preset.
            CodeNotInstalled: No Python here has a GPAW that works.
        """
        return settings_for(preset, elements, structure, code=self, relax=relax, geometry=geometry)

    def write_inputs(self, folder: Path, structure: Structure, settings: DFTSettings, limits: Limits) -> None:
        """Write `task.json`; an old result is only here if more generous limits are to better it.

        Args:
            folder: Made if need be.
            structure: The crystal; what is computed is its symmetrised primitive cell.
            settings: What is asked.
            limits: What it may use.
        """
        cell = symmetrised(structure)
        task = {
            "settings": settings.content(),
            "numbers": [int(site.specie.Z) for site in cell],
            "cell": cell.lattice.matrix.tolist(),
            "scaled_positions": cell.frac_coords.tolist(),
            "walltime_s": limits.walltime_s,
            "memory_gib": limits.memory_gib,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        _write(folder / "task.json", task)

    def command(self, folder: Path, mpi: Sequence[str]) -> list[str]:
        """The driver; its ranks are GPAW's own Python."""
        python = find_installation().python
        run = [str(DRIVER.resolve()), str(folder.resolve())]
        if not mpi:
            return [python, "-P", *run]
        return [*mpi, python, "-P", "-m", "gpaw", "python", *run]

    def finished(self, folder: Path, limits: Limits) -> bool:
        """Whether `result.json` is there and more generous limits would not better it."""
        result = _read(folder / "result.json")
        if result is None:
            return False
        task = _read(folder / "task.json") or {}
        if result["status"] == "walltime":
            return float(task.get("walltime_s", 0.0)) >= limits.walltime_s
        if result["status"] == "out_of_memory":
            return float(task.get("memory_gib", 0.0)) >= limits.memory_gib
        return True

    def worker(self, folder: Path) -> int | None:
        """The process that holds the folder's lock; 0 if it runs on another machine, None if nobody does."""
        try:
            with open(folder / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            holder = json.loads((folder / "lock").read_text() or "{}")
            return int(holder["pid"]) if holder.get("host") == socket.gethostname() else 0
        return None

    def parse(self, folder: Path) -> DFTResult:
        """Read `result.json`; without one the process crashed."""
        result = _read(folder / "result.json")
        logs = [folder / "gpaw.txt", folder / "driver.log"]
        if result is None:
            message = f"{folder}: it ended without a result\n{last_lines(logs)}"
            return DFTResult(status="out_of_memory" if _lacked_memory(message) else "crashed", message=message)
        status, message = result["status"], result.get("message", "")
        if status == "failed" and _lacked_memory(message):
            status = "out_of_memory"
        if status != "converged":
            message = f"{message}\n{folder}\n{last_lines(logs)}"
        return DFTResult(
            status=status,
            energy=result.get("energy"),
            structure=_structure(result) if "cell" in result else None,
            band_gap=result.get("band_gap"),
            max_force=result.get("max_force"),
            max_stress=result.get("max_stress"),
            n_steps=result.get("n_steps", 0),
            wall_time_s=result.get("wall_time_s", 0.0),
            attempts=result.get("attempts", 1),
            message=message.strip(),
            properties=result.get("properties", {}),
        )

    def give_up(self, folder: Path, result: DFTResult) -> None:
        """Write a result without an energy for a process that died or was ended from outside."""
        content = {"status": result.status, "message": result.message, "wall_time_s": result.wall_time_s}
        _write(folder / "result.json", content)


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


def clean_environment() -> dict[str, str]:
    """This environment made fit for a calculation: no secrets, one thread a rank, MPI that runs as root too."""
    return {
        **without_secrets(os.environ),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # A process on its own must not start MPI's daemon.
        "OMPI_MCA_ess_singleton_isolated": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _lacked_memory(text: str) -> bool:
    return any(words in text for words in OUT_OF_MEMORY)


def _structure(result: Mapping[str, Any]) -> Structure:
    from pymatgen.core import Element, Lattice, Structure

    species = [Element.from_Z(z).symbol for z in result["numbers"]]
    return Structure(Lattice(result["cell"]), species, result["scaled_positions"])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise DFTError(f"{path}: not JSON ({error}); remove its folder to have it computed anew") from error
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    new = path.with_name(path.name + ".ours")
    new.write_text(json.dumps(content))
    new.replace(path)

"""The folder of a calculation that driver.py runs: task, lock, result; the same for each code that it runs."""

from __future__ import annotations

import fcntl
import json
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materials.errors import DFTError
from models.dft.contract import DFTResult, DFTSettings, Limits, last_lines
from models.dft.presets import cell_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

DRIVER = Path(__file__).with_name("driver.py")
# How a refused allocation reads: NumPy, C++, GPAW's C, the loader of shared libraries and the system each word it.
OUT_OF_MEMORY = (
    "MemoryError",
    "Unable to allocate",
    "bad_alloc",
    "gpaw_malloc",
    "failed to map segment",
    "Cannot allocate",
)


class DrivenCode:
    """What a code need not say for itself if driver.py runs it.

    Attributes:
        name: Of the code; its physics lies in NAME_physics.py.
        logs: Files of the folder that tell how it went, the one that says most first.
    """

    name: str
    logs: tuple[str, ...] = ()

    def find_potentials(self, elements: Iterable[str]) -> None:
        """Take it that the code brings them along; a calculation that finds none says so."""

    def task(self, structure: Structure, settings: DFTSettings) -> dict[str, Any]:
        """What the physics of the code will read: the cell, and what is asked of it."""
        cell = cell_of(structure, settings.magnetic_orders)
        return {
            "settings": settings.content(),
            "numbers": [int(site.specie.Z) for site in cell],
            "cell": cell.lattice.matrix.tolist(),
            "scaled_positions": cell.frac_coords.tolist(),
        }

    def write_inputs(self, folder: Path, structure: Structure, settings: DFTSettings, limits: Limits) -> None:
        """Write `task.json`; an old result is only here if more generous limits are to better it.

        Args:
            folder: Made if need be.
            structure: The crystal; what is computed is `cell_of` it.
            settings: What is asked.
            limits: What it may use.
        """
        task = self.task(structure, settings) | {
            "walltime_s": limits.walltime_s,
            "memory_gib": limits.memory_gib,
            "cores": limits.cores,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        _write(folder / "task.json", task)

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
        logs = [folder / name for name in (*self.logs, "driver.log")]
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

"""Folder of a calculation that driver.py runs: task, lock and result, the same for each code."""

from __future__ import annotations

import fcntl
import json
import math
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pymatgen.core import Element, Lattice, Structure

from materials.files import write_atomically
from models.dft.base import DFTResult, DFTSettings, DFTStatus, Limits, last_lines
from models.dft.presets import cell_of

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
        name: Of the code; what it is asked lies in NAME/calculation.py.
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
        result, _ = _result(folder)
        if result is None:
            return False
        task = read_object(folder / "task.json") or {}
        if result.status == "walltime":
            return _number_or_0(task, "walltime_s") >= limits.walltime_s
        if result.status == "out_of_memory":
            return _number_or_0(task, "memory_gib") >= limits.memory_gib
        return True

    def worker(self, folder: Path) -> int | None:
        """The process that holds the folder's lock; 0 if it runs on another machine, None if nobody does."""
        try:
            with open(folder / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            holder = read_object(folder / "lock") or {}
            here = holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int)
            return int(holder["pid"]) if here else 0
        return None

    def parse(self, folder: Path) -> DFTResult:
        """Read `result.json`; without one, or with one that says nothing, the process crashed."""
        result, trouble = _result(folder)
        logs = [folder / name for name in (*self.logs, "driver.log")]
        if result is None:
            message = f"{folder}: it ended without a result\n{trouble}\n{last_lines(logs)}"
            return DFTResult(status="out_of_memory" if _lacked_memory(message) else "crashed", message=message.strip())
        if result.status == "converged":
            return result
        status = "out_of_memory" if result.status == "failed" and _lacked_memory(result.message) else result.status
        return replace(result, status=status, message=f"{result.message}\n{folder}\n{last_lines(logs)}".strip())

    def give_up(self, folder: Path, result: DFTResult) -> None:
        """Write a result without an energy for a process that died or was ended from outside."""
        content = {"status": result.status, "message": result.message, "wall_time_s": result.wall_time_s}
        _write(folder / "result.json", content)


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is none, whatever stands there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _lacked_memory(text: str) -> bool:
    return any(words in text for words in OUT_OF_MEMORY)


def _result(folder: Path) -> tuple[DFTResult | None, str]:
    """Read `result.json` as it stands; None for one that is none, and why.

    Half a file, or an empty one, is what a full disk or a power failure leaves: then there is no result, and the
    calculation is done again.
    """
    path = folder / "result.json"
    content = read_object(path)
    if content is None:
        return None, f"{path}: no result" if path.exists() else ""
    try:
        return _read_result(content), ""
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        return None, f"{path}: no result ({type(error).__name__}: {str(error)[:200]})"


def _read_result(content: Mapping[str, Any]) -> DFTResult:
    status, energy = content["status"], content.get("energy")
    if status not in get_args(DFTStatus):
        raise ValueError(f"{status!r} is no status")
    result = DFTResult(
        status=status,
        energy=None if energy is None else _number(energy),
        structure=_structure(content) if "cell" in content else None,
        band_gap=_not_negative(_optional(content, "band_gap")),
        max_force=_optional(content, "max_force"),
        max_stress=_optional(content, "max_stress"),
        n_steps=_count(content.get("n_steps", 0)),
        wall_time_s=_float(content.get("wall_time_s", 0.0)),
        attempts=_count(content.get("attempts", 1)),
        message=_of_kind(content.get("message", ""), str, "text").encode(errors="replace").decode().strip(),
        properties=_of_kind(content.get("properties", {}), dict, "object"),
    )
    if status == "converged" and result.energy is not None and not math.isfinite(result.energy):
        # The code would say so again.
        return replace(result, status="failed", energy=None, message=f"no finite energy: {energy} {result.message}")
    return result


def _of_kind(value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {what}")
    return value


def _number(value: Any) -> float:
    return float(_of_kind(value, (int, float), "number"))


def _float(value: Any) -> float:
    number = _number(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number


def _count(value: Any) -> int:
    if not 0 <= _of_kind(value, int, "whole number") < 2**31:
        raise ValueError("a number of steps that no calculation takes")
    return int(value)


def _not_negative(value: float | None) -> float | None:
    if value is not None and value < 0:
        raise ValueError(f"{value!r} is no band gap")
    return value


def _optional(content: Mapping[str, Any], name: str) -> float | None:
    return None if content.get(name) is None else _float(content[name])


def _number_or_0(content: Mapping[str, Any], name: str) -> float:
    try:
        return _float(content.get(name, 0.0))
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _structure(content: Mapping[str, Any]) -> Structure:

    species = [Element.from_Z(z).symbol for z in content["numbers"]]
    if len(species) != len(content["scaled_positions"]):
        raise ValueError("atoms without a position")
    structure = Structure(Lattice(content["cell"]), species, content["scaled_positions"])
    if not (np.isfinite(structure.cart_coords).all() and structure.volume > 0):
        raise ValueError("a cell or positions that are no finite numbers, or a cell without a volume")
    return structure


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content).encode())

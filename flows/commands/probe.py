"""Environment of one Dask worker, as `assay doctor --cluster` checks it there."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.commands.doctor import Check, potential, shadowed
from flows.config.cluster import cores
from flows.run.versions import versions


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What was found.

    Attributes:
        host: Its name.
        python: The interpreter.
        job: Slurm's id, empty for none.
        cores: That the process may use.
        versions: Of the packages that decide numbers, and of Python.
        source: Hash of the code that computes.
        devices: CUDA devices that the process sees.
        checks: Whether packages are shadowed, and whether the potential works.
    """

    host: str
    python: str
    job: str
    cores: int
    versions: dict[str, str]
    source: str
    devices: list[str]
    checks: list[Check]


def look_around(device: str) -> Surroundings:
    """Look around in this process, and load the default potential on the device that is to be used."""
    from models.potentials.registry import cuda_devices

    return Surroundings(
        host=platform.node(),
        python=sys.executable,
        job=os.environ.get("SLURM_JOB_ID", ""),
        cores=cores(),
        versions=versions(),
        source=source_hash(),
        devices=cuda_devices(),
        checks=[*(shadowed(name) for name in ("flows", "materials", "models")), potential("chgnet", device=device)],
    )


def source_hash() -> str:
    """Hash the code that computes, so that two checkouts of one version are told apart."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for room in ("materials", "models") for path in (root / room).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]

"""Settings of a relaxation: how far, and under which constraints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

CellFreedom = Literal["free", "fixed", "fixed_shape", "fixed_volume"]


@dataclass(frozen=True, kw_only=True)
class RelaxationSettings:
    """How far and under which constraints to relax.

    `cell` says what of the cell may change: all, nothing, its volume only (`fixed_shape`) or its shape only
    (`fixed_volume`). With `positions` fixed all sites stay where they are in the cell. `pressure` is in eV/Å³, positive
    for compression. With `keep_symmetry` the crystal is put onto the symmetry that it has within `symprec` (Å), and
    forces and stress are averaged over it. With `max_stress` (eV/Å³) the cell is judged by that: no component of the
    stress that may relax, less the pressure, is larger; the virial does not count. With `trajectory` the accepted steps
    are kept; the answer is the same.
    """

    fmax: float = 0.05  # eV/Å
    max_steps: int = 500
    cell: CellFreedom = "free"
    pressure: float = 0.0  # eV/Å³
    keep_symmetry: bool = False
    symprec: float = 0.01  # Å
    max_stress: float | None = None  # eV/Å³
    positions: Literal["free", "fixed"] = "free"
    trajectory: bool = False

    def content(self) -> dict[str, Any]:
        """What makes two relaxations the same question, for a settings hash."""
        content = asdict(self)
        del content["trajectory"]
        if self.max_stress is None:  # as it was before there was such a criterion: old answers stay valid
            del content["max_stress"]
        if self.positions == "free":  # likewise
            del content["positions"]
        return content

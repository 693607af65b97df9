"""The way of one crystal downhill: where it stands, where it is to be evaluated next, how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materials.records import CalculationStatus
from models.minimizers import FIRE, LBFGS, capped, moved, strain_length
from models.potentials.interface import Crystal, FloatArray
from models.symmetry import Symmetry, symmetry_of

if TYPE_CHECKING:
    from models.relaxation import RelaxationSettings

LARGEST_FORCE = 1e3  # eV/Å
VOLUME_RATIOS = (0.25, 4.0)
NOISE = 2e-6  # eV an atom, of energies in single precision
PATIENCE = 6  # steps refused in a row before FIRE takes over


@dataclass(frozen=True, kw_only=True)
class Point:
    """A crystal and what a potential says of it. With a `problem`, the numbers mean nothing.

    A problem is that the potential does not cover the crystal, unless it `failed`: raised, or lost its numbers.
    """

    crystal: Crystal
    energy: float  # eV
    forces: FloatArray  # (n_atoms, 3) eV/Å
    stress: FloatArray  # (3, 3) eV/Å³
    problem: str | None = None
    failed: bool = False
    latent: NDArray[np.float32] | None = None
    magmoms: NDArray[np.float32] | None = None


class Descent:
    """A relaxation that waits for the answer at `trial`, is told it, and says where to look next.

    `point` is the last accepted one, None before the first answer; `status` is None while there is more to do.
    """

    def __init__(self, crystal: Crystal, settings: RelaxationSettings, fixed: NDArray[np.bool_] | None = None) -> None:
        """Start at `crystal`, the sites in `fixed` `(n_atoms,)` held."""
        self.settings = settings
        self.fixed = np.zeros(len(crystal), dtype=bool) if fixed is None else fixed
        self.trial = crystal
        self.point: Point | None = None
        self.status: CalculationStatus | None = None
        self.message = ""
        self.n_steps = -1
        self._volume = _volume(crystal)
        self._symmetry: Symmetry | None = None
        self._quasi_newton: LBFGS | None = LBFGS()
        self._fire = FIRE()
        self._gradient = np.zeros((len(crystal) + 3, 3))
        self._step = np.zeros_like(self._gradient)
        self._refused = 0

    def tell(self, answer: Point) -> bool:
        """Take in what the potential says of `trial`; return whether the step there is accepted."""
        self.n_steps += 1
        trouble, failed = answer.problem, answer.failed
        if trouble is None and not (
            np.isfinite(answer.energy) and np.isfinite(answer.forces).all() and np.isfinite(answer.stress).all()
        ):
            trouble, failed = "the potential answered with something that is not a number", True
        if trouble is not None:
            self._without_answer(trouble, failed)
            return False
        if self._exploded(answer):
            return False
        if self.settings.keep_symmetry and self._symmetry is None:
            try:
                self._symmetry = symmetry_of(answer.crystal, self.settings.symprec)
            except ValueError as error:
                self.status, self.message = "failed", f"its symmetry cannot be kept: {error}"
                return False
        gradient = self._constrained(answer)
        rise = np.inf if self.point is None else self._enthalpy(answer) - self._enthalpy(self.point)
        if self.point is not None and self._quasi_newton is not None:
            self._quasi_newton.learn(self._step, gradient - self._gradient)
            if rise > NOISE * len(answer.crystal) and not self._met(gradient, answer.crystal):
                self._refuse()
                self._go_on()
                return False
        self._refused = 0
        self.point, self._gradient = answer, gradient
        if self._met(gradient, answer.crystal):
            self.status = "converged"
        else:
            self._go_on()
        return True

    def _go_on(self) -> None:
        if self.n_steps >= self.settings.max_steps:
            self.status = "max_steps"
            self.message = f"not converged to {self.settings.fmax} eV/Å after {self.n_steps} steps"
            return
        assert self.point is not None
        if self._quasi_newton is None:
            step = capped(self._fire.direction(self._gradient))
        else:
            step = self._quasi_newton.direction(self._gradient)
            if np.vdot(step, self._gradient) >= 0:
                self._quasi_newton.forget()
                step = self._quasi_newton.direction(self._gradient)
            step = capped(step, 0.5**self._refused)
        self._step = step
        self.trial = moved(self.point.crystal, step)

    def _refuse(self) -> None:
        """Stay where it was, and look nearer; after too many refusals in a row, change the method."""
        self._refused += 1
        if self._refused > PATIENCE:
            self._quasi_newton = None
        elif self._refused == PATIENCE // 2 and self._quasi_newton is not None:
            self._quasi_newton.forget()

    def _without_answer(self, trouble: str, failed: bool) -> None:
        if self.point is None:
            self.status, self.message = "failed" if failed else "unsupported", trouble
        elif self._refused > PATIENCE or self._quasi_newton is None or self.n_steps >= self.settings.max_steps:
            self.status, self.message = "failed", trouble
        else:
            self._refuse()
            self._go_on()

    def _exploded(self, answer: Point) -> bool:
        ratio = _volume(answer.crystal) / self._volume
        force = float(np.abs(answer.forces).max())
        if force > LARGEST_FORCE:
            self.status, self.message = "exploded", f"a force of {force:.3g} eV/Å after {self.n_steps} steps"
        elif not VOLUME_RATIOS[0] <= ratio <= VOLUME_RATIOS[1]:
            self.status = "exploded"
            self.message = f"{ratio:.3g} times its first volume after {self.n_steps} steps"
        else:
            return False
        self.point = answer
        return True

    def _enthalpy(self, point: Point) -> float:
        return point.energy + self.settings.pressure * _volume(point.crystal)

    def _constrained(self, answer: Point) -> FloatArray:
        """Gradient of the enthalpy `(n_atoms + 3, 3)` in what may change: forces, then strain, scaled."""
        forces, stress = answer.forces, answer.stress
        if self._symmetry is not None:
            forces, stress = self._symmetry.vectors(forces), self._symmetry.tensor(stress)
        forces = np.where(self.fixed[:, None], 0.0, forces)
        strain = _volume(answer.crystal) * (stress + self.settings.pressure * np.eye(3))
        mean = np.eye(3) * np.trace(strain) / 3
        strain = {
            "free": strain,
            "fixed": np.zeros((3, 3)),
            "fixed_shape": mean,
            "fixed_volume": strain - mean,
        }[self.settings.cell]
        return np.concatenate([-forces, strain / strain_length(len(forces))])

    def _met(self, gradient: FloatArray, crystal: Crystal) -> bool:
        n = len(crystal)
        forces, strain = gradient[:n], gradient[n:] * strain_length(n)  # eV/Å, eV
        if self.settings.max_stress is not None:
            cell_is_met = np.abs(strain).max() / _volume(crystal) < self.settings.max_stress
        else:  # ASE divides the virial by the number of atoms
            cell_is_met = (strain**2).sum(1).max() < (self.settings.fmax * n) ** 2
        return bool(cell_is_met and (forces**2).sum(1).max() < self.settings.fmax**2)


def _volume(crystal: Crystal) -> float:
    return float(abs(np.linalg.det(crystal.cell)))

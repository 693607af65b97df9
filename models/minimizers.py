"""Quasi-Newton and FIRE steps for one crystal, its cell among the variables.

A point is a crystal; a step is an array `(n_atoms + 3, 3)`: displacements of the atoms in Å, then a symmetric strain
times `strain_length`, so that a soft and a stiff variable weigh alike. A step is taken by moving the atoms and then
straining atoms and cell together by the matrix exponential; gradients are taken anew at each point.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.potentials.interface import Crystal, FloatArray

LONGEST_STEP = 0.2  # Å
LARGEST_STRAIN = 0.06
STIFFNESS = 15.0  # eV/Å², of the first step, before any curvature is known
MEMORY = 20


def strain_length(n_atoms: int) -> float:
    """Length in Å by which a strain is multiplied to weigh as much as displacements."""
    return 2.0 * float(np.sqrt(n_atoms))


def moved(crystal: Crystal, step: FloatArray) -> Crystal:
    """Take a step from `crystal`."""
    n = len(crystal)
    strain = step[n:] / strain_length(n)
    values, vectors = np.linalg.eigh((strain + strain.T) / 2)
    deformation = (vectors * np.exp(values)) @ vectors.T
    return Crystal(
        numbers=crystal.numbers,
        positions=(crystal.positions + step[:n]) @ deformation,
        cell=crystal.cell @ deformation,
    )


def capped(step: FloatArray, factor: float = 1.0) -> FloatArray:
    """Shorten a step so that no atom moves, and nothing is strained, by more than is wise."""
    n = len(step) - 3
    moves = np.sqrt((step[:n] ** 2).sum(1).max(initial=0.0)) / LONGEST_STEP
    strains = np.abs(step[n:]).max() / (LARGEST_STRAIN * strain_length(n))
    return step * min(1.0, factor / max(moves, strains, 1e-12))


@dataclass(kw_only=True)
class LBFGS:
    """Limited-memory BFGS with the curvature of the last pair as its first guess.

    Nocedal, https://doi.org/10.1090/S0025-5718-1980-0572855-7. Pairs that would make the Hessian indefinite are left
    out.
    """

    pairs: list[tuple[FloatArray, FloatArray, float]] = field(default_factory=list)

    def learn(self, step: FloatArray, change: FloatArray) -> None:
        """Take note that `step` changed the gradient by `change`."""
        curvature = float(np.vdot(step, change))
        if curvature > 1e-10 * float(np.linalg.norm(step) * np.linalg.norm(change)) > 0:
            self.pairs.append((step, change, curvature))
            del self.pairs[:-MEMORY]

    def forget(self) -> None:
        """Drop all curvature."""
        self.pairs.clear()

    def direction(self, gradient: FloatArray) -> FloatArray:
        """The step to the minimum of the quadratic model."""
        q = gradient.copy()
        shares = []
        for step, change, curvature in reversed(self.pairs):
            share = float(np.vdot(step, q)) / curvature
            q -= share * change
            shares.append(share)
        if self.pairs:
            _, change, curvature = self.pairs[-1]
            q *= curvature / float(np.vdot(change, change))
        else:
            q /= STIFFNESS
        for (step, change, curvature), share in zip(self.pairs, reversed(shares), strict=True):
            q += (share - float(np.vdot(change, q)) / curvature) * step
        return -q


@dataclass(kw_only=True)
class FIRE:
    """Fast inertial relaxation, https://doi.org/10.1103/PhysRevLett.97.170201: slow, and hard to bring off its way."""

    timestep: float = 0.1
    mixing: float = 0.1
    downhill: int = 0
    velocity: FloatArray | None = None

    def direction(self, gradient: FloatArray) -> FloatArray:
        """The next step of the damped motion."""
        force = -gradient
        velocity = np.zeros_like(force) if self.velocity is None else self.velocity
        if float(np.vdot(force, velocity)) > 0:
            norm = float(np.linalg.norm(velocity)) / max(float(np.linalg.norm(force)), 1e-12)
            velocity = (1 - self.mixing) * velocity + self.mixing * norm * force
            self.downhill += 1
            if self.downhill > 5:
                self.timestep, self.mixing = min(1.1 * self.timestep, 1.0), 0.99 * self.mixing
        else:
            velocity = np.zeros_like(force)
            self.timestep, self.mixing, self.downhill = 0.5 * self.timestep, 0.1, 0
        self.velocity = velocity + self.timestep * force
        return self.timestep * self.velocity

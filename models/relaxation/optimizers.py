"""Quasi-Newton and FIRE steps for many crystals at once, their cells among the variables.

A step is an array of rows (`models.relaxation.degrees_of_freedom`). It is taken by moving the atoms and then straining
atoms and cell together by the matrix exponential; gradients are taken anew at each point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.potentials.base import Batch
from models.relaxation.degrees_of_freedom import Layout, of

LONGEST_STEP = 0.2  # Å
LARGEST_STRAIN = 0.06
SERIES = 12  # terms of the exponential of a strain: (3 x 0.06)^13 / 13! is 3e-20
STIFFNESS = 15.0  # eV/Å², of the first step, before any curvature is known
MEMORY = 20


def moved(batch: Batch, layout: Layout, step: Tensor) -> Batch:
    """Take a step from where the crystals are."""
    strain = layout.strains(step) / layout.strain_length[:, None, None]
    deformation = _exponential((strain + strain.mT) / 2)
    positions = batch.positions + step[: layout.n_atoms]
    return replace(
        batch,
        positions=(positions[:, None] @ deformation[layout.atom_owner])[:, 0],
        cells=batch.cells @ deformation,
    )


def capped(layout: Layout, step: Tensor, factor: Tensor) -> Tensor:
    """Shorten steps so that no atom moves, and nothing is strained, by more than `factor` `(n,)` of what is wise."""
    moves = layout.largest(step[: layout.n_atoms].norm(dim=1)) / LONGEST_STEP
    strains = layout.strains(step).abs().amax((1, 2)) / (LARGEST_STRAIN * layout.strain_length)
    longest = torch.maximum(moves, strains).clamp(min=1e-12)
    return step * layout.spread((factor / longest).clamp(max=1.0))


def _exponential(matrices: Tensor) -> Tensor:
    """Matrix exponentials `(n, 3, 3)` of capped strains, by a series of one length.

    torch's own chooses its length by what else is in the batch.
    """
    unit = torch.eye(3, dtype=matrices.dtype, device=matrices.device).expand_as(matrices)
    result = unit
    for k in range(SERIES, 0, -1):
        result = unit + matrices @ result / k
    return result


@dataclass(kw_only=True)
class LBFGS:
    """Limited-memory BFGS with the curvature of the last pair as its first guess.

    Nocedal, https://doi.org/10.1090/S0025-5718-1980-0572855-7. Pairs that would make the Hessian indefinite are left
    out: their `weight` is zero, as is that of pairs from before a crystal came or forgot.
    """

    steps: Tensor = of("stacked rows")  # (n_pairs, n_rows, 3), the latest first
    changes: Tensor = of("stacked rows")  # of the gradient, (n_pairs, n_rows, 3)
    weight: Tensor = of("stacked crystals")  # (n_pairs, n), one over step · change
    scale: Tensor = of("stacked crystals")  # (n_pairs, n), step · change over change · change, Å²/eV

    @staticmethod
    def blank(layout: Layout) -> LBFGS:
        """Nothing learned yet."""
        device = layout.sizes.device
        rows = torch.zeros((0, len(layout.owner), 3), dtype=torch.float64, device=device)
        crystals = torch.zeros((0, len(layout.sizes)), dtype=torch.float64, device=device)
        return LBFGS(steps=rows, changes=rows, weight=crystals, scale=crystals)

    def learn(self, layout: Layout, step: Tensor, change: Tensor, who: Tensor) -> None:
        """Take note that the steps changed the gradients by `change`, for the crystals `who` `(n,)`."""
        curvature, size = layout.dot(step, change), layout.dot(change, change)
        enough = 1e-10 * (layout.dot(step, step) * size).sqrt()
        who = who & (curvature > enough) & (enough > 0)
        kept = layout.spread(who)

        def latest(new: Tensor, old: Tensor) -> Tensor:
            return torch.cat([new[None], old[: MEMORY - 1]])

        self.steps = latest(torch.where(kept, step, 0.0), self.steps)
        self.changes = latest(torch.where(kept, change, 0.0), self.changes)
        self.weight = latest(torch.where(who, 1 / curvature, 0.0), self.weight)
        self.scale = latest(torch.where(who, curvature / size, 0.0), self.scale)

    def forget(self, who: Tensor) -> None:
        """Drop all curvature of some crystals."""
        self.weight = torch.where(who, 0.0, self.weight)

    def direction(self, layout: Layout, gradient: Tensor) -> Tensor:
        """The steps to the minima of the quadratic models."""
        q = gradient.clone()
        shares = []
        for step, change, weight in zip(self.steps, self.changes, self.weight, strict=True):
            share = layout.spread(weight * layout.dot(step, q))
            q -= share * change
            shares.append(share)
        q *= layout.spread(self._first_guess(layout))
        for k in reversed(range(len(shares))):
            share = shares[k] - layout.spread(self.weight[k] * layout.dot(self.changes[k], q))
            q += share * self.steps[k]
        return -q

    def _first_guess(self, layout: Layout) -> Tensor:
        """Inverse curvature `(n,)` in Å²/eV, of the latest pair where there is one."""
        unknown = self.weight.new_full((1, len(layout.sizes)), 1 / STIFFNESS)
        known = torch.cat([self.weight > 0, torch.ones_like(unknown, dtype=torch.bool)])
        latest = known.to(torch.uint8).argmax(0, keepdim=True)
        return torch.cat([self.scale, unknown]).gather(0, latest)[0]


@dataclass(kw_only=True)
class FIRE:
    """Fast inertial relaxation, https://doi.org/10.1103/PhysRevLett.97.170201: slow, and hard to bring off its way."""

    timestep: Tensor = of("crystals")
    mixing: Tensor = of("crystals")
    downhill: Tensor = of("crystals")
    velocity: Tensor = of("rows")

    @staticmethod
    def blank(layout: Layout) -> FIRE:
        """At rest."""
        some = torch.full((len(layout.sizes),), 0.1, dtype=torch.float64, device=layout.sizes.device)
        return FIRE(
            timestep=some,
            mixing=some,
            downhill=torch.zeros_like(layout.sizes),
            velocity=some.new_zeros((len(layout.owner), 3)),
        )

    def direction(self, layout: Layout, gradient: Tensor, who: Tensor) -> Tensor:
        """The next steps of the damped motion; only the crystals `who` go on."""
        force = -gradient
        goes_down = layout.dot(force, self.velocity) > 0
        lengths = layout.dot(self.velocity, self.velocity).sqrt() / layout.dot(force, force).sqrt().clamp(min=1e-12)
        mixing = layout.spread(self.mixing)
        turned = (1 - mixing) * self.velocity + mixing * layout.spread(lengths) * force
        velocity = torch.where(layout.spread(goes_down), turned, 0.0)
        downhill = torch.where(goes_down, self.downhill + 1, 0)
        long = downhill > 5
        faster = torch.where(long, (1.1 * self.timestep).clamp(max=1.0), self.timestep)
        timestep = torch.where(goes_down, faster, 0.5 * self.timestep)
        mixed = torch.where(goes_down, torch.where(long, 0.99 * self.mixing, self.mixing), 0.1)
        velocity = velocity + layout.spread(timestep) * force
        self.timestep = torch.where(who, timestep, self.timestep)
        self.mixing = torch.where(who, mixed, self.mixing)
        self.downhill = torch.where(who, downhill, self.downhill)
        self.velocity = torch.where(layout.spread(who), velocity, self.velocity)
        return layout.spread(timestep) * velocity

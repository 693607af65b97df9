"""State of a batched optimisation: accepted geometries, next trial steps, terminations.

All crystals of a batch take their steps together, in arrays on the potential's device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from materials.records import CalculationStatus
from models.potentials.base import Batch, Evaluation
from models.relaxation.autobatching import Raised
from models.relaxation.degrees_of_freedom import Layout, joined, of, selected
from models.relaxation.optimizers import FIRE, LBFGS, STIFFNESS, capped, moved
from models.relaxation.symmetry import Symmetries, Symmetry

if TYPE_CHECKING:
    from models.relaxation.settings import RelaxationSettings

LARGEST_FORCE = 1e3  # eV/Å
VOLUME_RATIOS = (0.25, 4.0)
NOISE = 2e-6  # eV an atom, of energies in single precision
PATIENCE = 6  # steps refused in a row before FIRE takes over


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a crystal ended."""

    status: CalculationStatus
    message: str = ""


@dataclass(kw_only=True)
class Point:
    """The last accepted geometries and what the potential says of them."""

    batch: Batch = of("batch")
    answered: Tensor = of("crystals")  # (n,) whether there is such a geometry
    energy: Tensor = of("crystals")  # (n,) eV
    enthalpy: Tensor = of("crystals")  # (n,) eV
    forces: Tensor = of("atoms")  # (n_atoms, 3) eV/Å
    stress: Tensor = of("crystals")  # (n, 3, 3) eV/Å³
    gradient: Tensor = of("rows")  # of the enthalpy in what may change
    latents: Tensor | None = of("crystals")
    magmoms: Tensor | None = of("atoms")


@dataclass(kw_only=True)
class Descents:
    """Relaxations that wait for the answer at `trial`, are told it, and say where to look next."""

    settings: RelaxationSettings
    trial: Batch = of("batch")
    fixed: Tensor = of("atoms")  # (n_atoms,) sites that are held
    first_volume: Tensor = of("crystals")  # (n,) Å³
    n_steps: Tensor = of("crystals")  # (n,) evaluations after the first
    refused: Tensor = of("crystals")  # (n,) steps refused in a row
    quasi_newton: Tensor = of("crystals")  # (n,) whether L-BFGS leads, and not FIRE
    step: Tensor = of("rows")  # from the last accepted geometry to the trial
    symmetries: list[Symmetry | None] = of("list")
    point: Point
    lbfgs: LBFGS
    fire: FIRE

    @staticmethod
    def begin(
        batch: Batch, fixed: Tensor, settings: RelaxationSettings, symmetries: Sequence[Symmetry | None]
    ) -> Descents:
        """Start at the crystals of `batch`, the sites in `fixed` `(n_atoms,)` held, each in its symmetry."""
        layout = Layout.of_batch(batch)
        nan, none = torch.full_like(batch.volumes, torch.nan), torch.zeros_like(batch.sizes)
        rows = nan.new_zeros((len(layout.owner), 3))
        return Descents(
            settings=settings,
            trial=batch,
            fixed=fixed,
            first_volume=batch.volumes,
            n_steps=none - 1,
            refused=none,
            quasi_newton=none == 0,
            step=rows,
            symmetries=list(symmetries),
            point=Point(
                batch=batch,
                answered=none > 0,
                energy=nan,
                enthalpy=nan,
                forces=torch.zeros_like(batch.positions),
                stress=torch.zeros_like(batch.cells),
                gradient=rows,
                latents=None,
                magmoms=None,
            ),
            lbfgs=LBFGS.blank(layout),
            fire=FIRE.blank(layout),
        )

    def __len__(self) -> int:
        return len(self.trial)

    @cached_property
    def layout(self) -> Layout:
        """How the rows lie."""
        return Layout.of_batch(self.trial)

    @cached_property
    def _operations(self) -> Symmetries:
        return Symmetries.of(self.symmetries, self.trial)

    def select(self, crystals: Tensor) -> Descents:
        """Keep some crystals, given by index."""
        return selected(self, self.trial, self.layout, crystals)

    def join(self, other: Descents) -> Descents:
        """Take in the crystals of another, which has not begun."""
        for name in ("latents", "magmoms"):
            known = getattr(self.point, name)
            if known is not None:
                size = len(other) if name == "latents" else len(other.trial.numbers)
                setattr(other.point, name, known.new_full((size, *known.shape[1:]), torch.nan))
        return joined(self, other, len(self.trial.numbers), len(other.trial.numbers))

    def tell(self, answer: Evaluation, raised: Mapping[int, Raised]) -> dict[int, Ending]:
        """Take in what the potential says of `trial`; return which crystals have ended, and how.

        Args:
            answer: For each crystal; NaN where there is none.
            raised: Crystals for which the potential raised, and what.
        """
        batch, layout = self.trial, self.layout
        self.n_steps = self.n_steps + 1
        finite = answer.energies.isfinite() & answer.stresses.isfinite().flatten(1).all(1)
        finite &= batch.of_crystals((~answer.forces.isfinite()).any(1).long()) == 0
        ratio = batch.volumes / self.first_volume
        force = layout.largest(answer.forces.abs().amax(1).nan_to_num())
        exploded = (force > LARGEST_FORCE) | (ratio < VOLUME_RATIOS[0]) | (ratio > VOLUME_RATIOS[1])
        exploded &= finite
        gradient = self._constrained(answer, layout)
        met = finite & ~exploded & self._met(gradient, layout)
        enthalpy = answer.energies + self.settings.pressure * batch.volumes
        led = self.point.answered & self.quasi_newton & finite & ~exploded
        self.lbfgs.learn(layout, self.step, gradient - self.point.gradient, led)
        uphill = led & ~met & (enthalpy - self.point.enthalpy > NOISE * batch.sizes)
        late = self.n_steps >= self.settings.max_steps
        hopeless = ~finite & (~self.point.answered | (self.refused > PATIENCE) | ~self.quasi_newton)
        accepted = finite & ~uphill
        self._accept(answer, gradient, enthalpy, accepted)
        self._refuse(~accepted)
        ended = met | exploded | hopeless | late
        found = {}
        for k in torch.nonzero(ended)[:, 0].tolist():
            if exploded[k]:
                found[k] = Ending(status="exploded", message=self._explosion(k, float(force[k]), float(ratio[k])))
            elif hopeless[k]:
                found[k] = self._without_answer(k, answer.problems, raised)
            elif met[k]:
                found[k] = Ending(status="converged")
            else:
                message = f"not converged to {self.settings.fmax} eV/Å after {int(self.n_steps[k])} steps"
                found[k] = Ending(status="max_steps", message=message)
        self._go_on(layout)
        return found

    def _accept(self, answer: Evaluation, gradient: Tensor, enthalpy: Tensor, who: Tensor) -> None:
        """Stand where the trial was."""
        point, batch = self.point, self.trial
        atoms, rows = who[self.layout.atom_owner], self.layout.spread(who)

        def taken(new: Tensor | None, old: Tensor | None, mask: Tensor) -> Tensor | None:
            if new is None and old is None:
                return None
            mask = mask.view(-1, *[1] * ((old if new is None else new).dim() - 1))  # type: ignore[union-attr]
            return torch.where(mask, torch.nan if new is None else new, torch.nan if old is None else old)

        self.point = Point(
            batch=Batch(
                numbers=batch.numbers,
                positions=torch.where(atoms[:, None], batch.positions, point.batch.positions),
                cells=torch.where(who[:, None, None], batch.cells, point.batch.cells),
                sizes=batch.sizes,
            ),
            answered=point.answered | who,
            energy=torch.where(who, answer.energies, point.energy),
            enthalpy=torch.where(who, enthalpy, point.enthalpy),
            forces=torch.where(atoms[:, None], answer.forces, point.forces),
            stress=torch.where(who[:, None, None], answer.stresses, point.stress),
            gradient=torch.where(rows, gradient, point.gradient),
            latents=taken(answer.latents, point.latents, who),
            magmoms=taken(answer.magmoms, point.magmoms, atoms),
        )
        self.refused = torch.where(who, 0, self.refused)

    def _refuse(self, who: Tensor) -> None:
        """Stay, and look nearer; after too many refusals in a row, change the method."""
        self.refused = self.refused + who
        self.quasi_newton = self.quasi_newton & (self.refused <= PATIENCE)
        self.lbfgs.forget(who & (self.refused == PATIENCE // 2))

    def _go_on(self, layout: Layout) -> None:
        gradient = self.point.gradient
        step = self.lbfgs.direction(layout, gradient)
        misled = ~(layout.dot(step, gradient) < 0)  # also where it is not a number
        self.lbfgs.forget(misled)
        step = torch.where(layout.spread(misled), -gradient / STIFFNESS, step)
        step = capped(layout, step, 0.5 ** self.refused.clamp(max=PATIENCE + 1))
        if not self.quasi_newton.all():
            damped = self.fire.direction(layout, gradient, ~self.quasi_newton)
            damped = capped(layout, damped, torch.ones_like(self.first_volume))
            step = torch.where(layout.spread(self.quasi_newton), step, damped)
        self.step = step
        self.trial = moved(self.point.batch, layout, step)

    def _constrained(self, answer: Evaluation, layout: Layout) -> Tensor:
        """Gradient of the enthalpy in what may change: forces, then strain, scaled."""
        forces, stress = answer.forces, answer.stresses
        if self.settings.keep_symmetry:
            forces, stress = self._operations.vectors(forces), self._operations.tensors(stress)
        forces = torch.where(self.fixed[:, None], 0.0, forces)
        unit = torch.eye(3, dtype=stress.dtype, device=stress.device)
        strain = self.trial.volumes[:, None, None] * (stress + self.settings.pressure * unit)
        mean = strain.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * unit
        if self.settings.cell == "fixed":
            strain = torch.zeros_like(strain)
        elif self.settings.cell == "fixed_shape":
            strain = mean
        elif self.settings.cell == "fixed_volume":
            strain = strain - mean
        return torch.cat([-forces, (strain / layout.strain_length[:, None, None]).reshape(-1, 3)])

    def _met(self, gradient: Tensor, layout: Layout) -> Tensor:
        settings, n = self.settings, self.trial.sizes
        forces = layout.largest(gradient[: layout.n_atoms].norm(dim=1).nan_to_num(torch.inf))  # eV/Å
        strain = layout.strains(gradient) * layout.strain_length[:, None, None]  # eV
        if settings.max_stress is not None:
            cell = strain.abs().amax((1, 2)) / self.trial.volumes < settings.max_stress
        else:  # ASE divides the virial by the number of atoms
            cell = strain.norm(dim=2).amax(1) / n < settings.fmax
        return cell & (forces < settings.fmax)

    def _explosion(self, k: int, force: float, ratio: float) -> str:
        what = f"a force of {force:.3g} eV/Å" if force > LARGEST_FORCE else f"{ratio:.3g} times its first volume"
        return f"{what} after {int(self.n_steps[k])} steps"

    def _without_answer(self, k: int, problems: Mapping[int, str], raised: Mapping[int, Raised]) -> Ending:
        if k in raised:
            status, message = raised[k]
            return Ending(status=status, message=message)
        if k not in problems:
            return Ending(status="failed", message="the potential answered with something that is not a number")
        begun = bool(self.point.answered[k])
        return Ending(status="failed" if begun else "unsupported", message=problems[k])

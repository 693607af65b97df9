"""A potential for notebooks and scripts: energies, forces, stresses and relaxations of pymatgen structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from models.potentials import base
from models.potentials.registry import load_potential
from models.relaxation.autobatching import evaluated
from models.relaxation.relax import Relaxed, relax
from models.relaxation.settings import CellFreedom, RelaxationSettings

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Energy, forces and stress of one structure as it stands.

    All are NaN where the potential has none; `message` is why.
    """

    energy: float  # eV, total, before any correction
    forces: NDArray[np.float64]  # (n_sites, 3), eV/Å
    stress: NDArray[np.float64]  # (3, 3), eV/Å³, as ASE has it: negative for a crystal that wants to expand
    magmoms: NDArray[np.float64] | None  # (n_sites,), μB, absolute values; None where the potential has none
    message: str = ""


class Potential:
    """A loaded interatomic potential.

    Attributes:
        method: Its name and version, such as "chgnet-0.3.0".
        level_of_theory: What its energies mean, once `correction` is applied.
        correction: The scheme that its raw energies still need; None where they need none.
        elements: Symbols that it covers.
    """

    def __init__(self, backend: base.Potential) -> None:
        self._backend = backend
        self.method: str = backend.method
        self.level_of_theory: str = backend.level_of_theory
        self.correction: str | None = backend.correction
        self.elements: frozenset[str] = frozenset(backend.elements)

    @classmethod
    def load(
        cls,
        kind: str = "chgnet",
        *,
        model: str | None = None,
        device: str = "cpu",
        precision: str = "float32",
        level_of_theory: str | None = None,
        correction: str | None = None,
        calculator_arguments: Mapping[str, Any] | None = None,
    ) -> Self:
        """Load a potential and check it on compounds whose formation energies are known.

        The arguments are those of `screening.potential` in a campaign file, and `device` that of a cluster file.

        Raises:
            PotentialNotInstalled: The potential, its package or its weights are not here.
            AnchorMismatch: It gets the known compounds wrong.
        """
        return cls(
            load_potential(
                kind,
                model=model,
                device=device,
                precision=precision,
                level_of_theory=level_of_theory,
                correction=correction,
                calculator_arguments=calculator_arguments,
            )
        )

    def evaluate(self, structures: Sequence[Structure]) -> list[Evaluated]:
        """Evaluate structures as they stand, in batches; in their order."""
        found: list[Evaluated | None] = [None] * len(structures)
        places: list[int] = []
        crystals: list[base.Crystal] = []
        for place, structure in enumerate(structures):
            try:
                crystal = base.crystal_of(structure)
                if uncovered := {site.specie.symbol for site in structure} - self.elements:
                    raise ValueError(f"{self.method} does not cover {', '.join(sorted(uncovered))}")
            except ValueError as error:
                found[place] = _without(len(structure), str(error))
                continue
            places.append(place)
            crystals.append(crystal)
        if crystals:
            batch = base.batch_of(crystals, self._backend.device)
            answer, raised = evaluated(self._backend, batch, self._backend.costs(batch).tolist())
            problems = {k: message for k, (_, message) in raised.items()} | dict(answer.problems)
            ends = np.cumsum([len(crystal) for crystal in crystals])[:-1]
            forces = np.split(answer.forces.cpu().numpy(), ends)
            magmoms = None if answer.magmoms is None else np.split(answer.magmoms.cpu().numpy(), ends)
            for k, place in enumerate(places):
                found[place] = Evaluated(
                    energy=float(answer.energies[k]),
                    forces=forces[k],
                    stress=answer.stresses[k].cpu().numpy(),
                    magmoms=None if magmoms is None else magmoms[k],
                    message=problems.get(k, ""),
                )
        return [one for one in found if one is not None]

    def relax(
        self,
        structures: Sequence[Structure],
        *,
        fmax: float = 0.05,
        max_steps: int = 500,
        cell: CellFreedom = "free",
        pressure: float = 0.0,
        keep_symmetry: bool = False,
    ) -> list[Relaxed]:
        """Relax structures in batches; in their order, each with its `status`, never an exception of one of them.

        Args:
            structures: Ordered ones; `selective_dynamics` holds sites.
            fmax: Largest force and largest row of the cell's virial at the end, eV/Å.
            max_steps: For each; "max_steps" is the status of what has not converged by then.
            cell: "free", "fixed", "fixed_shape" or "fixed_volume".
            pressure: eV/Å³, positive for compression.
            keep_symmetry: Put each onto the symmetry that it has within 0.01 Å, and keep it there.
        """
        settings = RelaxationSettings(
            fmax=fmax, max_steps=max_steps, cell=cell, pressure=pressure, keep_symmetry=keep_symmetry
        )
        found = dict(relax(self._backend, structures, settings))
        return [found[place] for place in range(len(structures))]

    def __repr__(self) -> str:
        return f"Potential({self.method!r}, {self.level_of_theory!r})"


def _without(n_sites: int, message: str) -> Evaluated:
    return Evaluated(
        energy=float("nan"),
        forces=np.full((n_sites, 3), np.nan),
        stress=np.full((3, 3), np.nan),
        magmoms=None,
        message=message,
    )

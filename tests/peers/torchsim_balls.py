"""ASE's Lennard-Jones as a torch-sim model, by torch-sim's own conversion to ASE: what its crystals look like to it."""

from __future__ import annotations

import numpy as np
import torch
from ase.calculators.lj import LennardJones
from torch_sim import SimState
from torch_sim.models.interface import ModelInterface


class Balls(ModelInterface):
    """ASE's calculator, one crystal after the other, in any precision, with or without stress, scaling as is said."""

    def __init__(
        self,
        sigma: float,
        epsilon: float,
        rc: float,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float64,
        compute_stress: bool = False,
        memory: str = "n_atoms_x_density",
    ) -> None:
        super().__init__()
        self.calculator = LennardJones(sigma=sigma, epsilon=epsilon, rc=rc, smooth=True)
        self.passes: list[int] = []  # crystals in each
        self._device = device or torch.device("cpu")
        self._dtype = dtype
        self._compute_forces = True
        self._compute_stress = compute_stress
        self._memory_scales_with = memory

    def forward(self, state: SimState, **_: object) -> dict[str, torch.Tensor]:
        """Energies, forces and stresses of all crystals."""
        assert state.dtype == self.dtype
        energies, forces, stresses = [], [], []
        crystals = state.to_atoms()
        self.passes.append(len(crystals))
        for atoms in crystals:
            if "Kr" in atoms.symbols:
                raise RuntimeError("krypton is not to my taste")
            atoms.calc = self.calculator
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
            stresses.append(atoms.get_stress(voigt=False))

        def tensor(values: object) -> torch.Tensor:
            return torch.tensor(values, dtype=self.dtype, device=self.device)

        found = {"energy": tensor(energies), "forces": tensor(np.concatenate(forces))}
        return found | ({"stress": tensor(np.array(stresses))} if self.compute_stress else {})

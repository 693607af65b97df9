"""Our CHGNet as a torch-sim model: for torch-sim's own optimisers, or for our engine through torch-sim's interface."""

from __future__ import annotations

import torch
from torch_sim import SimState
from torch_sim.models.interface import ModelInterface

from models.potentials.base import Batch
from models.potentials.registry import load_potential


class ChgnetModel(ModelInterface):
    """CHGNet 0.3.0, the geometry in double precision; `evaluated` counts the crystals of all passes so far."""

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.potential = load_potential("chgnet", device=str(device))
        self.evaluated = 0
        self._device = torch.device(device)
        self._dtype = torch.float64
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = "n_atoms_x_density"

    def forward(self, state: SimState, **_: object) -> dict[str, torch.Tensor]:
        """Energies, forces and stresses of all crystals, NaN where CHGNet has no answer."""
        batch = Batch(
            numbers=state.atomic_numbers.long(),
            positions=state.positions.double(),
            cells=state.row_vector_cell.double().contiguous(),
            sizes=torch.bincount(state.system_idx, minlength=len(state.cell)),
        )
        answer = self.potential.evaluate(batch)
        self.evaluated += len(batch)
        return {"energy": answer.energies, "forces": answer.forces, "stress": answer.stresses}

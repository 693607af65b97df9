"""Any potential of matgl 4 (TensorNet, M3GNet, CHGNet, …), many crystals at once.

The graph is ours, the forward pass the model's own. The models see positions only through bond vectors, so these are
handed to them as they are, in double precision until then, and forces and stress follow from one gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from materials.errors import PotentialNotInstalled
from models.neighbours import Pairs, sound_pairs
from models.potentials.interface import Crystal, Evaluation, FloatArray, PotentialIdentity, no_answer
from models.potentials.matgl_identity import matgl_folder


@dataclass(frozen=True, kw_only=True)
class MatglPotential(PotentialIdentity):
    """A matgl model as a potential."""

    model: Any  # matgl.apps.pes.Potential
    node_types: dict[int, int]  # atomic number -> the model's index
    dtype: torch.dtype
    device: torch.device
    batch_cost: float

    def evaluate(self, crystals: Sequence[Crystal]) -> Evaluation:
        """Energies, forces and stresses of all crystals at once; magnetic moments where the model has them."""
        cutoff = float(self.model.model.cutoff)
        problems, fit, pairs = sound_pairs(crystals, cutoff, frozenset(self.node_types))
        answer = no_answer(crystals, problems)
        if not fit:
            return answer
        batch = [crystals[k] for k in fit]
        energies, slopes, features = self._forward(batch, pairs)
        forces, virials = _gathered(batch, pairs, slopes)
        ends = np.cumsum([len(crystal) for crystal in batch])[:-1]
        answer.energies[fit] = energies
        answer.stresses[fit] = virials / np.array([abs(np.linalg.det(c.cell)) for c in batch])[:, None, None]
        for k, force in zip(fit, np.split(forces, ends), strict=True):
            answer.forces[k] = force
        if features is None:
            return answer
        latents = np.full((len(crystals), features.shape[1]), np.nan, dtype=np.float32)
        latents[fit] = [part.mean(axis=0) for part in np.split(features, ends)]
        return replace(answer, latents=latents)

    def cost(self, crystal: Crystal) -> float:
        """Directed bonds within the cut-off, in thousands."""
        _, _, pairs = sound_pairs([crystal], float(self.model.model.cutoff), frozenset(self.node_types))
        return max(2 * len(pairs.first), 1) / 1000

    def _forward(self, batch: Sequence[Crystal], pairs: Pairs) -> tuple[FloatArray, FloatArray, np.ndarray | None]:
        """Energies in eV, their slope by each pair's vector in eV/Å, and features of each atom if there are any."""
        from torch_geometric.data import Data

        sizes = [len(crystal) for crystal in batch]
        source = np.concatenate([pairs.first, pairs.second])
        order = np.argsort(source, kind="stable")  # M3GNet counts triplets from bonds sorted by source
        target = np.concatenate([pairs.second, pairs.first])[order]
        sign = np.repeat([1.0, -1.0], len(pairs.first))[order]
        of_pair = order % max(len(pairs.first), 1)
        vectors = torch.tensor(sign[:, None] * pairs.vector[of_pair], dtype=self.dtype, device=self.device)
        vectors.requires_grad_()
        types = np.array([self.node_types[number] for crystal in batch for number in crystal.numbers.tolist()])
        graph = Data(
            num_nodes=sum(sizes),
            edge_index=torch.tensor(np.stack([source[order], target]), dtype=torch.int32, device=self.device),
            node_type=torch.tensor(types, device=self.device),
            batch=torch.tensor(np.repeat(np.arange(len(sizes)), sizes), device=self.device),
            num_graphs=len(sizes),
            pbc_offset=torch.tensor(sign[:, None] * pairs.shift[of_pair], dtype=self.dtype, device=self.device),
            pbc_offshift=vectors,
            pos=torch.zeros((sum(sizes), 3), dtype=self.dtype, device=self.device),
        )
        state = torch.zeros((len(sizes), 2), dtype=self.dtype, device=self.device)
        pes = self.model
        energies = (pes.data_std * pes.model(g=graph, state_attr=state) + pes.data_mean).reshape(-1)
        if pes.calc_repuls:
            energies = energies + pes.repuls(pes.model.element_types, graph).reshape(-1)
        (slope,) = torch.autograd.grad(energies.sum(), vectors)
        total = energies.detach().double()
        if pes.element_refs is not None:
            offsets = pes.element_refs.property_offset.double()[graph.node_type]
            total = total.index_add(0, graph.batch, offsets)
        slopes = np.zeros_like(pairs.vector)
        np.add.at(slopes, of_pair, sign[:, None] * slope.double().cpu().numpy())
        return total.cpu().numpy(), slopes, _features(pes.model, sum(sizes))


def load_matgl(identity: PotentialIdentity, model: str, *, device: str, precision: str) -> MatglPotential:
    """Load a matgl model from its folder, or by name.

    Raises:
        PotentialNotInstalled: If matgl is not installed, or what is loaded is no potential.
    """
    import os

    # matgl's imports ask the hub what there is, and wait for an answer; the files are here by now.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import matgl
    except ImportError as error:
        raise PotentialNotInstalled(f"matgl cannot be imported ({error}): pip install 'matgl>=4.1.2,<5'") from error
    from matgl.apps.pes import Potential as Pes
    from pymatgen.core import Element

    folder = matgl_folder(model)
    try:
        pes = matgl.load_model(folder)
    except (RuntimeError, ValueError) as error:
        raise PotentialNotInstalled(
            f"matgl {matgl.__version__} cannot load {folder}: {error}; its weights may be of another major version"
        ) from error
    if not isinstance(pes, Pes) or getattr(pes, "calc_charge", False):
        raise PotentialNotInstalled(f"{folder} holds {type(pes).__name__}: not a potential that energies alone define")
    dtype = getattr(torch, precision)
    potential: Any = pes.to(dtype).to(device).eval()
    for parameter in potential.parameters():
        parameter.requires_grad_(False)
    return MatglPotential(
        **asdict(identity),
        model=potential,
        node_types={Element(symbol).Z: k for k, symbol in enumerate(potential.model.element_types)},
        dtype=dtype,
        device=torch.device(device),
        batch_cost=8.0 if device == "cpu" else 1000.0,
    )


def _gathered(batch: Sequence[Crystal], pairs: Pairs, slopes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Forces `(n_atoms, 3)` in eV/Å and virials `(n_crystals, 3, 3)` in eV."""
    forces = np.zeros((sum(len(crystal) for crystal in batch), 3))
    np.add.at(forces, pairs.first, slopes)
    np.subtract.at(forces, pairs.second, slopes)
    outer = slopes[:, :, None] * pairs.vector[:, None, :]
    virials = np.zeros((len(batch), 3, 3))
    np.add.at(virials, np.repeat(np.arange(len(batch)), pairs.counts), outer)
    return forces, (virials + virials.transpose(0, 2, 1)) / 2


def _features(model: Any, n_atoms: int) -> np.ndarray | None:
    """The last features of each atom that the model keeps, `(n_atoms, d)`, or None."""
    kept = model.feature_dict
    blocks = [value for key, value in sorted(kept.items()) if key.startswith("gc_") and isinstance(value, dict)]
    candidates = [block.get(name) for block in reversed(blocks) for name in ("node_feat", "atom_feat")]
    for features in (*candidates, kept.get("readout")):
        if isinstance(features, torch.Tensor) and features.dim() == 2 and len(features) == n_atoms:
            return features.detach().float().cpu().numpy()
    return None

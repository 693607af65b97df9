"""matgl 4 potentials (TensorNet, M3GNet, CHGNet, …), many crystals at once.

The graph is ours, the forward pass the model's own. The models see positions only through bond vectors, so these are
handed to them as they are, in double precision until then, and forces and stress follow from one gradient.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from materials.errors import PotentialNotInstalled
from models.potentials.base import Batch, Evaluation, PotentialIdentity, filled, unanswered
from models.potentials.matgl.identity import OF_PACKAGE, matgl_folder
from models.potentials.matgl.line_graph import listed_line_graph
from models.potentials.neighbor_list import Pairs, sound_pairs
from models.potentials.subnormals import flushed_subnormals


@dataclass(frozen=True, kw_only=True)
class MatglPotential(PotentialIdentity):
    """A matgl model as a potential."""

    model: Any  # matgl.apps.pes.Potential
    node_types: Tensor  # (119,) the model's index of each atomic number, -1 where it has none
    covered: frozenset[int]  # atomic numbers
    dtype: torch.dtype
    device: torch.device
    batch_cost: float

    def evaluate(self, batch: Batch) -> Evaluation:
        """Energies, forces and stresses of all crystals at once; magnetic moments where the model has them."""
        sound, pairs, fit, problems = sound_pairs(batch, float(self.model.model.cutoff), self.covered)
        if not len(sound):
            return unanswered(batch, problems)
        energies, slopes, graph = self._forward(sound, pairs)
        forces, virials = _gathered(sound, pairs, slopes)
        features = _features(self.model.model, len(sound.numbers))
        moments = graph.magmom.detach() if self.model.calc_magmom else None
        answer = Evaluation(
            energies=energies,
            forces=forces,
            stresses=virials / sound.volumes[:, None, None],
            latents=None if features is None else sound.of_crystals(features) / sound.sizes[:, None],
            magmoms=None if moments is None else moments.reshape(len(sound.numbers), -1)[:, 0].abs().float(),
        )
        return filled(answer, batch, fit, problems)

    def costs(self, batch: Batch) -> Tensor:
        """Directed bonds, and twice the angles of a CHGNet, in thousands.

        That is about what time goes with; M3GNet's triplets take a fiftieth of a bond.
        """
        costs = torch.full((len(batch),), 1e-3, dtype=torch.float64, device=batch.sizes.device)
        sound, pairs, fit, _ = sound_pairs(batch, float(self.model.model.cutoff), self.covered)
        if not len(sound):
            return costs

        def bonds_within(cutoff: float) -> Tensor:
            near = pairs.vector.norm(dim=1) <= cutoff
            return torch.bincount(torch.cat([pairs.first[near], pairs.second[near]]), minlength=len(sound.numbers))

        bonds = bonds_within(float("inf"))
        arms = bonds_within(getattr(self.model.model, "three_body_cutoff", 0.0))  # what CHGNet alone calls so
        costs[fit] = sound.of_crystals((bonds + 2 * arms * (arms - 1)).double()) / 1000
        return costs

    def _graph(self, batch: Batch, pairs: Pairs) -> tuple[Any, Tensor, Tensor]:
        """The graph of directed bonds, and each bond's pair and its sign (-1 for a pair seen from its second atom)."""
        from torch_geometric.data import Data

        n_atoms, n_pairs = len(batch.numbers), len(pairs.first)
        source = torch.cat([pairs.first, pairs.second])
        order = torch.argsort(source, stable=True)  # M3GNet counts triplets from bonds sorted by source
        target = torch.cat([pairs.second, pairs.first])[order]
        sign = torch.where(order < n_pairs, 1.0, -1.0).double()[:, None]
        of_pair = order % max(n_pairs, 1)
        vectors = (sign * pairs.vector[of_pair]).to(self.dtype).requires_grad_()
        graph = Data(
            num_nodes=n_atoms,
            edge_index=torch.stack([source[order], target]),
            node_type=self.node_types[batch.numbers],
            batch=batch.owner,
            num_graphs=len(batch),
            pbc_offset=(sign * pairs.shift[of_pair]).to(self.dtype),
            pbc_offshift=vectors,
            pos=vectors.new_zeros((n_atoms, 3)),
        )
        return graph, of_pair, sign

    def _forward(self, batch: Batch, pairs: Pairs) -> tuple[Tensor, Tensor, Any]:
        """Energies in eV, their slope by each pair's vector in eV/Å, and the graph with what the model left there."""
        graph, of_pair, sign = self._graph(batch, pairs)
        vectors = graph.pbc_offshift
        pes = self.model
        with flushed_subnormals(), listed_line_graph():
            state = vectors.new_zeros((len(batch), 2))
            energies = pes.model(g=graph, state_attr=state, l_g=_triplets(pes.model, graph))
            energies = (pes.data_std * energies + pes.data_mean).reshape(-1)
            if pes.calc_repuls:
                energies = energies + pes.repuls(pes.model.element_types, graph).reshape(-1)
            (slope,) = torch.autograd.grad(energies.sum(), vectors)
        total = energies.detach().double()
        if pes.element_refs is not None:
            total = total + batch.of_crystals(pes.element_refs.property_offset.double()[graph.node_type])
        slopes = torch.zeros_like(pairs.vector).index_add_(0, of_pair, sign * slope.double())
        return total, slopes, graph


def load_matgl(identity: PotentialIdentity, model: str, *, device: str, precision: str) -> MatglPotential:
    """Load a matgl model from its folder, or by name.

    Raises:
        PotentialNotInstalled: If matgl is not installed, or what is loaded is no potential.
    """
    from pymatgen.core import Element

    dtype = getattr(torch, precision)
    potential = _loaded(model).to(dtype).to(device).eval()
    for parameter in potential.parameters():
        parameter.requires_grad_(False)
    known = {Element(symbol).Z: k for k, symbol in enumerate(potential.model.element_types)}
    node_types = torch.full((119,), -1)
    node_types[list(known)] = torch.tensor(list(known.values()))
    return MatglPotential(
        **asdict(identity),
        model=potential,
        node_types=node_types.to(device),
        covered=frozenset(known) & {Element(symbol).Z for symbol in identity.elements},
        dtype=dtype,
        device=torch.device(device),
        batch_cost=8.0 if device == "cpu" else 1000.0,
    )


def _loaded(model: str) -> Any:
    """The `matgl.apps.pes.Potential` of that name or in that folder.

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

    if model in OF_PACKAGE:
        from models.potentials.chgnet.identity import chgnet_path
        from models.potentials.matgl.chgnet_weights import chgnet_in_matgl

        return chgnet_in_matgl(chgnet_path(OF_PACKAGE[model]))
    folder = matgl_folder(model)
    try:
        _refuse_foreign_classes(folder)
        pes = matgl.load_model(folder)
    except (RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise PotentialNotInstalled(
            f"matgl {matgl.__version__} cannot load {folder}: {error}; its weights may be of another major version"
        ) from error
    if not isinstance(pes, Pes) or getattr(pes, "calc_charge", False):
        raise PotentialNotInstalled(f"{folder} holds {type(pes).__name__}: not a potential that energies alone define")
    return pes


def _refuse_foreign_classes(folder: Path) -> None:
    """Stop before matgl imports and calls a class that the files name and that is none of its own.

    Raises:
        ValueError: They name one.
    """
    arguments = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    parts = [json.loads((folder / "model.json").read_text()), *arguments.values()]
    for part in parts:
        module = str(part.get("@module", "matgl")) if isinstance(part, dict) else "matgl"
        if module.split(".")[0] != "matgl" and module != "models.potentials.matgl_chgnet":  # ours, for CHGNet's weights
            raise ValueError(f"its files name a class of {module}, which is not matgl's")


def _triplets(model: Any, graph: Any) -> dict[str, Tensor] | None:
    """M3GNet's line graph, which it would else make one atom after the other on the CPU; None for other models."""
    from matgl.graph._compute import create_line_graph_torch

    reach = getattr(model, "threebody_cutoff", None)  # what M3GNet alone calls so
    if reach is None:
        return None
    vectors = graph.pbc_offshift.detach()
    return create_line_graph_torch(graph.edge_index, vectors.norm(dim=1), vectors, graph.num_nodes, reach)


def _gathered(batch: Batch, pairs: Pairs, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Forces `(n_atoms, 3)` in eV/Å and virials `(n_crystals, 3, 3)` in eV."""
    forces = torch.zeros_like(batch.positions)
    forces.index_add_(0, pairs.first, slopes).index_add_(0, pairs.second, slopes, alpha=-1)
    outer = slopes[:, :, None] * pairs.vector[:, None, :]
    virials = torch.zeros_like(batch.cells).index_add_(0, batch.owner[pairs.first], outer)
    return forces, (virials + virials.mT) / 2


def _features(model: Any, n_atoms: int) -> Tensor | None:
    """The last features of each atom that the model keeps, `(n_atoms, d)`, or None."""
    kept = model.feature_dict
    blocks = [value for key, value in sorted(kept.items()) if key.startswith("gc_") and isinstance(value, dict)]
    candidates = [block.get(name) for block in reversed(blocks) for name in ("node_feat", "atom_feat")]
    for features in (*candidates, kept.get("readout")):
        if isinstance(features, Tensor) and features.dim() == 2 and len(features) == n_atoms:
            return features.detach().float()
    return None

"""CHGNet as matgl's own model, with the weights that the chgnet package carries.

matgl has a CHGNet of its own, which differs from the package's in what `PackageChgnet` mends. The rest is a matter of
names and of order: matgl puts a neighbour's features before its centre's, and a cosine before each sine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matgl.apps.pes import Potential as Pes
from matgl.graph._compute import compute_pair_vector_and_distance
from matgl.layers._basis import FourierExpansion, RadialBesselFunction
from matgl.layers._graph_convolution import CHGNetLineGraphConv
from matgl.models import CHGNet
from matgl.utils.cutoff import polynomial_cutoff
from pymatgen.core import Element
from torch import Tensor, nn

from materials.errors import PotentialNotInstalled
from models.potentials.chgnet.potential import checkpoint_of

UNDAMPED = 4096  # as matgl's exponent: its polynomial of the basis functions' values is 1
ACOS_MARGIN = 1 - 1e-6  # the package's own, against the infinite slope of acos
WIDTH = 64


class PackageChgnet(CHGNet):
    """matgl's CHGNet made to pass messages as the chgnet package does.

    Five things differ. A bond of the package receives from the angles at both its ends, one of matgl's only from those
    at its source. The package damps basis functions by distance, matgl by their own values. It keeps collinear angles
    1.4 mrad from a straight line, it normalises atoms before the readout, and between the layers nothing.
    """

    __module__ = "models.potentials.matgl_chgnet"  # as saved files name it, whose content a level is known by
    # matgl's own types say less than these hold.
    final_layer: Any
    atom_graph_layers: Any
    bond_graph_layers: Any

    def __init__(
        self,
        element_types: Sequence[str],
        cutoff: float = 6.0,
        threebody_cutoff: float = 3.0,
        cutoff_exponent: int = 8,
        max_n: int = 31,
        max_f: int = 15,
    ) -> None:
        """Make the model with random weights.

        Args:
            element_types: Symbols in the order of the embedding's rows.
            cutoff: Å, of bonds.
            threebody_cutoff: Å, of the bonds that form angles.
            cutoff_exponent: Of the polynomial that damps the radial functions.
            max_n: Number of radial functions.
            max_f: Number of an angle's frequencies.
        """
        super().__init__(
            element_types=tuple(element_types),
            cutoff=cutoff,
            threebody_cutoff=threebody_cutoff,
            cutoff_exponent=cutoff_exponent,
            max_n=max_n,
            max_f=max_f,
            final_hidden_dims=(WIDTH,) * 3,
            normalization="layer",
        )
        self.bond_expansion = _Damped(max_n, cutoff, learnable=True, exponent=cutoff_exponent)
        self.threebody_bond_expansion = _Damped(max_n, threebody_cutoff, learnable=True, exponent=cutoff_exponent)
        self.cutoff_exponent = UNDAMPED
        self.angle_expansion = _Bent(max_f, learnable=True)
        self.bond_bond_weights = None  # for an update of bonds that neither program has here
        self.final_layer = nn.Sequential(nn.LayerNorm(WIDTH), self.final_layer)
        for layer in self.atom_graph_layers:
            layer.atom_norm = layer.bond_norm = None
        for layer in self.bond_graph_layers:
            layer.conv = _TwoEnded.like(layer.conv)

    def forward(self, g: Any, *arguments: Any, **named: Any) -> Any:
        """As matgl's."""
        with torch.no_grad():
            _, length = compute_pair_vector_and_distance(g.pos, g.edge_index, g.pbc_offshift)
            short = length <= self.three_body_cutoff
            source, target = g.edge_index[:, short].long()
            reverse, found = _reversed(source, target, g.pbc_offset[short])
        for layer in self.bond_graph_layers:
            layer.conv.reverse, layer.conv.found = reverse, found
        return super().forward(g, *arguments, **named)


class _Damped(RadialBesselFunction):
    """Radial functions that go to zero at the cut-off.

    In double precision inside: their waves are so short that single would put 5e-5 eV/Å of noise on the forces.
    """

    def __init__(self, max_n: int, cutoff: float, *, learnable: bool, exponent: int) -> None:
        super().__init__(max_n=max_n, cutoff=cutoff, learnable=learnable)
        self.cutoff, self.exponent = cutoff, exponent

    def forward(self, r: Tensor) -> Tensor:
        exact = r.double()
        return (polynomial_cutoff(exact, self.cutoff, self.exponent)[:, None] * super().forward(exact)).to(r.dtype)


class _Bent(FourierExpansion):
    """Fourier series of an angle that is never quite straight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.acos(torch.cos(x) * ACOS_MARGIN))


class _TwoEnded(CHGNetLineGraphConv):
    """Bonds that receive from the angles at both their ends."""

    reverse: Tensor  # (n_bonds,) each short bond seen from its other end
    found: Tensor  # (n_bonds,) whether it is among the short bonds, but for rounding

    @classmethod
    def like(cls, conv: CHGNetLineGraphConv) -> _TwoEnded:
        return cls(conv.node_update_func, conv.node_out_func, conv.edge_update_func, conv.node_weight_func)

    def node_update_(self, *arguments: Any) -> Tensor:
        update = super().node_update_(*arguments)
        return update + torch.where(self.found[:, None], update[self.reverse], 0.0)


def _reversed(source: Tensor, target: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Where each directed bond stands the other way round, and whether it does."""
    image = image.round().long()
    n_atoms = int(torch.cat([source, target]).max()) + 1 if len(source) else 1
    span = 2 * int(image.abs().max()) + 1 if len(image) else 1

    def key(one: Tensor, other: Tensor, cell: Tensor) -> Tensor:
        cell = cell + span // 2
        return (((one * n_atoms + other) * span + cell[:, 0]) * span + cell[:, 1]) * span + cell[:, 2]

    keys, order = torch.sort(key(source, target, image))
    wanted = key(target, source, -image)
    place = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
    return order[place], keys[place] == wanted


def chgnet_in_matgl(path: Path) -> Pes:
    """Turn a checkpoint of the chgnet package into a potential of matgl.

    Energies and forces are the package's to rounding; matgl gives stresses in GPa and magnetic moments with a sign.

    Args:
        path: The checkpoint, a `.pth.tar` of CHGNet 0.3's architecture.

    Raises:
        PotentialNotInstalled: If it is of another architecture.
    """
    content = checkpoint_of(path, "cpu")
    arguments = content["model_args"]
    model = PackageChgnet(
        element_types=tuple(Element.from_Z(number).symbol for number in range(1, 95)),
        cutoff=float(arguments["atom_graph_cutoff"]),
        threebody_cutoff=float(arguments["bond_graph_cutoff"]),
        cutoff_exponent=int(arguments["cutoff_coeff"]),
        max_n=int(arguments["num_radial"]),
        max_f=(int(arguments["num_angular"]) - 1) // 2,
    )
    try:
        model.load_state_dict(converted(content["state_dict"]))
    except (KeyError, RuntimeError) as error:
        raise PotentialNotInstalled(f"{path} is not a checkpoint of CHGNet 0.3's architecture: {error}") from error
    references = content["state_dict"]["composition_model.fc.weight"][0].tolist()
    return Pes(model, element_refs=references, calc_magmom=True).eval()


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the package's parameters as matgl does, each in matgl's order.

    Raises:
        KeyError: If one is missing.
    """
    angles = "angle_basis_expansion.fourier_expansion"
    order = state[f"{angles}.frequencies"]
    found = {
        "atom_embedding.weight": state["atom_embedding.embedding.weight"],
        "bond_expansion.frequencies": state["bond_basis_expansion.rbf_expansion_ag.frequencies"],
        "threebody_bond_expansion.frequencies": state["bond_basis_expansion.rbf_expansion_bg.frequencies"],
        "bond_embedding.layers.0.weight": state["bond_embedding.weight"],
        "atom_bond_weights.weight": state["bond_weights_ag.weight"],
        "threebody_bond_weights.weight": state["bond_weights_bg.weight"],
        "angle_expansion.frequencies": torch.cat([order.new_zeros(1), order]),
        "angle_embedding.layers.0.weight": _angular(state["angle_embedding.weight"], len(order)),
        "sitewise_readout.weight": state["site_wise.weight"],
        "sitewise_readout.bias": state["site_wise.bias"],
        "final_layer.0.weight": state["readout_norm.weight"],
        "final_layer.0.bias": state["readout_norm.bias"],
    }
    for kind in ("weight", "bias"):
        for place, number in enumerate((0, 2, 4, 7)):
            found[f"final_layer.1.layers.{place}.{kind}"] = state[f"mlp.layers.{number}.{kind}"]
    for k in range(4):
        atoms, conv = f"atom_conv_layers.{k}", f"atom_graph_layers.{k}.conv"
        found[f"{conv}.node_out_func.weight"] = state[f"{atoms}.mlp_out.layers.1.weight"]
        found |= _gated(state, f"{atoms}.twoBody_atom", f"{conv}.node_update_func", (0, 3), (2, 1, 0))
    for k in range(3):
        bonds, conv = f"bond_conv_layers.{k}", f"bond_graph_layers.{k}.conv"
        found[f"{conv}.node_out_func.weight"] = state[f"{bonds}.mlp_out.layers.1.weight"]
        found |= _gated(state, f"{bonds}.twoBody_bond", f"{conv}.node_update_func", (0, 3), (1, 2, 3, 0))
        found |= _gated(state, f"angle_layers.{k}.twoBody_bond", f"{conv}.edge_update_func", (1,), (1, 2, 3, 0))
    return found


def _gated(
    state: Mapping[str, Tensor], package: str, matgl: str, layers: Sequence[int], order: Sequence[int]
) -> dict[str, Tensor]:
    """The parameters of one gated layer, whose joined features stand in matgl in another `order`."""
    found = {}
    for branch, norm, theirs in (("core", 1, "value"), ("gate", 2, "gate")):
        for kind in ("weight", "bias"):
            found[f"{matgl}.{theirs}.norms.0.{kind}"] = state[f"{package}.bn{norm}.{kind}"]
            for place, layer in enumerate(layers):
                found[f"{matgl}.{theirs}.layers.{place}.{kind}"] = state[
                    f"{package}.mlp_{branch}.layers.{layer}.{kind}"
                ]
        first = f"{matgl}.{theirs}.layers.0.weight"
        blocks = found[first].split(WIDTH, dim=1)
        found[first] = torch.cat([blocks[k] for k in order], 1)
    return found


def _angular(weight: Tensor, order: int) -> Tensor:
    """Columns for 1/π, and for the sine and cosine of each frequency in turn, over π instead of its root."""
    constant, sines, cosines = weight.split([1, order, order], dim=1)
    pairs = torch.stack([sines, cosines], 2).flatten(1)
    return torch.cat([constant / math.sqrt(2), pairs], 1) * math.sqrt(math.pi)

"""CHGNet's energy and its derivatives, on classes of like atoms, bonds and angles.

The model is that of https://doi.org/10.1038/s42256-023-00716-3 with the weights of the chgnet package, evaluated
otherwise: parameters frozen; one gradient, with respect to the basis functions, from which forces and stress follow
by the chain rule in double precision; a linear layer on joined features taken apart, so that each part is computed
for atoms or bonds and not for every message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

from models.potentials.chgnet.equivalent_atoms import Classes
from models.potentials.chgnet.kernel import Rows
from models.potentials.chgnet.layers import WIDTH, Dense, Gated, passed, stacked

EXPECTED = {
    "n_conv": 4,
    "update_bond": True,
    "update_angle": True,
    "mlp_first": True,
    "is_intensive": True,
    "atom_fea_dim": WIDTH,
    "bond_fea_dim": WIDTH,
    "angle_fea_dim": WIDTH,
    "atom_conv_hidden_dim": WIDTH,
    "bond_conv_hidden_dim": WIDTH,
    "angle_layer_hidden_dim": 0,
    "num_radial": 31,
    "num_angular": 31,
    "mlp_hidden_dims": [WIDTH] * 3,
    "non_linearity": "silu",
    "gMLP_norm": "layer",
    "readout_norm": "layer",
}
ACOS_MARGIN = 1 - 1e-6  # the package's own, against the infinite slope of acos


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the model says of a batch, and the derivatives of the summed energy for every member of each class."""

    energies: Tensor  # (n_crystals,) eV, double precision
    latents: Tensor  # (n_crystals, 64)
    magmoms: Tensor  # (n_atom_classes,) μB
    by_length: Tensor  # (n_bond_classes,) eV/Å, for one bond
    by_cosine: Tensor  # (n_angle_classes,) eV, for one angle


class Chgnet:
    """The model, its parameters taken apart and frozen."""

    def __init__(
        self, state: Mapping[str, Tensor], arguments: Mapping[str, Any], dtype: torch.dtype, *, compiled: bool
    ) -> None:
        """Take the parameters from a checkpoint's `state` and check its `arguments`.

        `compiled` says that the layers shall pass through the compiled kernel (single precision, on the CPU).

        Raises:
            ValueError: If the checkpoint is of another architecture.
        """
        said = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
        wrong = {key: said[key] for key, value in EXPECTED.items() if said.get(key, value) != value}
        if wrong or any(key.endswith("mlp_out.layers.1.bias") for key in state):
            raise ValueError(f"not the architecture of CHGNet 0.3: {wrong or 'mlp_out has a bias'}")
        self.cutoff = float(arguments["atom_graph_cutoff"])
        self.short_cutoff = float(arguments["bond_graph_cutoff"])
        self.envelope = int(arguments["cutoff_coeff"])
        self.dtype = dtype
        self.p = {key: value.detach().to(dtype) for key, value in state.items()}
        self.reference = state["composition_model.fc.weight"].detach()[0].double()

        def layers(name: str, count: int, n_parts: int) -> list[Gated]:
            return [Gated.of(state, name.format(k), n_parts, dtype, compiled) for k in range(count)]

        self.convolutions = layers("atom_conv_layers.{}.twoBody_atom", 4, 3)
        self.entry = {
            name: Dense.of(_padded(self.p[f"{name}.weight"]), compiled=compiled)
            for name in ("bond_embedding", "bond_weights_ag", "bond_weights_bg")
        }
        constant, sines, cosines = state["angle_embedding.weight"].double().tensor_split([1, 16], dim=1)
        angle = torch.cat([_padded(sines), cosines, math.sqrt(0.5) * constant], 1)
        self.entry["angle_embedding"] = Dense.of(angle.to(dtype), compiled=compiled)
        self.exit = {
            name: Dense.of(self.p[f"{name}.weight"], self.p.get(f"{name}.bias"), compiled=compiled)
            for name in (
                *(f"atom_conv_layers.{k}.mlp_out.layers.1" for k in range(4)),
                *(f"bond_conv_layers.{k}.mlp_out.layers.1" for k in range(3)),
                *(f"mlp.layers.{k}" for k in (0, 2, 4, 7)),
            )
        }
        # Long bonds keep their first features: what each convolution makes of those comes straight from the basis.
        embedding = self.entry["bond_embedding"].weight.double()
        self.far = [
            Dense.of((layer.parts[1].weight.double() @ embedding).to(dtype), compiled=compiled)
            for layer in self.convolutions
        ]
        self.bond_layers = layers("bond_conv_layers.{}.twoBody_bond", 3, 4)
        self.angle_layers = layers("angle_layers.{}.twoBody_bond", 2, 4)

    def __call__(self, classes: Classes, n_crystals: int) -> Outcome:
        """Evaluate a batch."""
        c = classes
        radial, radial_slope = self._radial(c.bond_length, "ag", self.cutoff)
        inner, inner_slope = self._radial(c.bond_length[: c.n_short], "bg", self.short_cutoff)
        angular, angular_slope = self._angular(c.angle_cosine)
        leaves = [basis.to(self.dtype).requires_grad_() for basis in (radial, inner, angular)]
        energy, atoms, moments = self._atom_energies(c, *leaves)
        weighted = energy.double() * c.atom_count
        slopes = torch.autograd.grad(weighted.sum(), leaves, allow_unused=True)
        by_length, by_inner, by_cosine = (
            torch.zeros(len(table), dtype=table.dtype, device=table.device)
            if slope is None
            else (slope.double() * table).sum(1)
            for slope, table in zip(slopes, (radial_slope, inner_slope, angular_slope), strict=True)
        )
        by_length[: c.n_short] += by_inner
        weighted = weighted.detach() + c.atom_count * self.reference[c.atom_number - 1]
        share = (c.atom_count / _owned(c.atom_count.double(), c, n_crystals)[c.atom_owner]).to(self.dtype)
        return Outcome(
            energies=_owned(weighted, c, n_crystals),
            latents=_owned(atoms.detach() * share[:, None], c, n_crystals),
            magmoms=moments.detach(),
            by_length=by_length / c.bond_count,
            by_cosine=by_cosine / c.angle_count,
        )

    def _radial(self, length: Tensor, which: str, cutoff: float) -> tuple[Tensor, Tensor]:
        """Smoothed radial Bessel functions and their derivatives, `(n, 32)` each, the last ones zero."""
        waves = self.p[f"bond_basis_expansion.rbf_expansion_{which}.frequencies"].double() / cutoff
        wave = torch.cat([waves, waves.new_zeros(1)])
        r, p = (length / cutoff)[:, None], self.envelope
        a, b, c = -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2
        inside = r < 1
        power = r  # to the power p - 1; torch's own differs in the last digit by an entry's place
        for _ in range(p - 2):
            power = power * r
        smooth = torch.where(inside, 1 + power * r * (a + r * (b + r * c)), 0.0)
        smooth_slope = torch.where(inside, power * (a * p + r * (b * (p + 1) + r * c * (p + 2))), 0.0) / cutoff
        d = length[:, None]
        sine, cosine = torch.sin(wave * d) / d, torch.cos(wave * d) * wave / d
        norm = math.sqrt(2 / cutoff)
        return norm * smooth * sine, norm * (smooth_slope * sine + smooth * (cosine - sine / d))

    def _angular(self, cosine: Tensor) -> tuple[Tensor, Tensor]:
        """Sines and cosines of the angle's multiples and their derivatives by its cosine, `(n, 32)` each."""
        orders = self.p["angle_basis_expansion.fourier_expansion.frequencies"].double()
        order = torch.cat([orders, orders.new_zeros(1)])  # its cosine is the constant
        x = cosine * ACOS_MARGIN
        phase = torch.acos(x)[:, None] * order
        sine, cosine_ = torch.sin(phase), torch.cos(phase)
        slope = (-ACOS_MARGIN / torch.sqrt(1 - x * x))[:, None] * order
        norm = 1 / math.sqrt(math.pi)
        return norm * torch.cat([sine, cosine_], 1), norm * torch.cat([slope * cosine_, -slope * sine], 1)

    def _atom_energies(self, c: Classes, radial: Tensor, inner: Tensor, angular: Tensor) -> tuple[Tensor, ...]:
        """Energies of the atom classes in eV `(n,)`, without the elements' own, their features and moments."""
        atoms = self.p["atom_embedding.embedding.weight"][c.atom_number - 1]
        bonds = self.entry["bond_embedding"](radial[: c.n_short])
        strength = self.entry["bond_weights_ag"](radial)
        nearness = self.entry["bond_weights_bg"](inner)
        angles = self.entry["angle_embedding"](angular)
        messages = Rows(
            terms=(c.message_centre, c.message_bond, c.message_neighbour),
            factors=(c.message_bond,),
            weight=c.message_weight.to(self.dtype),
            receiver=c.message_centre,
            n_receivers=len(atoms),
        )
        turns = Rows(terms=(c.angle_arm, c.angle_other))
        summed_turns = replace(
            turns,
            factors=(c.angle_bond, c.angle_other),
            weight=c.angle_weight.to(self.dtype),
            receiver=c.angle_bond,
            n_receivers=c.n_short,
        )
        moments = atoms
        for k in range(4):
            if k == 3:
                moments = linear(atoms, self.p["site_wise.weight"], self.p["site_wise.bias"])[:, 0].abs()
            layer = self.convolutions[k]
            centre, bond, neighbour = layer.parts
            received = passed(
                layer,
                messages,
                None,
                strength,
                centre(atoms),
                stacked(bond, bonds, self.far[k], radial[c.n_short :]),
                neighbour(atoms),
            )
            atoms = atoms + self.exit[f"atom_conv_layers.{k}.mlp_out.layers.1"](received)
            if k == 3 or not len(angles):
                continue
            layer = self.bond_layers[k]
            received = passed(layer, summed_turns, angles, nearness, *_around(layer, c, atoms, bonds))
            bonds = bonds + self.exit[f"bond_conv_layers.{k}.mlp_out.layers.1"](received)
            if k < 2:  # what a third update gives, nothing reads
                layer = self.angle_layers[k]
                angles = passed(layer, turns, angles, None, *_around(layer, c, atoms, bonds))
        atoms = layer_norm(atoms, (WIDTH,), self.p["readout_norm.weight"], self.p["readout_norm.bias"])
        hidden = atoms
        for k in (0, 2, 4):
            hidden = silu(self.exit[f"mlp.layers.{k}"](hidden))
        return self.exit["mlp.layers.7"](hidden)[:, 0], atoms, moments


def _padded(weight: Tensor) -> Tensor:
    """Add an input of a layer on basis functions, which is zero: 32 of them fill registers, 31 do not."""
    return torch.cat([weight, weight.new_zeros((len(weight), 1))], 1)


def _around(layer: Gated, c: Classes, atoms: Tensor, bonds: Tensor) -> tuple[Tensor, Tensor]:
    """The terms of a layer on angles: of an arm with the atom where it starts, of the other bond."""
    one, other, centre = layer.parts
    return one(bonds)[c.arm_bond] + centre(atoms)[c.arm_centre], other(bonds)


def _owned(values: Tensor, classes: Classes, n_crystals: int) -> Tensor:
    """Sum over the atom classes of each crystal."""
    return torch.zeros((n_crystals, *values.shape[1:]), dtype=values.dtype, device=values.device).index_add_(
        0, classes.atom_owner, values
    )

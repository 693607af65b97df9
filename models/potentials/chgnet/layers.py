"""Gated perceptrons of CHGNet, applied to messages and angles.

A row (a message, an angle) enters with a hidden layer that is a sum of terms: rows of tables (of atoms, of bonds)
that were multiplied by the layer's weights before they are gathered, and for angles a product of their own. On a CPU
in single precision a compiled kernel (`layers.cpp`) takes each block of rows through in one sweep; elsewhere
torch does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, sigmoid, silu

from models.potentials.chgnet.kernel import WIDTH, Layer, Rows, dense


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A gated perceptron on joined features; core and gate stand side by side.

    Weights that lead into a layer normalisation are centred over its inputs: it would subtract their mean itself.
    """

    parts: tuple[Dense, ...]  # of the first layer, for each feature that is gathered, 64 to 128; the last with bias
    own: Tensor | None  # of the first layer, for features of the rows themselves, (64, 128)
    second: Tensor | None  # core's and gate's second layers, (2, 64, 64), inputs first
    second_bias: Tensor | None  # (2, 64)
    scale: Tensor  # (2, 64)
    shift: Tensor  # (2, 64)
    kernel: Layer | None  # the same for the compiled kernel, where that is used

    @staticmethod
    def of(p: Mapping[str, Tensor], name: str, n_parts: int, dtype: torch.dtype, compiled: bool) -> Gated:
        """Take the perceptron `name` from a checkpoint's parameters; `compiled` if the kernel shall pass it.

        Raises:
            ValueError: If it joins another number of features.
        """
        p = {key: value.double() for key, value in p.items() if key.startswith(f"{name}.")}
        deep = f"{name}.mlp_core.layers.0.weight" in p
        entry = 0 if deep else 1
        mlps = [f"{name}.mlp_core.layers", f"{name}.mlp_gate.layers"]
        first, bias = (torch.stack([p[f"{mlp}.{entry}.{kind}"] for mlp in mlps]) for kind in ("weight", "bias"))
        second = second_bias = None
        if deep:
            second, second_bias = (torch.stack([p[f"{mlp}.3.{kind}"] for mlp in mlps]) for kind in ("weight", "bias"))
            second, second_bias = _centred(second).transpose(1, 2), _centred(second_bias)
        else:
            first, bias = _centred(first), _centred(bias)
        parts = list(first.flatten(0, 1).split(WIDTH, dim=1))
        if len(parts) != n_parts:
            raise ValueError(f"{name} joins {len(parts)} features, not {n_parts}")
        own = parts.pop(2).T if n_parts == 4 else None  # an arm, another arm, the angle, the atom
        n_gathered = len(parts)

        def ready(tensor: Tensor) -> Tensor:
            return tensor.to(dtype).contiguous()

        layer = Gated(
            parts=tuple(
                Dense.of(ready(part), ready(bias.flatten()) if k == n_gathered - 1 else None, compiled=compiled)
                for k, part in enumerate(parts)
            ),
            own=None if own is None else ready(own),
            second=None if second is None else ready(second),
            second_bias=None if second_bias is None else ready(second_bias),
            scale=ready(torch.stack([p[f"{name}.{norm}.weight"] for norm in ("bn1", "bn2")])),
            shift=ready(torch.stack([p[f"{name}.{norm}.bias"] for norm in ("bn1", "bn2")])),
            kernel=None,
        )
        if not compiled:
            return layer
        return replace(
            layer, kernel=Layer(layer.own, layer.second, layer.second_bias, scale=layer.scale, shift=layer.shift)
        )


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A linear layer with frozen weights.

    Compiled, what a row comes to does not depend on how many others there are, as it does in torch: relaxations of soft
    crystals would carry such last digits on to another end.
    """

    weight: Tensor  # (n_out, n_in)
    bias: Tensor | None  # (n_out,)
    back: Tensor  # (n_in, n_out)
    compiled: bool

    @staticmethod
    def of(weight: Tensor, bias: Tensor | None = None, *, compiled: bool) -> Dense:
        """Take the weights; `compiled` if the kernel shall multiply by them."""
        return Dense(weight=weight.contiguous(), bias=bias, back=weight.T.contiguous(), compiled=compiled)

    def __call__(self, rows: Tensor) -> Tensor:
        """Pass rows `(n, n_in)`; gives `(n, n_out)`."""
        if not self.compiled:
            return linear(rows, self.weight, self.bias)
        if len(self.weight) == 1:
            products = (rows * self.weight).sum(1, keepdim=True)
            return products if self.bias is None else products + self.bias
        result: Tensor = _Product.apply(self, rows)
        return result


def stacked(one: Dense, rows: Tensor, other: Dense, further: Tensor) -> Tensor:
    """Pass rows through one layer and `further` ones through another, the results one below the other."""
    if not one.compiled:
        return torch.cat([one(rows), other(further)])
    result: Tensor = _Stacked.apply(one, rows, other, further)
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: Dense, rows: Tensor) -> Tensor:
        ctx.layer = layer
        return _forward(layer, rows, rows.new_empty((len(rows), len(layer.weight))))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor]:
        return None, _backward(ctx.layer, slope.contiguous())


class _Stacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Dense, rows: Tensor, other: Dense, further: Tensor) -> Tensor:
        ctx.one, ctx.other, ctx.split = one, other, len(rows)
        result = rows.new_empty((len(rows) + len(further), len(one.weight)))
        _forward(one, rows, result[: len(rows)])
        _forward(other, further, result[len(rows) :])
        return result

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor, None, Tensor]:
        slope = slope.contiguous()
        return None, _backward(ctx.one, slope[: ctx.split]), None, _backward(ctx.other, slope[ctx.split :])


def _forward(layer: Dense, rows: Tensor, result: Tensor) -> Tensor:
    return dense(rows.contiguous(), layer.back, layer.bias, result)


def _backward(layer: Dense, slope: Tensor) -> Tensor:
    return dense(slope, layer.weight, None, slope.new_empty((len(slope), len(layer.back))))


def passed(layer: Gated, rows: Rows, own: Tensor | None, scales: Tensor | None, *tables: Tensor) -> Tensor:
    """Pass all rows through a layer.

    Args:
        layer: The layer.
        rows: Their indices.
        own: Features of the rows themselves `(n, 64)`, where the layer takes some, and where there are no receivers.
        scales: The table of scales `(_, 64)`, where there are receivers.
        tables: The tables of terms, `(_, 128)` each.

    Returns:
        Sums at the receivers `(n_receivers, 64)`, or the rows' features with the outputs added `(n, 64)`.
    """
    if layer.kernel is not None:
        result: Tensor = _Compiled.apply(layer, rows, own, scales, *tables)
        return result
    hidden = tables[0].index_select(0, rows.terms[0])
    for table, index in zip(tables[1:], rows.terms[1:], strict=True):
        hidden = hidden.add_(table.index_select(0, index))
    if own is not None:
        assert layer.own is not None
        hidden = hidden + own @ layer.own
    halves = hidden.view(-1, 2, WIDTH)
    if layer.second is not None and layer.second_bias is not None:
        halves = torch.baddbmm(layer.second_bias[:, None], silu(halves).transpose(0, 1), layer.second).transpose(0, 1)
    core, gate = (layer_norm(halves[:, k], (WIDTH,), layer.scale[k], layer.shift[k]) for k in (0, 1))
    output = silu(core) * sigmoid(gate)
    if rows.receiver is None or scales is None or rows.weight is None:
        return output if own is None else own + output
    for index in rows.factors:
        output = output * scales.index_select(0, index)
    received = output.new_zeros((rows.n_receivers, WIDTH))
    return received.index_add(0, rows.receiver, output * rows.weight[:, None])


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layer: Gated, rows: Rows, own: Tensor | None, scales: Tensor | None, *tables: Tensor
    ) -> Tensor:
        assert layer.kernel is not None
        ctx.kernel, ctx.rows, ctx.tables = layer.kernel, rows, [table.shape for table in tables]
        ctx.save_for_backward(own, scales)
        result = (
            torch.zeros((rows.n_receivers, WIDTH), dtype=torch.float32)
            if own is None or rows.receiver is not None
            else torch.empty_like(own)
        )
        ctx.number = layer.kernel.forward(rows, own, scales, tables, result)
        return result

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        own, scales = ctx.saved_tensors
        by_own = None if own is None else torch.empty_like(own)
        by_scales = None if scales is None else torch.zeros_like(scales)
        by_tables = [slope.new_zeros(shape) for shape in ctx.tables]
        ctx.kernel.backward(ctx.number, ctx.rows, own, scales, slope.contiguous(), by_own, by_scales, by_tables)
        return None, None, by_own, by_scales, *by_tables


def _centred(values: Tensor) -> Tensor:
    """Outputs of core and gate, `(2, 64, ...)`, less their means."""
    return values - values.mean(1, keepdim=True)

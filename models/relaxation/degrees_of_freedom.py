"""Degrees of freedom of many crystals in one array, and records that lose and gain crystals together.

A row for each atom of the batch, then three rows for each crystal: displacements in Å, then a symmetric strain times
`strain_length`, so that a soft and a stiff variable weigh alike. Nothing here loops over crystals: on a GPU it would
wait for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from models.potentials.base import Batch

Record = TypeVar("Record")


def of(kind: str) -> Any:
    """A field with a value for each of `crystals`, `atoms` or `rows`; `stacked`, with these along the second axis."""
    return field(metadata={"of": kind})


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which rows belong to which crystal."""

    sizes: Tensor  # (n,) atoms of each crystal
    atom_owner: Tensor  # (n_atoms,)

    @staticmethod
    def of_batch(batch: Batch) -> Layout:
        """The layout of a batch's variables."""
        return Layout(sizes=batch.sizes, atom_owner=batch.owner)

    @cached_property
    def owner(self) -> Tensor:
        """The crystal of each row."""
        crystals = torch.arange(len(self.sizes), device=self.sizes.device)
        return torch.cat([self.atom_owner, crystals.repeat_interleave(3)])

    @property
    def n_atoms(self) -> int:
        """Atoms of all crystals together."""
        return len(self.atom_owner)

    @cached_property
    def strain_length(self) -> Tensor:
        """Length in Å by which each crystal's strain is multiplied to weigh as much as displacements, `(n,)`."""
        return 2.0 * self.sizes.double().sqrt()

    def dot(self, one: Tensor, other: Tensor) -> Tensor:
        """Scalar products `(n,)` of two arrays of rows."""
        products = (one * other).sum(1)
        return products.new_zeros(len(self.sizes)).index_add_(0, self.owner, products)

    def spread(self, values: Tensor) -> Tensor:
        """Give each row its crystal's value, `(n_rows, 1)`."""
        return values[self.owner][:, None]

    def largest(self, values: Tensor) -> Tensor:
        """The largest of the atoms' values `(n_atoms,)`, none negative, in each crystal `(n,)`."""
        return values.new_zeros(len(self.sizes)).scatter_reduce_(0, self.atom_owner, values, "amax")

    def strains(self, rows: Tensor) -> Tensor:
        """The scaled strains `(n, 3, 3)` among the rows."""
        return rows[self.n_atoms :].view(-1, 3, 3)

    def rows_of(self, crystals: Tensor, atoms: Tensor) -> Tensor:
        """Number the rows of some crystals and their atoms, as they lie when those are all."""
        strains = self.n_atoms + 3 * crystals[:, None] + torch.arange(3, device=crystals.device)
        return torch.cat([atoms, strains.flatten()])


def selected(record: Record, batch: Batch, layout: Layout, crystals: Tensor) -> Record:
    """Take some crystals, given by index, out of a record that describes `batch`."""
    atoms = batch.atoms_of(crystals)
    index = {"crystals": crystals, "atoms": atoms, "rows": layout.rows_of(crystals, atoms)}
    return _mapped(
        record,
        {
            **{kind: lambda value, at=at: value[at] for kind, at in index.items()},
            **{f"stacked {kind}": lambda value, at=at: value[:, at] for kind, at in index.items()},
            "batch": lambda value: value.select(crystals),
            "list": lambda value: [value[k] for k in crystals.tolist()],
        },
    )


def joined(record: Record, other: Record, split: int, other_split: int) -> Record:
    """Put the crystals of another record behind those of one; atoms end at `split` among the rows of each."""

    def rows(a: Tensor, b: Tensor, axis: int = 0) -> Tensor:
        parts = (a.narrow(axis, 0, split), b.narrow(axis, 0, other_split))
        rest = (a.narrow(axis, split, a.shape[axis] - split), b.narrow(axis, other_split, b.shape[axis] - other_split))
        return torch.cat([*parts, *rest], axis)

    def level(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        depth = max(len(a), len(b))
        a, b = (torch.cat([v, v.new_zeros((depth - len(v), *v.shape[1:]))]) for v in (a, b))
        return a, b

    return _mapped(
        record,
        {
            "crystals": lambda a, b: torch.cat([a, b]),
            "atoms": lambda a, b: torch.cat([a, b]),
            "rows": rows,
            "stacked crystals": lambda a, b: torch.cat(level(a, b), 1),
            "stacked rows": lambda a, b: rows(*level(a, b), 1),
            "batch": lambda a, b: Batch(
                **{f.name: torch.cat([getattr(a, f.name), getattr(b, f.name)]) for f in fields(a)}
            ),
            "list": lambda a, b: [*a, *b],
        },
        other,
    )


def _mapped(record: Any, acts: Mapping[str, Callable[..., Any]], *others: Any) -> Any:
    values = {}
    for part in fields(record):
        found = [getattr(one, part.name) for one in (record, *others)]
        kind = part.metadata.get("of")
        if kind is not None:
            values[part.name] = None if found[0] is None else acts[kind](*found)
        elif is_dataclass(found[0]) and any("of" in inner.metadata for inner in fields(found[0])):
            values[part.name] = _mapped(found[0], acts, *found[1:])
        else:
            values[part.name] = found[0]
    return type(record)(**values)

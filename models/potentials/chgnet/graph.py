"""Graphs for CHGNet: bonds and angles of a whole batch at once, in double precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.potentials.base import Batch
from models.potentials.neighbor_list import Pairs


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Every bond and every angle of a batch, in double precision.

    Bonds are undirected, short ones (those that form angles) first. Arms are short bonds seen from one end, sorted
    by the atom they start from. The angles of an arm are with every arm of the same atom, itself included, in the
    order of the arms, so that the angle at `reverse[t]` is angle `t` with its arms exchanged.
    """

    numbers: Tensor  # (n_atoms,) atomic numbers
    owner: Tensor  # (n_atoms,) crystal of each atom
    n_crystals: int
    first: Tensor  # (n_bonds,) atoms
    second: Tensor  # (n_bonds,)
    vector: Tensor  # (n_bonds, 3) Å, from first to second
    length: Tensor  # (n_bonds,) Å
    n_short: int
    arm_bond: Tensor  # (n_arms,)
    arm_sign: Tensor  # (n_arms,) +1 where the arm starts from the bond's first atom
    arm_start: Tensor  # (n_arms,) atom
    arm_end: Tensor  # (n_arms,) atom
    arm_unit: Tensor  # (n_arms, 3) unit vectors away from the start
    angle_arm: Tensor  # (n_angles,)
    angle_other: Tensor  # (n_angles,)
    reverse: Tensor  # (n_angles,)
    cosine: Tensor  # (n_angles,)


def geometry_of(batch: Batch, pairs: Pairs, short_cutoff: float) -> Geometry:
    """Turn the pairs of some crystals into bonds, and into angles between the bonds up to `short_cutoff` (Å)."""
    length = pairs.vector.norm(dim=1)
    long = length > short_cutoff
    order = torch.argsort(long, stable=True)
    first, second, vector, length = (values[order] for values in (pairs.first, pairs.second, pairs.vector, length))
    n_short = len(long) - int(long.sum())
    starts = torch.cat([first[:n_short], second[:n_short]])
    by_start = torch.argsort(starts, stable=True)
    arm_start = starts[by_start]
    arm_bond = by_start % max(n_short, 1)
    arm_sign = torch.where(by_start < n_short, 1.0, -1.0).to(vector.dtype)
    arm_unit = arm_sign[:, None] * vector[arm_bond] / length[arm_bond, None]
    angle_arm, angle_other, reverse = _pairs_of_arms(arm_start, len(batch.numbers))
    return Geometry(
        numbers=batch.numbers,
        owner=batch.owner,
        n_crystals=len(batch),
        first=first,
        second=second,
        vector=vector,
        length=length,
        n_short=n_short,
        arm_bond=arm_bond,
        arm_sign=arm_sign,
        arm_start=arm_start,
        arm_end=torch.cat([second[:n_short], first[:n_short]])[by_start],
        arm_unit=arm_unit,
        angle_arm=angle_arm,
        angle_other=angle_other,
        reverse=reverse,
        cosine=(arm_unit[angle_arm] * arm_unit[angle_other]).sum(1).clamp(-1.0, 1.0),
    )


def _pairs_of_arms(arm_start: Tensor, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """All ordered pairs of arms with the same start, and where each pair stands the other way round."""
    per_atom = torch.bincount(arm_start, minlength=n_atoms)
    arms_before = torch.cumsum(per_atom, 0) - per_atom
    angles_before = torch.cumsum(per_atom**2, 0) - per_atom**2
    size = per_atom[arm_start]
    arm = torch.repeat_interleave(size)
    start = arm_start[arm]
    offset = torch.arange(len(arm), device=arm.device) - angles_before[start]
    row, column = offset // size[arm], offset % size[arm]
    return arm, arms_before[start] + column, angles_before[start] + column * size[arm] + row

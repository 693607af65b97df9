"""Equivalence classes of atoms, bonds and angles for CHGNet: only as much of a graph as differs.

CHGNet passes messages between atoms, bonds and angles. Where two atoms (or bonds, or angles) have the same
surroundings, to the last neighbour's neighbour, every layer gives them the same features. Colour refinement
(Weisfeiler and Leman) finds those classes, and the model is evaluated once for each class: an ideal half-Heusler
crystal has 24 times fewer of them than it has bonds. A crystal without symmetry has as many classes as members, and
nothing is lost. The classes are exact up to the rounding of single precision, in which the model works anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.potentials.chgnet.graph import Geometry

BOND_BIN = 1e-6  # Å; single precision resolves 5e-7 Å at the cut-off
COSINE_BIN = 1e-7
MAX_ROUNDS = 8  # deeper than the model's seven layers can look


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Classes of like atoms, bonds, messages and angles, each with how often it occurs.

    A message's or angle's `weight` is its number for each member of the class that receives it.
    """

    atom_of: Tensor  # (n_atoms,) class of each atom
    atom_number: Tensor  # (n_atom_classes,)
    atom_count: Tensor
    atom_owner: Tensor
    bond_of: Tensor  # (n_bonds,)
    bond_length: Tensor  # (n_bond_classes,) Å, the short classes first
    bond_count: Tensor
    n_short: int
    message_centre: Tensor  # (n_messages,) atom classes
    message_neighbour: Tensor
    message_bond: Tensor
    message_weight: Tensor
    angle_of: Tensor  # (n_angles,) class of each; that of an arm with itself means nothing
    arm_centre: Tensor  # (n_arm_classes,) atom classes
    arm_bond: Tensor  # bond classes
    angle_arm: Tensor  # (n_angle_classes,) arm classes
    angle_centre: Tensor  # atom classes
    angle_bond: Tensor  # bond classes: the one that receives, the arm's
    angle_other: Tensor
    angle_cosine: Tensor
    angle_weight: Tensor
    angle_count: Tensor


def classes_of(geometry: Geometry, *, merge: bool = True) -> Classes:
    """Sort atoms, bonds, messages and angles into classes of equal surroundings.

    Args:
        geometry: The batch.
        merge: False gives every member a class of its own: what the model would compute without symmetry.
    """
    g = geometry
    if not merge:
        return _distinct(g)
    plain = _without_symmetry(g)
    if plain.all():
        return _distinct(g)
    atom, bond, arm = _refined(g, plain)
    plain_bond = plain[g.owner[g.first]]
    atom_of, atom_first, atom_count = _grouped(atom)
    long = torch.arange(len(bond), device=bond.device) >= g.n_short
    bond_of, bond_first, bond_count = _grouped((bond >> 1 & _POSITIVE) + long * (_POSITIVE + 1))
    bond_key = bond[bond_first][bond_of]
    centre, neighbour = torch.cat([g.first, g.second]), torch.cat([g.second, g.first])
    message_key = _mixed(bond_key.repeat(2) + 3 * _mixed(atom[centre]) + 5 * _mixed(atom[neighbour]))
    _, message, message_count = _grouped(_separate(message_key, plain_bond.repeat(2)))
    proper = g.angle_arm != g.angle_other
    arm = _mixed(arm + 3 * bond_key[g.arm_bond] + 5 * _mixed(atom[g.arm_start]))
    angle_key = _mixed(_mixed(arm[g.angle_arm]) + 3 * arm[g.angle_other] + _binned(g.cosine, COSINE_BIN))
    among, angle, angle_count = _grouped(_separate(angle_key, plain_bond[g.arm_bond[g.angle_arm]])[proper])
    angle_of = torch.zeros_like(angle_key)
    angle_of[proper] = among
    angle = torch.nonzero(proper)[:, 0][angle]
    n_short = int((~long[bond_first]).sum())
    stride = max(n_short, 1)
    centre_and_bond = atom_of[g.arm_start] * stride + bond_of[g.arm_bond]
    arms, angle_arm = torch.unique(centre_and_bond[g.angle_arm[angle]], return_inverse=True)
    message_centre, angle_bond = atom_of[centre[message]], bond_of[g.arm_bond[g.angle_arm[angle]]]
    return Classes(
        atom_of=atom_of,
        atom_number=g.numbers[atom_first],
        atom_count=atom_count,
        atom_owner=g.owner[atom_first],
        bond_of=bond_of,
        bond_length=g.length[bond_first],
        bond_count=bond_count,
        n_short=n_short,
        message_centre=message_centre,
        message_neighbour=atom_of[neighbour[message]],
        message_bond=bond_of[message % max(len(bond), 1)],
        message_weight=message_count / atom_count[message_centre],
        angle_of=angle_of,
        arm_centre=arms // stride,
        arm_bond=arms % stride,
        angle_arm=angle_arm,
        angle_centre=arms[angle_arm] // stride,
        angle_bond=angle_bond,
        angle_other=bond_of[g.arm_bond[g.angle_other[angle]]],
        angle_cosine=g.cosine[angle],
        angle_weight=angle_count / bond_count[angle_bond],
        angle_count=angle_count,
    )


def different_lengths(length: Tensor, owner: Tensor, n_crystals: int) -> Tensor:
    """Count the different bond lengths of each crystal, `(n_crystals,)`.

    Args:
        length: Of each bond, in Å.
        owner: Crystal of each bond.
        n_crystals: Crystals of the batch.
    """
    _, first, _ = _grouped(_mixed(_binned(length, BOND_BIN)) + _mixed(owner))
    return torch.bincount(owner[first], minlength=n_crystals)


def _without_symmetry(g: Geometry) -> Tensor:
    """Crystals `(n_crystals,)` nearly all of whose bonds differ in length: there is nothing to be merged."""
    owner = g.owner[g.first]
    bonds = torch.bincount(owner, minlength=g.n_crystals)
    return different_lengths(g.length, owner, g.n_crystals) > 0.9 * bonds


def _separate(keys: Tensor, which: Tensor) -> Tensor:
    """Give some members keys of their own."""
    return torch.where(which, _mixed(keys + _mixed(torch.arange(len(keys), device=keys.device))), keys)


def _distinct(g: Geometry) -> Classes:
    """A class for each member, in the order that they have among merged ones."""
    device = g.length.device
    atoms, bonds = torch.arange(len(g.numbers), device=device), torch.arange(len(g.length), device=device)
    proper = torch.nonzero(g.angle_arm != g.angle_other)[:, 0]
    angle_of = torch.zeros_like(g.angle_arm)
    angle_of[proper] = torch.arange(len(proper), device=device)
    angle_arm, angle_other = g.angle_arm[proper], g.angle_other[proper]
    n_short = max(g.n_short, 1)
    arms, arm_of = torch.unique(g.arm_start * n_short + g.arm_bond, return_inverse=True)
    return Classes(
        atom_of=atoms,
        atom_number=g.numbers,
        atom_count=torch.ones_like(atoms),
        atom_owner=g.owner,
        bond_of=bonds,
        bond_length=g.length,
        bond_count=torch.ones_like(bonds),
        n_short=g.n_short,
        message_centre=torch.cat([g.first, g.second]),
        message_neighbour=torch.cat([g.second, g.first]),
        message_bond=bonds.repeat(2),
        message_weight=torch.ones(2 * len(bonds), device=device),
        angle_of=angle_of,
        arm_centre=arms // n_short,
        arm_bond=arms % n_short,
        angle_arm=arm_of[angle_arm],
        angle_centre=g.arm_start[angle_arm],
        angle_bond=g.arm_bond[angle_arm],
        angle_other=g.arm_bond[angle_other],
        angle_cosine=g.cosine[proper],
        angle_weight=torch.ones(len(proper), device=device),
        angle_count=torch.ones_like(proper),
    )


def _refined(g: Geometry, plain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colours of atoms, bonds and arms that no further look at their neighbours would split.

    In `plain` crystals every one has its own.
    """
    atom = _separate(_mixed(g.numbers + g.owner * 1000), plain[g.owner])
    bond = _separate(_mixed(_binned(g.length, BOND_BIN)), plain[g.owner[g.first]])
    turn = _binned(g.cosine, COSINE_BIN)
    known = 0
    for _ in range(MAX_ROUNDS):
        ends = _mixed(atom)
        reached = _mixed(bond[g.arm_bond] + 3 * ends[g.arm_end])
        arm = reached + 7 * _summed(_mixed(turn + reached[g.angle_other]), g.angle_arm, len(g.arm_bond))
        arm = _mixed(arm + 5 * ends[g.arm_start])
        seen = _summed(_mixed(bond + 3 * ends[g.second]), g.first, len(atom))
        seen += _summed(_mixed(bond + 3 * ends[g.first]), g.second, len(atom))
        atom = _mixed(atom + seen + _summed(arm, g.arm_start, len(atom)))
        bond = bond + ends[g.first] + ends[g.second]
        bond[: g.n_short] += _summed(arm, g.arm_bond, g.n_short)
        bond = _mixed(bond)
        found = len(torch.unique(atom)) + len(torch.unique(bond))
        if found == known:
            break
        known = found
    return atom, bond, arm


_POSITIVE = (1 << 61) - 1


def _binned(values: Tensor, width: float) -> Tensor:
    return torch.round(values / width).to(torch.int64)


def _mixed(values: Tensor) -> Tensor:
    """Scatter integers over 64 bits (the finaliser of splitmix64), so that sums of them name multisets."""
    values = (values ^ (values >> 30)) * -4658895280553007687
    values = (values ^ (values >> 27)) * -7723592293110705685
    return values ^ (values >> 31)


def _summed(values: Tensor, index: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add_(0, index, values)


def _grouped(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number the classes of equal keys: class of each, first member of each class, size of each class.

    Classes are in the order of their first members: the order in which a crystal's are summed, and with it the last
    digits, must not depend on its place in the batch.
    """
    _, of, count = torch.unique(keys, return_inverse=True, return_counts=True)
    first = torch.full_like(count, len(keys))
    first.scatter_reduce_(0, of, torch.arange(len(keys), device=keys.device), "amin")
    first, order = torch.sort(first)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=keys.device)
    return place[of], first, count[order]

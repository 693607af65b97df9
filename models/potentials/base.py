"""Potential protocol: many crystals in; energies, forces and stresses out.

Units: eV, Å, eV/Å, eV/Å³. A cell holds its vectors as rows. Stress has ASE's sign, the derivative of the energy
with respect to strain divided by the volume: a crystal that wants to expand has a negative one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from pymatgen.core import Structure
    from torch import Tensor


FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Crystal:
    """A crystal as arrays, periodic in three directions.

    `numbers` are atomic numbers `(n_atoms,)`, `positions` are in Å `(n_atoms, 3)`, `cell` in Å `(3, 3)` with its
    vectors as rows.
    """

    numbers: NDArray[np.int64]
    positions: FloatArray
    cell: FloatArray

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`n` crystals side by side on one device, their atoms numbered through."""

    numbers: Tensor  # (n_atoms,) atomic numbers
    positions: Tensor  # (n_atoms, 3) Å, double precision
    cells: Tensor  # (n, 3, 3) Å, double precision
    sizes: Tensor  # (n,) atoms of each crystal

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def owner(self) -> Tensor:
        """The crystal of each atom `(n_atoms,)`."""
        import torch

        return torch.repeat_interleave(self.sizes, output_size=len(self.numbers))

    @cached_property
    def volumes(self) -> Tensor:
        """`(n,)` Å³."""
        a, b, c = self.cells.unbind(1)
        return (a * b.cross(c, dim=1)).sum(1).abs()

    def of_crystals(self, values: Tensor) -> Tensor:
        """Sum values of atoms `(n_atoms, ...)` over each crystal `(n, ...)`."""
        return values.new_zeros((len(self), *values.shape[1:])).index_add_(0, self.owner, values)

    def atoms_of(self, crystals: Tensor) -> Tensor:
        """Number the atoms of some crystals, given by index, in that order."""
        import torch

        sizes = self.sizes[crystals]
        starts = torch.cumsum(self.sizes, 0)[crystals] - torch.cumsum(sizes, 0)
        n_atoms = int(sizes.sum())
        return torch.repeat_interleave(starts, sizes, output_size=n_atoms) + torch.arange(n_atoms, device=sizes.device)

    def select(self, crystals: Tensor) -> Batch:
        """Take some crystals, given by index, in that order."""
        atoms = self.atoms_of(crystals)
        return Batch(
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            cells=self.cells[crystals],
            sizes=self.sizes[crystals],
        )

    def crystals(self) -> list[Crystal]:
        """Take the crystals apart, as arrays."""
        numbers, positions, cells, sizes = (
            tensor.cpu().numpy() for tensor in (self.numbers, self.positions, self.cells, self.sizes)
        )
        ends = np.cumsum(sizes)[:-1]
        parts = zip(np.split(numbers, ends), np.split(positions, ends), cells, strict=True) if len(sizes) else ()
        return [Crystal(numbers=n, positions=p, cell=c) for n, p, c in parts]


@dataclass(frozen=True, kw_only=True)
class PotentialIdentity:
    """What a potential is, without its model in memory.

    `correction` names the correction scheme that raw energies still need to reach `level_of_theory`; None where
    they are there already.
    """

    method: str  # "chgnet-0.3.0"
    level_of_theory: str  # "PBE+U/MP2020"
    correction: str | None
    weights_hash: str  # of the content of the weights' files
    elements: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a potential says of a batch of `n` crystals, on the batch's device.

    A crystal that the potential has no answer for has NaN in all its numbers and a sentence in `problems`; the
    others are as if it had not been there.
    """

    energies: Tensor  # (n,) eV, total, double precision
    forces: Tensor  # (n_atoms, 3) eV/Å, double precision
    stresses: Tensor  # (n, 3, 3) eV/Å³, double precision
    latents: Tensor | None = None  # (n, d), a mean over the atoms
    magmoms: Tensor | None = None  # (n_atoms,) μB, absolute values
    problems: Mapping[int, str] = field(default_factory=dict)  # crystal -> why there is no answer


class Potential(Protocol):
    """An interatomic potential: an identity that can evaluate crystals."""

    @property
    def method(self) -> str:
        """As `PotentialIdentity` says."""
        ...

    @property
    def level_of_theory(self) -> str:
        """As `PotentialIdentity` says."""
        ...

    @property
    def correction(self) -> str | None:
        """As `PotentialIdentity` says."""
        ...

    @property
    def weights_hash(self) -> str:
        """As `PotentialIdentity` says."""
        ...

    @property
    def elements(self) -> frozenset[str]:
        """As `PotentialIdentity` says."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it takes batches, and answers."""
        ...

    @property
    def batch_cost(self) -> float:
        """The sum of costs at which a batch is full: where a larger one would be no faster, or would not fit."""
        ...

    def evaluate(self, batch: Batch) -> Evaluation:
        """Energies, forces and stresses of all crystals, which may be none."""
        ...

    def costs(self, batch: Batch) -> Tensor:
        """How much of a batch each crystal takes `(n,)`, in the potential's own unit, above zero."""
        ...


def batch_of(crystals: Sequence[Crystal], device: torch.device | str = "cpu") -> Batch:
    """Put crystals side by side on a device."""
    import torch

    def joined(parts: list[NDArray[Any]], nothing: tuple[int, ...], dtype: type) -> Tensor:
        array: NDArray[Any] = np.concatenate([np.zeros(nothing, dtype=dtype), *parts]).astype(dtype, copy=False)
        return torch.from_numpy(array).to(device)

    return Batch(
        numbers=joined([crystal.numbers for crystal in crystals], (0,), np.int64),
        positions=joined([crystal.positions for crystal in crystals], (0, 3), np.float64),
        cells=joined([crystal.cell[None] for crystal in crystals], (0, 3, 3), np.float64),
        sizes=torch.tensor([len(crystal) for crystal in crystals], dtype=torch.int64, device=device),
    )


def unanswered(batch: Batch, problems: Mapping[int, str]) -> Evaluation:
    """An evaluation full of NaN."""
    cells = batch.cells
    return Evaluation(
        energies=cells.new_full((len(batch),), float("nan")),
        forces=cells.new_full((len(batch.numbers), 3), float("nan")),
        stresses=cells.new_full((len(batch), 3, 3), float("nan")),
        problems=problems,
    )


def scattered(answers: Sequence[tuple[Sequence[int], Evaluation]], batch: Batch) -> Evaluation:
    """Put answers for parts of a batch, each with the indices of its crystals, into one; NaN where there is none."""
    import torch

    if len(answers) == 1 and len(answers[0][0]) == len(batch):
        return answers[0][1]
    whole: dict[str, Any] = {}
    problems: dict[int, str] = {}
    for part, answer in answers:
        crystals = torch.tensor(part, dtype=torch.int64, device=batch.sizes.device)
        atoms = batch.atoms_of(crystals)
        problems |= {part[k]: problem for k, problem in answer.problems.items()}
        for name in ("energies", "forces", "stresses", "latents", "magmoms"):
            values = getattr(answer, name)
            if values is None:
                continue
            of_atoms = name in ("forces", "magmoms")
            if name not in whole:
                n = len(batch.numbers) if of_atoms else len(batch)
                whole[name] = values.new_full((n, *values.shape[1:]), torch.nan)
            whole[name][atoms if of_atoms else crystals] = values
    return replace(unanswered(batch, problems), **whole)


def filled(answer: Evaluation, batch: Batch, fit: Tensor, problems: Mapping[int, str]) -> Evaluation:
    """Widen the answer for the crystals `fit` to the whole batch, with NaN and the problems for the others."""
    return replace(scattered([(fit.tolist(), answer)], batch), problems=problems) if problems else answer


def crystal_of(structure: Structure) -> Crystal:
    """Turn an ordered pymatgen structure into arrays.

    Raises:
        ValueError: If a site is disordered or holds something that is not an element.
    """
    numbers = []
    for site in structure:
        number = getattr(site.specie, "Z", None) if site.is_ordered else None
        if not number:
            raise ValueError(f"site {site.species_string} is not one atom of one element")
        numbers.append(number)
    return Crystal(
        numbers=np.array(numbers, dtype=np.int64),
        positions=np.ascontiguousarray(structure.cart_coords, dtype=np.float64).reshape(-1, 3),
        cell=np.array(structure.lattice.matrix, dtype=np.float64),
    )


def fixed_sites(structure: Structure) -> NDArray[np.bool_]:
    """Read which sites a structure holds, `(n_sites,)`, from pymatgen's `selective_dynamics`.

    Raises:
        ValueError: If a site may move along some lattice vectors only.
    """
    flags = structure.site_properties.get("selective_dynamics")
    if flags is None:
        return np.zeros(len(structure), dtype=bool)
    whole = [(True,) * 3 if flag is None else flag for flag in flags]
    strange = next((k for k, flag in enumerate(whole) if np.shape(flag) != (3,)), None)
    if strange is not None:
        raise ValueError(f"selective_dynamics of site {strange} are {whole[strange]!r}: three flags a site are needed")
    free = np.array([tuple(flag) for flag in whole], dtype=bool)
    partly = np.flatnonzero(free.any(axis=1) != free.all(axis=1))
    if len(partly):
        raise ValueError(
            f"selective_dynamics of site {partly[0]} hold it along some lattice vectors only: give T T T or F F F"
        )
    return np.asarray(~free.any(axis=1), dtype=bool)


def content_of(paths: Iterable[Path]) -> str:
    """Hash of the content of files, whatever they are called and wherever they are."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]

"""torch-sim models by import path, many crystals at once: MACE, ORB, SevenNet, FairChem and others.

Most of torch-sim's classes take a network that is loaded already. Name a function of your own then, which takes a path
(and, if it likes, `device` and `dtype`), loads the network and returns torch-sim's model of it.

Tested with torch-sim 0.3.0 only, the last for Python 3.11; the same names are in the later ones, up to 0.6.1. Older
ones call `system_idx` `batch` and are not supported. The pair potentials that 0.3.0 carries itself (Lennard-Jones,
Morse, soft spheres) give twice the forces that belong to their energies, and see another crystal where the cell's
matrix is not symmetric: they are no models to rely on.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from materials.errors import PotentialNotInstalled
from models.potentials.base import Batch, Evaluation, PotentialIdentity, filled, unanswered
from models.potentials.import_path import imported, made
from models.potentials.neighbor_list import CLOSEST, sound_pairs

if TYPE_CHECKING:
    from torch_sim import SimState
    from torch_sim.models.interface import ModelInterface

DENSITY = 0.07  # atoms/Å³ of a usual crystal, at which an atom counts as one


@dataclass(frozen=True, kw_only=True)
class TorchSimPotential(PotentialIdentity):
    """A torch-sim model as a potential. What it raises is raised: a relaxation pins it on its crystal."""

    covered: frozenset[int]  # atomic numbers
    model: ModelInterface
    device: torch.device
    batch_cost: float

    def evaluate(self, batch: Batch) -> Evaluation:
        """Energies, forces and stresses of all crystals in one pass."""
        sound, _, fit, problems = sound_pairs(batch, CLOSEST, self.covered, lonely=True)
        if not len(sound):
            return unanswered(batch, problems)
        found = self.model(state_of(sound, self.model.dtype))
        stresses = found["stress"].detach().double().reshape(len(sound), 3, 3)
        answer = Evaluation(
            energies=found["energy"].detach().double().reshape(len(sound)),
            forces=found["forces"].detach().double().reshape(len(sound.numbers), 3),
            stresses=(stresses + stresses.mT) / 2,
        )
        return filled(answer, batch, fit, problems)

    def costs(self, batch: Batch) -> Tensor:
        """Its atoms, in a model with a cut-off times how dense they are: what torch-sim says that memory goes with."""
        atoms = batch.sizes.clamp(min=1).double()
        if self.model.memory_scales_with == "n_atoms":
            return atoms
        density = (atoms / batch.volumes / DENSITY).nan_to_num(1.0)
        return atoms * density.clamp(0.1, 10.0)  # of a cell that is flat or endless there is no answer anyway


def state_of(batch: Batch, dtype: torch.dtype) -> SimState:
    """Crystals as torch-sim has them: in the model's precision, the vectors of a cell as columns."""
    from torch_sim import SimState

    # With opposite vectors a left-handed cell is the same crystal: some models, and torch-sim's optimisers, divide by
    # a volume that has a sign.
    columns = (batch.cells * torch.linalg.det(batch.cells).sign()[:, None, None]).mT
    # In single precision an atom far from the origin would lose its digits; nor does every model look there.
    around = columns[batch.owner]
    fractional = torch.linalg.solve(around, batch.positions[:, :, None])
    inside = batch.positions - (around @ fractional.floor())[:, :, 0]
    return SimState(
        positions=inside.to(dtype),
        masses=torch.ones_like(inside, dtype=dtype)[:, 0],  # nothing that is asked for here depends on them
        cell=columns.to(dtype).contiguous(),
        pbc=True,
        atomic_numbers=batch.numbers.int(),
        system_idx=batch.owner,
    )


def load_torchsim(
    identity: PotentialIdentity, model: str, arguments: Mapping[str, Any], *, device: str, precision: str
) -> TorchSimPotential:
    """Import and make the model, with `device`, `dtype` and `compute_stress` if it takes them and they are not said.

    Raises:
        PotentialNotInstalled: If torch-sim is not installed, the model cannot be imported or made, is none of
            torch-sim's, or has no forces or no stress.
    """
    from pymatgen.core import Element

    interface, factory, missing = _imported(model)
    try:
        instance = made(model, factory, _completed(factory, arguments, device, precision))
    except PotentialNotInstalled as error:
        raise PotentialNotInstalled("; ".join([str(error), *missing])) from error
    if not isinstance(instance, interface):
        raise PotentialNotInstalled(f"{model} made {type(instance).__name__}: not a ModelInterface of torch-sim")
    if not (instance.compute_forces and instance.compute_stress):
        raise PotentialNotInstalled(
            f"{model} with {dict(arguments)} computes no forces or no stress, and a relaxation needs both"
        )
    covered = _covered(instance) or {Element(symbol).Z for symbol in identity.elements}
    place = torch.device(instance.device)
    return TorchSimPotential(
        **asdict(replace(identity, elements=frozenset(Element.from_Z(number).symbol for number in covered))),
        covered=frozenset(covered),
        model=instance,
        device=place,
        batch_cost=64.0 if place.type == "cpu" else 4000.0,  # where there is no room for it a relaxation finds out
    )


def _imported(model: str) -> tuple[type[ModelInterface], Callable[..., Any], list[str]]:
    """Import torch-sim's interface, what makes the model, and say which packages were missed on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            from torch_sim.models.interface import ModelInterface
        except ImportError as error:
            raise PotentialNotInstalled(
                f"torch-sim cannot be imported ({error}): pip install 'torch-sim-atomistic>=0.3.0'"
            ) from error
        factory = imported(model)
    # Without its package a module of torch-sim only warns, with a stack trace, and its class fails when it is called.
    texts = [str(warning.message).strip() for warning in caught]
    return ModelInterface, factory, [text.splitlines()[-1] for text in texts if "import failed" in text]


def _completed(
    factory: Callable[..., Any], arguments: Mapping[str, Any], device: str, precision: str
) -> dict[str, Any]:
    """The arguments as they are, `dtype` as torch has it, and those that are known here and not said."""
    said = dict(arguments)
    if isinstance(said.get("dtype"), str):
        said["dtype"] = getattr(torch, said["dtype"], said["dtype"])
    known = {"device": torch.device(device), "dtype": getattr(torch, precision), "compute_stress": True}
    try:
        taken = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # no callable, or one that is built in
        return said
    return {name: value for name, value in known.items() if name in taken} | said


def _covered(model: Any) -> set[int]:
    """The atomic numbers that a model says it knows: MACE does; torch-sim has no way of its own."""
    return {int(number) for number in getattr(getattr(model, "z_table", None), "zs", ())}

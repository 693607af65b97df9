"""CHGNet with the weights of its package, for many crystals at once, equal to the package to rounding."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pymatgen.core import Element
from torch import Tensor

from materials.errors import PotentialNotInstalled
from models.potentials.base import Batch, Evaluation, PotentialIdentity, filled, unanswered
from models.potentials.chgnet import kernel
from models.potentials.chgnet.equivalent_atoms import Classes, classes_of, different_lengths
from models.potentials.chgnet.graph import Geometry, geometry_of
from models.potentials.chgnet.model import Chgnet, Outcome
from models.potentials.neighbor_list import sound_pairs
from models.potentials.subnormals import flushed_subnormals


@dataclass(frozen=True, kw_only=True)
class ChgnetPotential(PotentialIdentity):
    """CHGNet as a potential. `merge` evaluates atoms of equal surroundings once; False is for comparison."""

    covered: frozenset[int]  # atomic numbers
    model: Chgnet
    device: torch.device
    batch_cost: float
    merge: bool = True

    def evaluate(self, batch: Batch) -> Evaluation:
        """Energies, forces, stresses, latent vectors and magnetic moments of all crystals at once."""
        sound, pairs, fit, problems = sound_pairs(batch, self.model.cutoff, self.covered)
        if not len(sound):
            return unanswered(batch, problems)
        geometry = geometry_of(sound, pairs, self.model.short_cutoff)
        classes = classes_of(geometry, merge=self.merge)
        with flushed_subnormals():
            outcome = self.model(classes, len(sound))
        forces, virials = _forces(geometry, classes, outcome)
        answer = Evaluation(
            energies=outcome.energies,
            forces=forces,
            stresses=virials / sound.volumes[:, None, None],
            latents=outcome.latents.float(),
            magmoms=outcome.magmoms[classes.atom_of].float(),
        )
        return filled(answer, batch, fit, problems)

    def costs(self, batch: Batch) -> Tensor:
        """About the messages and angles that the model has to pass for each crystal, in thousands.

        Where bonds are equally long, so many classes are expected as there are lengths.
        """
        sound, pairs, fit, _ = sound_pairs(batch, self.model.cutoff, self.covered)
        length = pairs.vector.norm(dim=1)
        short = length <= self.model.short_cutoff
        arms = torch.bincount(torch.cat([pairs.first[short], pairs.second[short]]), minlength=len(sound.numbers))
        angles = sound.of_crystals(arms * (arms - 1))
        owner = sound.owner[pairs.first]
        bonds = torch.bincount(owner, minlength=len(sound))
        lengths = different_lengths(length, owner, len(sound)) if self.merge else bonds
        share = lengths / bonds
        costs = torch.ones(len(batch), dtype=torch.float64, device=batch.sizes.device)
        costs[fit] = (bonds + 2 * share * (bonds + angles)).double() / 1000
        return costs


def load_chgnet(
    identity: PotentialIdentity, path: Path, *, device: str, precision: str, merge: bool = True
) -> ChgnetPotential:
    """Load a checkpoint of the chgnet package.

    Args:
        identity: What the potential says it is.
        path: The checkpoint, a `.pth.tar` as the package writes it.
        device: Any that torch knows: `cpu`, `cuda`.
        precision: `float32`, that of the weights, or `float64`.
        merge: Whether equal surroundings are evaluated once.

    Raises:
        PotentialNotInstalled: If the file is no CHGNet checkpoint that this program can evaluate.
    """

    content = checkpoint_of(path, device)
    compiled = (device, precision) == ("cpu", "float32") and kernel.library() is not None
    try:
        model = Chgnet(content["state_dict"], content["model_args"], getattr(torch, precision), compiled=compiled)
    except (KeyError, ValueError) as error:
        raise PotentialNotInstalled(
            f"{path} is not a checkpoint of CHGNet 0.3's architecture: {error}; "
            'give the name of one that the chgnet package carries ("0.3.0", "r2scan") or the path of a fine-tuned one'
        ) from error
    return ChgnetPotential(
        **asdict(identity),
        covered=frozenset(Element(symbol).Z for symbol in identity.elements),
        model=model,
        device=torch.device(device),
        batch_cost=40.0 if device == "cpu" else 2000.0,
        merge=merge,
    )


def checkpoint_of(path: Path, device: str) -> dict[str, Any]:
    """Read the weights and arguments of a checkpoint: of numbers alone, for a pickle may run whatever it likes.

    Raises:
        PotentialNotInstalled: If it is none, or holds more than that.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it is not going to open
            checkpoint = torch.load(path, map_location=device, weights_only=True)
        content: dict[str, Any] = checkpoint.get("model", checkpoint)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PotentialNotInstalled(
            f"{path} is no checkpoint, or holds more than weights and plain values, and is not opened: {reason}"
        ) from error
    return content


def _forces(g: Geometry, classes: Classes, outcome: Outcome) -> tuple[Tensor, Tensor]:
    """Forces `(n_atoms, 3)` in eV/Å and virials `(n_crystals, 3, 3)` in eV, by the chain rule from the classes."""
    unit = g.vector / g.length[:, None]
    slope = outcome.by_length[classes.bond_of][:, None] * unit
    if len(outcome.by_cosine):
        by_angle = outcome.by_cosine[classes.angle_of]
        by_angle = torch.where(g.angle_arm == g.angle_other, 0.0, by_angle + by_angle[g.reverse])
        toward = g.arm_unit[g.angle_other] - g.cosine[:, None] * g.arm_unit[g.angle_arm]
        turned = torch.zeros_like(g.arm_unit).index_add_(0, g.angle_arm, by_angle[:, None] * toward)
        turned *= (g.arm_sign / g.length[g.arm_bond])[:, None]
        slope.index_add_(0, g.arm_bond, turned)
    forces = slope.new_zeros((len(g.numbers), 3))
    forces.index_add_(0, g.first, slope).index_add_(0, g.second, slope, alpha=-1)
    outer = (slope[:, :, None] * g.vector[:, None, :]).reshape(-1, 9)
    virials = slope.new_zeros((g.n_crystals, 9)).index_add_(0, g.owner[g.first], outer).reshape(-1, 3, 3)
    return forces, (virials + virials.mT) / 2

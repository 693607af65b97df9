"""CHGNet with the weights that its package carries: many crystals at once, equal to the package to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from materials.errors import PotentialNotInstalled
from models.neighbours import sound_pairs
from models.potentials import chgnet_kernel
from models.potentials.chgnet_graph import Geometry, classes_of, geometry_of
from models.potentials.chgnet_layers import WIDTH
from models.potentials.chgnet_model import Chgnet, Outcome
from models.potentials.interface import Crystal, Evaluation, FloatArray, PotentialIdentity, no_answer
from models.potentials.subnormals import flushed_subnormals


@dataclass(frozen=True, kw_only=True)
class ChgnetPotential(PotentialIdentity):
    """CHGNet as a potential. `merge` evaluates atoms of equal surroundings once; False is for comparison."""

    covered: frozenset[int]  # atomic numbers
    model: Chgnet
    device: torch.device
    batch_cost: float
    merge: bool = True

    def evaluate(self, crystals: Sequence[Crystal]) -> Evaluation:
        """Energies, forces, stresses, latent vectors and magnetic moments of all crystals at once."""
        problems, fit, pairs = sound_pairs(crystals, self.model.cutoff, self.covered)
        latents = np.full((len(crystals), WIDTH), np.nan, dtype=np.float32)
        magmoms = [np.full(len(crystal), np.nan, dtype=np.float32) for crystal in crystals]
        answer = replace(no_answer(crystals, problems), latents=latents, magmoms=magmoms)
        if not fit:
            return answer
        geometry = geometry_of([crystals[k] for k in fit], pairs, self.model.short_cutoff, self.device)
        classes = classes_of(geometry, merge=self.merge)
        with flushed_subnormals():
            outcome = self.model(classes, geometry.n_crystals)
        forces, virials = _forces(geometry, classes.bond_of, classes.angle_of, outcome)
        volumes = np.array([abs(np.linalg.det(crystals[k].cell)) for k in fit])
        ends = np.cumsum([len(crystals[k]) for k in fit])[:-1]
        answer.energies[fit] = outcome.energies.cpu().numpy()
        answer.stresses[fit] = virials / volumes[:, None, None]
        latents[fit] = outcome.latents.float().cpu().numpy()
        moments = outcome.magmoms[classes.atom_of].float().cpu().numpy()
        for k, force, moment in zip(fit, np.split(forces, ends), np.split(moments, ends), strict=True):
            answer.forces[k], magmoms[k] = force, moment
        return answer

    def cost(self, crystal: Crystal) -> float:
        """Messages and angles that the model has to pass for it, in thousands."""
        _, fit, pairs = sound_pairs([crystal], self.model.cutoff, self.covered)
        if not fit:
            return 1.0
        geometry = geometry_of([crystal], pairs, self.model.short_cutoff, self.device)
        classes = classes_of(geometry, merge=self.merge)
        return (len(classes.message_bond) + 2 * len(classes.angle_bond) + len(geometry.length)) / 1000


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
    from pymatgen.core import Element

    checkpoint = torch.load(path, map_location=device, weights_only=False)
    content = checkpoint.get("model", checkpoint)
    compiled = (device, precision) == ("cpu", "float32") and chgnet_kernel.library() is not None
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
        batch_cost=15.0 if device == "cpu" else 2000.0,
        merge=merge,
    )


def _forces(
    g: Geometry, bond_of: torch.Tensor, angle_of: torch.Tensor, outcome: Outcome
) -> tuple[FloatArray, FloatArray]:
    """Forces `(n_atoms, 3)` in eV/Å and virials `(n_crystals, 3, 3)` in eV, by the chain rule from the classes."""
    unit = g.vector / g.length[:, None]
    slope = outcome.by_length[bond_of][:, None] * unit
    if len(outcome.by_cosine):
        by_angle = outcome.by_cosine[angle_of]
        by_angle = torch.where(g.angle_arm == g.angle_other, 0.0, by_angle + by_angle[g.reverse])
        toward = g.arm_unit[g.angle_other] - g.cosine[:, None] * g.arm_unit[g.angle_arm]
        turned = torch.zeros_like(g.arm_unit).index_add_(0, g.angle_arm, by_angle[:, None] * toward)
        turned *= (g.arm_sign / g.length[g.arm_bond])[:, None]
        slope.index_add_(0, g.arm_bond, turned)
    forces = torch.zeros((len(g.numbers), 3), dtype=slope.dtype, device=slope.device)
    forces.index_add_(0, g.first, slope).index_add_(0, g.second, slope, alpha=-1)
    outer = (slope[:, :, None] * g.vector[:, None, :]).reshape(-1, 9)
    virials = torch.zeros((g.n_crystals, 9), dtype=slope.dtype, device=slope.device)
    virials.index_add_(0, g.owner[g.first], outer)
    virials = virials.reshape(-1, 3, 3)
    return forces.cpu().numpy(), ((virials + virials.transpose(1, 2)) / 2).cpu().numpy()

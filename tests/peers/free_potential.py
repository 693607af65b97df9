"""A potential that costs nothing: no forces anywhere, so that each relaxation is one evaluation.

Its energies make a hull with something on it: compounds of unlike elements are bound, and polymorphs differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache

import torch
from pymatgen.core import Element
from torch import Tensor

from models.potentials.base import Batch, Evaluation, PotentialIdentity
from models.potentials.registry import identify
from models.relaxation import worker as screening
from models.relaxation.settings import RelaxationSettings

SECTION = {"kind": "ase", "model": "tests.peers.free_potential:Free", "level_of_theory": "free"}
N_LATENT = 64  # as many numbers a crystal as CHGNet has


@dataclass(frozen=True, kw_only=True)
class Free(PotentialIdentity):
    """Answers at once."""

    batch_cost: float = 4000.0

    @property
    def device(self) -> torch.device:
        """Where it answers."""
        return torch.device("cpu")

    def evaluate(self, batch: Batch) -> Evaluation:
        """No forces; energies from electronegativities and volumes."""
        sizes, like = batch.sizes.double(), _electronegativities()[batch.numbers]
        mean = batch.of_crystals(like) / sizes
        spread = batch.of_crystals((like - mean[batch.owner]) ** 2) / sizes
        density = sizes / batch.volumes
        ladder = torch.arange(1, N_LATENT + 1, dtype=torch.float64)
        return Evaluation(
            energies=sizes * (-spread + 0.05 * torch.sin(300 * density)),
            forces=torch.zeros_like(batch.positions),
            stresses=torch.zeros_like(batch.cells),
            latents=torch.sin(ladder * mean[:, None] + spread[:, None] / ladder),
        )

    def costs(self, batch: Batch) -> Tensor:
        """Its atoms."""
        return batch.sizes.double()


def relax_chunk(
    choice: screening.PotentialChoice, settings: RelaxationSettings, written: Mapping[str, str]
) -> screening.Answers:
    """Do what a worker does, with this potential in the place of the one that it would load."""
    screening.loaded = loaded  # type: ignore[assignment]
    return RELAX_CHUNK(choice, settings, written)


RELAX_CHUNK = screening.relax_chunk


@cache
def loaded(choice: screening.PotentialChoice) -> Free:
    """Make one under the name that the flow knows it by."""
    identity = identify(choice.kind, model=choice.model, level_of_theory=choice.level_of_theory)
    return Free(**asdict(identity))


@cache
def _electronegativities() -> Tensor:
    unknown = {2: 1.5, 10: 1.5, 18: 1.5}  # pymatgen warns where nobody measured one
    values = [unknown.get(z) or Element.from_Z(z).X for z in range(1, 104)]
    return torch.tensor([0.0, *values], dtype=torch.float64).nan_to_num(1.5)

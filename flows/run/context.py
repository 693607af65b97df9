"""Context of a running campaign, which every stage is given."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flows.config.campaign import Campaign
from flows.config.cluster import Cluster
from flows.output.progress import Progress
from materials.errors import AssayError
from materials.records import Target
from models.dft.registry import open_code

if TYPE_CHECKING:
    from materials.store.ledger import Ledger
    from models.dft.base import DFTCode
    from models.potentials.base import PotentialIdentity
    from models.relaxation.settings import RelaxationSettings
    from models.relaxation.worker import PotentialChoice


GPA = 0.006241509125883258  # eV/Å³


class Interrupted(AssayError):
    """Somebody asked the campaign to stop; everything that had ended is in the ledger."""

    exit_code = 130  # as shells have it for Ctrl-C


@dataclass(frozen=True, kw_only=True)
class Run:
    """A campaign that runs: the science, the hardware, the ledger, and who watches."""

    campaign: Campaign
    cluster: Cluster
    campaign_id: str
    ledger: Ledger
    folder: Path  # DFT calculations, snapshots and reports lie below it
    progress: Progress
    use_dft: bool = True
    retry_failed: bool = False  # what failed for good is tried once more
    tried: set[str] = field(default_factory=set)  # DFT calculations of this run: each is tried once more at most
    stop: threading.Event = field(default_factory=threading.Event)

    def check_stop(self) -> None:
        """End here if somebody asked to.

        Raises:
            Interrupted: Somebody did.
        """
        if self.stop.is_set():
            raise Interrupted("Stopped. What had ended is in the ledger; the same command goes on from there.")

    @property
    def targets(self) -> list[Target]:
        """What is wanted."""
        return self.campaign.wanted()

    @cached_property
    def potential(self) -> PotentialChoice:
        """Which potential screens, and where it runs."""
        from models.relaxation.worker import PotentialChoice

        section = self.campaign.screening.potential
        return PotentialChoice(
            kind=section.kind,
            model=section.model,
            device=self.cluster.workers.device,
            precision=section.precision,
            level_of_theory=section.level_of_theory,
            correction=section.correction,
            calculator_arguments=tuple(sorted(section.calculator_arguments.items())),
        )

    @cached_property
    def potential_identity(self) -> PotentialIdentity:
        """What the potential is, without loading its model."""
        from models.potentials.registry import identify

        section = self.campaign.screening.potential
        return identify(
            section.kind,
            model=section.model,
            level_of_theory=section.level_of_theory,
            correction=section.correction,
            calculator_arguments=section.calculator_arguments,
        )

    @cached_property
    def dft_code(self) -> DFTCode:
        """The code that validates."""
        return open_code(self.campaign.dft.choice())

    @cached_property
    def relaxation(self) -> RelaxationSettings:
        """How candidates are relaxed."""
        from models.relaxation.settings import RelaxationSettings

        section = self.campaign.screening
        return RelaxationSettings(
            fmax=section.fmax,
            max_steps=section.max_steps,
            cell=section.cell,
            positions=section.positions,
            pressure=section.pressure_gpa * GPA,
            keep_symmetry=section.keep_symmetry,
            max_stress=None if section.max_stress_gpa is None else section.max_stress_gpa * GPA,
            trajectory=section.trajectories,
        )

    @cached_property
    def screening_hash(self) -> str:
        """Hash of how the potential's answers are made."""
        from models.relaxation.worker import screening_hash

        return screening_hash(self.relaxation, self.potential_identity.weights_hash, self.potential.precision)

    def screened(self) -> dict[str, str]:
        """Find the potential's calculation of each material: `material_id` -> `calculation_id`."""
        identity = self.potential_identity
        return self.ledger.best_calculations(
            self.campaign_id,
            fidelity="mlip",
            method=identity.method,
            level_of_theory=identity.level_of_theory,
            settings_hash=self.screening_hash,
        )

"""Request of a replay: the table, the targets, the strategies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.config.campaign import Campaign, Learning
from flows.config.cluster import Cluster
from materials.records import Target
from materials.targets import Wish

BATCH = 10  # answers asked for at a time, where no campaign says it


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody wants replayed.

    Attributes:
        table: A file, or the name of a campaign in the ledger.
        target: A single target that only orders; or
        wishes: what is to be met, all of it; with neither, the campaign's targets count.
        strategies: By name; empty: all that can be played.
        batch: Answers asked for at a time; None: the campaign's, or ten.
        campaign: Whose potential, screening, competing phases and learning are meant, but for costs and stops; None:
            those of the campaign that is the table, if it is one.
        relax: Relax the table's structures fully, too.
    """

    table: str
    target: Target | None = None
    wishes: Sequence[Wish] = ()
    strategies: Sequence[str] = ()
    seeds: int = 20
    batch: int | None = None
    budget: int = 300
    campaign: Campaign | None = None
    cluster: Cluster = field(default_factory=Cluster)
    ledger_url: str | None = None
    folder: Path = Path("assay-runs")
    relax: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """How every strategy is played, for `models.learning.simulation.play`."""
        learning = self.campaign.learning if self.campaign is not None else Learning(batch=BATCH)
        return {"batch": self.batch or learning.batch, "budget": self.budget, "audits": learning.audits}

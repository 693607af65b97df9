"""Runs of campaigns in a folder of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.config.campaign import Campaign
from flows.config.cluster import Cluster
from flows.output.progress import Progress
from flows.run.context import Run
from materials.store.ledger import Ledger


@contextmanager
def opened_run(
    folder: Path, content: Mapping[str, Any], say: Callable[[str], None] = lambda line: None
) -> Iterator[Run]:
    """A run of a campaign, told by what its file holds, with a ledger in the folder."""
    with Ledger.open(str(folder / "assay.db")) as ledger:
        campaign = Campaign.model_validate(content)
        yield Run(
            campaign=campaign,
            cluster=Cluster(),
            campaign_id=ledger.add_campaign(campaign.name, campaign.identity()),
            ledger=ledger,
            folder=folder,
            progress=Progress(say),
        )

"""Campaigns for notebooks and scripts: load one, check it, run it, look at what came out."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flows.campaign import loop
from flows.config import campaign as config
from flows.config.cluster import Cluster
from flows.config.load import load_campaign, load_cluster
from flows.output.progress import Progress
from flows.output.unforeseen import foreseen
from flows.report import report
from materials.store.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20  # rows of a table in a cell


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run of a campaign came to.

    Attributes:
        campaign_id: In the ledger.
        ledger: Its URL or path.
        report: The summary in Markdown, with the plots beside it.
    """

    campaign_id: str
    ledger: str | None
    report: Path

    @cached_property
    def table(self) -> pd.DataFrame:
        """The ranked table, as `Ledger.table` gives it."""
        with Ledger.open(self.ledger, must_exist=True) as ledger:
            return ledger.table(self.campaign_id)

    @property
    def summary(self) -> str:
        """The report in Markdown."""
        return self.report.read_text(encoding="utf-8")

    def _repr_html_(self) -> str:
        shown = self.table.head(SHOWN)
        return (
            f"<p><b>{html.escape(self.campaign_id)}</b>: {len(self.table)} rows, the first {len(shown)}; report in"
            f" {html.escape(str(self.report))}</p>{shown.to_html(index=False, na_rep='')}"
        )


class Campaign(config.Campaign):
    """A campaign: where candidates come from, what is wanted, and how it is looked for."""

    @classmethod
    def load(cls, path: Path | str, *, budget: int | None = None) -> Self:
        """Read a campaign file; paths inside it are relative to its folder.

        Args:
            path: The YAML file.
            budget: DFT calculations of candidates, in place of `dft.budget`.

        Raises:
            CampaignError: With the file, the key, what was found and what to do.
        """
        return cls.model_validate(load_campaign(Path(path), budget=budget).model_dump())

    def check(self, *, use_dft: bool = True) -> None:
        """Look whether all that it needs is here, its files and the DFT code, as a run does before it computes.

        Raises:
            AssayError: Something is not; the message names it and what to do.
        """
        loop.check(self, use_dft=use_dft)

    def run(
        self,
        *,
        ledger: str | None = None,
        cluster: Cluster | Path | str | None = None,
        folder: Path | str = "assay-runs",
        use_dft: bool = True,
        retry_failed: bool = False,
    ) -> Result:
        """Run it, or go on with it: what the ledger has is not computed again. Progress is printed.

        Args:
            ledger: A path, `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`; None is `./assay.db`.
            cluster: A cluster file; None is this machine with a worker a core.
            folder: For calculations and reports.
            use_dft: Select and validate; without it candidates are screened and ranked.
            retry_failed: Try again what failed for good, or was cancelled.

        Raises:
            AssayError: Whatever stopped it; what had ended is in the ledger.
        """
        request = loop.Request(
            campaign=self,
            cluster=cluster if isinstance(cluster, Cluster) else load_cluster(Path(cluster) if cluster else None),
            ledger_url=ledger,
            folder=Path(folder),
            use_dft=use_dft,
            retry_failed=retry_failed,
        )
        try:
            with loop.opened(request, Progress()) as run:
                loop.discover(run)
        except Exception as error:  # noqa: BLE001 - as `assay run`: whatever it is, in a sentence
            raise foreseen(error, request.folder) from None
        return Result(campaign_id=run.campaign_id, ledger=ledger, report=report.folder(run) / "summary.md")

    def _repr_html_(self) -> str:
        wanted = "; ".join(report.wish(target) for target in self.wanted())
        rows = {
            "question": self.description.strip() or "not written down",
            "candidates": ", ".join(source.kind for source in self.sources),
            "competing phases": ", ".join(source.kind for source in self.competing) or "none",
            "potential": self.screening.potential.kind,
            "wanted": wanted,
            "DFT": f"{self.dft.code}, at most {self.dft.budget} candidates, {self.learning.batch} a round",
        }
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table><caption>{html.escape(self.name)}</caption>{cells}</table>"

"""The campaign as a Prefect flow: `flows.discovery:discover`. Its sections are the fields of the form in the UI."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from pydantic import Field

from flows import report
from flows.campaign import DFT, Campaign, Learning, Screening, Source, TargetSection
from flows.cluster_file import Cluster
from flows.context import Run
from flows.load import check
from flows.loop import Request, opened
from flows.loop import discover as run_stages
from flows.progress import Progress
from flows.stages.publish import publish

Result = TypeVar("Result")

FIELDS = Campaign.model_fields


@flow(name="discover", flow_run_name="{name}", persist_result=False, validate_parameters=True)
def discover(
    name: str = Field(
        title="Name", description="Lower-case letters, digits and dashes.", pattern="^[a-z0-9][a-z0-9-]*$"
    ),
    sources: list[Source] = Field(title="Sources", description=FIELDS["sources"].description),
    competing: list[Source] = Field(
        default=[], title="Competing phases", description=FIELDS["competing"].description
    ),
    targets: list[TargetSection] = Field(
        default=FIELDS["targets"].default, title="Targets", description="What is looked for."
    ),
    screening: Screening = Field(default=Screening(), title="Screening", description="How candidates are relaxed."),
    learning: Learning = Field(default=Learning(), title="Learning", description="How the next are chosen."),
    dft: DFT = Field(default=DFT(), title="DFT", description="How the chosen are validated."),
    cluster: Cluster = Field(default=Cluster(), title="Cluster", description="Where things run."),
    description: str = Field(default="", title="Description", description="The question, in words."),
    hull_leaves_out: str = Field(
        default="", title="What the hull leaves out", description=FIELDS["hull_leaves_out"].description
    ),
    use_dft: bool = Field(default=True, title="Use DFT", description="Off: propose, screen and rank only."),
) -> None:
    """Look for stable materials: propose, screen, choose, validate, rank.

    The ledger is the one that ASSAY_DATABASE_URL names in the worker's environment, files lie in ASSAY_RUN_DIR.
    """
    content = {
        "name": name,
        "description": description,
        "sources": sources,
        "competing": competing,
        "hull_leaves_out": hull_leaves_out,
        "screening": screening,
        "targets": targets,
        "learning": learning,
        "dft": dft,
    }
    logger = get_run_logger()
    request = Request(
        campaign=check(Campaign, content, "parameters"),
        cluster=cluster,
        ledger_url=os.environ.get("ASSAY_DATABASE_URL"),
        folder=Path(os.environ.get("ASSAY_RUN_DIR", "assay-runs")),
        use_dft=use_dft,
    )
    with opened(request, Progress(logger.info)) as run:
        run_stages(run, _Tasks(run))


class _Tasks:
    """Makes a Prefect task of each stage, and shows the report after each publication."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.artifact: Any = None

    def __call__(self, name: str, stage: Callable[..., Result], *arguments: Any) -> Result:
        # The arguments stay out of Prefect's sight: it would walk through every structure to look for futures,
        # and it must never hash one.
        work: Callable[[], Result] = lambda: stage(*arguments)  # noqa: E731
        result = task(work, name=stage.__name__, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)()
        if stage is publish:
            self._show()
        return result

    def _show(self) -> None:
        """Keep one Markdown artifact, and update it in place: the same key again would make a new card."""
        text = report.with_pictures_inside(self.run)
        if self.artifact is None:
            self.artifact = create_markdown_artifact(text, key=report.artifact_key(self.run.campaign_id))
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self.artifact, ArtifactUpdate(data=text))


def run_as_flow(request: Request) -> None:
    """Run a campaign as a flow run on the server that PREFECT_API_URL names."""
    campaign = request.campaign
    # A URL may hold a password, and parameters are stored: so it goes by the environment.
    if request.ledger_url is not None:
        os.environ["ASSAY_DATABASE_URL"] = request.ledger_url
    os.environ["ASSAY_RUN_DIR"] = str(request.folder)
    discover(
        **{name: getattr(campaign, name) for name in FIELDS},
        cluster=request.cluster,
        use_dft=request.use_dft,
    )

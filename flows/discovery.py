"""The campaign as a Prefect flow: `flows.discovery:discover`. Its sections are the fields of the form in the UI."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

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
HERE = Cluster()


def _shown(name: str, fallback: str = "") -> Any:
    """Describe a field of the form as the campaign file's own field is described."""
    info = FIELDS[name]
    return Field(title=info.title, description=info.description or fallback)


@flow(name="discover", flow_run_name="{name}", persist_result=False, validate_parameters=True)
def discover(
    name: Annotated[str, _shown("name")],
    sources: Annotated[list[Source], _shown("sources")],
    competing: Annotated[list[Source], _shown("competing")] = [],  # noqa: B006  a factory is absent from the form
    targets: Annotated[list[TargetSection], _shown("targets", "What is looked for.")] = FIELDS["targets"].default,
    screening: Annotated[Screening, _shown("screening", "How candidates are relaxed.")] = FIELDS["screening"].default,
    learning: Annotated[Learning, _shown("learning", "How the next are chosen.")] = FIELDS["learning"].default,
    dft: Annotated[DFT, _shown("dft", "How the chosen are validated.")] = FIELDS["dft"].default,
    cluster: Annotated[Cluster, Field(title="Cluster", description="Where things run.")] = HERE,
    description: Annotated[str, _shown("description")] = "",
    hull_leaves_out: Annotated[str, _shown("hull_leaves_out")] = "",
    use_dft: Annotated[bool, Field(title="Use DFT", description="Off: propose, screen and rank only.")] = True,
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
        @task(name=stage.__name__, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
        def work() -> Result:
            return stage(*arguments)

        result = work()
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

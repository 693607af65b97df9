"""Prefect work pool, and a deployment for each campaign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType

from flows.config.campaign import Campaign
from flows.config.cluster import Cluster
from flows.orchestration.crashes import HEARTBEAT, call_silence_a_crash
from flows.orchestration.prefect_flow import discover
from materials.plain_text import paragraphs_in_markdown

POOL = "assay"


def register(campaigns: Sequence[Campaign], cluster: Cluster, folder: Path) -> list[str]:
    """Make the pool, the deployments and the automation, or bring those of an earlier time up to date.

    Schedules, and whether they are on, stay as somebody set them in the UI.

    Args:
        campaigns: One deployment each, by its name.
        cluster: Where their runs take place unless the form says otherwise.
        folder: Where runs are started, so that relative paths mean what they mean here.

    Returns:
        Names of the deployments.
    """
    with get_client(sync_client=True) as client:
        _pool(client)
        call_silence_a_crash(client)
    return [_deployment(campaign, cluster, folder) for campaign in campaigns]


def _pool(client: SyncPrefectClient) -> None:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


def _deployment(campaign: Campaign, cluster: Cluster, folder: Path) -> str:
    deployment = RunnerDeployment.from_flow(
        discover,
        name=campaign.name,
        description=paragraphs_in_markdown(campaign.description) or None,
        parameters=parameters(campaign, cluster),
        concurrency_limit=1,
        work_pool_name=POOL,
        # Prefect's own choice of a folder is one that it deletes.
        job_variables={"working_dir": str(folder), "env": HEARTBEAT},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    # As deploy/prefect.yaml has it: by module, for a path would put flows/ first on sys.path.
    deployment.entrypoint = "flows.discovery:discover"
    # What is not said is left alone: an empty list of schedules, which nobody said, takes those of the UI away.
    deployment.model_fields_set.discard("schedules")
    deployment.apply()
    return f"{discover.name}/{campaign.name}"


def parameters(campaign: Campaign, cluster: Cluster) -> dict[str, Any]:
    """The fields of the form: the sections of the campaign file, and the cluster."""
    content: Mapping[str, Any] = campaign.model_dump(mode="json", exclude_none=True)
    return {**content, "cluster": cluster.model_dump(mode="json", exclude_none=True)}

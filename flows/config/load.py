"""Campaign and cluster files, and the JSON schemas of both."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from flows.config.campaign import Campaign, resolve_paths
from flows.config.cluster import Cluster
from flows.config.yaml_file import check, read_yaml


def load_campaign(path: Path, *, budget: int | None = None) -> Campaign:
    """Read a campaign file.

    Args:
        path: The YAML file. Paths inside it are relative to its folder.
        budget: Replaces `dft.budget`.

    Raises:
        CampaignError: With the file, the key, what was found and what to do.
    """
    content = read_yaml(path)
    if budget is not None:
        dft = content.setdefault("dft", {})
        if isinstance(dft, dict):
            dft["budget"] = budget
    return resolve_paths(check(Campaign, content, str(path)), path.parent)


def load_cluster(path: Path | None) -> Cluster:
    """Read a cluster file; without one, this machine with a worker a core.

    Raises:
        CampaignError: With the file, the key, what was found and what to do.
    """
    if path is None:
        return Cluster()
    return check(Cluster, read_yaml(path), str(path))


def campaign_schema() -> str:
    """Write the JSON schema of a campaign file, for editors and for `configs/campaign.schema.json`."""
    return _schema(Campaign)


def cluster_schema() -> str:
    """Write the JSON schema of a cluster file, for editors and for `configs/cluster.schema.json`."""
    return _schema(Cluster)


def _schema(model: type[BaseModel]) -> str:
    import json

    schema = model.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        for field in section["properties"].values():
            field.pop("position", None)  # of a form
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"

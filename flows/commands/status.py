"""`assay status`: progress, failures and missing results of a ledger's campaigns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.output.unread import unread_lines
from flows.run import process

if TYPE_CHECKING:
    from materials.store.ledger import Ledger


def status(ledger: Ledger, campaign: str | None, style: str) -> str:
    """Describe one campaign, or all of them, as text or JSON.

    Raises:
        QueryError: There is no such campaign.
    """
    campaigns = ledger.campaigns()
    if campaign is not None:
        wanted = ledger.find_campaign(campaign)
        campaigns = [c for c in campaigns if c["campaign_id"] == wanted]
    described = [_describe(ledger, c) for c in campaigns]
    if style == "json":
        return json.dumps(described, indent=1)
    return "\n\n".join(_written(d) for d in described) or "No campaign yet: assay run configs/quickstart.yaml"


def _describe(ledger: Ledger, campaign: Mapping[str, Any]) -> dict[str, Any]:
    counts = ledger.status(campaign["campaign_id"])
    runs = campaign["runs"]
    last, alive = _told_of(runs)
    by, state = last["versions"], last["state"]
    dft = campaign["config"].get("dft")
    code = dft.get("code", "") if isinstance(dft, Mapping) else ""
    missing = ledger.missing(campaign["campaign_id"], str(code))
    return {
        "campaign_id": campaign["campaign_id"],
        "name": campaign["name"],
        "created_at": campaign["created_at"],
        "runs": len(runs),
        "last_run": "died" if alive is False else state,
        "alive": alive,
        "host": by.get("host"),
        "process": by.get("process"),
        "budget": last["budget"],
        "missing": {
            "screened": missing["screened"],
            "validated": missing["validated"] + max(0, (last["budget"] or 0) - sum(counts["selected"].values())),
        },
        **counts,
        "unread": [
            {"name": failure.material_id, "error": failure.error, "message": failure.message}
            for failure in ledger.unread(campaign["campaign_id"])
        ],
    }


def _told_of(runs: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], bool | None]:
    """Choose the run that speaks for a campaign, and say whether it lives: the newest that does, else the newest."""
    lives = [_lives(run) for run in runs]
    if not runs:
        return {"state": None, "budget": None, "versions": {}}, None
    number = max((n for n, alive in enumerate(lives) if alive), default=len(runs) - 1)
    return runs[number], lives[number]


def _lives(run: Mapping[str, Any]) -> bool | None:
    by = run["versions"]
    if run["state"] != "running" or not isinstance(by.get("process"), str):
        return None
    return process.lives({**by, "process_started": str(by.get("process_started"))})


def _written(d: Mapping[str, Any]) -> str:
    # Only a replay proposes and screens without a run.
    state = d["last_run"] or ("screened for a replay" if d["proposed"] else "never run")
    if state == "died":
        state = f"died (process {d['process']} is gone; the same command goes on from there)"
    elif state == "running" and d["alive"]:
        state = f"running ({d['host']}, process {d['process']})"
    elif state == "running":  # on another machine, or by a version that did not say where
        place = f", on {d['host']}, process {d['process']}" if d["process"] else ""
        state = f"running, when last heard of{place}"
    lines = [f"{d['campaign_id']}: {state} ({d['runs']} runs, first {d['created_at']})"]
    for title, key in (
        ("proposed", "proposed"),
        ("by the potential", "mlip"),
        ("duplicates", "duplicates"),
        ("selected in round", "selected"),
        ("by DFT", "dft"),
        ("ranked", "ranked"),
        ("failed", "failed"),
    ):
        if d[key]:
            lines.append(f"  {title:18s} " + ", ".join(f"{count} {name}" for name, count in d[key].items()))
    lacking = [f"{count} not yet {stage}" for stage, count in d["missing"].items() if count]
    if d["last_run"] not in (None, "finished"):
        if not d["proposed"]:  # how many there will be is not known before
            lacking.insert(0, "not yet proposed")
        elif not lacking and not d["ranked"]:
            lacking = ["not yet ranked"]
    lines.append(f"  {'missing':18s} " + (", ".join(lacking) or "nothing"))
    if d["unread"]:
        lines.append(f"  {'could not be read':18s} {len(d['unread'])}")
        lines += [f"    {line}" for line in unread_lines([told["message"] for told in d["unread"]])]
    return "\n".join(lines)

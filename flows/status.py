"""The campaigns of a ledger: what is done, what is missing, what failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    proposed = sum(counts["proposed"].values())
    energies = sum(counts["mlip"].values())
    return {
        "campaign_id": campaign["campaign_id"],
        "name": campaign["name"],
        "created_at": campaign["created_at"],
        "runs": len(runs),
        "last_run": runs[-1]["state"] if runs else None,
        "budget": runs[-1]["budget"] if runs else None,
        "missing": {
            "screened": max(0, proposed - energies),
            "validated": max(0, ((runs[-1]["budget"] or 0) if runs else 0) - sum(counts["selected"].values())),
        },
        **counts,
    }


def _written(d: Mapping[str, Any]) -> str:
    # Only a replay proposes and screens without a run.
    state = d["last_run"] or ("screened for a replay" if d["proposed"] else "never run")
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
    lines.append(f"  {'missing':18s} " + (", ".join(lacking) or "nothing"))
    return "\n".join(lines)

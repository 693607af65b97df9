"""Evidence about each candidate from the ledger, and the order of candidates by it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from flows.run.context import Run
from flows.stages.assess import Screened, judged_by_dft
from flows.stages.dft_plan import absurd, collect
from materials.ranking import Evidence, ranked_groups, ranked_rows
from materials.records import Calculation, Failure, Prediction


def gather_evidence(
    run: Run, screened: Screened, scores: dict[str, float], latest: dict[str, dict[str, Prediction]]
) -> Evidence:
    """Put together what the ledger holds."""
    selections = {s.material_id: s for s in run.ledger.selections(run.campaign_id)}
    failures: dict[str, Failure] = {}
    came_back = {m for m, outcome in screened.outcomes.items() if outcome.status == "converged"}
    came_back.update(screened.duplicates)
    for failure in run.ledger.failures(run.campaign_id):
        if failure.stage == "screen" and failure.material_id in came_back:
            continue  # it was tried again
        # A competing phase that DFT failed for is a gap in another's hull, not a failed candidate.
        if failure.stage in ("propose", "screen") or failure.material_id in selections:
            failures[failure.material_id] = failure
    results = collect(run, screened)
    dft: dict[str, Calculation] = {}
    for calculations in results.values():
        dft |= calculations
    refused = absurd(run, screened)  # which an older version may have judged
    dft |= {m: calculation for m, calculation in refused.items() if m in selections}
    return Evidence(
        mlip=screened.outcomes,
        mlip_stability=screened.stabilities,
        dft=dft,
        dft_stability={m: stability for m, stability in judged_by_dft(run, results).items() if m not in refused},
        predictions=latest,
        selections=selections,
        failures=failures,
        targets=run.targets,
        scores=scores,
    )


def best_validated(run: Run, screened: Screened) -> list[str]:
    """List the validated candidates that meet every target, the best first."""
    evidence = gather_evidence(run, screened, {}, {})
    if not evidence.selections:
        return []  # and nothing has to be ranked to know it
    groups = in_order(run, evidence, only=evidence.selections)
    rows = ranked_rows(groups, partial(run.ledger.proposed, run.campaign_id), evidence=evidence)
    return [row.material_id for row in rows if row.status == "validated" and row.meets_targets]


def in_order(run: Run, evidence: Evidence, only: Iterable[str] | None = None) -> list[tuple[str, ...]]:
    """Order the materials of the campaign, or some of them, each with its duplicates."""
    duplicates = run.ledger.equivalences(run.campaign_id)
    roles = run.ledger.roles(run.campaign_id)
    if only is not None:
        kept = {duplicates.get(m, m) for m in only}
        roles = {m: role for m, role in roles.items() if duplicates.get(m, m) in kept}
    return ranked_groups(roles, duplicates=duplicates, evidence=evidence)

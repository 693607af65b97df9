"""Evidence -> the ranked table in the ledger, and the report beside it."""

from __future__ import annotations

from flows import report
from flows.context import Run
from flows.stages.assess import Screened
from flows.stages.choose import Pool, believe, predictions
from flows.stages.validate import collect, plans, relaxed_best
from materials.records import Calculation, Failure, Prediction, RankedCandidate


def publish(run: Run, screened: Screened, pool: Pool) -> int:
    """Rank what is known and publish it; return how many rows that changed.

    The ledger's table is what it was, or the new one: never half of it.
    """
    belief = believe(run, screened, pool)
    scores = dict(zip(pool.material_ids, belief.scores.tolist(), strict=True))
    selections = {s.material_id: s for s in run.ledger.selections(run.campaign_id)}
    latest: dict[str, dict[str, Prediction]] = {}
    for prediction in predictions(pool, belief, 0, []):
        latest.setdefault(prediction.material_id, {})[prediction.target] = prediction
    # Of what was chosen, the prediction that was made before the answer.
    for number in sorted({selection.round for selection in selections.values()}):
        before = run.ledger.predictions(run.campaign_id, number)
        latest |= {m: before[m] for m, s in selections.items() if s.round == number and m in before}
    with run.progress.timed("ranking"):
        rows = rank_rows(run, screened, scores, latest)
    with run.progress.timed("ledger"):
        changed = run.ledger.publish(run.campaign_id, rows)
    with run.progress.timed("report"):
        validations = tuple(plans(run, screened))
        evidence = report.Evidence(
            rows=rows,
            plans=validations,
            relaxed=relaxed_best(run, screened) if run.use_dft else {},
            # Only what the hulls leave out is spoken of by its formula.
            names={p.material_id: p.formula for p in run.ledger.proposed(run.campaign_id)} if validations else {},
        )
        report.write(run, evidence)
    return changed


def rank_rows(
    run: Run, screened: Screened, scores: dict[str, float], latest: dict[str, dict[str, Prediction]]
) -> list[RankedCandidate]:
    """Make the rows of the table from what the ledger holds."""
    from materials.ranking import rank

    selections = {s.material_id: s for s in run.ledger.selections(run.campaign_id)}
    failures: dict[str, Failure] = {}
    for failure in run.ledger.failures(run.campaign_id):
        # A competing phase that DFT failed for is a gap in another's hull, not a failed candidate.
        if failure.stage in ("propose", "screen") or failure.material_id in selections:
            failures[failure.material_id] = failure
    dft: dict[str, Calculation] = {}
    for calculations in collect(run, screened).values():
        dft |= calculations
    return rank(
        run.ledger.proposed(run.campaign_id),
        mlip=screened.calculations,
        mlip_stability=screened.stabilities,
        dft=dft,
        dft_stability=run.ledger.stabilities(run.campaign_id, "dft"),
        predictions=latest,
        selections=selections,
        failures=failures,
        duplicates={**run.ledger.equivalences(run.campaign_id)},
        targets=run.targets,
        scores=scores,
    )


def best_validated(run: Run, screened: Screened) -> list[str]:
    """List the validated candidates that meet every target, the best first."""
    if not run.ledger.selections(run.campaign_id):
        return []  # and nothing has to be ranked to know it
    rows = rank_rows(run, screened, {}, {})
    return [row.material_id for row in rows if row.status == "validated" and row.meets_targets]

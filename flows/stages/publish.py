"""Evidence -> the ranked table in the ledger, and the report beside it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from flows.report import report
from flows.report.ranked_csv import Noted
from flows.run.context import Run
from flows.stages.assess import Screened, judged_by_dft
from flows.stages.choose import Belief, believe
from flows.stages.cost import verdict
from flows.stages.explain import cautions_about, predictions
from flows.stages.pool import Pool
from flows.stages.validate import absurd, collect, plans, relaxed_best
from materials.ranking import Evidence, ranked_groups, ranked_rows
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
    evidence = gather_evidence(run, screened, scores, latest)
    with run.progress.timed("ranking"):
        groups = _groups(run, evidence)
    rows = partial(ranked_rows, groups, partial(run.ledger.proposed, run.campaign_id), evidence=evidence)
    with run.progress.timed("ledger"), Noted.in_folder(rows, report.folder(run)) as noted:
        changed = run.ledger.publish(run.campaign_id, noted)
    with run.progress.timed("report"):
        validations = tuple(plans(run, screened))
        # Only what the hulls leave out is spoken of by its formula.
        spoken_of = {m for plan in validations for m in (*plan.stand_ins, *plan.left_out, plan.material_id)}
        report.write(
            run,
            report.Evidence(
                rows=noted.rows,
                distances=noted.distances,
                plans=validations,
                relaxed=relaxed_best(run, screened) if run.use_dft else {},
                names={p.material_id: p.formula for p in run.ledger.proposed(run.campaign_id, spoken_of)},
                n_answers=min(len(posterior.observed) for posterior in belief.posteriors.values()),
                cautions=_cautions(screened, pool, belief, noted.rows),
                verdict=verdict(run, screened, pool, belief),
            ),
        )
    return changed


def _cautions(screened: Screened, pool: Pool, belief: Belief, rows: Iterable[RankedCandidate]) -> dict[str, list[str]]:
    """Say what speaks against the predictions of the next in line, in the table's order."""
    row_of = pool.row_of()
    asked = [row.material_id for row in rows if row.status == "screened" and row.material_id in row_of]
    asked = asked[: report.TOP]
    return dict(zip(asked, cautions_about(screened, pool, belief, [row_of[m] for m in asked]), strict=True))


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
    groups = _groups(run, evidence, only=evidence.selections)
    rows = ranked_rows(groups, partial(run.ledger.proposed, run.campaign_id), evidence=evidence)
    return [row.material_id for row in rows if row.status == "validated" and row.meets_targets]


def _groups(run: Run, evidence: Evidence, only: Iterable[str] | None = None) -> list[tuple[str, ...]]:
    """Order the materials of the campaign, or some of them, each with its duplicates."""
    duplicates = run.ledger.equivalences(run.campaign_id)
    roles = run.ledger.roles(run.campaign_id)
    if only is not None:
        kept = {duplicates.get(m, m) for m in only}
        roles = {m: role for m, role in roles.items() if duplicates.get(m, m) in kept}
    return ranked_groups(roles, duplicates=duplicates, evidence=evidence)

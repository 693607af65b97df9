"""Publish the ranked table in the ledger, and the report beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial

from flows.report import report
from flows.report.ranked_csv import Noted
from flows.run.context import Run
from flows.stages.assess import Screened
from flows.stages.cost import verdict
from flows.stages.dft_plan import plans
from flows.stages.explain import cautions_about, predictions
from flows.stages.pool import Pool
from flows.stages.predict import Belief, believe
from flows.stages.rank import gather_evidence, in_order
from flows.stages.validate import relaxed_best
from materials.errors import NoResult
from materials.ranking import ranked_rows
from materials.records import Prediction, RankedCandidate


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
        groups = in_order(run, evidence)
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


def require_result(run: Run) -> None:
    """End a campaign whose rows have all failed as one that failed.

    Raises:
        NoResult: Each candidate failed before it was ranked, or each that was selected failed in DFT.
    """
    rows = run.ledger.status(run.campaign_id)["ranked"]
    selected = run.ledger.selections(run.campaign_id) if run.use_dft else []
    if set(rows) == {"failed"}:
        lacking = f"none of {_candidates(rows['failed'])} has a result"
        failures = run.ledger.failures(run.campaign_id)
    elif selected and not rows.get("validated"):
        lacking = f"none of {_candidates(len(selected))} selected for DFT has a result of it"
        failures = run.ledger.failures(run.campaign_id, "dft")
    else:
        return
    reasons = Counter(failure.error for failure in {failure.material_id: failure for failure in failures}.values())
    counted = ", ".join(f"{count} {error}" for error, count in reasons.most_common())
    first = f"; the first: {failures[0].material_id}: {failures[0].message}" if failures else ""
    raise NoResult(
        f"The campaign ended, and {lacking}{f' ({counted})' if counted else ''}{first}. `assay table"
        f" {run.campaign.name}` lists them, `assay show MATERIAL_ID` explains each. Once the cause is mended,"
        " `assay run --retry failed` tries them again"
    )


def _candidates(count: int) -> str:
    return f"{count} candidate{'' if count == 1 else 's'}"


def _cautions(screened: Screened, pool: Pool, belief: Belief, rows: Iterable[RankedCandidate]) -> dict[str, list[str]]:
    """Say what speaks against the predictions of the next in line, in the table's order."""
    row_of = pool.row_of()
    asked = [row.material_id for row in rows if row.status == "screened" and row.material_id in row_of]
    asked = asked[: report.TOP]
    return dict(zip(asked, cautions_about(screened, pool, belief, [row_of[m] for m in asked]), strict=True))

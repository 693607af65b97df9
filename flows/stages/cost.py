"""Cost of the next DFT batch, and whether the hits that it can bring are worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flows.run.context import Run
from flows.stages.assess import Screened
from flows.stages.dft_plan import answers, jobs_of, plan_of, plans
from materials.records import Selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flows.dft.calculation import Job
    from flows.stages.pool import Pool
    from flows.stages.predict import Belief
    from models.learning.batch_selection import Pick
    from models.learning.dft_cost import Bill, CostModel
    from models.learning.stopping import Outlook


def cost_model(run: Run, screened: Screened) -> CostModel:
    """Give the law that prices calculations: the one that ships, and so the same for each ledger, machine and load;
    where the campaign asks for it, one that is fitted to the times that were measured."""
    from models.learning.dft_cost import law_of, learn_cost

    law = law_of(run.campaign.dft.code)
    if run.campaign.learning.cost != "measured_time":
        return law
    jobs = {job.calculation_id: job for plan in plans(run, screened) for job in jobs_of(run, screened, plan)}
    found = answers(run, list(jobs.values()))
    ended = {key: calculation for key, calculation in found.items() if calculation.status == "converged"}
    # The ledger has their wall times; the cores are those that the cluster file gives a calculation now.
    return learn_cost(
        [_work(screened, jobs[key]) for key in sorted(ended)],
        [ended[key].wall_time_s * run.cluster.dft.cores for key in sorted(ended)],
        law,
    )


def bill_of(run: Run, screened: Screened, model: CostModel, material_ids: Sequence[str]) -> Bill:
    """Price what some candidates need, each calculation once.

    What the ledger has is paid, whatever became of it: what this machine would try again, another may not.
    """
    from models.learning.dft_cost import open_bill

    needed = [jobs_of(run, screened, plan_of(run, screened, material_id)) for material_id in material_ids]
    jobs = {job.calculation_id: job for each in needed for job in each}
    paid = set(answers(run, list(jobs.values())))
    asked = {key: column for column, key in enumerate(jobs)}
    prices = np.zeros(len(jobs))
    unpaid = [key for key in jobs if key not in paid]
    prices[[asked[key] for key in unpaid]] = model.expect([_work(screened, jobs[key]) for key in unpaid])
    needs = np.zeros((len(needed), len(jobs)), dtype=bool)
    for row, each in enumerate(needed):
        needs[row, [asked[job.calculation_id] for job in each]] = True
    return open_bill(needs, prices)


def _work(screened: Screened, job: Job) -> tuple[float, ...]:
    from models.learning.dft_cost import features_of

    if job.calculation_id not in screened.work:
        screened.work[job.calculation_id] = features_of(job.structure, job.settings)
    return screened.work[job.calculation_id]


def pick_batch(
    run: Run,
    screened: Screened,
    pool: Pool,
    belief: Belief,
    *,
    available: NDArray[np.bool_],
    size: int,
    round_number: int,
    audits: bool = True,
) -> list[Pick]:
    """Pick the batch of a round, by what it costs if the campaign says so; with or without the audits that are due."""
    from models.learning.batch_selection import audits_due, select_batch

    learning = run.campaign.learning
    before = len(run.ledger.selections(run.campaign_id))
    bill = None
    if learning.cost != "candidates":
        bill = partial(_bill_of_rows, run, screened, pool, cost_model(run, screened))
    return select_batch(
        features=pool.features,
        posteriors=belief.wished.posteriors,
        targets=run.targets,
        known=belief.wished.known,
        available=available,
        size=size,
        seed=learning.seed,
        round=round_number,
        groups=pool.groups,
        n_audits=audits_due(before, size, learning.audits) if audits else 0,
        rule=learning.acquisition,
        bill_of=bill,
    )


def _bill_of_rows(run: Run, screened: Screened, pool: Pool, model: CostModel, rows: NDArray[np.int64]) -> Bill:
    return bill_of(run, screened, model, [pool.material_ids[row] for row in rows])


def look_further(run: Run, screened: Screened, pool: Pool, belief: Belief, size: int) -> Outlook:
    """Forecast the hits of the next batch and its cost: once for the same DFT results and selections.

    A round that was published is followed by one that is chosen, which needs the same forecast.
    """
    chosen = run.ledger.selections(run.campaign_id)
    taken = frozenset(selection.material_id for selection in chosen)
    if (taken, size) not in belief.outlooks:
        belief.outlooks[taken, size] = _forecast(run, screened, pool, belief, size, chosen)
    return belief.outlooks[taken, size]


def _forecast(
    run: Run, screened: Screened, pool: Pool, belief: Belief, size: int, chosen: Sequence[Selection]
) -> Outlook:
    from models.learning.stopping import look_ahead

    taken = {selection.material_id for selection in chosen}
    available = np.array([material_id not in taken for material_id in pool.material_ids], dtype=bool)
    rows = None
    if run.campaign.learning.cost != "candidates":
        # Without audits: a batch of little else says nothing of what is left.
        round_number = 1 + max((selection.round for selection in chosen), default=0)
        picks = pick_batch(
            run, screened, pool, belief, available=available, size=size, round_number=round_number, audits=False
        )
        rows = np.array([pick.index for pick in picks], dtype=np.int64)
    outlook = look_ahead(
        posteriors=belief.wished.posteriors,
        targets=run.targets,
        known=belief.wished.known,
        available=available,
        batch=size,
        rows=rows,
    )
    bill = _bill_of_rows(run, screened, pool, cost_model(run, screened), outlook.rows)
    return replace(outlook, cost_s=float(bill.prices.sum()))


def reason_to_stop(run: Run, outlook: Outlook) -> str | None:
    """Say why going on is not worth it, or None."""
    from models.learning.stopping import stop_rule

    learning = run.campaign.learning
    most = learning.stop_cpu_hours_per_hit
    return stop_rule(
        outlook,
        least_answers=learning.stop_after,
        least_odds=learning.stop_odds,
        least_hits=learning.stop_hits,
        most_s_per_hit=None if most is None else 3600 * most,
    )


def verdict(run: Run, screened: Screened, pool: Pool, belief: Belief) -> str:
    """Say for the report whether going on is worth it, with the numbers; nothing before DFT was asked anything."""
    if not run.use_dft or not run.ledger.selections(run.campaign_id):
        return ""
    outlook = look_further(run, screened, pool, belief, run.campaign.learning.batch)
    reason = reason_to_stop(run, outlook)
    return f"going on: {outlook.batch}; {outlook.rest}" if reason is None else f"not worth going on: {reason}"

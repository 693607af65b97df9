"""Select the next DFT batch, or explain why the campaign should stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flows.run.context import Run
from flows.stages.assess import Screened
from flows.stages.cost import look_further, pick_batch, reason_to_stop
from flows.stages.dft_plan import first_needed
from flows.stages.explain import hardly_believed, predictions, reasons
from flows.stages.pool import Pool
from flows.stages.predict import Belief, believe, score_by_potential
from materials.records import Selection
from materials.selection_reasons import pick_line

if TYPE_CHECKING:
    from models.learning.batch_selection import Pick


def choose(run: Run, screened: Screened, pool: Pool, round_number: int) -> list[Selection]:
    """Choose the batch of a round, or read it where it was chosen before; an empty one ends the campaign.

    The picks of a round are in the ledger before any of them is computed, so that a killed campaign goes on with them.
    """
    chosen = run.ledger.selections(run.campaign_id)
    if earlier := [s for s in chosen if s.round == round_number]:
        run.progress.say(f"Round {round_number}: selected before: {', '.join(s.material_id for s in earlier)}")
        return earlier
    size = min(run.campaign.learning.batch, run.campaign.dft.budget - len(chosen))
    if size <= 0:
        return []
    if not pool.material_ids:
        within = run.campaign.learning.within
        run.progress.say(f"No candidate within {within} eV/atom of the potential's hull: nothing to validate")
        return []
    belief = believe(run, screened, pool)
    for line in hardly_believed(pool, belief):
        run.progress.say(line)
    with run.progress.timed("learning"):
        taken = {s.material_id for s in chosen}
        available = np.array([material_id not in taken for material_id in pool.material_ids])
        outlook = look_further(run, screened, pool, belief, size)
        if reason := reason_to_stop(run, outlook):
            run.progress.say(f"Stopping before the budget is spent: {reason}")
            return []
        found = f"{outlook.batch}; {outlook.rest}" if outlook.n_answers else "no DFT result to learn from yet"
        run.progress.say(f"Round {round_number}: {found}")
        picks = pick_batch(run, screened, pool, belief, available=available, size=size, round_number=round_number)
        selections = _selections(run, pool, picks, round_number)
        rows = [pick.index for pick in picks]
        selections = _explained(run, screened, pool, belief, selections, rows)
        believed = predictions(pool, belief, round_number, rows)
    with run.progress.timed("ledger"):
        run.ledger.add_predictions(run.campaign_id, believed)
        run.ledger.add_selections(run.campaign_id, selections)
    for selection in selections:
        run.progress.say(pick_line(selection, [p for p in believed if p.material_id == selection.material_id]))
    return selections


def _explained(
    run: Run, screened: Screened, pool: Pool, belief: Belief, selections: Sequence[Selection], rows: list[int]
) -> list[Selection]:
    """Note with each selection why it was made, and which calculations it is the first to need."""
    why = reasons(screened, pool, belief, score_by_potential(run, pool), rows)
    needed = first_needed(run, screened, [s.material_id for s in selections])
    return [replace(s, why=w | {"calculations": n}) for s, w, n in zip(selections, why, needed, strict=True)]


def _selections(run: Run, pool: Pool, picks: Sequence[Pick], round_number: int) -> list[Selection]:
    return [
        Selection(
            material_id=pool.material_ids[pick.index],
            round=round_number,
            acquisition=pick.acquisition,
            score=pick.score,
            rank=rank,
            seed=run.campaign.learning.seed,
        )
        for rank, pick in enumerate(picks, start=1)
    ]

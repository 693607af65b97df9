"""Records of a round before its DFT results: predictions, and why each candidate was selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flows.stages.assess import Screened
from materials.properties import spoken, unit_of
from materials.records import Prediction
from materials.targets import DIGITS

if TYPE_CHECKING:
    from flows.stages.pool import Pool
    from flows.stages.predict import Belief

MOST_PREDICTIONS = 5_000  # kept of a round: the likeliest ones; a million rows a round would tell nobody more
NEIGHBOURS = 3  # of a pick that are told


def predictions(pool: Pool, belief: Belief, round_number: int, always: list[int]) -> list[Prediction]:
    """Write down what is believed of the likeliest candidates, and of those that are chosen."""
    likeliest = np.argsort(-belief.scores, kind="stable")[:MOST_PREDICTIONS]
    rows = np.union1d(likeliest, np.array(always, dtype=np.int64))
    return [
        Prediction(
            material_id=pool.material_ids[row],
            round=round_number,
            target=name,
            mean=float(posterior.mean[row]),
            std=float(posterior.std[row]),
            surrogate_version=posterior.version,
        )
        for name, posterior in belief.posteriors.items()
        for row in rows
    ]


def reasons(
    screened: Screened, pool: Pool, belief: Belief, by_potential: NDArray[np.float64], rows: Sequence[int]
) -> list[dict[str, Any]]:
    """Say what is known of picks before DFT answers, as `Selection.why` has it; `calculations` are not among it.

    Args:
        screened: What the potential says.
        pool: Its candidates.
        belief: What is expected of them.
        by_potential: How good each is by the potential alone, shape (n,), more is better.
        rows: Of the pool: the picks.
    """
    from models.learning.applicability_domain import nearest_answered
    from models.learning.batch_selection import rank_of

    picked = np.array(rows, dtype=np.int64)
    known = {name: belief.known[name] for name in belief.posteriors}
    nearest = nearest_answered(pool.features, picked, _answered(belief), NEIGHBOURS)
    return [
        {
            "odds": round(float(belief.scores[row]), 6),
            "rank_by_potential": int(rank),
            "of": len(pool.material_ids),
            "neighbours": [
                {"material_id": pool.material_ids[i], "distance": distance, "answers": _answers(known, i)}
                for i, distance in near
            ],
            "cautions": words,
            "answered": sorted(_answers(known, row)),
        }
        for row, rank, near, words in zip(
            rows, rank_of(by_potential, picked), nearest, cautions_about(screened, pool, belief, picked), strict=True
        )
    ]


def cautions_about(
    screened: Screened, pool: Pool, belief: Belief, rows: NDArray[np.int64] | Sequence[int]
) -> list[list[str]]:
    """Say in words why what is predicted of some candidates should not be trusted."""
    from models.learning.applicability_domain import cautions

    asked = np.asarray(rows, dtype=np.int64)
    return cautions(
        asked,
        features=pool.features,
        elements={int(i): screened.elements(pool.material_ids[i]) for i in {*asked, *_answered(belief)}},
        posteriors=belief.posteriors,
        priors=pool.priors,
        known=belief.known,
    )


def hardly_believed(pool: Pool, belief: Belief) -> list[str]:
    """Point out answers that are far off what all others say of them."""
    return [
        f"Check the calculation of {pool.material_ids[row]}: its {spoken(name)} of {belief.known[name][row]:.3f}"
        f" {unit_of(name)} is far off what all others say of it, and is hardly believed"
        for name, posterior in belief.posteriors.items()
        for row in posterior.suspicious
    ]


def _answered(belief: Belief) -> NDArray[np.int64]:
    return np.flatnonzero(np.any([np.isfinite(belief.known[name]) for name in belief.posteriors], axis=0))


def _answers(known: Mapping[str, NDArray[np.float64]], row: int) -> dict[str, float]:
    return {name: round(float(values[row]), DIGITS) for name, values in known.items() if np.isfinite(values[row])}

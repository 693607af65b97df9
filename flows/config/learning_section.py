"""The section `learning` of a campaign file: how the next candidates for DFT are chosen, and when to stop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flows.config.section import Section


class Learning(Section):
    """How the next candidates for DFT are chosen."""

    batch: int = Field(default=3, ge=1, le=1000, title="Batch", description="Candidates a round.")
    within: float = Field(
        default=0.2,
        ge=0,
        title="Consider within (eV/atom)",
        description="Candidates further above the potential's hull are not considered.",
    )
    audits: float = Field(
        default=0.1,
        ge=0,
        le=1,
        title="Audits",
        description="Share of all picks drawn at random, to calibrate by and to tell what chance finds.",
    )
    acquisition: Literal["best_odds", "expected_improvement", "lower_confidence_bound"] = Field(
        default="lower_confidence_bound",
        title="Acquisition",
        description="Of a single target that only orders. best_odds: of being among the best 1 % of the pool. Near a "
        "value, a bound has no meaning: the expected improvement is taken.",
    )
    cost: Literal["candidates", "time", "measured_time"] = Field(
        default="candidates",
        title="Cost",
        description="What a pick counts. candidates: each one. time: the CPU time expected of its calculation and of "
        "the competing phases that nobody has paid yet, estimated from atoms, electrons, k-points and cut-off; the "
        "next pick is the one with the largest value for it. measured_time: the same, learned from the times that were "
        "measured, so that another machine may pick others.",
    )
    stop_odds: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        title="Stop at odds",
        description="Targets that only order: stop when the odds that anything left beats the best fall below this.",
    )
    stop_hits: float = Field(
        default=0.05,
        ge=0,
        title="Stop at hits",
        description="Targets that can be met: stop when the next batch can expect fewer hits than this.",
    )
    stop_cpu_hours_per_hit: float | None = Field(
        default=None,
        gt=0,
        title="Stop at CPU hours a hit",
        description="Stop when the next batch is expected to take more for each hit that it can expect. "
        "Empty: whatever it takes.",
    )
    stop_after: int = Field(
        default=40, ge=1, title="Stop not before", description="Answers to wait for before the stop rule is asked."
    )
    seed: int = Field(default=0, ge=0, title="Seed")

"""Ways to choose what DFT is asked, to be compared in a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.learning.objectives import Rule


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to choose.

    Attributes:
        title: For a person.
        features: Which ones the surrogate sees; None: nothing is learned.
        prior: Whether the surrogate starts from what the potential says; without features: the value to rank by.
        rule: The acquisition for a single target that only orders.
        audits: Whether a share of the picks is random.
        within: Rows further above the potential's hull (eV/atom), or without a value of it, are not asked for; None:
            all may be.
    """

    title: str
    features: str | None = None
    prior: str | None = None
    rule: Rule = "lower_confidence_bound"
    audits: bool = False
    within: float | None = None

    @property
    def determined(self) -> bool:
        """Whether no seed changes what it asks for: it ranks by the potential."""
        return self.features is None and self.prior is not None


STRATEGIES: Mapping[str, Strategy] = {
    "campaign": Strategy(title="as a campaign chooses", features="all", prior="all", audits=True),
    "random": Strategy(title="at random"),
    "potential": Strategy(
        title="by the potential's formation energy from the elements", prior="formation_energy_per_atom"
    ),
    "hull": Strategy(
        title="by the potential's energy against the competing phases", prior="decomposition_energy_per_atom"
    ),
    "composition": Strategy(
        title="learned from the composition alone, expected improvement",
        features="composition",
        rule="expected_improvement",
    ),
    "no_potential": Strategy(title="as a campaign, without the potential's energy", features="all", audits=True),
    "expected_improvement": Strategy(
        title="as a campaign, by expected improvement",
        features="all",
        prior="all",
        rule="expected_improvement",
        audits=True,
    ),
    "best_odds": Strategy(
        title="as a campaign, by the odds of being among the best 1 %",
        features="all",
        prior="all",
        rule="best_odds",
        audits=True,
    ),
}

"""Version 3: reasons of each selection, and the Pareto front of the validated."""

import sqlalchemy as sa
from alembic.operations import Operations

COLUMNS = (
    "material_id", "rank", "formula", "chemsys", "n_sites", "parents", "status", "fidelity", "level_of_theory",
    "energy_above_hull", "decomposition_energy_per_atom", "formation_energy_per_atom", "band_gap", "score",
    "meets_targets", "energy_above_hull_mlip", "decomposition_energy_mlip", "formation_energy_mlip",
    "predicted_decomposition_energy", "predicted_decomposition_energy_std", "predicted_band_gap",
    "predicted_band_gap_std", "predicted", "round", "acquisition", "volume_per_atom", "known_as", "message",
    "pareto_front",
)  # fmt: skip


def upgrade(op: Operations) -> None:
    """Bring a ledger of version 2 to version 3; of older selections nothing is known but their score."""
    op.add_column("selections", sa.Column("why", sa.JSON, nullable=False, server_default="{}"))
    op.execute("DROP VIEW ranked_candidates")
    op.add_column("rankings", sa.Column("pareto_front", sa.Boolean, nullable=True))
    columns = ", ".join(f'rankings."{name}"' for name in COLUMNS)
    op.execute(
        f"CREATE VIEW ranked_candidates AS SELECT campaigns.name AS campaign, rankings.campaign_id, {columns} "
        "FROM rankings JOIN campaigns ON campaigns.campaign_id = rankings.campaign_id"
    )

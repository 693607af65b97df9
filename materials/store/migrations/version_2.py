"""Version 2: indexes for a table of a million candidates, and row counts by chemical system."""

import sqlalchemy as sa
from alembic.operations import Operations

OLD = ("rank", "score", "energy_above_hull", "decomposition_energy", "band_gap")
SPARSE = (
    "meets_targets",
    "energy_above_hull",
    "decomposition_energy_per_atom",
    "formation_energy_per_atom",
    "band_gap",
    "predicted_decomposition_energy",
    "predicted_band_gap",
)


def upgrade(op: Operations) -> None:
    """Bring a ledger of version 1 to version 2."""
    for name in OLD:
        op.drop_index(f"rankings_by_{name}", "rankings")
    op.create_index("rankings_by_rank", "rankings", ["campaign_id", "rank"])
    op.create_index("rankings_by_status", "rankings", ["campaign_id", "status", "rank"])
    op.create_index("rankings_by_chemsys", "rankings", ["campaign_id", "chemsys"])
    op.create_index("rankings_by_formula", "rankings", ["campaign_id", "formula", "rank"])
    _sparse(op, "score", sa.text("score DESC"))
    for name in SPARSE:
        _sparse(op, name, sa.text(name))
    op.create_table(
        "systems",
        sa.Column("campaign_id", sa.Text, sa.ForeignKey("campaigns.campaign_id"), primary_key=True),
        sa.Column("chemsys", sa.Text, primary_key=True),
        sa.Column("n_rows", sa.Integer, nullable=False),
    )
    op.execute(
        "INSERT INTO systems (campaign_id, chemsys, n_rows)"
        " SELECT campaign_id, chemsys, count(*) FROM rankings GROUP BY campaign_id, chemsys"
    )
    op.execute("ANALYZE rankings")


def _sparse(op: Operations, name: str, column: sa.TextClause) -> None:
    there = sa.text(f"{name} IS NOT NULL")
    columns: list[str | sa.TextClause] = ["campaign_id", column, "rank"]
    op.create_index(f"rankings_by_{name}", "rankings", columns, sqlite_where=there, postgresql_where=there)

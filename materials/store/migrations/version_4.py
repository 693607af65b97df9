"""Version 4: decomposition energies against other compositions; magnetic order and moment from DFT."""

import sqlalchemy as sa
from alembic.operations import Operations

from materials.store.migrations.decomposition_energies import work_out_again
from materials.store.migrations.version_3 import COLUMNS

ADDED = ("magnetic_order", "total_magnetization_per_formula_unit")


def upgrade(op: Operations) -> str:
    """Bring a ledger of version 3 to version 4; say what became of its numbers.

    Orders and moments are empty until the rows are published again.
    """
    op.execute("DROP VIEW ranked_candidates")
    op.add_column("rankings", sa.Column("magnetic_order", sa.Text, nullable=True))
    op.add_column("rankings", sa.Column("total_magnetization_per_formula_unit", sa.Float(precision=53), nullable=True))
    columns = ", ".join(f'rankings."{name}"' for name in (*COLUMNS, *ADDED))
    op.execute(
        f"CREATE VIEW ranked_candidates AS SELECT campaigns.name AS campaign, rankings.campaign_id, {columns} "
        "FROM rankings JOIN campaigns ON campaigns.campaign_id = rankings.campaign_id"
    )
    return work_out_again(op.get_bind())

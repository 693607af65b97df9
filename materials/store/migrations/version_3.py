"""Why each candidate was selected, as it was known then."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Bring a ledger of version 2 to version 3; of older selections nothing is known but their score."""
    op.add_column("selections", sa.Column("why", sa.JSON, nullable=False, server_default="{}"))

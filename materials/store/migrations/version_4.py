"""Decomposition energies against phases of other compositions."""

from alembic.operations import Operations

from materials.store.migrations.decomposition_energies import work_out_again


def upgrade(op: Operations) -> str:
    """Bring a ledger of version 3 to version 4; say what became of its numbers."""
    return work_out_again(op.get_bind())

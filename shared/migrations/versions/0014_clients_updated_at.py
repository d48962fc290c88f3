"""An index of clients by their last change, for callers that fetch what has changed.

Revision ID: 0014
Revises: 0013
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Clients may be many: writing goes on meanwhile. An interrupted build leaves an invalid index.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS clients_updated_at")
        op.execute("CREATE INDEX CONCURRENTLY clients_updated_at ON clients (updated_at)")


def downgrade() -> None:
    op.execute("DROP INDEX clients_updated_at")

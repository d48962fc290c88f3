"""Versions of clients and mailings, which each edit increments.

Revision ID: 0013
Revises: 0012
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A constant default: no row is rewritten. Old code inserts and changes rows without it.
    op.execute("ALTER TABLE clients ADD COLUMN version INTEGER DEFAULT 1 NOT NULL")
    op.execute("ALTER TABLE mailings ADD COLUMN version INTEGER DEFAULT 1 NOT NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE mailings DROP COLUMN version")
    op.execute("ALTER TABLE clients DROP COLUMN version")

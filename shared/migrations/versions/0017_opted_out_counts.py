"""Counts of recipients who have opted out, which are a part of the cancelled ones.

Mailings that were settled before have 0: their opted-out recipients are counted as cancelled only.

Revision ID: 0017
Revises: 0016
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A constant default: no row is rewritten. Old code writes rows without it.
    op.execute("ALTER TABLE mailings ADD COLUMN cancelled_opted_out BIGINT DEFAULT 0 NOT NULL")
    op.execute("ALTER TABLE batches ADD COLUMN cancelled_opted_out INTEGER DEFAULT 0 NOT NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE batches DROP COLUMN cancelled_opted_out")
    op.execute("ALTER TABLE mailings DROP COLUMN cancelled_opted_out")

"""An index for the totals of settled mailings, which each scrape of the metrics reads.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE INDEX mailings_settled ON mailings (status)
            INCLUDE (deleted_at, sent, failed, expired, cancelled) WHERE settled
        """
    )


def downgrade() -> None:
    op.execute("DROP INDEX mailings_settled")

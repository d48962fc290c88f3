"""Counts by minute of recipients who have opted out, which are a part of the cancelled ones.

What was counted before, and what workers of an older version count, is 0: cancelled only.

Revision ID: 0024
Revises: 0023
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


SUMS = "deleted_at, sent, failed, expired, cancelled, sent_segments, in_doubt_segments"


def upgrade() -> None:
    # A constant default: no row is rewritten. Old code writes rows without it.
    op.execute("ALTER TABLE minutes ADD COLUMN IF NOT EXISTS opted_out INTEGER DEFAULT 0 NOT NULL")
    # Mailings may be many: writing goes on meanwhile. An interrupted build leaves an invalid index.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS mailings_settled_new")
        op.execute(
            "CREATE INDEX CONCURRENTLY mailings_settled_new ON mailings (status)"
            f" INCLUDE ({SUMS}, cancelled_opted_out) WHERE settled"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS mailings_settled")
        op.execute("ALTER INDEX mailings_settled_new RENAME TO mailings_settled")


def downgrade() -> None:
    op.execute(
        f"""
        DROP INDEX mailings_settled;
        CREATE INDEX mailings_settled ON mailings (status) INCLUDE ({SUMS}) WHERE settled;
        ALTER TABLE minutes DROP COLUMN opted_out
        """
    )

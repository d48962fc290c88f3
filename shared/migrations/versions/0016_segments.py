"""Count the SMS segments of what was sent and of what is in doubt.

Revision ID: 0016
Revises: 0015
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Constant defaults: no row is rewritten, and old code need not know the columns.
    op.execute(
        """
        ALTER TABLE mailings
            ADD COLUMN sent_segments BIGINT DEFAULT 0 NOT NULL,
            ADD COLUMN in_doubt_segments BIGINT DEFAULT 0 NOT NULL;
        ALTER TABLE batches
            ADD COLUMN sent_segments INTEGER DEFAULT 0 NOT NULL,
            ADD COLUMN in_doubt_segments INTEGER DEFAULT 0 NOT NULL;
        ALTER TABLE messages ADD COLUMN segments SMALLINT;
        ALTER TABLE minutes
            ADD COLUMN sent_segments INTEGER DEFAULT 0 NOT NULL,
            ADD COLUMN in_doubt_segments INTEGER DEFAULT 0 NOT NULL;
        DROP INDEX mailings_settled;
        CREATE INDEX mailings_settled ON mailings (status)
            INCLUDE (deleted_at, sent, failed, expired, cancelled, sent_segments, in_doubt_segments)
            WHERE settled
        """
    )


def downgrade() -> None:
    op.execute(
        """
        DROP INDEX mailings_settled;
        CREATE INDEX mailings_settled ON mailings (status)
            INCLUDE (deleted_at, sent, failed, expired, cancelled) WHERE settled;
        ALTER TABLE minutes DROP COLUMN sent_segments, DROP COLUMN in_doubt_segments;
        ALTER TABLE messages DROP COLUMN segments;
        ALTER TABLE batches DROP COLUMN sent_segments, DROP COLUMN in_doubt_segments;
        ALTER TABLE mailings DROP COLUMN sent_segments, DROP COLUMN in_doubt_segments
        """
    )

"""The brake on refusals: counts of the provider's answers, and of its refusals by reason.

Revision ID: 0018
Revises: 0017
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE mailings ADD COLUMN answer_round INTEGER DEFAULT 0 NOT NULL;
        CREATE TABLE answer_counts (
            mailing_id BIGINT NOT NULL,
            round INTEGER NOT NULL,
            shard SMALLINT NOT NULL,
            slot SMALLINT NOT NULL,
            period BIGINT NOT NULL,
            accepted BIGINT NOT NULL,
            refused BIGINT NOT NULL,
            PRIMARY KEY (mailing_id, round, shard, slot)
        ) WITH (fillfactor = 50);
        CREATE TABLE refusal_counts (
            mailing_id BIGINT NOT NULL,
            shard SMALLINT NOT NULL,
            http_status SMALLINT NOT NULL,
            reason TEXT NOT NULL,
            count BIGINT NOT NULL,
            example TEXT NOT NULL,
            last_at timestamptz NOT NULL,
            PRIMARY KEY (mailing_id, shard, http_status, reason)
        ) WITH (fillfactor = 50);
        """
    )


def downgrade() -> None:
    op.execute(
        """
        DROP TABLE refusal_counts, answer_counts;
        ALTER TABLE mailings DROP COLUMN answer_round;
        """
    )

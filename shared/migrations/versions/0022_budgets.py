"""Budgets: limits in SMS segments, what each day has used up, and what batches have reserved.

Revision ID: 0022
Revises: 0021
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE budgets (
            mailing_id BIGINT NOT NULL,
            day_limit BIGINT,
            month_limit BIGINT,
            timezone TEXT NOT NULL,
            PRIMARY KEY (mailing_id)
        );
        CREATE TABLE budget_days (
            mailing_id BIGINT NOT NULL,
            day DATE NOT NULL,
            shard SMALLINT NOT NULL,
            segments BIGINT NOT NULL,
            PRIMARY KEY (mailing_id, day, shard)
        );
        ALTER TABLE batches ADD COLUMN reserved INTEGER DEFAULT 0 NOT NULL;
        CREATE INDEX batches_reserved ON batches (mailing_id) WHERE reserved > 0
        """
    )


def downgrade() -> None:
    op.execute(
        """
        ALTER TABLE batches DROP COLUMN reserved;
        DROP TABLE budget_days, budgets
        """
    )

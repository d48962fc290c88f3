"""The version of the time zone rules that the due times of waiting batches follow.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE time_zone_rules (
            id BOOLEAN DEFAULT true NOT NULL,
            version TEXT DEFAULT '' NOT NULL,
            applied_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id),
            CONSTRAINT time_zone_rules_single CHECK (id)
        )
        """
    )
    op.execute("INSERT INTO time_zone_rules DEFAULT VALUES")


def downgrade() -> None:
    op.execute("DROP TABLE time_zone_rules")

"""A row that shows whether workers reach PostgreSQL: it decides when leases may be taken over.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE pulse (
            id BOOLEAN DEFAULT true NOT NULL,
            seen_at timestamptz DEFAULT now() NOT NULL,
            back_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id),
            CONSTRAINT pulse_single CHECK (id)
        )
        """
    )
    op.execute("INSERT INTO pulse DEFAULT VALUES")


def downgrade() -> None:
    op.execute("DROP TABLE pulse")

"""Daily reports, and the openings of the circuit breaker that they report.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE daily_reports (
            day DATE NOT NULL,
            status TEXT DEFAULT 'waiting' NOT NULL,
            attempts INTEGER DEFAULT 0 NOT NULL,
            due_at timestamptz DEFAULT now() NOT NULL,
            served TEXT[] DEFAULT '{}' NOT NULL,
            error TEXT,
            sent_at timestamptz,
            PRIMARY KEY (day),
            CONSTRAINT daily_reports_status CHECK (
                status IN ('waiting', 'connecting', 'handing_over', 'sent', 'in_doubt', 'skipped')),
            CONSTRAINT daily_reports_sent CHECK ((status = 'sent') = (sent_at IS NOT NULL))
        );
        CREATE TABLE breaker_openings (
            at timestamptz DEFAULT now() NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (at)
        );
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE daily_reports, breaker_openings")

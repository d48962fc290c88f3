"""The latest import that created or changed a client.

Revision ID: 0019
Revises: 0018
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null and without a default: no row is rewritten. Old code writes rows without it.
    op.execute("ALTER TABLE clients ADD COLUMN last_import_id BIGINT")


def downgrade() -> None:
    op.execute("ALTER TABLE clients DROP COLUMN last_import_id")

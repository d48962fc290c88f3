"""An index of the words in clients' tags and attributes, for the search by parts of them.

Revision ID: 0020
Revises: 0019
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Clients may be many: writing goes on meanwhile. An interrupted build leaves an invalid index.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS clients_words")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY clients_words ON clients USING gin ((
                to_tsvector('simple'::regconfig, COALESCE(tag, ''::text))
                || to_tsvector('simple'::regconfig, attributes)
            ))
            """
        )


def downgrade() -> None:
    op.execute("DROP INDEX clients_words")

"""Who imported which file; what imports replaced, so that the last one can be undone.

Revision ID: 0025
Revises: 0024
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# Old code writes imports without these columns: such imports cannot be undone.
SCHEMA = """
ALTER TABLE imports
    ADD created_by TEXT,
    ADD file_name TEXT DEFAULT '' NOT NULL,
    ADD received_at timestamptz,
    ADD undo_until timestamptz,
    ADD undoable BIGINT DEFAULT 0 NOT NULL,
    ADD first_client_id BIGINT,
    ADD last_client_id BIGINT;
CREATE INDEX imports_undo_until ON imports (id) WHERE undo_until IS NOT NULL;

CREATE TABLE import_changes (
    import_id BIGINT NOT NULL,
    client_id BIGINT NOT NULL,
    version INTEGER NOT NULL,
    operator_code TEXT NOT NULL,
    operator_code_given BOOLEAN NOT NULL,
    tag TEXT NOT NULL,
    timezone TEXT NOT NULL,
    attributes JSONB NOT NULL,
    last_import_id BIGINT,
    PRIMARY KEY (import_id, client_id)
);

CREATE TABLE import_undos (
    import_id BIGINT NOT NULL REFERENCES imports (id) ON DELETE CASCADE,
    requested_by TEXT NOT NULL,
    requested_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    finished_at timestamptz,
    after_client_id BIGINT DEFAULT 0 NOT NULL,
    deleted BIGINT DEFAULT 0 NOT NULL,
    restored BIGINT DEFAULT 0 NOT NULL,
    kept BIGINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (import_id)
);
CREATE INDEX import_undos_open ON import_undos (import_id) WHERE finished_at IS NULL;
"""


def upgrade() -> None:
    op.execute(SCHEMA)


def downgrade() -> None:
    op.execute(
        """
        DROP TABLE import_undos, import_changes;
        ALTER TABLE imports DROP created_by, DROP file_name, DROP received_at, DROP undo_until,
            DROP undoable, DROP first_client_id, DROP last_client_id
        """
    )

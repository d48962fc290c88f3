"""Attributes of clients, and the narrower filters of mailings.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = """
ALTER TABLE clients
    ADD attributes JSONB DEFAULT '{}' NOT NULL,
    DROP CONSTRAINT clients_tombstone,
    ADD CONSTRAINT clients_tombstone CHECK (CASE WHEN deleted_at IS NULL THEN num_nulls(phone, operator_code, tag, timezone) = 0 ELSE num_nonnulls(phone, operator_code, tag, timezone) = 0 AND attributes = '{}' END),
    ADD CONSTRAINT clients_attributes_object CHECK (jsonb_typeof(attributes) = 'object');

ALTER TABLE mailings
    ADD timezones TEXT[] DEFAULT '{}' NOT NULL,
    ADD attributes JSONB DEFAULT '{}' NOT NULL,
    ADD exclude_mailing_ids BIGINT[] DEFAULT '{}' NOT NULL,
    ADD phones BIGINT[] DEFAULT '{}' NOT NULL,
    ADD CONSTRAINT mailings_attributes_object CHECK (jsonb_typeof(attributes) = 'object'),
    ADD CONSTRAINT mailings_exclude_mailing_ids_length CHECK (cardinality(exclude_mailing_ids) <= 20),
    ADD CONSTRAINT mailings_phones_length CHECK (cardinality(phones) <= 10000);

ALTER TABLE imports ADD attribute_columns TEXT[] DEFAULT '{}' NOT NULL;

ALTER TABLE rejected_rows ADD attributes JSONB DEFAULT '{}' NOT NULL;

-- Rows of imports that are under way have no attributes.
DO $$
DECLARE
    waiting text;
BEGIN
    FOR waiting IN SELECT format('import_rows_%s', id) FROM imports LOOP
        EXECUTE format('ALTER TABLE IF EXISTS %I ADD attributes JSONB', waiting);
    END LOOP;
END
$$;

-- Braces meant themselves until now: what is still to be sent stays as it was written.
UPDATE mailing_texts SET text = replace(replace(text, '{', '{{'), '}', '}}') WHERE text ~ '[{}]';
"""


def upgrade() -> None:
    op.execute(SCHEMA)


def downgrade() -> None:
    op.execute(
        """
        ALTER TABLE imports DROP attribute_columns;
        ALTER TABLE rejected_rows DROP attributes;
        ALTER TABLE mailings DROP timezones, DROP attributes, DROP exclude_mailing_ids, DROP phones;
        ALTER TABLE clients
            DROP CONSTRAINT clients_tombstone,
            ADD CONSTRAINT clients_tombstone CHECK (CASE WHEN deleted_at IS NULL THEN num_nulls(phone, operator_code, tag, timezone) = 0 ELSE num_nonnulls(phone, operator_code, tag, timezone) = 0 END),
            DROP attributes;
        """
    )

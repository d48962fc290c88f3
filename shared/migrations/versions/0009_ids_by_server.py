"""Message and batch ids of a server that takes over are beyond those that its predecessor gave.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# A sequence's value is written at once, outside of transactions, and is part of dumps and
# replication, as are the ids themselves: so sequences remember which server has given ids.
# An existing database may be a restored one, so it skips ids, too; an empty one begins at 1.
SERVERS = """
CREATE SEQUENCE message_ids_server MINVALUE -9223372036854775808;

CREATE SEQUENCE batch_ids_server MINVALUE -9223372036854775808;

-- A number for this database since the server's start. The start tells servers apart that have the
-- same system identifier and timeline, such as one that runs on a copy of another one's files.
CREATE FUNCTION server_number() RETURNS bigint LANGUAGE sql AS $$
    SELECT hashtextextended(
        oid::text || ' ' || extract(epoch FROM pg_postmaster_start_time())::text, 0)
    FROM pg_database WHERE datname = current_database()
$$;

SELECT setval('message_ids_server', CASE WHEN is_called THEN 0 ELSE server_number() END)
FROM message_ids;

SELECT setval('batch_ids_server', CASE WHEN is_called THEN 0 ELSE server_number() END)
FROM batch_ids;
"""
# The ids of a server that is new begin at its clock, so that two servers that continue from the
# same backup give different ids. 15 digits, which spreadsheets and JavaScript keep.
TAKE_IDS = """
CREATE OR REPLACE FUNCTION take_ids(numbers regclass, n bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first_id bigint;
    last_server bigint;
BEGIN
    IF n <= 0 THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_lock(numbers::oid::bigint);
    EXECUTE format('SELECT last_value FROM %s_server', numbers) INTO last_server;
    IF last_server <> server_number() THEN
        PERFORM setval(numbers, greatest(nextval(numbers) + 1000000000,
            (extract(epoch FROM clock_timestamp()) * 100000)::bigint));
        PERFORM setval(format('%s_server', numbers), server_number());
    END IF;
    first_id := nextval(numbers);
    PERFORM setval(numbers, first_id + n - 1);
    PERFORM pg_advisory_unlock(numbers::oid::bigint);
    RETURN first_id;
END
$$;
"""
FORMER_TAKE_IDS = """
CREATE OR REPLACE FUNCTION take_ids(numbers regclass, n bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first_id bigint;
BEGIN
    IF n <= 0 THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_lock(numbers::oid::bigint);
    first_id := nextval(numbers);
    PERFORM setval(numbers, first_id + n - 1);
    PERFORM pg_advisory_unlock(numbers::oid::bigint);
    RETURN first_id;
END
$$;
"""


def upgrade() -> None:
    op.execute(SERVERS)
    op.execute(TAKE_IDS)


def downgrade() -> None:
    op.execute(FORMER_TAKE_IDS)
    op.execute(
        """
        DROP FUNCTION server_number();
        DROP SEQUENCE message_ids_server, batch_ids_server;
        """
    )

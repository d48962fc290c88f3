"""Creates the partitions of batches, messages and attempts, by ranges of mailing ids.

A range holds about a week's mailings, so a year has about fifty partitions whatever the traffic,
and retention drops whole partitions. The sweep creates them in advance; launch creates a missing
one. There is no default partition: it would block detaching and creating others.
"""

from psycopg2.extensions import cursor as Cursor

from shared.db.rows import fetch_one_row

MIN_WIDTH = 16

COVERED = (
    "SELECT 1 FROM partition_ranges WHERE %s BETWEEN first_mailing_id AND until_mailing_id - 1"
)
LAST = "SELECT coalesce(max(until_mailing_id), 1) FROM partition_ranges"
WEEK = "SELECT count(*) FROM mailings WHERE created_at > now() - interval '7 days'"

# Attaching locks the parent against other schema changes only; CREATE … PARTITION OF would block
# all reads and writes of it. With the check constraint PostgreSQL need not scan the rows.
CREATE = """
CREATE TABLE {table}_p{first} (LIKE {table} INCLUDING ALL,
    CONSTRAINT range CHECK (mailing_id >= {first} AND mailing_id < {until})) WITH ({storage});
ALTER TABLE {table} ATTACH PARTITION {table}_p{first} FOR VALUES FROM ({first}) TO ({until});
ALTER TABLE {table}_p{first} DROP CONSTRAINT range;
"""

# Nearly every message is updated once, and becomes 8 bytes longer. Pages that are filled up to 46 %
# leave room for that update of all their messages, so that it changes no index. Launch refreshes
# the statistics when it has inserted rows in bulk.
STORAGE = {
    "messages": "fillfactor = 46, autovacuum_vacuum_scale_factor = 0.1",
    "batches": "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1",
    "attempts": "fillfactor = 100",
}


def ensure_partition(cursor: Cursor, mailing_id: int) -> bool:
    """Create the partitions for `mailing_id` unless they exist; return whether it created them.

    Other callers wait until this one commits.
    """
    cursor.execute(COVERED, (mailing_id,))
    if cursor.fetchone():
        return False
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext('partitions'))")
    cursor.execute(COVERED, (mailing_id,))
    if cursor.fetchone():
        return False
    cursor.execute(LAST)
    (first,) = fetch_one_row(cursor)
    cursor.execute(WEEK)
    (week,) = fetch_one_row(cursor)
    until = max(first + max(MIN_WIDTH, week), mailing_id + 1)
    for table, storage in STORAGE.items():
        cursor.execute(CREATE.format(table=table, first=first, until=until, storage=storage))
    cursor.execute(
        "INSERT INTO partition_ranges (first_mailing_id, until_mailing_id) VALUES (%s, %s)",
        (first, until),
    )
    return True

"""Drops what is older than RETENTION_DAYS: whole partitions, whose mailings have all ended.

Mailings' totals are frozen on their rows, so their statistics stay; messages, batches, attempts and
minutes go. Every step may be the last before a crash: the next run finds by their state what is
left, and a range is forgotten only when nothing of it remains.
"""

import structlog
from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import cursor as Cursor

from shared.db.partitions import STORAGE
from worker.runtime.database import Database

log = structlog.get_logger()

# Whoever runs this elsewhere need not be waited for.
LOCK = "SELECT pg_try_advisory_lock(hashtext('retention'))"
UNLOCK = "SELECT pg_advisory_unlock(hashtext('retention'))"
# A range to which mailings may still be added is never old. One that has finished may be tried
# again until its end, so that counts too.
OLD = """
SELECT first_mailing_id, until_mailing_id FROM partition_ranges p
WHERE created_at < now() - %(days)s * interval '1 day'
    AND until_mailing_id <= (SELECT coalesce(max(id), 0) FROM mailings)
    AND NOT EXISTS (
        SELECT 1 FROM mailings
        WHERE id >= p.first_mailing_id AND id < p.until_mailing_id AND NOT (
            settled AND finished_at < now() - %(days)s * interval '1 day'
            AND (status = 'cancelled' OR end_at < now() - %(days)s * interval '1 day')))
ORDER BY 1
"""
# A detachment that was interrupted is pending, and to be finalized.
ATTACHED = """
SELECT inhdetachpending FROM pg_inherits
WHERE inhrelid = to_regclass(%s) AND inhparent = to_regclass(%s)
"""
FORGET = """
DELETE FROM minutes WHERE mailing_id >= %(first)s AND mailing_id < %(until)s;
DELETE FROM id_blocks WHERE mailing_id >= %(first)s AND mailing_id < %(until)s;
DELETE FROM mailing_texts WHERE mailing_id >= %(first)s AND mailing_id < %(until)s;
DELETE FROM mailings
WHERE id >= %(first)s AND id < %(until)s AND deleted_at IS NOT NULL;
DELETE FROM partition_ranges WHERE first_mailing_id = %(first)s;
"""
# A report never looks back as far.
FORGET_OPENINGS = "DELETE FROM breaker_openings WHERE at < now() - interval '1 year'"
FORGET_TESTS = "DELETE FROM test_sends WHERE created_at < now() - interval '1 day'"


def drop_old(db: Database, days: int) -> int:
    """Drop what is to be dropped now; how many ranges of mailings that was."""
    with db.transaction() as cursor:
        cursor.execute(FORGET_TESTS)
        cursor.execute(FORGET_OPENINGS)
        cursor.execute(OLD, {"days": days})
        ranges = cursor.fetchall()
    if not ranges:
        return 0
    try:
        with db.autocommit() as cursor:
            if not _drop_partitions(cursor, [first for first, _ in ranges]):
                return 0
    except LockNotAvailable:
        log.info("retention.postponed")
        return 0
    with db.transaction() as cursor:
        for first, until in ranges:
            cursor.execute(FORGET, {"first": first, "until": until})
    for first, until in ranges:
        log.info("retention.dropped", first_mailing_id=first, until_mailing_id=until)
    return len(ranges)


def _drop_partitions(cursor: Cursor, firsts: list[int]) -> bool:
    """Drop the partitions of the ranges that begin so, unless somebody else is at it."""
    cursor.execute(LOCK)
    if cursor.fetchone() != (True,):
        return False
    # Detaching waits for whoever reads the table. A backup may do so for hours: rather try later.
    cursor.execute("SET lock_timeout = '1s'")
    try:
        for first in firsts:
            for table in STORAGE:
                _drop_partition(cursor, table, first)
    finally:
        cursor.execute("RESET lock_timeout")
        cursor.execute(UNLOCK)
    return True


def _drop_partition(cursor: Cursor, table: str, first: int) -> None:
    """Take a partition off and drop it; readers and writers of the others go on meanwhile."""
    partition = f"{table}_p{first}"
    cursor.execute(ATTACHED, (partition, table))
    attached = cursor.fetchone()
    if attached is not None:
        how = "FINALIZE" if attached[0] else "CONCURRENTLY"
        cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {partition} {how}")
    cursor.execute(f"DROP TABLE IF EXISTS {partition}")

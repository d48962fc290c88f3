"""Drop data older than RETENTION_DAYS: whole partitions whose mailings have all ended.

Mailings' totals are frozen on their rows, so their statistics stay; messages, batches, attempts and
minutes are dropped. A crash may follow any step: the next run finds what is left by its state, and
a range's row is deleted last.
"""

import structlog
from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import cursor as Cursor

from shared.db.partitions import STORAGE
from worker.maintenance.containment import contain_failure
from worker.runtime.database import Database

log = structlog.get_logger()

# If another worker holds the lock, there is nothing to do.
TRY_LOCK = "SELECT pg_try_advisory_lock(hashtext('retention'))"
UNLOCK = "SELECT pg_advisory_unlock(hashtext('retention'))"
# A range to which mailings may still be added is never old. The failed messages of a finished
# mailing may be retried until its end, so its end counts as well.
FIND_OLD_RANGES = """
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
# A detachment that was interrupted is pending and must be finalized.
READ_ATTACHMENT = """
SELECT inhdetachpending FROM pg_inherits
WHERE inhrelid = to_regclass(%s) AND inhparent = to_regclass(%s)
"""
DELETE_RANGE = """
DELETE FROM minutes WHERE mailing_id >= %(first)s AND mailing_id < %(until)s;
DELETE FROM budgets WHERE mailing_id >= %(first)s AND mailing_id < %(until)s;
DELETE FROM budget_days WHERE mailing_id >= %(first)s AND mailing_id < %(until)s;
DELETE FROM answer_counts WHERE mailing_id >= %(first)s AND mailing_id < %(until)s;
DELETE FROM id_blocks WHERE mailing_id >= %(first)s AND mailing_id < %(until)s;
DELETE FROM mailing_texts WHERE mailing_id >= %(first)s AND mailing_id < %(until)s;
DELETE FROM refusal_counts WHERE mailing_id IN (SELECT id FROM mailings
    WHERE id >= %(first)s AND id < %(until)s AND deleted_at IS NOT NULL);
DELETE FROM mailings
WHERE id >= %(first)s AND id < %(until)s AND deleted_at IS NOT NULL;
DELETE FROM partition_ranges WHERE first_mailing_id = %(first)s;
"""
# Reports cover less than a year.
DELETE_OLD_OPENINGS = "DELETE FROM breaker_openings WHERE at < now() - interval '1 year'"
DELETE_OLD_SESSIONS = "DELETE FROM admin_sessions WHERE expires_at < now() - interval '7 days'"
DELETE_OLD_NOTIFICATIONS = """
DELETE FROM notifications WHERE created_at < now() - %(days)s * interval '1 day'
"""
DELETE_OLD_TEST_SENDS = "DELETE FROM test_sends WHERE created_at < now() - interval '1 day'"


def drop_old_data(db: Database, days: int) -> int:
    """Drop what is older than `days`; return the number of dropped ranges of mailings."""
    with db.transaction() as cursor:
        cursor.execute(DELETE_OLD_TEST_SENDS)
        cursor.execute(DELETE_OLD_OPENINGS)
        cursor.execute(DELETE_OLD_SESSIONS)
        cursor.execute(DELETE_OLD_NOTIFICATIONS, {"days": days})
        cursor.execute(FIND_OLD_RANGES, {"days": days})
        ranges = cursor.fetchall()
    if not ranges:
        return 0
    with db.autocommit() as cursor:
        dropped = _drop_partitions(cursor, [first for first, _ in ranges])
    count = 0
    for first, until in ranges:
        if first not in dropped:
            continue
        with contain_failure("retention", first_mailing_id=first):
            with db.transaction() as cursor:
                cursor.execute(DELETE_RANGE, {"first": first, "until": until})
            log.info("retention.dropped", first_mailing_id=first, until_mailing_id=until)
            count += 1
    return count


def _drop_partitions(cursor: Cursor, firsts: list[int]) -> set[int]:
    """Drop the partitions of ranges, given by their first ids; return those that are dropped."""
    dropped: set[int] = set()
    cursor.execute(TRY_LOCK)
    if cursor.fetchone() != (True,):
        return dropped
    # Detaching waits for transactions that read the table; a backup may take hours: try later.
    cursor.execute("SET lock_timeout = '1s'")
    try:
        for first in firsts:
            with contain_failure("retention", first_mailing_id=first):
                try:
                    for table in STORAGE:
                        _drop_partition(cursor, table, first)
                    dropped.add(first)
                except LockNotAvailable:
                    log.info("retention.postponed")
                    break  # the next ranges would probably wait for the same reader
    finally:
        cursor.execute("RESET lock_timeout")
        cursor.execute(UNLOCK)
    return dropped


def _drop_partition(cursor: Cursor, table: str, first: int) -> None:
    """Detach a partition and drop it, without blocking the use of the others."""
    partition = f"{table}_p{first}"
    cursor.execute(READ_ATTACHMENT, (partition, table))
    attached = cursor.fetchone()
    if attached is not None:
        how = "FINALIZE" if attached[0] else "CONCURRENTLY"
        cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {partition} {how}")
    cursor.execute(f"DROP TABLE IF EXISTS {partition}")

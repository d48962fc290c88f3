"""Merges imports, turn by turn, and clears away what old or abandoned ones left.

Which import is to be merged is a state in PostgreSQL: one whose job is lost stands still, and the
sweep finds it.
"""

import time

import structlog
from psycopg2 import InterfaceError, OperationalError

from shared.merging import drop_waiting, fail, merge_chunk
from shared.queues import Queues
from worker.database import Database, DatabaseError

log = structlog.get_logger()

# A merge longer than this gives way to the other jobs of its queue and goes on after them.
TURN_SECONDS = 1.0
# The planner's picture of the clients is refreshed after an import of at least so many.
ANALYZE_ROWS = 10_000
# Refused rows removed by one sweep.
FORGET_ROWS = 10_000

# One that has not moved for a while has lost its job. It is given another, not one by every sweep.
STALLED = """
UPDATE imports SET updated_at = now()
WHERE status = 'running' AND updated_at < now() - interval '5 seconds'
RETURNING id, request_id
"""
ABANDONED = """
DELETE FROM imports
WHERE status = 'receiving' AND updated_at < now() - interval '1 hour' RETURNING id
"""
OLD = """
SELECT id FROM imports
WHERE created_at < now() - interval '30 days' AND status IN ('finished', 'failed')
ORDER BY created_at LIMIT 1
"""
FORGET_REJECTED = """
DELETE FROM rejected_rows WHERE import_id = %s AND line IN (
    SELECT line FROM rejected_rows WHERE import_id = %s ORDER BY line LIMIT %s
)
"""
FORGET = "DELETE FROM imports WHERE id = %s"
# Of a file that was given up no trace is left; its refused rows may be many.
FORGET_ORPHANS = """
DELETE FROM rejected_rows WHERE import_id = ANY (%s)
"""
FAILURE = (
    "The service could not merge the rest of this file. Send it again: the rows that were merged "
    "will be found unchanged."
)


def merge(db: Database, import_id: int) -> bool:
    """Merge for up to TURN_SECONDS; return whether something is left to do.

    Raises DatabaseError when PostgreSQL is away; nothing is lost then.
    """
    started = time.monotonic()
    rows = 0
    try:
        while time.monotonic() - started < TURN_SECONDS:
            with db.transaction() as cursor:
                merged = merge_chunk(cursor, import_id)
            if merged is None:
                _end(db, import_id)
                return False
            rows += merged.rows
            log.info("import.chunk", **merged._asdict())
    except (OperationalError, InterfaceError):
        raise
    except DatabaseError as error:
        # It would fail again. The error's text may quote rows: only its gist is logged.
        log.error(
            "import.failed", error=error.diag.message_primary, error_class=type(error).__name__
        )
        with db.transaction() as cursor:
            fail(cursor, import_id, FAILURE)
        return False
    return True


def sweep(db: Database, queues: Queues) -> None:
    """Set going what stands still; remove what was given up, and imports older than 30 days."""
    with db.transaction() as cursor:
        cursor.execute(STALLED)
        stalled = cursor.fetchall()
        cursor.execute(ABANDONED)
        abandoned = [import_id for (import_id,) in cursor.fetchall()]
        for import_id in abandoned:
            drop_waiting(cursor, import_id)
            log.info("import.abandoned", import_id=import_id)
        if abandoned:
            cursor.execute(FORGET_ORPHANS, (abandoned,))
        cursor.execute(OLD)
        for (import_id,) in cursor.fetchall():
            cursor.execute(FORGET_REJECTED, (import_id, import_id, FORGET_ROWS))
            if cursor.rowcount < FORGET_ROWS:
                cursor.execute(FORGET, (import_id,))
                log.info("import.forgotten", import_id=import_id)
    for import_id, request_id in stalled:
        queues.merge_import(import_id, request_id)


def _end(db: Database, import_id: int) -> None:
    with db.transaction() as cursor:
        cursor.execute(
            "SELECT status, rows_total, created, updated, unchanged, rejected FROM imports"
            " WHERE id = %s AND status = 'finished'",
            (import_id,),
        )
        row = cursor.fetchone()
    if row is None:
        return
    names = ("status", "rows_total", "created", "updated", "unchanged", "rejected")
    log.info("import.finished", **dict(zip(names, row, strict=True)))
    if row[2] + row[3] >= ANALYZE_ROWS:
        with db.autocommit() as cursor:
            cursor.execute("ANALYZE (SKIP_LOCKED) clients")

"""Merges imports, turn by turn, and clears away what old or abandoned ones left.

Which import is to be merged is a state in PostgreSQL: one whose job is lost stands still, and the
sweep finds it.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import structlog
from psycopg2 import InterfaceError, OperationalError

from shared.client_import.merge import drop_waiting_rows, fail_import, merge_chunk
from shared.db.rows import fetch_one_row
from shared.queues import Queues
from worker.runtime.database import Database, DatabaseError

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
OUTCOME = """
SELECT status, rows_total, created, updated, unchanged, rejected FROM imports WHERE id = %s
"""
FAILURE = (
    "The service could not merge the rest of this file. Send it again: the rows that were merged "
    "will be found unchanged."
)


def merge(db: Database, import_id: int, beside: Database | None = None) -> bool:
    """Merge for up to TURN_SECONDS; return whether something is left to do.

    With a second connection `beside`, the two parts of a large import are merged at once. Raises
    DatabaseError when PostgreSQL is away; nothing is lost then.
    """
    try:
        with ThreadPoolExecutor(1) as pool:
            other = None
            if beside is not None and _is_divided(db, import_id):
                other = pool.submit(copy_context().run, _merge, beside, import_id)
            busy = _merge(db, import_id)
            if other is not None:
                busy = other.result() or busy
        # If there was nothing for us while it runs, others are at it.
        return not _ended(db, import_id) and busy
    except (OperationalError, InterfaceError):
        raise
    except DatabaseError as error:
        # It would fail again. The error's text may quote rows: only its gist is logged.
        log.error(
            "import.failed", error=error.diag.message_primary, error_class=type(error).__name__
        )
        with db.transaction() as cursor:
            fail_import(cursor, import_id, FAILURE)
        return False


def sweep(db: Database, queues: Queues) -> None:
    """Set going what stands still; remove what was given up, and imports older than 30 days."""
    with db.transaction() as cursor:
        cursor.execute(STALLED)
        stalled = cursor.fetchall()
        cursor.execute(ABANDONED)
        abandoned = [import_id for (import_id,) in cursor.fetchall()]
        for import_id in abandoned:
            drop_waiting_rows(cursor, import_id)
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


def _merge(db: Database, import_id: int) -> bool:
    """Merge for up to TURN_SECONDS; return whether there was anything to do."""
    started, busy = time.monotonic(), False
    while time.monotonic() - started < TURN_SECONDS:
        with db.transaction() as cursor:
            merged = merge_chunk(cursor, import_id)
        if merged is None:
            break
        busy = True
        if merged.rows:
            log.info("import.chunk", **merged._asdict())
    return busy


def _is_divided(db: Database, import_id: int) -> bool:
    with db.transaction() as cursor:
        cursor.execute("SELECT count(*) > 1 FROM import_parts WHERE import_id = %s", (import_id,))
        return bool(fetch_one_row(cursor)[0])


def _ended(db: Database, import_id: int) -> bool:
    with db.transaction() as cursor:
        cursor.execute(OUTCOME, (import_id,))
        row = cursor.fetchone()
    if row is None or row[0] == "running":
        return row is None
    names = ("status", "rows_total", "created", "updated", "unchanged", "rejected")
    log.info("import.finished", **dict(zip(names, row, strict=True)))
    if row[2] + row[3] >= ANALYZE_ROWS:
        with db.autocommit() as cursor:
            cursor.execute("ANALYZE (SKIP_LOCKED) clients")
    return True

"""Merge imports slice by slice, and delete what old or abandoned imports left.

Whether an import has to be merged is a state in PostgreSQL: if its job is lost, the import stalls
and the sweep finds it.
"""

import time

import structlog

from shared.client_import.merge import drop_waiting_rows, fail_import, merge_chunk
from shared.db.connections import TRANSIENT_ERRORS
from shared.db.rows import fetch_one_row
from shared.queues import Queues
from worker.runtime.database import ConnectionThread, Database, DatabaseError

log = structlog.get_logger()

# A merge longer than this gives way to the other jobs of its queue and continues after them.
SLICE_SECONDS = 1.0
# The planner's statistics of clients are refreshed after an import that changed this many rows.
ANALYZE_ROWS = 10_000
# Rejected rows deleted by one sweep.
MAX_DELETED_ROWS = 10_000

# An import without progress has lost its job. It gets one new job, not one from every sweep.
TOUCH_STALLED = """
UPDATE imports SET updated_at = now()
WHERE status = 'running' AND updated_at < now() - interval '5 seconds'
RETURNING id, request_id
"""
DELETE_ABANDONED = """
DELETE FROM imports
WHERE status = 'receiving' AND updated_at < now() - interval '1 hour' RETURNING id
"""
# An uploaded file waits for an hour for the person's decision.
DELETE_FILES = "DELETE FROM import_files WHERE created_at < now() - interval '1 hour'"
FIND_OLD = """
SELECT id FROM imports
WHERE created_at < now() - interval '30 days' AND status IN ('finished', 'failed')
ORDER BY created_at LIMIT 1
"""
DELETE_REJECTED = """
DELETE FROM rejected_rows WHERE import_id = %s AND line IN (
    SELECT line FROM rejected_rows WHERE import_id = %s ORDER BY line LIMIT %s
)
"""
DELETE_IMPORT = "DELETE FROM imports WHERE id = %s"
DELETE_ORPHANS = "DELETE FROM rejected_rows WHERE import_id = ANY (%s)"
READ_RESULT = """
SELECT status, rows_total, created, updated, unchanged, rejected FROM imports WHERE id = %s
"""


def merge_import_slice(db: Database, import_id: int, second_db: Database | None = None) -> bool:
    """Merge for up to SLICE_SECONDS; return whether something is left to do.

    With `second_db`, the two parts of a large import are merged at once. Raises DatabaseError while
    PostgreSQL is unavailable; nothing is lost then.
    """
    try:
        with ConnectionThread(second_db or db) as thread:
            second = None
            if second_db is not None and _is_divided(db, import_id):
                second = thread.submit(_merge_chunks, import_id)
            busy = _merge_chunks(db, import_id)
            if second is not None:
                busy = second.result() or busy
        # If nothing was left to merge while the import runs, other workers are merging it.
        return not _log_if_ended(db, import_id) and busy
    except TRANSIENT_ERRORS:
        raise
    except DatabaseError as error:
        # A repeat would fail as well. The error's text may quote rows: log only its summary.
        log.error(
            "import.failed", error=error.diag.message_primary, error_class=type(error).__name__
        )
    except Exception as error:
        log.error("import.failed", error_class=type(error).__name__)
    with db.transaction() as cursor:
        fail_import(cursor, import_id)
    return False


def sweep_imports(db: Database, queues: Queues) -> None:
    """Enqueue stalled imports; delete abandoned ones and those older than 30 days."""
    with db.transaction() as cursor:
        cursor.execute(TOUCH_STALLED)
        stalled = cursor.fetchall()
        cursor.execute(DELETE_FILES)
        cursor.execute(DELETE_ABANDONED)
        abandoned = [import_id for (import_id,) in cursor.fetchall()]
        for import_id in abandoned:
            drop_waiting_rows(cursor, import_id)
            log.info("import.abandoned", import_id=import_id)
        if abandoned:
            cursor.execute(DELETE_ORPHANS, (abandoned,))
        cursor.execute(FIND_OLD)
        for (import_id,) in cursor.fetchall():
            cursor.execute(DELETE_REJECTED, (import_id, import_id, MAX_DELETED_ROWS))
            if cursor.rowcount < MAX_DELETED_ROWS:
                cursor.execute(DELETE_IMPORT, (import_id,))
                log.info("import.forgotten", import_id=import_id)
    for import_id, request_id in stalled:
        queues.enqueue_import_merge(import_id, request_id)


def _merge_chunks(db: Database, import_id: int) -> bool:
    """Merge for up to SLICE_SECONDS; return whether there was anything to do."""
    started, busy = time.monotonic(), False
    while time.monotonic() - started < SLICE_SECONDS:
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


def _log_if_ended(db: Database, import_id: int) -> bool:
    """Log the result of an import that has ended; return whether it has."""
    with db.transaction() as cursor:
        cursor.execute(READ_RESULT, (import_id,))
        row = cursor.fetchone()
    if row is None or row[0] == "running":
        return row is None
    names = ("status", "rows_total", "created", "updated", "unchanged", "rejected")
    log.info("import.finished", **dict(zip(names, row, strict=True)))
    if row[2] + row[3] >= ANALYZE_ROWS:
        with db.autocommit() as cursor:
            cursor.execute("ANALYZE (SKIP_LOCKED) clients")
    return True

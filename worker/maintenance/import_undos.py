"""Undo imports slice by slice, and delete earlier values that no undo can need any more.

That an import has to be undone is a state in PostgreSQL: if its job is lost, the undo stalls and
the sweep finds it.
"""

import time

from shared.client_import.undo import SUPERSEDED, undo_chunk
from shared.queues import Queues
from worker.maintenance.imports import ANALYZE_ROWS, SLICE_SECONDS
from worker.runtime.database import Database

# Earlier values deleted by one sweep.
MAX_DELETED_CHANGES = 10_000

TOUCH_STALLED = """
UPDATE import_undos SET updated_at = now()
WHERE finished_at IS NULL AND updated_at < now() - interval '5 seconds' RETURNING import_id
"""
FIND_UNNEEDED = f"""
SELECT id FROM imports i
WHERE undo_until IS NOT NULL AND status IN ('finished', 'failed')
    AND NOT EXISTS (SELECT FROM import_undos WHERE import_id = i.id)
    AND (undo_until < now() OR {SUPERSEDED})
ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608 (SUPERSEDED is a constant)
DELETE_CHANGES = """
DELETE FROM import_changes WHERE import_id = %s AND client_id IN (
    SELECT client_id FROM import_changes WHERE import_id = %s ORDER BY client_id LIMIT %s)
"""
END_UNDO_PERIOD = "UPDATE imports SET undo_until = NULL WHERE id = %s"
READ_CHANGED = """
SELECT deleted + restored FROM import_undos WHERE import_id = %s AND finished_at IS NOT NULL
"""


def undo_import_slice(db: Database, import_id: int) -> bool:
    """Undo for up to SLICE_SECONDS; return whether something is left to do.

    Raises DatabaseError while PostgreSQL is unavailable; nothing is lost then.
    """
    started = time.monotonic()
    while time.monotonic() - started < SLICE_SECONDS:
        with db.transaction() as cursor:
            if undo_chunk(cursor, import_id) is None:
                break
    else:
        return True
    with db.transaction() as cursor:
        cursor.execute(READ_CHANGED, (import_id,))
        row = cursor.fetchone()
    if row is not None and row[0] >= ANALYZE_ROWS:
        with db.autocommit() as cursor:
            cursor.execute("ANALYZE (SKIP_LOCKED) clients")
    return False


def sweep_undos(db: Database, queues: Queues) -> None:
    """Enqueue stalled undos; delete earlier values that are too old or of an earlier import."""
    with db.transaction() as cursor:
        cursor.execute(TOUCH_STALLED)
        stalled = cursor.fetchall()
        cursor.execute(FIND_UNNEEDED)
        for (import_id,) in cursor.fetchall():
            cursor.execute(DELETE_CHANGES, (import_id, import_id, MAX_DELETED_CHANGES))
            if cursor.rowcount < MAX_DELETED_CHANGES:
                cursor.execute(END_UNDO_PERIOD, (import_id,))
    for (import_id,) in stalled:
        queues.enqueue_import_undo(import_id)

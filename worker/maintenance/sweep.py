"""Find, from the state in PostgreSQL, what a lost job or a dead process left undone.

Each sweep checks every mailing that is not settled, all of them in one statement; nothing depends
on when it last ran.
"""

import time

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.db.batch_conditions import DUE, FREE, LAUNCH_DUE, MAY_SEND, OVER_LIMIT
from shared.db.partitions import ensure_partition
from shared.db.pulse import INTERVAL_SECONDS, record_pulse
from shared.db.rows import fetch_one_row
from shared.queues import Queues
from worker.maintenance.containment import contain_failure
from worker.maintenance.erasure import sweep_erasures
from worker.maintenance.import_undos import sweep_undos
from worker.maintenance.imports import sweep_imports
from worker.recording.mailing_state import apply_mailing_state, settle_mailing
from worker.runtime.database import Database

log = structlog.get_logger()

# Time per sweep for bulk changes of one mailing, so that the others get their turn.
MAX_CHANGE_SECONDS = 0.5

# Only the mailings with something to do, so that those that merely wait (for their window, a retry,
# a worker or a person) cost one entry of an index. `retrying` reads a mailing's batches, so it is
# left out unless a retry was requested.
FIND_WORK = f"""
WITH states AS MATERIALIZED (
    SELECT m.id, m.status = 'cancelled' AS cancelled, m.end_at <= now() AS ended,
        m.audience_complete OR ({OVER_LIMIT} AND m.end_at <= now()) AS complete,
        m.status = 'scheduled' AS scheduled,
        m.status IN ('running', 'paused') AND NOT m.audience_complete AND NOT {OVER_LIMIT}
            AND (m.started_at IS NOT NULL OR m.end_at <= now()) AS launching,
        m.retry_version > 0 AND m.status IN ('running', 'paused') AND m.end_at > now()
            AND EXISTS (SELECT 1 FROM batches WHERE mailing_id = m.id
                AND failed > 0 AND retry_version < m.retry_version) AS retrying,
        {MAY_SEND} AND EXISTS (SELECT 1 FROM batches
            WHERE mailing_id = m.id AND {DUE} AND {FREE}) AS due,
        EXISTS (SELECT 1 FROM batches WHERE mailing_id = m.id AND due_at IS NOT NULL) AS open
    FROM mailings m
    WHERE NOT m.settled AND (m.status <> 'scheduled' OR {LAUNCH_DUE})
), work AS MATERIALIZED (
    SELECT id, scheduled, launching, retrying OR (open AND (ended OR cancelled)) AS changing, due,
        NOT open AND (complete OR cancelled) AS idle
    FROM states
)
SELECT id, scheduled, launching, changing, due, changing OR idle AS maybe_settled FROM work
WHERE scheduled OR launching OR changing OR due OR idle
ORDER BY id
"""  # noqa: S608
DELETE_OLD_KEYS = """
DELETE FROM idempotency_keys WHERE (owner, key) IN (
    SELECT owner, key FROM idempotency_keys WHERE created_at < now() - interval '24 hours'
    ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED
)
"""
NEXT_MAILING_ID = "SELECT coalesce(max(id), 0) + 1 FROM mailings"


def sweep_mailings(
    db: Database, queues: Queues, lease_seconds: float, end_margin: float = 0.0
) -> None:
    """Check every unsettled mailing and every import once; enqueue or do what is missing.

    What fails for one mailing is logged, and the others are checked nevertheless. Raises
    DatabaseError while PostgreSQL is unavailable.
    """
    started = pulse_recorded = time.monotonic()
    with db.autocommit() as cursor:
        record_pulse(cursor)
    with db.transaction() as cursor:
        cursor.execute(FIND_WORK, {"lease": lease_seconds, "end_margin": end_margin})
        mailings = cursor.fetchall()
    with contain_failure("partitions"), db.transaction() as cursor:
        _create_next_partitions(cursor)
        cursor.execute(DELETE_OLD_KEYS)
    # One job launches all scheduled mailings that are due, except for the rest of large ones.
    for mailing_id in [mailing_id for mailing_id, scheduled, *_ in mailings if scheduled][:1]:
        queues.enqueue_launch(mailing_id)
    queues.enqueue_launches(mailing_id for mailing_id, _, launching, *_ in mailings if launching)
    # Any due mailing will do: a dispatcher that is woken serves all of them.
    for mailing_id in [mailing_id for mailing_id, _, _, _, due, _ in mailings if due][:1]:
        queues.wake_dispatchers(mailing_id)
    for mailing_id, _, _, changing, due, maybe_settled in mailings:
        if time.monotonic() - pulse_recorded > INTERVAL_SECONDS:  # a long sweep is no outage
            pulse_recorded = time.monotonic()
            with db.autocommit() as cursor:
                record_pulse(cursor)
        with contain_failure("mailing", mailing_id=mailing_id):
            if changing:
                apply_mailing_state(db, mailing_id, lease_seconds, MAX_CHANGE_SECONDS, end_margin)
            if maybe_settled and not due:
                settle_mailing(db, mailing_id)
    with contain_failure("imports"):
        sweep_imports(db, queues)
    with contain_failure("undos of imports"):
        sweep_undos(db, queues)
    with contain_failure("erasures"):
        sweep_erasures(db)
    seconds = time.monotonic() - started
    if seconds > 1:
        log.info("sweep.slow", seconds=round(seconds, 3), mailings=len(mailings))


def _create_next_partitions(cursor: Cursor) -> None:
    """Create the next mailing's partitions before the mailing exists."""
    cursor.execute(NEXT_MAILING_ID)
    (next_id,) = fetch_one_row(cursor)
    if ensure_partition(cursor, next_id):
        log.info("partition.made", first_mailing_id=next_id)

"""Apply a mailing's state to its batches: expiry, cancellation, retry of failures, settling.

Such changes are committed at once as a state of the mailing; this module carries that state to the
messages, some batches at a time. A batch under a live lease is left to its worker, which notices
the state and gives the batch back.
"""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.db import minute_counts, status_changes
from shared.db.batch_conditions import FREE, OVER_LIMIT
from shared.db.mailing_counts import SETTLED_COUNTS, read_mailing_counts
from shared.db.on_commit import log_messages_on_commit
from shared.db.rows import fetch_one_row
from shared.domain.send_windows import make_window, next_due
from shared.domain.statuses import MessageStatus, Reason
from worker.runtime.database import Database

log = structlog.get_logger()

# Batches per transaction: large enough for throughput, small enough not to block other writers.
BATCHES_PER_TRANSACTION = 20

READ_STATE = """
SELECT status, end_at <= now(), start_at, end_at, window_from, window_to, deleted_at
FROM mailings WHERE id = %s
"""
# A retry makes ended messages pending, so the mailing must not be settled before it is committed.
SHARE_RETRY_VERSION = """
SELECT retry_version FROM mailings
WHERE id = %s AND NOT settled AND status IN ('running', 'paused') AND end_at > now() FOR SHARE
"""
LOCK_OPEN_BATCHES = f"""
SELECT id, first_id, last_id, timezone, created_at, leased_until IS NOT NULL FROM batches
WHERE mailing_id = %(mailing)s AND due_at IS NOT NULL AND {FREE}
ORDER BY id LIMIT {BATCHES_PER_TRANSACTION} FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608
DROP_LEASE = """
UPDATE batches SET token = token + 1, leased_until = NULL, reserved = 0
WHERE mailing_id = %s AND id = %s
"""
# Batches with failures from before the retry. The worker of a leased batch finds more to send.
LOCK_FAILED_BATCHES = f"""
SELECT id, first_id, last_id FROM batches
WHERE mailing_id = %s AND failed > 0 AND retry_version < %s
ORDER BY id LIMIT {BATCHES_PER_TRANSACTION} FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608
RETRY_BATCH = """
WITH retried AS (
    UPDATE messages SET status = 'pending', reason = NULL, attempts = 0
    WHERE mailing_id = %(mailing_id)s AND id BETWEEN %(first)s AND %(last)s
        AND batch_id = %(batch_id)s AND status = 'failed'
    RETURNING id, client_id
), counted AS (
    SELECT count(*)::int AS n, array_agg(id) AS ids, array_agg(client_id) AS clients FROM retried
)
UPDATE batches SET pending = pending + n, failed = failed - n, retry_version = %(version)s,
    attempt = 0, retry_at = NULL, due_at = coalesce(due_at, now())
FROM counted WHERE mailing_id = %(mailing_id)s AND id = %(batch_id)s
RETURNING n, now(), ids, clients
"""
# A mailing that is over its audience limit at its end is settled with what was counted.
LOCK_MAILING = f"""
SELECT status, settled, audience_complete OR ({OVER_LIMIT} AND end_at <= now()), retry_version,
    end_at > now()
FROM mailings m WHERE id = %s FOR NO KEY UPDATE
"""  # noqa: S608 (OVER_LIMIT is a constant)
HAS_OPEN_BATCHES = """
SELECT EXISTS (SELECT 1 FROM batches WHERE mailing_id = %(mailing)s AND due_at IS NOT NULL)
    OR (%(retrying)s AND EXISTS (SELECT 1 FROM batches
        WHERE mailing_id = %(mailing)s AND failed > 0 AND retry_version < %(version)s))
"""
SETTLE_MAILING = f"""
UPDATE mailings SET settled = true, finished_at = coalesce(finished_at, now()), updated_at = now(),
    status = CASE WHEN status = 'cancelled' THEN status ELSE 'finished' END,
    {", ".join(f"{name} = %({name})s" for name in SETTLED_COUNTS)}
WHERE id = %(mailing)s
RETURNING status
"""  # noqa: S608 (SETTLED_COUNTS is a constant)


def apply_mailing_state(
    db: Database,
    mailing_id: int,
    lease_seconds: float,
    max_seconds: float,
    end_margin: float = 0.0,
) -> int:
    """Apply the mailing's state for up to `max_seconds`; return the number of changed messages.

    `end_margin`: the seconds before the mailing's end in which nothing was dispatched.
    """
    deadline, total = time.monotonic() + max_seconds, 0
    while True:
        with db.transaction() as cursor:
            changed = _change_some_batches(cursor, mailing_id, lease_seconds, end_margin)
        total += changed or 0
        if changed is None or time.monotonic() > deadline:
            if total:
                log.info("mailing.state_applied", mailing_id=mailing_id, messages=total)
            return total


def _change_some_batches(
    cursor: Cursor, mailing_id: int, lease_seconds: float, end_margin: float
) -> int | None:
    """Apply the state to the next batches; return None if there are none."""
    cursor.execute(READ_STATE, (mailing_id,))
    row = cursor.fetchone()
    if row is None:
        return None  # lost in a failover
    status, ended, start_at, end_at, window_from, window_to, deleted_at = row
    if status == "cancelled":
        reason = Reason.MAILING_DELETED if deleted_at else Reason.MAILING_CANCELLED
        cancelled = MessageStatus.CANCELLED
        return _end_batches(cursor, mailing_id, lease_seconds, cancelled, lambda *_: reason)
    if status not in ("running", "paused"):
        return None
    if not ended:
        return _retry_failed(cursor, mailing_id)
    window = make_window(window_from, window_to)
    dispatch_end = end_at - timedelta(seconds=end_margin)

    def expiry_reason(zone: str, created_at: datetime) -> Reason:
        # A delayed launch may have created the batch after the end.
        since = created_at if created_at < end_at else start_at
        return Reason.WINDOW if next_due(window, zone, since) >= dispatch_end else Reason.END

    return _end_batches(cursor, mailing_id, lease_seconds, MessageStatus.EXPIRED, expiry_reason)


def _end_batches(
    cursor: Cursor,
    mailing_id: int,
    lease_seconds: float,
    status: MessageStatus,
    reason_for: Callable[[str, datetime], Reason],
) -> int | None:
    """End what is pending in the next free batches; `reason_for` gets zone and creation time."""
    cursor.execute(LOCK_OPEN_BATCHES, {"mailing": mailing_id, "lease": lease_seconds})
    batches = cursor.fetchall()
    changed = 0
    minutes: Counter[minute_counts.MinuteKey] = Counter()
    for batch_id, first_id, last_id, zone, created_at, leased in batches:
        span = (first_id, last_id)
        if leased:
            status_changes.mark_in_doubt(cursor, minutes, mailing_id, batch_id, span, None)
            cursor.execute(DROP_LEASE, (mailing_id, batch_id))
        changed += status_changes.end_pending_messages(
            cursor, minutes, mailing_id, batch_id, span, status, reason_for(zone, created_at)
        )
    minute_counts.add_minute_counts(cursor, minutes)
    return changed if batches else None


def _retry_failed(cursor: Cursor, mailing_id: int) -> int | None:
    """Make failed messages of the next batches pending again, if a retry was requested."""
    cursor.execute(SHARE_RETRY_VERSION, (mailing_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    (version,) = row
    cursor.execute(LOCK_FAILED_BATCHES, (mailing_id, version))
    batches = cursor.fetchall()
    changed = 0
    minutes: Counter[minute_counts.MinuteKey] = Counter()
    for batch_id, first, last in batches:
        place = {"mailing_id": mailing_id, "batch_id": batch_id}
        cursor.execute(RETRY_BATCH, place | {"first": first, "last": last, "version": version})
        n, now, ids, clients = fetch_one_row(cursor)
        log_messages_on_commit(cursor, "message.reopened", ids or (), clients or (), **place)
        minutes.update(minute_counts.minute_changes(mailing_id, now, "failed", "pending", n))
        changed += n
    minute_counts.add_minute_counts(cursor, minutes)
    return changed if batches else None


def settle_mailing(db: Database, mailing_id: int) -> str | None:
    """Freeze the mailing's totals if nothing is left to do; return its status if that was done now.

    The mailing's row is locked first, and what depends on it is read in a second statement.
    """
    with db.transaction() as cursor:
        cursor.execute(LOCK_MAILING, (mailing_id,))
        row = cursor.fetchone()
        if row is None:
            return None  # lost in a failover
        status, settled, complete, version, before_end = row
        if settled or status == "scheduled" or (status != "cancelled" and not complete):
            return None
        retrying = status != "cancelled" and before_end
        values = {"mailing": mailing_id, "retrying": retrying, "version": version}
        cursor.execute(HAS_OPEN_BATCHES, values)
        if fetch_one_row(cursor)[0]:
            return None
        totals = read_mailing_counts(cursor, mailing_id)
        counts = {name: getattr(totals, name) for name in SETTLED_COUNTS}
        cursor.execute(SETTLE_MAILING, counts | {"mailing": mailing_id})
        (status,) = fetch_one_row(cursor)
    log.info("mailing.settled", mailing_id=mailing_id, status=status, **counts)
    return str(status)

"""Applies a mailing's state to its batches, one by one: expiry, cancellation, retry of failures.

Such changes are committed as a state of the mailing at once; here that state reaches the messages.
A batch under a live lease is left to its worker, which notices the state and gives it back.
"""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.db import status_changes
from shared.db.mailing_counts import read_mailing_counts
from shared.db.on_commit import note_messages
from shared.db.rows import one_row
from shared.domain.send_windows import Window, opens_at
from shared.domain.statuses import MessageStatus, Reason
from worker.runtime.database import Database
from worker.runtime.leases import FREE

log = structlog.get_logger()

# Batches a transaction: long enough to be quick, short enough to hold nobody up.
BATCHES_AT_ONCE = 20

STATE = """
SELECT status, end_at <= now(), start_at, end_at, window_from, window_to, deleted_at
FROM mailings WHERE id = %s
"""
# A retry revives what has ended, so the mailing must not be settled until that is committed.
SHARE_RETRY = """
SELECT retry_version FROM mailings
WHERE id = %s AND NOT settled AND status IN ('running', 'paused') AND end_at > now() FOR SHARE
"""
OPEN = f"""
SELECT id, first_id, last_id, timezone, created_at, leased_until IS NOT NULL FROM batches
WHERE mailing_id = %(mailing)s AND due_at IS NOT NULL AND {FREE}
ORDER BY id LIMIT {BATCHES_AT_ONCE} FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608
DROP_LEASE = """
UPDATE batches SET token = token + 1, leased_until = NULL WHERE mailing_id = %s AND id = %s
"""
# What failed before retry-failed was asked for. The worker of a leased batch finds more to send.
FAILED = f"""
SELECT id, first_id, last_id FROM batches
WHERE mailing_id = %s AND failed > 0 AND retry_version < %s
ORDER BY id LIMIT {BATCHES_AT_ONCE} FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608
RETRY = """
WITH retried AS (
    UPDATE messages SET status = 'pending', reason = NULL, attempts = 0
    WHERE mailing_id = %(mailing)s AND id BETWEEN %(first)s AND %(last)s
        AND batch_id = %(batch)s AND status = 'failed'
    RETURNING id, client_id
), counted AS (
    SELECT count(*)::int AS n, array_agg(id) AS ids, array_agg(client_id) AS clients FROM retried
)
UPDATE batches SET pending = pending + n, failed = failed - n, retry_version = %(version)s,
    attempt = 0, retry_at = NULL, due_at = coalesce(due_at, now())
FROM counted WHERE mailing_id = %(mailing)s AND id = %(batch)s
RETURNING n, now(), ids, clients
"""
LOCK = """
SELECT status, settled, audience, audience_complete, retry_version, end_at > now()
FROM mailings WHERE id = %s FOR NO KEY UPDATE
"""
UNFINISHED = """
SELECT EXISTS (SELECT 1 FROM batches WHERE mailing_id = %(mailing)s AND due_at IS NOT NULL)
    OR (%(retrying)s AND EXISTS (SELECT 1 FROM batches
        WHERE mailing_id = %(mailing)s AND failed > 0 AND retry_version < %(version)s))
"""
SETTLE = """
UPDATE mailings SET settled = true, finished_at = coalesce(finished_at, now()), updated_at = now(),
    status = CASE WHEN status = 'cancelled' THEN status ELSE 'finished' END,
    sent = %s, failed = %s, expired = %s, cancelled = %s, in_doubt = %s
WHERE id = %s
RETURNING status
"""


def apply_mailing_state(db: Database, mailing_id: int, lease_seconds: float, seconds: float) -> int:
    """Apply what the mailing's state asks for, for up to `seconds`; return how many messages."""
    started, total = time.monotonic(), 0
    while True:
        with db.transaction() as cursor:
            moved = _apply_some(cursor, mailing_id, lease_seconds)
        total += moved or 0
        if moved is None or time.monotonic() - started > seconds:
            if total:
                log.info("mailing.state_applied", mailing_id=mailing_id, messages=total)
            return total


def _apply_some(cursor: Cursor, mailing_id: int, lease_seconds: float) -> int | None:
    """Apply the state to the next batches; None if there is none to apply it to."""
    cursor.execute(STATE, (mailing_id,))
    status, ended, start_at, end_at, start, end, deleted_at = one_row(cursor)
    if status == "cancelled":
        reason = Reason.MAILING_DELETED if deleted_at else Reason.MAILING_CANCELLED
        return _end_open(
            cursor, mailing_id, lease_seconds, MessageStatus.CANCELLED, lambda *_: reason
        )
    if status in ("running", "paused") and ended:
        window = Window(start, end) if start is not None else None

        def why(zone: str, created_at: datetime) -> Reason:
            # A batch may have been made after the end, by a launch that was held up.
            since = created_at if created_at < end_at else start_at
            return Reason.WINDOW if opens_at(window, zone, since) >= end_at else Reason.END

        return _end_open(cursor, mailing_id, lease_seconds, MessageStatus.EXPIRED, why)
    if status in ("running", "paused"):
        return _retry_failed(cursor, mailing_id)
    return None


def _end_open(
    cursor: Cursor,
    mailing_id: int,
    lease_seconds: float,
    status: MessageStatus,
    why: Callable[[str, datetime], Reason],
) -> int | None:
    cursor.execute(OPEN, {"mailing": mailing_id, "lease": lease_seconds})
    batches = cursor.fetchall()
    moved = 0
    minutes: Counter[status_changes.MinuteKey] = Counter()
    for batch_id, first_id, last_id, zone, created_at, leased in batches:
        span = (first_id, last_id)
        if leased:
            status_changes.mark_in_doubt(cursor, mailing_id, batch_id, span, None)
            cursor.execute(DROP_LEASE, (mailing_id, batch_id))
        moved += status_changes.end_pending(
            cursor, minutes, mailing_id, batch_id, span, status, why(zone, created_at)
        )
    status_changes.count_minutes(cursor, minutes)
    return moved if batches else None


def _retry_failed(cursor: Cursor, mailing_id: int) -> int | None:
    cursor.execute(SHARE_RETRY, (mailing_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    (version,) = row
    cursor.execute(FAILED, (mailing_id, version))
    batches = cursor.fetchall()
    moved = 0
    minutes: Counter[status_changes.MinuteKey] = Counter()
    for batch_id, first_id, last_id in batches:
        cursor.execute(
            RETRY,
            {
                "mailing": mailing_id,
                "batch": batch_id,
                "first": first_id,
                "last": last_id,
                "version": version,
            },
        )
        n, now, ids, clients = one_row(cursor)
        place = {"mailing_id": mailing_id, "batch_id": batch_id}
        note_messages(cursor, "message.reopened", ids or (), clients or (), **place)
        minutes.update(
            status_changes.minute_moves(mailing_id, batch_id, now, "failed", "pending", n)
        )
        moved += n
    status_changes.count_minutes(cursor, minutes)
    return moved if batches else None


def settle_mailing(db: Database, mailing_id: int) -> str | None:
    """Close the mailing's books if nothing is left to do; return its status if that was done now.

    The mailing's row is locked first, and what depends on it is read in a second statement.
    """
    with db.transaction() as cursor:
        cursor.execute(LOCK, (mailing_id,))
        status, settled, _, complete, version, before_end = one_row(cursor)
        if settled or status == "scheduled" or (status != "cancelled" and not complete):
            return None
        retrying = status != "cancelled" and before_end
        cursor.execute(
            UNFINISHED, {"mailing": mailing_id, "retrying": retrying, "version": version}
        )
        (unfinished,) = one_row(cursor)
        if unfinished:
            return None
        t = read_mailing_counts(cursor, mailing_id)
        cursor.execute(SETTLE, (t.sent, t.failed, t.expired, t.cancelled, t.in_doubt, mailing_id))
        (status,) = one_row(cursor)
    log.info(
        "mailing.settled",
        mailing_id=mailing_id,
        status=status,
        sent=t.sent,
        failed=t.failed,
        expired=t.expired,
        cancelled=t.cancelled,
        in_doubt=t.in_doubt,
    )
    return str(status)

"""Changes messages' statuses outside of sending, with their batches' counts.

Every function takes a psycopg2 cursor within the caller's transaction and locks in one order:
mailing, batches by id, messages by id, minutes by key. A message's status changes only under its
batch's row lock, and the counts change in the same transaction, so at every instant
audience = pending + sent + failed + expired + cancelled.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby

from psycopg2.extensions import cursor as Cursor

from shared.db.batch_conditions import LEASED
from shared.db.message_segments import measure_messages
from shared.db.minute_counts import (
    IN_DOUBT_SEGMENTS,
    OPTED_OUT,
    MinuteKey,
    add_minute_counts,
    minute_changes,
)
from shared.db.on_commit import log_messages_on_commit
from shared.db.rows import fetch_one_row
from shared.domain.send_windows import make_window, next_due
from shared.domain.statuses import MessageStatus, Reason

LOCK_BATCH = f"""
SELECT first_id, last_id, NOT {LEASED} FROM batches
WHERE mailing_id = %s AND id = %s FOR NO KEY UPDATE
"""  # noqa: S608 (LEASED is a constant)

FIND_UNDOUBTED = """
SELECT id FROM messages
WHERE mailing_id = %(mailing)s AND id BETWEEN %(first)s AND %(last)s
    AND batch_id = %(batch)s AND status = 'pending' AND NOT in_doubt
    AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
"""
MARK_IN_DOUBT = """
WITH doubted AS (
    UPDATE messages m SET in_doubt = true, segments = coalesce(m.segments, t.segments)
    FROM unnest(%(ids)s::bigint[], %(segments)s::smallint[]) AS t (id, segments)
    WHERE m.mailing_id = %(mailing)s AND m.id BETWEEN %(first)s AND %(last)s
        AND m.batch_id = %(batch)s AND m.status = 'pending' AND NOT m.in_doubt AND m.id = t.id
    RETURNING m.id, m.client_id, m.segments
), counted AS (
    SELECT count(*)::int AS n, coalesce(sum(segments), 0)::int AS segments,
        array_agg(id) AS ids, array_agg(client_id) AS clients FROM doubted
)
UPDATE batches SET in_doubt = in_doubt + n,
    in_doubt_segments = in_doubt_segments + counted.segments,
    reserved = greatest(0, reserved - counted.segments)
FROM counted WHERE mailing_id = %(mailing)s AND id = %(batch)s
RETURNING now(), segments, ids, clients
"""

END_PENDING_MESSAGES = """
WITH ended AS (
    UPDATE messages SET status = %(status)s, reason = %(reason)s
    WHERE mailing_id = %(mailing)s AND id BETWEEN %(first)s AND %(last)s
        AND batch_id = %(batch)s AND status = 'pending'
        AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
    RETURNING id, client_id
), counted AS (
    SELECT count(*)::int AS n, array_agg(id) AS ids, array_agg(client_id) AS clients FROM ended
)
UPDATE batches SET pending = pending - n,
    failed = failed + CASE %(status)s WHEN 'failed' THEN n ELSE 0 END,
    expired = expired + CASE %(status)s WHEN 'expired' THEN n ELSE 0 END,
    cancelled = cancelled + CASE %(status)s WHEN 'cancelled' THEN n ELSE 0 END,
    cancelled_opted_out = cancelled_opted_out + CASE %(reason)s WHEN 'opted out' THEN n ELSE 0 END,
    due_at = CASE WHEN pending > n THEN due_at END,
    retry_at = CASE WHEN pending > n THEN retry_at END
FROM counted
WHERE mailing_id = %(mailing)s AND id = %(batch)s
RETURNING n, now(), ids, clients
"""

# Pending messages of these clients, in every unsettled mailing.
PENDING_MESSAGES_OF_CLIENTS = """
SELECT m.mailing_id, m.batch_id, m.id, m.client_id
FROM mailings g CROSS JOIN LATERAL (
    SELECT mailing_id, batch_id, id, client_id FROM messages
    WHERE mailing_id = g.id AND client_id = ANY (%s) AND status = 'pending'
) m
WHERE NOT g.settled ORDER BY 1, 2, 3
"""

MOVE_MESSAGES = """
WITH source AS (
    SELECT * FROM batches WHERE mailing_id = %(mailing)s AND id = %(batch)s
), moved AS (
    UPDATE messages m SET batch_id = %(new)s FROM source
    WHERE m.mailing_id = %(mailing)s AND m.id = ANY (%(ids)s) AND m.batch_id = %(batch)s
        AND m.status = 'pending'
    RETURNING m.id, m.in_doubt, m.segments
), counted AS (
    SELECT min(id) AS first, max(id) AS last, count(*)::int AS n,
        (count(*) FILTER (WHERE in_doubt))::int AS doubts,
        coalesce(sum(segments) FILTER (WHERE in_doubt), 0)::int AS doubt_segments
    FROM moved HAVING count(*) > 0
), made AS (
    INSERT INTO batches (mailing_id, id, first_id, last_id, due_at, retry_at, leased_until, attempt,
        text_version, retry_version, size, pending, in_doubt, in_doubt_segments, has_attempts,
        timezone)
    SELECT s.mailing_id, %(new)s, first, last,
        greatest(%(opens)s, s.retry_at, s.leased_until), greatest(s.retry_at, s.leased_until),
        s.leased_until, s.attempt, s.text_version, s.retry_version, n, n, doubts, doubt_segments,
        s.has_attempts, %(zone)s
    FROM source s CROSS JOIN counted
)
UPDATE batches b SET size = size - n, pending = pending - n, in_doubt = b.in_doubt - doubts,
    in_doubt_segments = b.in_doubt_segments - doubt_segments,
    due_at = CASE WHEN pending > n THEN due_at END,
    retry_at = CASE WHEN pending > n THEN retry_at END
FROM counted WHERE b.mailing_id = %(mailing)s AND b.id = %(batch)s
RETURNING n
"""

WINDOW = "SELECT window_from, window_to, now() FROM mailings WHERE id = %s"
SHARE_WINDOW = f"{WINDOW} FOR SHARE"
LOCK_OPEN_BATCHES = """
SELECT id, timezone FROM batches WHERE mailing_id = %s AND due_at IS NOT NULL
ORDER BY id FOR NO KEY UPDATE
"""
RESCHEDULE_BATCHES = """
UPDATE batches b SET due_at = greatest(t.opens, b.retry_at)
FROM unnest(%s::text[], %s::timestamptz[]) AS t (zone, opens)
WHERE b.mailing_id = %s AND b.due_at IS NOT NULL AND b.timezone = t.zone
"""


def lock_batch(cursor: Cursor, mailing_id: int, batch_id: int) -> tuple[int, int, bool | None]:
    """Lock a batch; return its first and last message id, and whether its lease has expired.

    The latter is None if the batch has no lease.
    """
    cursor.execute(LOCK_BATCH, (mailing_id, batch_id))
    first_id, last_id, expired = fetch_one_row(cursor)
    return first_id, last_id, expired


def mark_in_doubt(
    cursor: Cursor,
    minutes: Counter[MinuteKey],
    mailing_id: int,
    batch_id: int,
    span: tuple[int, int],
    ids: list[int] | None,
) -> None:
    """Mark a locked batch's pending messages (all, or `ids`) as possibly sent.

    Their segments are added to `minutes`; the caller writes them last.
    """
    place = _parameters(mailing_id, batch_id, span, ids)
    cursor.execute(FIND_UNDOUBTED, place)
    found = [message_id for (message_id,) in cursor.fetchall()]
    if not found:
        return
    measured = measure_messages(cursor, mailing_id, found)
    values = {"ids": found, "segments": [measured.get(message_id, 0) for message_id in found]}
    cursor.execute(MARK_IN_DOUBT, place | values)
    now, segments, doubted, clients = fetch_one_row(cursor)
    minutes[MinuteKey(mailing_id, now, IN_DOUBT_SEGMENTS)] += segments
    log_place = {"mailing_id": mailing_id, "batch_id": batch_id}
    log_messages_on_commit(cursor, "message.in_doubt", doubted or (), clients or (), **log_place)


def end_pending_messages(
    cursor: Cursor,
    minutes: Counter[MinuteKey],
    mailing_id: int,
    batch_id: int,
    span: tuple[int, int],
    status: MessageStatus,
    reason: str,
    ids: list[int] | None = None,
) -> int:
    """Give a locked batch's pending messages (all, or `ids`) a final status; return their number.

    The changes by minute are added to `minutes`; the caller writes them last.
    """
    values = _parameters(mailing_id, batch_id, span, ids) | {
        "status": str(status),
        "reason": reason,
    }
    cursor.execute(END_PENDING_MESSAGES, values)
    ended: int
    ended, now, message_ids, clients = fetch_one_row(cursor)
    if ended:
        place = {"mailing_id": mailing_id, "batch_id": batch_id, "reason": reason}
        log_messages_on_commit(cursor, f"message.{status}", message_ids, clients, **place)
        minutes.update(minute_changes(mailing_id, now, "pending", status, ended))
        if reason == Reason.OPTED_OUT:
            minutes[MinuteKey(mailing_id, now, OPTED_OUT)] += ended
    return ended


def cancel_client_messages(cursor: Cursor, client_ids: list[int], reason: Reason) -> int:
    """Cancel the pending messages of these clients; return their number.

    A request in flight goes on: if the provider accepts it, the message becomes `sent` after all.
    """
    if not client_ids:
        return 0
    cursor.execute(PENDING_MESSAGES_OF_CLIENTS, (client_ids,))
    return cancel_messages(cursor, [row[:3] for row in cursor.fetchall()], reason)


def cancel_messages(cursor: Cursor, found: Iterable[tuple[int, int, int]], reason: Reason) -> int:
    """Cancel messages, given as sorted (mailing, batch, id), if they are still pending."""
    cancelled = 0
    minutes: Counter[MinuteKey] = Counter()
    for (mailing_id, batch_id), group in groupby(found, key=lambda row: row[:2]):
        ids = [message_id for _, _, message_id in group]
        first, last, expired = lock_batch(cursor, mailing_id, batch_id)
        if expired:
            mark_in_doubt(cursor, minutes, mailing_id, batch_id, (first, last), ids)
        cancelled += end_pending_messages(
            cursor,
            minutes,
            mailing_id,
            batch_id,
            (first, last),
            MessageStatus.CANCELLED,
            reason,
            ids,
        )
    add_minute_counts(cursor, minutes)
    return cancelled


def move_client_messages(cursor: Cursor, zones: Mapping[int, str]) -> int:
    """Move clients' pending messages into batches of their new time zones; return their number.

    `zones` has the new zone by client id. A message of a leased batch may be in flight: it is
    marked in doubt, and its new batch has the same lease, so that it is not claimed before the
    outcome has been recorded, or the holder has been given up.
    """
    moved = 0
    minutes: Counter[MinuteKey] = Counter()
    groups: dict[tuple[int, int], dict[str, list[int]]] = {}
    cursor.execute(PENDING_MESSAGES_OF_CLIENTS, (list(zones),))
    for mailing_id, batch_id, message_id, client_id in cursor.fetchall():
        by_zone = groups.setdefault((mailing_id, batch_id), {})
        by_zone.setdefault(zones[client_id], []).append(message_id)
    for (mailing_id, batch_id), by_zone in groups.items():
        # The lock keeps the window until commit, so a later change of it finds the new batches.
        cursor.execute(SHARE_WINDOW, (mailing_id,))
        start, end, now = fetch_one_row(cursor)
        window = make_window(start, end)
        first, last, expired = lock_batch(cursor, mailing_id, batch_id)
        for zone, ids in by_zone.items():
            if expired is not None:
                mark_in_doubt(cursor, minutes, mailing_id, batch_id, (first, last), ids)
            opens = next_due(window, zone, now)
            moved += split_batch(cursor, mailing_id, batch_id, ids, zone, opens)[1]
    add_minute_counts(cursor, minutes)
    return moved


def split_batch(
    cursor: Cursor, mailing_id: int, batch_id: int, ids: list[int], zone: str, opens: datetime
) -> tuple[int, int]:
    """Move pending messages of a locked batch into a new one of this time zone, due at `opens`.

    Return the new batch's id and the number of messages. It has the same lease.
    """
    cursor.execute("SELECT take_ids('batch_ids', 1)")
    (new,) = fetch_one_row(cursor)
    place = {"mailing": mailing_id, "batch": batch_id, "ids": ids, "new": new, "zone": zone}
    cursor.execute(MOVE_MESSAGES, place | {"opens": opens})
    return new, sum(n for (n,) in cursor.fetchall())


def reschedule_batches(cursor: Cursor, mailing_id: int) -> None:
    """Recompute each batch's `due_at` after a change of the mailing's window.

    The caller holds the mailing's row lock.
    """
    cursor.execute(WINDOW, (mailing_id,))
    start, end, now = fetch_one_row(cursor)
    window = make_window(start, end)
    cursor.execute(LOCK_OPEN_BATCHES, (mailing_id,))
    zones = sorted({zone for _, zone in cursor.fetchall()})
    opens = [next_due(window, zone, now) for zone in zones]
    cursor.execute(RESCHEDULE_BATCHES, (zones, opens, mailing_id))


def _parameters(
    mailing_id: int, batch_id: int, span: tuple[int, int], ids: Iterable[int] | None
) -> dict[str, object]:
    return {
        "mailing": mailing_id,
        "batch": batch_id,
        "first": span[0],
        "last": span[1],
        "ids": None if ids is None else list(ids),
    }

"""Counts status changes by mailing and minute, in the table `minutes`.

The counts are net: a message that leaves a status is subtracted from it, so over all minutes they
add up to the number of messages in that status. Segments are counted in the same way.
"""

from collections import Counter
from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.budgets import charge_budgets
from shared.db.rows import fetch_one_row

# Up to 16 rows share a minute of one mailing and status. Each connection adds to one of them, so
# that workers do not wait for each other and a transaction writes one row.
ADD_MINUTE_COUNTS = """
INSERT INTO minutes
    (mailing_id, minute, shard, status, count, sent_segments, in_doubt_segments, opted_out)
SELECT mailing_id, date_trunc('minute', minute), pg_backend_pid() %% 16,
    CASE what WHEN 'sent_segments' THEN 'sent' WHEN 'in_doubt_segments' THEN 'sent'
        WHEN 'opted_out' THEN 'cancelled' ELSE what END::message_status,
    coalesce(sum(n) FILTER (
        WHERE what NOT IN ('sent_segments', 'in_doubt_segments', 'opted_out')), 0),
    coalesce(sum(n) FILTER (WHERE what = 'sent_segments'), 0),
    coalesce(sum(n) FILTER (WHERE what = 'in_doubt_segments'), 0),
    coalesce(sum(n) FILTER (WHERE what = 'opted_out'), 0)
FROM unnest(%s::bigint[], %s::timestamptz[], %s::text[], %s::int[])
    AS t (mailing_id, minute, what, n)
GROUP BY 1, 2, 4 ORDER BY 1, 2, 4
ON CONFLICT (mailing_id, minute, shard, status)
DO UPDATE SET count = minutes.count + excluded.count,
    sent_segments = minutes.sent_segments + excluded.sent_segments,
    in_doubt_segments = minutes.in_doubt_segments + excluded.in_doubt_segments,
    opted_out = minutes.opted_out + excluded.opted_out
RETURNING EXISTS (SELECT FROM budgets)
"""
# Test sends belong to no mailing: their segments are counted under this number.
TEST_SENDS = 0
SENT_SEGMENTS, IN_DOUBT_SEGMENTS = "sent_segments", "in_doubt_segments"
OPTED_OUT = "opted_out"  # of the cancelled ones


class MinuteKey(NamedTuple):
    """What a change is counted by in `minutes`; `minute` is any instant within the minute.

    `what` is a status of messages, SENT_SEGMENTS, IN_DOUBT_SEGMENTS or OPTED_OUT.
    """

    mailing_id: int
    minute: datetime
    what: str


def add_minute_counts(cursor: Cursor, changes: Counter[MinuteKey]) -> None:
    """Add changes to the table, and what they charge to budgets.

    Call it last in a transaction, as the rows are contended.
    """
    if not changes:
        return
    columns = zip(*((*key, n) for key, n in changes.items()), strict=True)
    cursor.execute(ADD_MINUTE_COUNTS, tuple(list(column) for column in columns))
    (has_budgets,) = fetch_one_row(cursor)
    if has_budgets:
        charges: Counter[tuple[int, datetime]] = Counter()
        for key, n in changes.items():
            if key.what in (SENT_SEGMENTS, IN_DOUBT_SEGMENTS):
                charges[key.mailing_id, key.minute] += n
        charge_budgets(cursor, charges)


def minute_changes(
    mailing_id: int, at: datetime, previous: str, status: str, n: int = 1
) -> Counter[MinuteKey]:
    """Return the changes for `n` messages of a mailing; `pending` messages are not counted."""
    changes: Counter[MinuteKey] = Counter()
    if status != "pending":
        changes[MinuteKey(mailing_id, at, str(status))] += n
    if previous != "pending":
        changes[MinuteKey(mailing_id, at, str(previous))] -= n
    return changes

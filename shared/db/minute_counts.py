"""Counts status changes by mailing and minute, in the table `minutes`.

The counts are net: a message that leaves a status is subtracted from it, so over all minutes they
add up to the number of messages in that status.
"""

from collections import Counter
from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

# Up to 16 rows share a minute of one mailing and status. Each connection adds to one of them, so
# that workers do not wait for each other and a transaction writes one row.
ADD_MINUTE_COUNTS = """
INSERT INTO minutes (mailing_id, minute, shard, status, count)
SELECT mailing_id, date_trunc('minute', minute), pg_backend_pid() %% 16, status::message_status,
    sum(count)
FROM unnest(%s::bigint[], %s::timestamptz[], %s::text[], %s::int[])
    AS t (mailing_id, minute, status, count)
GROUP BY 1, 2, 4 ORDER BY 1, 2, 4
ON CONFLICT (mailing_id, minute, shard, status)
DO UPDATE SET count = minutes.count + excluded.count
"""


class MinuteKey(NamedTuple):
    """What a change is counted by in `minutes`; `minute` is any instant within the minute."""

    mailing_id: int
    minute: datetime
    status: str


def add_minute_counts(cursor: Cursor, changes: Counter[MinuteKey]) -> None:
    """Add changes to the table; call it last in a transaction, as the rows are contended."""
    if changes:
        columns = zip(*((*key, n) for key, n in changes.items()), strict=True)
        cursor.execute(ADD_MINUTE_COUNTS, tuple(list(column) for column in columns))


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

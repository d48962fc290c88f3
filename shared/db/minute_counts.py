"""Counts status changes by mailing and minute, in the table `minutes`.

The counts are net: a message that leaves a status is subtracted from it, so over all minutes they
add up to the number of messages in that status.
"""

from collections import Counter
from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

# Rows that share a minute of one mailing and status, so that workers do not wait for each other.
SHARDS = 16

ADD_MINUTE_COUNTS = """
INSERT INTO minutes (mailing_id, minute, shard, status, count)
SELECT mailing_id, date_trunc('minute', minute), shard, status::message_status, sum(count)
FROM unnest(%s::bigint[], %s::timestamptz[], %s::smallint[], %s::text[], %s::int[])
    AS t (mailing_id, minute, shard, status, count)
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
ON CONFLICT (mailing_id, minute, shard, status)
DO UPDATE SET count = minutes.count + excluded.count
"""


class MinuteKey(NamedTuple):
    """The row of `minutes` that counts a change; `minute` is any instant within the minute."""

    mailing_id: int
    minute: datetime
    shard: int
    status: str


def add_minute_counts(cursor: Cursor, changes: Counter[MinuteKey]) -> None:
    """Add changes to the table; call it last in a transaction, as the rows are contended."""
    if changes:
        columns = zip(*((*key, n) for key, n in changes.items()), strict=True)
        cursor.execute(ADD_MINUTE_COUNTS, tuple(list(column) for column in columns))


def minute_changes(
    mailing_id: int, batch_id: int, at: datetime, previous: str, status: str, n: int = 1
) -> Counter[MinuteKey]:
    """Return the changes for `n` messages of a batch; `pending` messages are not counted."""
    changes: Counter[MinuteKey] = Counter()
    shard = batch_id % SHARDS
    if status != "pending":
        changes[MinuteKey(mailing_id, at, shard, str(status))] += n
    if previous != "pending":
        changes[MinuteKey(mailing_id, at, shard, str(previous))] -= n
    return changes

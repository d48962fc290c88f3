"""Settle mailings in the transaction that records their last outcomes.

A mailing's row is locked before its batches (the lock order). Here it is locked after them, which
cannot end in a deadlock because nothing waits: a row that another transaction has locked is
skipped, and no other lock is requested afterwards. The sweep settles what was skipped.
"""

from collections.abc import Collection

from psycopg2.extensions import cursor as Cursor

from shared.db.mailing_counts import SETTLED_COUNTS
from shared.db.on_commit import log_on_commit
from shared.db.prepared_statements import PreparedStatement

LOCK_FINISHED = PreparedStatement(
    "lock_finished_mailings",
    """
SELECT id FROM mailings
WHERE id = ANY (%(ids)s::bigint[]) AND NOT settled
    AND (status = 'cancelled' OR (status IN ('running', 'paused') AND audience_complete))
ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
""",
)
# A second statement, as in settle_mailing: it sees what was committed before the locks. With the
# `first` of the ids older partitions are left out. Wrong totals are left to the sweep, whose error
# stops no recording. A mailing with failures from before a retry is left open.
SETTLE_FINISHED = PreparedStatement(
    "settle_finished_mailings",
    f"""
UPDATE mailings m SET settled = true, finished_at = coalesce(finished_at, now()),
    updated_at = now(), status = CASE WHEN status = 'cancelled' THEN status ELSE 'finished' END,
    {", ".join(f"{name} = counted.{name}" for name in SETTLED_COUNTS)}
FROM (
    SELECT finished.id, counts.*
    FROM unnest(%(ids)s::bigint[]) AS finished (id) CROSS JOIN LATERAL (
        SELECT sum(pending) AS pending, min(retry_version) FILTER (WHERE failed > 0) AS retried,
            {", ".join(f"sum({name})::bigint AS {name}" for name in SETTLED_COUNTS)}
        FROM batches WHERE mailing_id = finished.id AND mailing_id >= %(first)s
    ) AS counts
) AS counted
WHERE m.id = counted.id AND counted.pending = 0
    AND m.audience = counted.sent + counted.failed + counted.expired + counted.cancelled
    AND (m.status = 'cancelled' OR m.end_at <= now()
        OR coalesce(counted.retried >= m.retry_version, true))
RETURNING m.id, m.status, {", ".join(f"m.{name}" for name in SETTLED_COUNTS)}
""",  # noqa: S608 (SETTLED_COUNTS is a constant)
)


def settle_finished(cursor: Cursor, mailing_ids: Collection[int]) -> set[int]:
    """Settle those of the mailings that have nothing left to do; return their ids.

    Call it last in a transaction.
    """
    LOCK_FINISHED.run(cursor, {"ids": list(mailing_ids)})
    locked = [mailing_id for (mailing_id,) in cursor.fetchall()]
    if not locked:
        return set()
    SETTLE_FINISHED.run(cursor, {"ids": locked, "first": locked[0]})
    settled = cursor.fetchall()
    for mailing_id, status, *counts in settled:
        totals = dict(zip(SETTLED_COUNTS, counts, strict=True))
        log_on_commit(cursor, "mailing.settled", mailing_id=mailing_id, status=status, **totals)
    return {mailing_id for mailing_id, *_ in settled}

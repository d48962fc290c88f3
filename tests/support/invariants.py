"""The invariant: a mailing's totals are the same, however they are counted."""

from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor

# Differences between the messages of each mailing, counted one by one, and the totals kept in its
# batches, its minutes and, once it is settled, its row.
FIND_WRONG_TOTALS = """
WITH m AS (
    SELECT mailing_id, count(*) AS audience,
        count(*) FILTER (WHERE status = 'pending') AS pending,
        count(*) FILTER (WHERE status = 'sent') AS sent,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'expired') AS expired,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE in_doubt) AS in_doubt
    FROM messages WHERE mailing_id > %(after)s GROUP BY 1
), b AS (
    SELECT mailing_id, sum(size) AS audience, sum(pending) AS pending, sum(sent) AS sent,
        sum(failed) AS failed, sum(expired) AS expired, sum(cancelled) AS cancelled,
        sum(in_doubt) AS in_doubt
    FROM batches WHERE mailing_id > %(after)s GROUP BY 1
), t AS (
    SELECT mailing_id, sum(count) FILTER (WHERE status = 'sent') AS sent,
        sum(count) FILTER (WHERE status = 'failed') AS failed,
        sum(count) FILTER (WHERE status = 'expired') AS expired,
        sum(count) FILTER (WHERE status = 'cancelled') AS cancelled
    FROM minutes WHERE mailing_id > %(after)s GROUP BY 1
), pairs AS (
    SELECT g.id, p.what, p.counted, p.stored
    FROM mailings g LEFT JOIN m ON m.mailing_id = g.id
        LEFT JOIN b ON b.mailing_id = g.id LEFT JOIN t ON t.mailing_id = g.id
    CROSS JOIN LATERAL (VALUES
        (true, 'audience', m.audience, g.audience::numeric),
        (true, 'audience of batches', m.audience, b.audience),
        (true, 'pending', m.pending, b.pending), (true, 'sent', m.sent, b.sent),
        (true, 'failed', m.failed, b.failed), (true, 'expired', m.expired, b.expired),
        (true, 'cancelled', m.cancelled, b.cancelled), (true, 'in doubt', m.in_doubt, b.in_doubt),
        (true, 'sent by minute', m.sent, t.sent), (true, 'failed by minute', m.failed, t.failed),
        (true, 'expired by minute', m.expired, t.expired),
        (true, 'cancelled by minute', m.cancelled, t.cancelled),
        (g.settled, 'pending when settled', m.pending, 0),
        (g.settled, 'sent when settled', m.sent, g.sent),
        (g.settled, 'failed when settled', m.failed, g.failed),
        (g.settled, 'expired when settled', m.expired, g.expired),
        (g.settled, 'cancelled when settled', m.cancelled, g.cancelled),
        (g.settled, 'in doubt when settled', m.in_doubt, g.in_doubt)
    ) AS p (applies, what, counted, stored)
    WHERE p.applies AND g.id > %(after)s
), batch_pairs AS (
    SELECT b.mailing_id, 'batch ' || b.id, count(ms.id), b.size
    FROM batches b LEFT JOIN messages ms ON ms.mailing_id = b.mailing_id AND ms.batch_id = b.id
        AND ms.id BETWEEN b.first_id AND b.last_id
    WHERE b.mailing_id > %(after)s
    GROUP BY b.mailing_id, b.id
    HAVING (count(ms.id), count(*) FILTER (WHERE ms.status = 'pending'),
            count(*) FILTER (WHERE ms.status = 'sent'),
            count(*) FILTER (WHERE ms.status = 'failed'),
            count(*) FILTER (WHERE ms.status = 'expired'),
            count(*) FILTER (WHERE ms.status = 'cancelled'),
            count(*) FILTER (WHERE ms.in_doubt))
        <> (b.size, b.pending, b.sent, b.failed, b.expired, b.cancelled, b.in_doubt)
)
SELECT id, what, counted, stored FROM pairs
WHERE coalesce(counted, 0) <> coalesce(stored, 0)
UNION ALL SELECT * FROM batch_pairs
"""


def find_wrong_totals(cursor: Cursor, after: int = 0) -> list[tuple[Any, ...]]:
    """Return (mailing, what, counted, stored) for each wrong total of mailings after this id.

    It is one statement, so that all counts belong to the same instant.
    """
    cursor.execute(FIND_WRONG_TOTALS, {"after": after})
    return cursor.fetchall()


def check_totals(url: str) -> None:
    """Assert that the totals of all mailings are right."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            assert_totals(find_wrong_totals(cursor))
    finally:
        connection.close()


def assert_totals(wrong: list[tuple[Any, ...]]) -> None:
    assert not wrong, f"wrong totals (mailing, what, counted, stored): {wrong}"

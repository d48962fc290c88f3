"""The invariant: a mailing's totals are the same, however they are counted."""

from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor

from shared.domain.segments import measure_segments
from shared.domain.templates import compile_stored_template

# The texts of mailings after an id, to measure those without placeholders.
READ_TEXTS = (
    "SELECT mailing_id, version, text FROM mailing_texts WHERE mailing_id > %s ORDER BY 1, 2"
)
# Differences between the messages of each mailing, counted one by one, and the totals kept in its
# batches, its minutes and, once it is settled, its row.
FIND_WRONG_TOTALS = """
WITH plain AS (
    SELECT * FROM unnest(%(mailings)s::bigint[], %(versions)s::int[], %(segments)s::int[])
        AS t (mailing_id, version, segments)
), ms AS (
    SELECT ms.*, coalesce(ms.segments, plain.segments, -1000000) AS measured
    FROM messages ms LEFT JOIN batches b ON b.mailing_id = ms.mailing_id AND b.id = ms.batch_id
    LEFT JOIN plain ON plain.mailing_id = ms.mailing_id AND plain.version = b.text_version
    WHERE ms.mailing_id > %(after)s
), m AS (
    SELECT mailing_id, count(*) AS audience,
        count(*) FILTER (WHERE status = 'pending') AS pending,
        count(*) FILTER (WHERE status = 'sent') AS sent,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'expired') AS expired,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE status = 'cancelled' AND reason = 'opted out') AS opted_out,
        count(*) FILTER (WHERE in_doubt) AS in_doubt,
        sum(measured) FILTER (WHERE status = 'sent') AS sent_segments,
        sum(segments) FILTER (WHERE in_doubt) AS in_doubt_segments
    FROM ms GROUP BY 1
), b AS (
    SELECT mailing_id, sum(size) AS audience, sum(pending) AS pending, sum(sent) AS sent,
        sum(failed) AS failed, sum(expired) AS expired, sum(cancelled) AS cancelled,
        sum(cancelled_opted_out) AS opted_out, sum(in_doubt) AS in_doubt,
        sum(sent_segments) AS sent_segments,
        sum(in_doubt_segments) AS in_doubt_segments
    FROM batches WHERE mailing_id > %(after)s GROUP BY 1
), t AS (
    SELECT mailing_id, sum(count) FILTER (WHERE status = 'sent') AS sent,
        sum(count) FILTER (WHERE status = 'failed') AS failed,
        sum(count) FILTER (WHERE status = 'expired') AS expired,
        sum(count) FILTER (WHERE status = 'cancelled') AS cancelled,
        sum(opted_out) AS opted_out,
        sum(sent_segments) AS sent_segments, sum(in_doubt_segments) AS in_doubt_segments
    FROM minutes WHERE mailing_id > %(after)s GROUP BY 1
), charged AS (
    SELECT b.mailing_id, (m.minute AT TIME ZONE b.timezone)::date AS day,
        sum(greatest(m.sent_segments, m.count) + m.in_doubt_segments) AS segments
    FROM budgets b JOIN minutes m ON m.status = 'sent' AND m.mailing_id > 0
        AND b.mailing_id IN (0, m.mailing_id)
        AND m.minute >= date_trunc('month', now() AT TIME ZONE b.timezone) AT TIME ZONE b.timezone
    GROUP BY 1, 2
), ledger AS (
    SELECT mailing_id, day, sum(segments) AS segments FROM budget_days GROUP BY 1, 2
), pairs AS (
    SELECT g.id, p.what, p.counted, p.stored
    FROM mailings g LEFT JOIN m ON m.mailing_id = g.id
        LEFT JOIN b ON b.mailing_id = g.id LEFT JOIN t ON t.mailing_id = g.id
    CROSS JOIN LATERAL (VALUES
        (true, 'audience', m.audience, g.audience::numeric),
        (true, 'audience of batches', m.audience, b.audience),
        (true, 'pending', m.pending, b.pending), (true, 'sent', m.sent, b.sent),
        (true, 'failed', m.failed, b.failed), (true, 'expired', m.expired, b.expired),
        (true, 'cancelled', m.cancelled, b.cancelled),
        (true, 'opted out', m.opted_out, b.opted_out), (true, 'in doubt', m.in_doubt, b.in_doubt),
        (true, 'sent by minute', m.sent, t.sent), (true, 'failed by minute', m.failed, t.failed),
        (true, 'expired by minute', m.expired, t.expired),
        (true, 'cancelled by minute', m.cancelled, t.cancelled),
        (true, 'opted out by minute', m.opted_out, t.opted_out),
        (true, 'sent segments', m.sent_segments, b.sent_segments),
        (true, 'segments in doubt', m.in_doubt_segments, b.in_doubt_segments),
        (true, 'sent segments by minute', m.sent_segments, t.sent_segments),
        (true, 'segments in doubt by minute', m.in_doubt_segments, t.in_doubt_segments),
        (g.settled, 'sent segments when settled', m.sent_segments, g.sent_segments),
        (g.settled, 'segments in doubt when settled', m.in_doubt_segments, g.in_doubt_segments),
        (g.settled, 'pending when settled', m.pending, 0),
        (g.settled, 'sent when settled', m.sent, g.sent),
        (g.settled, 'failed when settled', m.failed, g.failed),
        (g.settled, 'expired when settled', m.expired, g.expired),
        (g.settled, 'cancelled when settled', m.cancelled, g.cancelled),
        (g.settled, 'opted out when settled', m.opted_out, g.cancelled_opted_out),
        (g.settled, 'in doubt when settled', m.in_doubt, g.in_doubt)
    ) AS p (applies, what, counted, stored)
    WHERE p.applies AND g.id > %(after)s
), batch_pairs AS (
    SELECT b.mailing_id, 'batch ' || b.id, count(ms.id), b.size
    FROM batches b LEFT JOIN ms ON ms.mailing_id = b.mailing_id AND ms.batch_id = b.id
        AND ms.id BETWEEN b.first_id AND b.last_id
    WHERE b.mailing_id > %(after)s
    GROUP BY b.mailing_id, b.id
    HAVING (count(ms.id), count(*) FILTER (WHERE ms.status = 'pending'),
            count(*) FILTER (WHERE ms.status = 'sent'),
            count(*) FILTER (WHERE ms.status = 'failed'),
            count(*) FILTER (WHERE ms.status = 'expired'),
            count(*) FILTER (WHERE ms.status = 'cancelled'),
            count(*) FILTER (WHERE ms.in_doubt),
            coalesce(sum(ms.measured) FILTER (WHERE ms.status = 'sent'), 0),
            coalesce(sum(ms.segments) FILTER (WHERE ms.in_doubt), 0))
        <> (b.size, b.pending, b.sent, b.failed, b.expired, b.cancelled, b.in_doubt,
            b.sent_segments, b.in_doubt_segments)
)
SELECT id, what, counted, stored FROM pairs
WHERE coalesce(counted, 0) <> coalesce(stored, 0)
UNION ALL SELECT * FROM batch_pairs
UNION ALL SELECT coalesce(c.mailing_id, l.mailing_id), 'charged to budgets on ' || c.day,
    c.segments::bigint, l.segments::bigint
FROM charged c FULL JOIN ledger l USING (mailing_id, day)
WHERE coalesce(c.segments, 0) <> coalesce(l.segments, 0)
UNION ALL SELECT mailing_id, 'reserved without a lease', reserved, 0
FROM batches WHERE reserved > 0 AND leased_until IS NULL
"""


def find_wrong_totals(cursor: Cursor, after: int = 0) -> list[tuple[Any, ...]]:
    """Return (mailing, what, counted, stored) for each wrong total of mailings after this id.

    It is one statement, so that all counts belong to the same instant. It is repeated if the texts,
    which are read before it, have changed meanwhile.
    """
    texts = _read_texts(cursor, after)
    while True:
        cursor.execute(FIND_WRONG_TOTALS, _measure_plain_texts(texts) | {"after": after})
        wrong = cursor.fetchall()
        before, texts = texts, _read_texts(cursor, after)
        if texts == before:
            return wrong


def _read_texts(cursor: Cursor, after: int) -> list[tuple[int, int, str]]:
    cursor.execute(READ_TEXTS, (after,))
    return cursor.fetchall()


def _measure_plain_texts(texts: list[tuple[int, int, str]]) -> dict[str, list[int]]:
    """Return mailing, version and segments of the texts without placeholders."""
    plain = [
        (mailing_id, version, measure_segments(text).segments)
        for mailing_id, version, stored in texts
        if (text := compile_stored_template(stored).plain) is not None
    ]
    columns = zip(*plain, strict=True) if plain else ((), (), ())
    return dict(zip(("mailings", "versions", "segments"), map(list, columns), strict=True))


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

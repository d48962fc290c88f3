"""Reads the figures of a local day from the database.

They come from `minutes`, the net changes of each status by minute, so over all days they add up to
a mailing's counts. A failed message that is retried counts negative.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal

from psycopg2.extensions import cursor as Cursor

from shared.db.mailing_counts import COUNTS_JOIN
from shared.domain.send_windows import Window, make_window, next_due
from shared.report.days import day_bounds

MAX_REASONS = 5
STATUSES = ("sent", "failed", "expired", "cancelled")
# Opted-out recipients are counted apart from the other cancelled ones.
COUNTED_ENDS = (*STATUSES, "opted_out")

ACTIVE = f"""
SELECT m.id, name, text, start_at, end_at, status, audience, window_from, window_to,
    deleted_at IS NOT NULL, counts.in_doubt
FROM mailings m {COUNTS_JOIN}
WHERE started_at < %(until)s AND coalesce(finished_at, 'infinity') >= %(since)s
    OR m.id IN (SELECT mailing_id FROM minutes WHERE minute >= %(since)s AND minute < %(until)s)
ORDER BY m.id
"""  # noqa: S608 (constants)
CHANGES = """
SELECT mailing_id, status, sum(count), sum(sent_segments + in_doubt_segments), sum(opted_out)
FROM minutes WHERE minute >= %(since)s AND minute < %(until)s GROUP BY 1, 2
"""
ENDED = """
SELECT mailing_id, sum(count) FROM minutes
WHERE mailing_id = ANY (%(ids)s) AND minute < %(until)s GROUP BY 1
"""
WINDOWED = """
SELECT DISTINCT mailing_id, timezone, created_at FROM batches WHERE mailing_id = ANY (%(ids)s)
"""
# From when a message could be sent (its batch exists, its window is open) until it was accepted.
# Waits are counted in tenths of a second batch by batch, as the few different ones of each are
# quickly sorted. Sorting those of a mailing of millions spills to disk, and a join of all messages
# with all batches is planned badly, since PostgreSQL does not know that a batch has one mailing.
WAITS = """
WITH waits AS (
    SELECT b.mailing_id, tenths, sum(messages) AS messages
    FROM batches b LEFT JOIN unnest(%(windowed)s::bigint[], %(zones)s::text[],
        %(made)s::timestamptz[], %(dues)s::timestamptz[])
        AS d (mailing_id, timezone, created_at, due) USING (mailing_id, timezone, created_at)
    CROSS JOIN LATERAL (
        SELECT count(*) AS messages, greatest(
            0, round(10 * date_part('epoch', m.sent_at - coalesce(d.due, b.created_at)))) AS tenths
        FROM messages m
        WHERE m.mailing_id = b.mailing_id AND m.id BETWEEN b.first_id AND b.last_id
            AND m.batch_id = b.id AND m.sent_at >= %(since)s AND m.sent_at < %(until)s
        GROUP BY 2
    ) AS counted
    WHERE b.mailing_id = ANY (%(ids)s) AND b.sent > 0
    GROUP BY 1, 2
), ranked AS (
    SELECT mailing_id, tenths, sum(messages) OVER (PARTITION BY mailing_id ORDER BY tenths) AS n,
        sum(messages) OVER (PARTITION BY mailing_id) AS total
    FROM waits
)
SELECT mailing_id, min(tenths) FILTER (WHERE n >= 0.5 * total) / 10,
    min(tenths) FILTER (WHERE n >= 0.95 * total) / 10
FROM ranked GROUP BY 1
"""
# A message failed at its last attempt; one that could not be rendered has none.
REASONS = """
SELECT m.reason, count(*) FROM batches b JOIN messages m ON m.mailing_id = b.mailing_id
    AND m.id BETWEEN b.first_id AND b.last_id AND m.batch_id = b.id
LEFT JOIN (
    SELECT mailing_id, message_id, max(at) AS at FROM attempts
    WHERE mailing_id = ANY (%(ids)s) AND at >= %(since)s GROUP BY 1, 2
) a ON a.mailing_id = m.mailing_id AND a.message_id = m.id
WHERE b.mailing_id = ANY (%(ids)s) AND m.mailing_id = ANY (%(ids)s)
    AND b.failed > 0 AND m.status = 'failed'
    AND coalesce(a.at, m.created_at) >= %(since)s AND coalesce(a.at, m.created_at) < %(until)s
GROUP BY 1
"""
OPENINGS = """
SELECT reason, count(*) FROM breaker_openings WHERE at >= %(since)s AND at < %(until)s
GROUP BY 1 ORDER BY 2 DESC, 1
"""
# Messages that will not be sent by their mailing's end: the window opens too late, the mailing is
# paused, or the rate of the last ten minutes is too low for what is due.
LATE = f"""
SELECT m.id, m.end_at, m.status, never, in_progress + due, coalesce(pace, 0)::float8, m.pause_reason
FROM mailings m {COUNTS_JOIN}
CROSS JOIN LATERAL (
    SELECT coalesce(sum(batches.pending), 0)::bigint AS never
    FROM batches WHERE mailing_id = m.id AND due_at >= m.end_at - %(margin)s
) b
CROSS JOIN LATERAL (
    SELECT sum(count) / 10.0 AS pace FROM minutes
    WHERE mailing_id = m.id AND minute >= now() - interval '10 minutes'
) p
WHERE NOT m.settled AND m.status IN ('running', 'paused') AND m.end_at > now() AND pending > 0
    AND (m.status = 'paused' OR never > 0
        OR in_progress + due
            > coalesce(pace, 0) * extract(epoch FROM m.end_at - %(margin)s - now()) / 60)
ORDER BY m.end_at, m.id
"""  # noqa: S608 (constants)


@dataclass
class MailingDay:
    """One mailing's figures of a day.

    `sent`, `failed`, `expired`, `opted_out` and `cancelled` (without them) are the changes of the
    day, and `segments` those of messages that were sent or are in doubt since then; `pending` is
    the count at its end;
    `audience`, `status` and `in_doubt` are current. `median` and `p95` are seconds from due to
    accepted; None if no message was accepted.
    """

    id: int
    name: str | None
    first_line: str
    start_at: datetime
    end_at: datetime
    status: str
    audience: int
    deleted: bool
    sent: int
    failed: int
    expired: int
    cancelled: int
    pending: int
    in_doubt: int
    median: float | None = None
    p95: float | None = None
    segments: int = 0
    opted_out: int = 0

    @property
    def share(self) -> float | None:
        """The accepted messages' share of those that ended that day; None if none did."""
        return accepted_share(*map(self.count, COUNTED_ENDS))

    def count(self, name: str) -> int:
        """Return the count of this name, such as `sent` or `audience`."""
        number: int = getattr(self, name)
        return number


@dataclass
class LateMailing:
    """A mailing that will end with messages left; the windows of `never` of them open too late."""

    id: int
    end_at: datetime
    status: str
    never: int
    due: int
    pace: float  # messages a minute
    pause_reason: str | None = None


@dataclass
class DayFigures:
    """All data of a day's report."""

    day: date
    zone: str
    mailings: list[MailingDay]
    segment_price: Decimal | None = None
    reasons: list[tuple[str, int]] = field(default_factory=list)
    openings: list[tuple[str, int]] = field(default_factory=list)
    late: list[LateMailing] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Return the sum of a count over all mailings."""
        return sum(mailing.count(name) for mailing in self.mailings)

    @property
    def share(self) -> float | None:
        """As a mailing's share, over all mailings."""
        return accepted_share(*(self.total(name) for name in COUNTED_ENDS))


def accepted_share(sent: int, *others: int) -> float | None:
    """Return the share of `sent` in all; negative numbers (messages retried) count as 0."""
    ended = max(0, sent) + sum(max(0, n) for n in others)
    return max(0, sent) / ended if ended else None


def read_day_figures(cursor: Cursor, day: date, zone: str, end_margin: float = 0.0) -> DayFigures:
    """Read a local day's figures; the caller's transaction should read one snapshot."""
    since, until = day_bounds(day, zone)
    span = {"since": since, "until": until}
    cursor.execute(ACTIVE, span)
    rows = cursor.fetchall()
    cursor.execute(CHANGES, span)
    found = cursor.fetchall()
    changes = {(mailing_id, status): int(n) for mailing_id, status, n, *_ in found}
    segments = {mailing_id: int(n) for mailing_id, status, _, n, _ in found if status == "sent"}
    opted_out = {id_: int(n) for id_, status, *_, n in found if status == "cancelled"}
    cursor.execute(ENDED, {"ids": [row[0] for row in rows], **span})
    ended = {mailing_id: int(n) for mailing_id, n in cursor.fetchall()}
    result = DayFigures(day, zone, [])
    windows: dict[int, Window | None] = {}
    for id_, name, text, start, end, status, audience, opens, closes, gone, doubt in rows:
        windows[id_] = make_window(opens, closes)
        mailing = MailingDay(
            id_,
            name,
            text.strip().splitlines()[0] if text.strip() else "",
            start,
            end,
            status,
            audience,
            gone,
            **{state: changes.get((id_, state), 0) for state in STATUSES},
            pending=audience - ended.get(id_, 0),
            in_doubt=doubt,
            segments=segments.get(id_, 0),
            opted_out=opted_out.get(id_, 0),
        )
        mailing.cancelled -= mailing.opted_out
        result.mailings.append(mailing)
    sent = {mailing.id: windows[mailing.id] for mailing in result.mailings if mailing.sent > 0}
    waits = _read_waits(cursor, sent, span)
    for mailing in result.mailings:
        mailing.median, mailing.p95 = waits.get(mailing.id, (None, None))
    failed = [mailing.id for mailing in result.mailings if mailing.failed > 0]
    cursor.execute(REASONS, {"ids": failed, **span})
    reasons = [(reason or "", n) for reason, n in cursor.fetchall()]
    result.reasons = sorted(reasons, key=lambda item: (-item[1], item[0]))[:MAX_REASONS]
    cursor.execute(OPENINGS, span)
    result.openings = [(reason, int(n)) for reason, n in cursor.fetchall()]
    cursor.execute(LATE, {"margin": timedelta(seconds=end_margin)})
    result.late = [LateMailing(*row) for row in cursor.fetchall()]
    return result


def _read_waits(
    cursor: Cursor, windows: Mapping[int, Window | None], span: Mapping[str, datetime]
) -> dict[int, tuple[float, float]]:
    """Return median and 95th percentile of the seconds from due to accepted by mailing.

    `windows` has the mailings to read, with their windows.
    """
    cursor.execute(WINDOWED, {"ids": [id_ for id_, window in windows.items() if window]})
    made = cursor.fetchall()
    values = {
        "ids": list(windows),
        "windowed": [id_ for id_, _, _ in made],
        "zones": [zone for _, zone, _ in made],
        "made": [at for _, _, at in made],
        "dues": [next_due(windows[id_], zone, at) for id_, zone, at in made],
    }
    cursor.execute(WAITS, values | dict(span))
    return {id_: (median, p95) for id_, median, p95 in cursor.fetchall()}

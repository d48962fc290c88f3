"""Reads the figures of a local day from the database.

They come from `minutes`, the net changes of each status by minute, so over all days they add up to
a mailing's counts. A failed message that is retried counts negative.
"""

from dataclasses import dataclass, field
from datetime import date, datetime

from psycopg2.extensions import cursor as Cursor

from shared.db.mailing_counts import COUNTS_JOIN
from shared.db.rows import fetch_one_row
from shared.domain.send_windows import Window, make_window, next_due
from shared.report.days import day_bounds

MAX_REASONS = 5
COUNTED_STATUSES = ("sent", "failed", "expired", "cancelled")

ACTIVE = f"""
SELECT m.id, name, text, start_at, end_at, status, audience, window_from, window_to,
    deleted_at IS NOT NULL, counts.in_doubt
FROM mailings m {COUNTS_JOIN}
WHERE started_at < %(until)s AND coalesce(finished_at, 'infinity') >= %(since)s
    OR m.id IN (SELECT mailing_id FROM minutes WHERE minute >= %(since)s AND minute < %(until)s)
ORDER BY m.id
"""  # noqa: S608 (constants)
CHANGES = """
SELECT mailing_id, status, sum(count) FROM minutes
WHERE minute >= %(since)s AND minute < %(until)s GROUP BY 1, 2
"""
ENDED = """
SELECT mailing_id, sum(count) FROM minutes
WHERE mailing_id = ANY (%(ids)s) AND minute < %(until)s GROUP BY 1
"""
MADE = "SELECT DISTINCT timezone, created_at FROM batches WHERE mailing_id = %s"
# From when a message could be sent (its batch exists, its window is open) until it was accepted.
WAITS = """
SELECT percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (
    ORDER BY extract(epoch FROM greatest(m.sent_at - d.due, interval '0'))::float8)
FROM messages m
JOIN batches b ON b.mailing_id = m.mailing_id AND b.id = m.batch_id
JOIN unnest(%(zones)s::text[], %(made)s::timestamptz[], %(dues)s::timestamptz[])
    AS d (timezone, created_at, due) ON d.timezone = b.timezone AND d.created_at = b.created_at
WHERE m.mailing_id = %(mailing)s AND b.mailing_id = %(mailing)s
    AND m.sent_at >= %(since)s AND m.sent_at < %(until)s
"""
# A message failed at its last attempt; one that could not be rendered has none.
REASONS = """
SELECT m.reason, count(*) FROM batches b JOIN messages m ON m.mailing_id = b.mailing_id
    AND m.id BETWEEN b.first_id AND b.last_id AND m.batch_id = b.id
CROSS JOIN LATERAL (
    SELECT coalesce(max(at), m.created_at) AS at FROM attempts
    WHERE mailing_id = %(mailing)s AND message_id = m.id
) a
WHERE b.mailing_id = %(mailing)s AND m.mailing_id = %(mailing)s
    AND b.failed > 0 AND m.status = 'failed' AND a.at >= %(since)s AND a.at < %(until)s
GROUP BY 1
"""
OPENINGS = """
SELECT reason, count(*) FROM breaker_openings WHERE at >= %(since)s AND at < %(until)s
GROUP BY 1 ORDER BY 2 DESC, 1
"""
# Messages that will not be sent by their mailing's end: the window opens too late, the mailing is
# paused, or the rate of the last ten minutes is too low for what is due.
LATE = f"""
SELECT m.id, m.end_at, m.status, never, in_progress + due, coalesce(pace, 0)::float8
FROM mailings m {COUNTS_JOIN}
CROSS JOIN LATERAL (
    SELECT coalesce(sum(batches.pending), 0)::bigint AS never
    FROM batches WHERE mailing_id = m.id AND due_at >= m.end_at
) b
CROSS JOIN LATERAL (
    SELECT sum(count) / 10.0 AS pace FROM minutes
    WHERE mailing_id = m.id AND minute >= now() - interval '10 minutes'
) p
WHERE NOT m.settled AND m.status IN ('running', 'paused') AND m.end_at > now() AND pending > 0
    AND (m.status = 'paused' OR never > 0
        OR in_progress + due > coalesce(pace, 0) * extract(epoch FROM m.end_at - now()) / 60)
ORDER BY m.end_at, m.id
"""  # noqa: S608 (constants)


@dataclass
class MailingDay:
    """One mailing's figures of a day.

    `sent`, `failed`, `expired` and `cancelled` are the changes of the day, `pending` the count at
    its end; `audience`, `status` and `in_doubt` are current. `median` and `p95` are seconds from
    due to accepted; None if no message was accepted.
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

    @property
    def share(self) -> float | None:
        """The accepted messages' share of those that ended that day; None if none did."""
        return accepted_share(*map(self.count, COUNTED_STATUSES))

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


@dataclass
class DayFigures:
    """All data of a day's report."""

    day: date
    zone: str
    mailings: list[MailingDay]
    reasons: list[tuple[str, int]] = field(default_factory=list)
    openings: list[tuple[str, int]] = field(default_factory=list)
    late: list[LateMailing] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Return the sum of a count over all mailings."""
        return sum(mailing.count(name) for mailing in self.mailings)

    @property
    def share(self) -> float | None:
        """As a mailing's share, over all mailings."""
        return accepted_share(*(self.total(name) for name in COUNTED_STATUSES))


def accepted_share(sent: int, *others: int) -> float | None:
    """Return the share of `sent` in all; negative numbers (messages retried) count as 0."""
    ended = max(0, sent) + sum(max(0, n) for n in others)
    return max(0, sent) / ended if ended else None


def read_day_figures(cursor: Cursor, day: date, zone: str) -> DayFigures:
    """Read a local day's figures; the caller's transaction should read one snapshot."""
    since, until = day_bounds(day, zone)
    span = {"since": since, "until": until}
    cursor.execute(ACTIVE, span)
    rows = cursor.fetchall()
    cursor.execute(CHANGES, span)
    changes = {(mailing_id, status): int(n) for mailing_id, status, n in cursor.fetchall()}
    cursor.execute(ENDED, {"ids": [row[0] for row in rows], **span})
    ended = {mailing_id: int(n) for mailing_id, n in cursor.fetchall()}
    result = DayFigures(day, zone, [])
    reasons: dict[str, int] = {}
    for id_, name, text, start, end, status, audience, opens, closes, gone, doubt in rows:
        mailing = MailingDay(
            id_,
            name,
            text.strip().splitlines()[0] if text.strip() else "",
            start,
            end,
            status,
            audience,
            gone,
            **{state: changes.get((id_, state), 0) for state in COUNTED_STATUSES},
            pending=audience - ended.get(id_, 0),
            in_doubt=doubt,
        )
        if mailing.sent > 0:
            window = make_window(opens, closes)
            mailing.median, mailing.p95 = _read_waits(cursor, id_, window, span)
        if mailing.failed > 0:
            cursor.execute(REASONS, {"mailing": id_, **span})
            for reason, n in cursor.fetchall():
                reasons[reason or ""] = reasons.get(reason or "", 0) + n
        result.mailings.append(mailing)
    result.reasons = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:MAX_REASONS]
    cursor.execute(OPENINGS, span)
    result.openings = [(reason, int(n)) for reason, n in cursor.fetchall()]
    cursor.execute(LATE)
    result.late = [LateMailing(*row) for row in cursor.fetchall()]
    return result


def _read_waits(
    cursor: Cursor, mailing_id: int, window: Window | None, span: dict[str, datetime]
) -> tuple[float | None, float | None]:
    """Return median and 95th percentile of the seconds from due to accepted."""
    cursor.execute(MADE, (mailing_id,))
    made = cursor.fetchall()
    values = {
        "zones": [zone for zone, _ in made],
        "made": [at for _, at in made],
        "dues": [next_due(window, zone, at) for zone, at in made],
        "mailing": mailing_id,
    }
    cursor.execute(WAITS, values | span)
    (waits,) = fetch_one_row(cursor)
    return (waits[0], waits[1]) if waits else (None, None)

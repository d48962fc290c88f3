"""What was sent on each local day, in messages and SMS segments.

The days are those of the daily report (REPORT_TIMEZONE).
"""

from datetime import date, timedelta
from typing import NamedTuple

from flask import current_app
from sqlalchemy import text

from api.db import fetch_all
from shared.db.minute_counts import TEST_SENDS
from shared.report.days import day_bounds

BY_DAY = text("""
SELECT d.day,
    coalesce(sum(m.count) FILTER (WHERE mailing_id <> :tests), 0)::bigint AS sent,
    coalesce(sum(m.sent_segments) FILTER (WHERE mailing_id <> :tests), 0)::bigint AS sent_segments,
    coalesce(sum(m.in_doubt_segments) FILTER (WHERE mailing_id <> :tests), 0)::bigint
        AS in_doubt_segments,
    coalesce(sum(m.sent_segments + m.in_doubt_segments) FILTER (WHERE mailing_id = :tests), 0)
        ::bigint AS test_segments
FROM unnest(CAST(:days AS date[]), CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]))
    AS d (day, since, until)
LEFT JOIN minutes m ON m.minute >= d.since AND m.minute < d.until AND m.status = 'sent'
    AND (CAST(:mailing_id AS bigint) IS NULL OR m.mailing_id = :mailing_id)
GROUP BY 1 ORDER BY 1
""")


class DaySpending(NamedTuple):
    """What was sent on a local day; `test_segments` are those of test sends."""

    day: date
    sent: int
    sent_segments: int
    in_doubt_segments: int
    test_segments: int


def read_days(since: date, until: date, mailing_id: int | None = None) -> list[DaySpending]:
    """Return the days from `since` to `until`, both included, of all mailings or of one."""
    zone: str = current_app.config["REPORT_TIMEZONE"]
    days = [since + timedelta(days=n) for n in range((until - since).days + 1)]
    bounds = [day_bounds(day, zone) for day in days]
    rows = fetch_all(
        BY_DAY,
        days=days,
        starts=[since for since, _ in bounds],
        ends=[until for _, until in bounds],
        mailing_id=mailing_id,
        tests=TEST_SENDS,
    )
    return [DaySpending(**row) for row in rows]

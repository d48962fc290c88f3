"""What the page of a mailing shows besides its counts: time, zones, local hours, and failures."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import text

from api.admin.presenters.charts import build_chart
from api.admin.presenters.recipients import find_attempts
from api.db import fetch_all
from api.mailings import service
from api.mailings.dispatch_end import dispatch_end
from shared.db.models import Mailing
from shared.domain.send_windows import UnknownTimeZone, find_zone, is_open, next_opening

SENT_BY_MINUTES = text("""
SELECT date_bin(make_interval(mins => :step), minute, :start) AS at, 'sent' AS status,
    sum(count)::bigint AS n
FROM minutes WHERE mailing_id = :id AND status = 'sent' AND minute >= :start
GROUP BY 1 ORDER BY 1
""")
FIRST_AND_LAST_MINUTE = text("""
SELECT min(minute) AS first, max(minute) AS last FROM minutes
WHERE mailing_id = :id AND status = 'sent'
""")
BY_TIME_ZONE = text("""
SELECT timezone, sum(size)::bigint AS size, sum(pending)::bigint AS pending,
    sum(sent)::bigint AS sent
FROM batches WHERE mailing_id = :id GROUP BY 1 ORDER BY 2 DESC, 1
""")
# The minutes that one column of a mailing's chart may stand for, and how many columns it may have.
COLUMN_MINUTES = (1, 5, 15, 60, 240, 1440, 10080, 10**6)
MIN_COLUMNS, MAX_COLUMNS = 12, 60

# Messages have no index on time or reason. What is read of a large mailing is spread evenly over it
# and scaled to its own counts.
NUMBERED_BATCHES = """
WITH numbered AS (
    SELECT id, first_id, last_id, timezone, sent, sum(size) OVER () AS messages,
        row_number() OVER (ORDER BY timezone, id) - 1 AS n, count(*) OVER () AS batches
    FROM batches WHERE mailing_id = :id AND {count} > 0
)
"""
OF_BATCH = """
mailing_id = :id AND batch_id = chosen.id AND id BETWEEN chosen.first_id AND chosen.last_id
"""
# Zones are offset from UTC by quarters of an hour. A batch is mostly sent within seconds: of many,
# one message stands for its batch.
SENT_BY_QUARTER = text(f"""
{NUMBERED_BATCHES.format(count="sent")}, chosen AS MATERIALIZED (
    SELECT * FROM numbered WHERE n % greatest(1, ceil(batches::numeric / :batches)::bigint) = 0
)
SELECT timezone, date_bin('15 minutes', m.sent_at, 'epoch') AS at,
    sum(CASE WHEN :whole THEN 1 ELSE chosen.sent END)::bigint AS n
FROM chosen CROSS JOIN LATERAL (
    SELECT sent_at FROM messages WHERE {OF_BATCH} AND status = 'sent'
    ORDER BY id LIMIT CASE WHEN NOT :whole THEN 1 END
) m GROUP BY 1, 2
""")  # noqa: S608 (constants)
MAX_PROBED_BATCHES = 2_000
MAX_READ_MESSAGES = 10_000
FAILED_BY_REASON = text(f"""
{NUMBERED_BATCHES.format(count="failed")}, chosen AS MATERIALIZED (
    SELECT * FROM numbered WHERE n % greatest(1, ceil(messages / :limit)::bigint) = 0
)
SELECT m.reason, count(*) AS n, min(m.id) AS example FROM chosen CROSS JOIN LATERAL (
    SELECT id, reason FROM messages WHERE {OF_BATCH} AND status = 'failed'
) m GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MAX_COLUMNS}
""")  # noqa: S608 (constants)
MAX_ZONES = 12
HEAT_STEPS = 5


class FailureGroup(NamedTuple):
    """How many messages failed for one reason; estimated from a sample unless `exact`.

    `excerpt` is the beginning of the provider's response to one of them.
    """

    reason: str | None
    messages: int
    exact: bool
    excerpt: str


class HeatRow(NamedTuple):
    """A time zone: how many messages were sent in each local hour, and how warm each is (0–5)."""

    timezone: str
    hours: list[tuple[int, int]]


class HeatMap(NamedTuple):
    """Messages that were sent, by zone and local hour; estimated unless `exact`."""

    rows: list[HeatRow]
    exact: bool


def chart_sent(mailing_id: int) -> dict[str, Any] | None:
    """Return the chart of messages sent over time, in columns of as many minutes as fit it."""
    (span,) = fetch_all(FIRST_AND_LAST_MINUTE, id=mailing_id)
    if span["first"] is None:
        return None
    minutes = (span["last"] - span["first"]) // timedelta(minutes=1) + 1
    step = next(step for step in COLUMN_MINUTES if minutes <= step * MAX_COLUMNS)
    rows = fetch_all(SENT_BY_MINUTES, id=mailing_id, step=step, start=span["first"])
    count = max(MIN_COLUMNS, -(-minutes // step))
    slots = [span["first"] + timedelta(minutes=step) * n for n in range(count)]
    return build_chart(slots, rows, ("sent",)) | {"step": step}


def list_zones(mailing: Mailing, now: datetime) -> list[dict[str, Any]]:
    """Return the audience's time zones, each with whether and when its window opens."""
    window = service.window_of(mailing)
    zones = fetch_all(BY_TIME_ZONE, id=mailing.id)
    for zone in zones:
        try:
            zone["open"] = is_open(window, zone["timezone"], now)
            opens_at = zone["opens_at"] = next_opening(window, zone["timezone"], now)
            zone["never"] = opens_at >= dispatch_end(mailing.end_at)
        except UnknownTimeZone:
            zone["open"], zone["opens_at"] = False, None
    return zones


def map_local_hours(mailing_id: int, zones: Sequence[dict[str, Any]]) -> HeatMap | None:
    """Return when messages were sent by the clocks of their zones; None if none were."""
    known = [zone for zone in zones[:MAX_ZONES] if zone["sent"] and zone["opens_at"]]
    sent = {zone["timezone"]: zone["sent"] for zone in known}
    if not sent:
        return None
    counts: Counter[tuple[str, int]] = Counter()
    read: Counter[str] = Counter()
    whole = sum(sent.values()) <= MAX_READ_MESSAGES
    batches = 10**9 if whole else MAX_PROBED_BATCHES
    for row in fetch_all(SENT_BY_QUARTER, id=mailing_id, whole=whole, batches=batches):
        name = row["timezone"]
        if name in sent:
            counts[name, row["at"].astimezone(find_zone(name)).hour] += row["n"]
            read[name] += row["n"]
    if not read:
        return None
    exact = whole and all(read[name] == sent[name] for name in sent)
    scaled = {key: round(n * sent[key[0]] / read[key[0]]) for key, n in counts.items()}
    most = max(scaled.values())
    rows = []
    for name in sent:
        hours = [scaled.get((name, hour), 0) for hour in range(24)]
        rows.append(HeatRow(name, [(n, -(-HEAT_STEPS * n // most)) for n in hours]))
    return HeatMap(rows, exact)


def group_failures(mailing_id: int, failed: int) -> list[FailureGroup]:
    """Return the reasons of a mailing's failures, the most frequent first."""
    if not failed:
        return []
    rows = fetch_all(FAILED_BY_REASON, id=mailing_id, limit=MAX_READ_MESSAGES)
    read = sum(row["n"] for row in rows)
    attempts = find_attempts(mailing_id, [row["example"] for row in rows])
    groups = []
    for row in rows:
        latest = attempts.get(row["example"])
        excerpt = latest[0]["excerpt"] if latest else ""
        number = max(1, round(row["n"] * failed / read))
        groups.append(FailureGroup(row["reason"], number, read == failed, excerpt))
    return groups

"""The dashboard's charts: accepted, failed and expired messages by hour and by day."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from flask import Flask, current_app
from sqlalchemy import text

from api.db import fetch_all

COUNTS_BY_TIME = text("""
SELECT date_trunc(:unit, minute) AS at, status, sum(count)::bigint AS n FROM minutes
WHERE minute >= :since AND minute < :until AND status IN ('sent', 'failed', 'expired')
GROUP BY 1, 2
""")
CHARTED_STATUSES = ("sent", "failed", "expired")
# A month of a busy service is a million rows of `minutes`; all but today's no longer change.
PAST_DAYS_SECONDS = 600
CHARTS_SECONDS = 10
ONE_DAY = timedelta(days=1)

T = TypeVar("T")


class CachedValue(Generic[T]):
    """A value that is computed again when it is stale or a new day has begun, by one thread."""

    def __init__(self, max_age_seconds: float, compute: Callable[[datetime], T]):
        self._max_age, self._compute = max_age_seconds, compute
        self._lock = threading.Lock()
        self._cached: tuple[float, date, T] | None = None

    def get(self, now: datetime) -> T:
        with self._lock:
            cached = self._cached
            if (
                cached is None
                or time.monotonic() - cached[0] > self._max_age
                or cached[1] != now.date()
            ):
                cached = self._cached = time.monotonic(), now.date(), self._compute(now)
            return cached[2]


class Charts(NamedTuple):
    """The charts of the last 24 hours and of the last 30 days, as `build_chart` returns them."""

    hours: dict[str, Any]
    days: dict[str, Any]


def init_charts(app: Flask) -> None:
    """Give the application its cached charts."""
    past = CachedValue(PAST_DAYS_SECONDS, _read_past_days)
    app.extensions["admin_charts"] = CachedValue(
        CHARTS_SECONDS, lambda now: _read_charts(now, past.get(now))
    )


def read_charts(now: datetime) -> Charts:
    """Return the charts, which may be a few seconds old."""
    charts: CachedValue[Charts] = current_app.extensions["admin_charts"]
    return charts.get(now)


def _read_charts(now: datetime, past: list[dict[str, Any]]) -> Charts:
    hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [hour - timedelta(hours=n) for n in range(23, -1, -1)]
    today = hour.replace(hour=0)
    days = [today - timedelta(days=n) for n in range(29, -1, -1)]
    todays = fetch_all(COUNTS_BY_TIME, unit="day", since=today, until=today + ONE_DAY)
    return Charts(
        build_chart(
            hours, fetch_all(COUNTS_BY_TIME, unit="hour", since=hours[0], until=today + ONE_DAY)
        ),
        build_chart(days, [row for row in past if row["at"] < today] + todays),
    )


def _read_past_days(now: datetime) -> list[dict[str, Any]]:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return fetch_all(COUNTS_BY_TIME, unit="day", since=today - timedelta(days=29), until=today)


def build_chart(
    slots: Sequence[datetime],
    rows: Sequence[Mapping[str, Any]],
    statuses: Sequence[str] = CHARTED_STATUSES,
) -> dict[str, Any]:
    """Build stacked columns, one for each slot, with heights in percent of the value axis.

    `ticks` are the values of the axis from the top: a round number, its half, and 0.
    """
    counts = {(row["at"], row["status"]): max(0, row["n"]) for row in rows}
    columns: list[dict[str, Any]] = [
        {"at": slot, **{status: counts.get((slot, status), 0) for status in statuses}}
        for slot in slots
    ]
    most = max((sum(column[s] for s in statuses) for column in columns), default=0)
    highest = round_axis(most)
    for column in columns:
        top = 100.0
        column["rects"] = []
        for status in statuses:
            height = 100.0 * column[status] / highest
            top -= height
            if height:
                column["rects"].append((status, top, height))
    totals = {status: sum(column[status] for column in columns) for status in statuses}
    ticks = [highest, highest // 2, 0]
    return {"columns": columns, "ticks": ticks, "totals": totals, "statuses": statuses}


def round_axis(most: int) -> int:
    """Return the even, round number that a value axis up to `most` ends with."""
    magnitude: int = 10 ** (len(str(most)) - 1)
    candidates = (m * magnitude for m in (1, 2, 4, 6, 8, 10))
    return next(n for n in candidates if n >= max(most, 2) and n % 2 == 0)

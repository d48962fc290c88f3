"""The first page: what runs now, how the provider is, what needs attention, the last days."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from flask import Flask, current_app, render_template
from sqlalchemy import text

from api.admin.presenters import alerts
from api.admin.views.live_updates import alerts as late_alerts
from api.admin.views.live_updates import snapshot
from api.db import fetch_all

HOURS = text("""
SELECT date_trunc('hour', minute) AS at, status, sum(count)::bigint AS n FROM minutes
WHERE minute >= :since AND status IN ('sent', 'failed', 'expired') GROUP BY 1, 2
""")
DAYS = text("""
SELECT date_trunc('day', minute) AS at, status, sum(count)::bigint AS n FROM minutes
WHERE minute >= :since AND minute < :until AND status IN ('sent', 'failed', 'expired')
GROUP BY 1, 2
""")
CLIENTS = text("SELECT 1 FROM clients WHERE deleted_at IS NULL LIMIT 1")
CHARTED = ("sent", "failed", "expired")
SHOWN = 12

T = TypeVar("T")


class Kept(Generic[T]):
    """A value that is made anew when it is old or of another day, by one request at a time."""

    def __init__(self, seconds: float, make: Callable[[datetime], T]):
        self._seconds, self._make = seconds, make
        self._lock = threading.Lock()
        self._made: tuple[float, date, T] | None = None

    def get(self, now: datetime) -> T:
        with self._lock:
            made = self._made
            old = made is None or time.monotonic() - made[0] > self._seconds
            if made is None or old or made[1] != now.date():
                made = self._made = time.monotonic(), now.date(), self._make(now)
            return made[2]


class Charts(NamedTuple):
    """What has become of messages, by hours and by days."""

    hours: dict[str, Any]
    days: dict[str, Any]


def init_dashboard(app: Flask) -> None:
    # A month of a busy service's minutes is a million rows, all but today's of which are settled.
    past = Kept(600, _past_days)
    app.extensions["admin_charts"] = Kept(10, lambda now: _charts(now, past.get(now)))


def dashboard() -> str:
    now = datetime.now(UTC)
    found, health = snapshot()
    active = sorted(found.values(), key=lambda row: -row["id"])
    by_status = {
        status: [row for row in active if row["status"] == status]
        for status in ("running", "paused", "scheduled")
    }
    return render_template(
        "admin/dashboard.html",
        running=by_status["running"],
        paused=by_status["paused"],
        upcoming=sorted(by_status["scheduled"], key=lambda row: row["start_at"]),
        shown=SHOWN,
        health=health,
        alerts=" ".join(late_alerts(found, health, now)),
        attention=alerts.items(found, health),
        has_clients=bool(fetch_all(CLIENTS)),
        charts=current_app.extensions["admin_charts"].get(now),
    )


def _charts(now: datetime, past: list[dict[str, Any]]) -> Charts:
    hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [hour - timedelta(hours=n) for n in range(23, -1, -1)]
    today = hour.replace(hour=0)
    days = [today - timedelta(days=n) for n in range(29, -1, -1)]
    present = fetch_all(DAYS, since=today, until=today + timedelta(days=1))
    return Charts(
        chart(hours, fetch_all(HOURS, since=hours[0])),
        chart(days, [row for row in past if row["at"] < today] + present),
    )


def _past_days(now: datetime) -> list[dict[str, Any]]:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return fetch_all(DAYS, since=today - timedelta(days=29), until=today)


def chart(slots: list[datetime], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacked columns: one for each slot, their heights in percent of the highest."""
    counts = {(row["at"], row["status"]): max(0, row["n"]) for row in found}
    columns = [
        {"at": slot, **{status: counts.get((slot, status), 0) for status in CHARTED}}
        for slot in slots
    ]
    most = max((sum(column[s] for s in CHARTED) for column in columns), default=0)
    for column in columns:
        placed = 100.0
        column["rects"] = []
        for status in CHARTED:
            height = 100.0 * column[status] / (most or 1)
            placed -= height
            if height:
                column["rects"].append((status, placed, height))
    totals = {status: sum(column[status] for column in columns) for status in CHARTED}
    return {"columns": columns, "most": most, "totals": totals}

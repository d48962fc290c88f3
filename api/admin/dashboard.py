"""The first page: what runs now, how the provider is, what needs attention, the last days."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask, current_app, render_template
from sqlalchemy import text

from api.admin import attention
from api.admin.live import alerts, snapshot
from api.database import rows

HOURS = text("""
SELECT date_trunc('hour', minute) AS at, status, sum(count)::bigint AS n FROM minutes
WHERE minute >= :since AND status IN ('sent', 'failed', 'expired') GROUP BY 1, 2
""")
DAYS = text("""
SELECT date_trunc('day', minute) AS at, status, sum(count)::bigint AS n FROM minutes
WHERE minute >= :since AND status IN ('sent', 'failed', 'expired') GROUP BY 1, 2
""")
CLIENTS = text("SELECT 1 FROM clients WHERE deleted_at IS NULL LIMIT 1")
CHARTED = ("sent", "failed", "expired")
SHOWN = 12


class Kept:
    """A value that is made anew when it is older than `seconds`, by one request at a time."""

    def __init__(self, seconds: float, make: Callable[[datetime], dict[str, Any]]):
        self._seconds, self._make = seconds, make
        self._lock = threading.Lock()
        self._made_at = 0.0
        self._value: dict[str, Any] = {}

    def get(self, now: datetime) -> dict[str, Any]:
        with self._lock:
            if not self._value or time.monotonic() - self._made_at > self._seconds:
                self._value = self._make(now)
                self._made_at = time.monotonic()
            return self._value


def init_dashboard(app: Flask) -> None:
    # A month of a busy service's minutes is a million rows; nobody sees a day's column grow.
    app.extensions["admin_charts"] = (("24h", Kept(10, _hours)), ("30d", Kept(60, _days)))


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
        alerts=" ".join(alerts(found, health, now)),
        attention=attention.items(found, health),
        has_clients=bool(rows(CLIENTS)),
        charts=[(name, kept.get(now)) for name, kept in current_app.extensions["admin_charts"]],
    )


def _hours(now: datetime) -> dict[str, Any]:
    hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [hour - timedelta(hours=n) for n in range(23, -1, -1)]
    return chart(hours, rows(HOURS, since=hours[0]))


def _days(now: datetime) -> dict[str, Any]:
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = [day - timedelta(days=n) for n in range(29, -1, -1)]
    return chart(days, rows(DAYS, since=days[0]))


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

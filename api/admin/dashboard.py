"""The first page: what runs now, what needs attention, and how the last days went."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import render_template
from sqlalchemy import text

from api import wake
from api.admin.live import figures
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
RECENT = text("""
SELECT id, name, text, status, sent, failed, expired, audience, finished_at, end_at FROM mailings
WHERE deleted_at IS NULL AND status = 'finished' AND failed > 0
    AND end_at > now() AND finished_at > now() - interval '7 days'
ORDER BY id DESC LIMIT 5
""")
THROTTLED = text("SELECT throttled_until FROM provider_state WHERE throttled_until > now()")
CHARTED = ("sent", "failed", "expired")


def dashboard() -> str:
    now = datetime.now(UTC)
    active = sorted(figures().values(), key=lambda row: (row["status"] != "running", -row["id"]))
    hour = now.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    hours = [hour - timedelta(hours=n) for n in range(23, -1, -1)]
    days = [day - timedelta(days=n) for n in range(29, -1, -1)]
    throttled = rows(THROTTLED)
    return render_template(
        "admin/dashboard.html",
        running=[row for row in active if row["status"] == "running"],
        paused=[row for row in active if row["status"] == "paused"],
        upcoming=[row for row in active if row["status"] == "scheduled"],
        failed=rows(RECENT),
        throttled_until=throttled[0]["throttled_until"] if throttled else None,
        redis_away=not wake.queues().ping(),
        has_clients=bool(rows(CLIENTS)),
        charts=(
            ("24h", chart(hours, rows(HOURS, since=hours[0]))),
            ("30d", chart(days, rows(DAYS, since=days[0]))),
        ),
        now=now,
    )


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

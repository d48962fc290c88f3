"""The dashboard: alerts, today's and the next mailings, the provider's health, and charts."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from flask import current_app, render_template
from flask_babel import get_timezone
from sqlalchemy import text

from api.admin.presenters.alerts import find_alerts, token_expiry
from api.admin.presenters.charts import read_charts
from api.admin.presenters.live_figures import alert_codes, read_snapshot
from api.db import fetch_all
from api.mailings.daily_spending import DaySpending, read_days
from shared.db.mailing_counts import COUNTS_JOIN

FIRST_STEPS = text("""
SELECT EXISTS (SELECT 1 FROM clients WHERE deleted_at IS NULL) AS has_clients,
    EXISTS (SELECT 1 FROM mailings WHERE deleted_at IS NULL) AS has_mailings
""")
ENDED = text(f"""
SELECT m.id, m.name, m.text, m.status, m.finished_at, m.audience, counts.sent, counts.failed
FROM (
    SELECT * FROM mailings
    WHERE deleted_at IS NULL AND status IN ('finished', 'cancelled') AND finished_at >= :since
    ORDER BY finished_at DESC LIMIT :n
) AS m {COUNTS_JOIN}
ORDER BY m.finished_at DESC
""")  # noqa: S608 (constants)
SHOWN_MAILINGS = 12
LISTED_MAILINGS = 8


def dashboard() -> str:
    snapshot = read_snapshot()
    now = snapshot.at
    expires_at = token_expiry(snapshot)
    by_status: dict[str, list[dict[str, Any]]] = {"running": [], "paused": [], "scheduled": []}
    for _, row in sorted(snapshot.mailings.items(), reverse=True):
        if row["status"] in by_status:
            by_status[row["status"]].append(row)
    (steps,) = fetch_all(FIRST_STEPS)
    charts = read_charts(now)
    return render_template(
        "admin/dashboard.html",
        running=by_status["running"],
        paused=sorted(by_status["paused"], key=lambda row: row["end_at"]),
        upcoming=sorted(by_status["scheduled"], key=lambda row: row["launch_at"]),
        ended=fetch_all(ENDED, since=_midnight(now), n=LISTED_MAILINGS),
        shown=SHOWN_MAILINGS,
        listed=LISTED_MAILINGS,
        today=_spending_today(now),
        segment_price=current_app.config["SEGMENT_PRICE"],
        health=snapshot.health,
        # An alert says that it has expired.
        token_expires_at=expires_at if expires_at is not None and expires_at > now else None,
        alert_codes=alert_codes(snapshot, now),
        alerts=find_alerts(snapshot, now),
        has_clients=steps["has_clients"],
        has_mailings=steps["has_mailings"],
        # A first dashboard has nothing to draw.
        charts=charts if any(charts.days["totals"].values()) else None,
    )


def _spending_today(now: datetime) -> DaySpending:
    """Return what was sent today, by the time zone of the daily report and of budgets."""
    today = now.astimezone(ZoneInfo(current_app.config["REPORT_TIMEZONE"])).date()
    return read_days(today, today)[0]


def _midnight(now: datetime) -> datetime:
    """Return when the viewer's day began."""
    local = now.astimezone(get_timezone())
    return local.replace(hour=0, minute=0, second=0, microsecond=0)

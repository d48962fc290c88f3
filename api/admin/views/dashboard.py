"""The dashboard: alerts, running mailings, the provider's health, and the last hours and days."""

from flask import render_template
from sqlalchemy import text

from api.admin.presenters.alerts import find_alerts, token_expiry
from api.admin.presenters.charts import read_charts
from api.admin.presenters.live_figures import alert_codes, read_snapshot
from api.db import fetch_all

CLIENTS = text("SELECT 1 FROM clients WHERE deleted_at IS NULL LIMIT 1")
SHOWN_MAILINGS = 12


def dashboard() -> str:
    snapshot = read_snapshot()
    now = snapshot.at
    expires_at = token_expiry(snapshot)
    by_status: dict[str, list[dict[str, object]]] = {"running": [], "paused": [], "scheduled": []}
    for _, row in sorted(snapshot.mailings.items(), reverse=True):
        if row["status"] in by_status:
            by_status[row["status"]].append(row)
    return render_template(
        "admin/dashboard.html",
        running=by_status["running"],
        paused=by_status["paused"],
        upcoming=sorted(by_status["scheduled"], key=lambda row: str(row["start_at"])),
        shown=SHOWN_MAILINGS,
        health=snapshot.health,
        # An alert says that it has expired.
        token_expires_at=expires_at if expires_at is not None and expires_at > now else None,
        alert_codes=alert_codes(snapshot, now),
        alerts=find_alerts(snapshot, now),
        has_clients=bool(fetch_all(CLIENTS)),
        charts=read_charts(now),
    )

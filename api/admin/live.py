"""Live figures: what every unsettled mailing has reached, read once a second whoever looks on.

A page subscribes by server-sent events. Each answer is one event, after which the browser comes
back by itself: so a hundred open pages hold no thread of the web server, and end with no fuss when
it is restarted. What they are shown is one snapshot per process, at most a second old.
"""

import threading
import time
from collections import deque
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, current_app, request
from sqlalchemy import text

from api.database import rows

live = Blueprint("live", __name__)

FRESH = 1.0  # seconds
AGAIN = 1500  # milliseconds until a browser comes back
MEMORY = 15.0  # seconds over which the rate is measured

# The parts of an audience, in the order of the bar. One statement sees one instant: they add up.
PARTS = ("sent", "due", "waiting", "retrying", "failed", "expired", "cancelled")
SPLIT = """
SELECT g.id, g.name, g.text, g.status, g.start_at, g.end_at, g.started_at, g.finished_at,
    g.settled, g.audience, g.audience_complete, g.rate_limit,
    CASE WHEN g.settled THEN g.sent ELSE b.sent END AS sent,
    b.due, b.waiting, b.retrying,
    CASE WHEN g.settled THEN g.failed ELSE b.failed END AS failed,
    CASE WHEN g.settled THEN g.expired ELSE b.expired END AS expired,
    CASE WHEN g.settled THEN g.cancelled ELSE b.cancelled END AS cancelled,
    CASE WHEN g.settled THEN g.in_doubt ELSE b.in_doubt END AS in_doubt
FROM mailings g CROSS JOIN LATERAL (
    SELECT coalesce(sum(sent), 0)::bigint AS sent, coalesce(sum(failed), 0)::bigint AS failed,
        coalesce(sum(expired), 0)::bigint AS expired,
        coalesce(sum(cancelled), 0)::bigint AS cancelled,
        coalesce(sum(in_doubt), 0)::bigint AS in_doubt,
        coalesce(sum(pending) FILTER (WHERE now), 0)::bigint AS due,
        coalesce(sum(pending) FILTER (WHERE NOT now AND backs_off), 0)::bigint AS retrying,
        coalesce(sum(pending) FILTER (WHERE NOT now AND NOT backs_off), 0)::bigint AS waiting
    FROM batches CROSS JOIN LATERAL (
        SELECT coalesce(leased_until > now(), false) OR coalesce(due_at <= now(), false) AS now,
            coalesce(retry_at > now(), false) AS backs_off
    ) state
    WHERE mailing_id = g.id AND NOT g.settled
) b
WHERE g.deleted_at IS NULL
"""
UNSETTLED = text(f"{SPLIT} AND NOT g.settled ORDER BY g.id")


class Snapshot:
    """The latest figures, and the few before them by which the rate is known."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0.0
        self._figures: dict[int, dict[str, Any]] = {}
        self._past: deque[tuple[float, dict[int, int]]] = deque()

    def figures(self) -> dict[int, dict[str, Any]]:
        """By mailing. Whoever finds them old reads them anew; whoever comes meanwhile waits."""
        with self._lock:
            if time.monotonic() - self._taken >= FRESH:
                self._take()
            return self._figures

    def _take(self) -> None:
        found = {row["id"]: row for row in rows(UNSETTLED)}
        now = self._taken = time.monotonic()
        while self._past and now - self._past[0][0] > MEMORY:
            self._past.popleft()
        then, sent = self._past[0] if self._past else (now, {})
        for row in found.values():
            row["rate"] = None
            if now - then >= FRESH and row["id"] in sent:
                row["rate"] = max(0.0, (row["sent"] - sent[row["id"]]) / (now - then))
        self._past.append((now, {row["id"]: row["sent"] for row in found.values()}))
        self._figures = found


def init_live(app: Flask) -> None:
    app.extensions["admin_live"] = Snapshot()


def figures() -> dict[int, dict[str, Any]]:
    snapshot: Snapshot = current_app.extensions["admin_live"]
    return snapshot.figures()


def seconds_left(row: dict[str, Any]) -> float | None:
    """For how long what could be sent now will take at the present rate, if that is known."""
    if row["status"] != "running" or not row.get("rate") or not row["due"]:
        return None
    return float(row["due"] / row["rate"])


@live.get("/live")
def stream() -> Response:
    """The figures of the mailings asked for (`?mailing=7`, several times), or of all."""
    wanted = {int(each) for each in request.args.getlist("mailing") if each.isdecimal()}
    shown = [
        {
            "id": row["id"],
            "status": row["status"],
            "audience": row["audience"],
            "in_doubt": row["in_doubt"],
            "parts": {part: row[part] for part in PARTS},
            "rate": row["rate"],
            "seconds_left": seconds_left(row),
        }
        for row in figures().values()
        if not wanted or row["id"] in wanted
    ]
    event = orjson.dumps({"mailings": shown, "asked": sorted(wanted)}).decode()
    return Response(f"retry: {AGAIN}\ndata: {event}\n\n", mimetype="text/event-stream")

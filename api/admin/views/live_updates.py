"""Live figures: what every unsettled mailing has reached and how the provider is, once a second.

A page subscribes by server-sent events. Each answer is one event, after which the browser comes
back by itself: so a hundred open pages hold no thread of the web server, and end with no fuss when
it is restarted. What they are shown is one snapshot for all: whichever process finds it old takes
the turn, reads it in one statement and leaves it in Redis, where the others find it.
"""

import threading
import time
from datetime import datetime
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, current_app, request
from redis.exceptions import RedisError
from sqlalchemy import text

from api.admin.presenters.fleet_health import judge, read_vitals
from api.db import fetch_all
from api.enqueue import job_queues

blueprint = Blueprint("live", __name__)

FRESH = 1.0  # seconds
AGAIN = 1500  # milliseconds until a browser comes back
RATED = 15.0  # seconds over which a rate is measured
MEMORY = 60.0  # seconds of which answers are counted
APART = 2.5  # seconds between two of the snapshots that are remembered
TURN = "notification:admin:live:turn"
KEPT = "notification:admin:live"

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
INSTANTS = ("start_at", "end_at", "started_at", "finished_at")


class Snapshot:
    """The latest figures: this process's copy of those that all processes share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._state: dict[str, Any] = {}
        self._figures: dict[int, dict[str, Any]] = {}

    def fresh(self) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
        """The figures by mailing, and the health. Who finds them old reads; others wait for it."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH:
                self._adopt(self._shared())
                self._read_at = time.monotonic()
            return self._figures, self._state["health"]

    def _shared(self) -> dict[str, Any]:
        """What another process has read this second; read here if it is our turn."""
        redis = job_queues().connection
        try:
            mine = redis.set(TURN, 1, nx=True, px=int(FRESH * 1000))
            kept: Any = redis.get(KEPT)
        except RedisError:
            return take(self._state, None)
        before: dict[str, Any] = orjson.loads(kept) if kept else self._state
        if kept and not mine:
            return before
        try:
            vitals = read_vitals(redis)
            state = take(before, vitals)
            redis.set(KEPT, orjson.dumps(state), px=int(MEMORY * 1000))
        except RedisError:
            state = take(before, None)
        return state

    def _adopt(self, state: dict[str, Any]) -> None:
        self._state, self._figures = state, {}
        for row in state["mailings"]:
            instants = {n: datetime.fromisoformat(row[n]) for n in INSTANTS if row[n] is not None}
            self._figures[row["id"]] = row | instants


def take(before: dict[str, Any], vitals: dict[str, Any] | None) -> dict[str, Any]:
    """A new snapshot. The few before it are in it, by which rates and latencies are known."""
    found = fetch_all(UNSETTLED)
    now = time.time()
    past = [each for each in before.get("past", []) if now - MEMORY <= each["at"] <= now]
    then = next((each for each in past if each["at"] >= now - RATED), None)
    for row in found:
        sent = then["sent"].get(str(row["id"])) if then else None
        row["rate"] = None
        if then is not None and sent is not None and now - then["at"] >= FRESH / 2:
            row["rate"] = max(0.0, (row["sent"] - sent) / (now - then["at"]))
    counters = vitals["counters"] if vitals else {}
    earlier = next((each["counters"] for each in past if each["counters"]), counters)
    if not past or now - past[-1]["at"] >= APART:
        sent = {str(row["id"]): row["sent"] for row in found}
        past.append({"at": now, "sent": sent, "counters": counters})
    state = {"mailings": found, "health": judge(vitals, earlier), "past": past}
    copied: dict[str, Any] = orjson.loads(orjson.dumps(state))
    return copied


def init_live(app: Flask) -> None:
    app.extensions["admin_live"] = Snapshot()


def figures() -> dict[int, dict[str, Any]]:
    return snapshot()[0]


def snapshot() -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    found: Snapshot = current_app.extensions["admin_live"]
    return found.fresh()


def seconds_left(row: dict[str, Any]) -> float | None:
    """For how long what could be sent now will take at the present rate, if that is known."""
    if row["status"] != "running" or not row.get("rate") or not row["due"]:
        return None
    return float(row["due"] / row["rate"])


def is_late(row: dict[str, Any], now: datetime) -> bool:
    """Whether, at the present rate, the end comes before all that is due has been sent."""
    left = seconds_left(row)
    return left is not None and left * 0.9 > max(0.0, (row["end_at"] - now).total_seconds())


def alerts(found: dict[int, dict[str, Any]], health: dict[str, Any], now: datetime) -> list[str]:
    """What of all this somebody should know at once, as codes."""
    running = [row for row in found.values() if row["status"] == "running"]
    codes = [f"provider:{health['state']}:{health['reason'] or ''}"]
    codes += [f"late:{row['id']}" for row in running if is_late(row, now)]
    codes += [f"dispatchers:{bool(health.get('dispatchers', 1))}"]
    return codes


@blueprint.get("/live")
def stream() -> Response:
    """The figures of the mailings asked for (`?mailing=7`, several times), or of the running."""
    wanted = {int(each) for each in request.args.getlist("mailing") if each.isdecimal()}
    found, health = snapshot()
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
        for row in found.values()
        if (row["id"] in wanted if wanted else row["status"] == "running")
    ]
    told = {"mailings": shown, "asked": sorted(wanted)}
    if not wanted:
        told["health"] = health
        told["alerts"] = " ".join(alerts(found, health, datetime.now().astimezone()))
    event = orjson.dumps(told).decode()
    return Response(f"retry: {AGAIN}\ndata: {event}\n\n", mimetype="text/event-stream")

"""Live figures of the admin UI: the counts of unsettled mailings and the provider's health.

All web processes share one snapshot, however many pages are open: the process that finds it stale
reads it in one statement and stores it in Redis, where the other processes find it.
"""

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from flask import Flask, current_app
from redis.exceptions import RedisError
from sqlalchemy import text

from api.admin.presenters.fleet_health import assess_health
from api.db import fetch_all
from api.enqueue import job_queues
from api.mailings.dispatch_end import dispatch_end
from shared.db.mailing_counts import COUNTS_JOIN
from shared.db.policy import STOPPED
from shared.domain.statuses import PauseReason
from shared.fleet_status import FleetStatus, read_fleet_status

MAX_AGE_SECONDS = 1.0
RATE_SECONDS = 15.0  # a rate is measured over at most this time
HISTORY_SECONDS = 60.0  # the provider's responses are counted over this time
HISTORY_STEP_SECONDS = 2.5  # between two entries of the history
TURN_KEY = "notification:admin:live:turn"
SNAPSHOT_KEY = "notification:admin:live"

# The parts of an audience, in the order of the bar. They add up to the audience.
PARTS = ("sent", "due", "waiting", "retrying", "failed", "expired", "opted_out", "cancelled")
MAILINGS_WITH_PARTS = f"""
SELECT m.id, m.name, m.text, m.status, m.pause_reason, m.start_at, m.end_at, m.started_at,
    m.finished_at, greatest(m.start_at, m.launch_not_before) AS launch_at, m.settled, m.audience,
    m.audience_complete, m.rate_limit, counts.sent,
    counts.in_progress + counts.due AS due, counts.waiting, counts.retrying, counts.failed,
    counts.expired, least(counts.cancelled_opted_out, counts.cancelled) AS opted_out,
    greatest(counts.cancelled - counts.cancelled_opted_out, 0) AS cancelled, counts.in_doubt,
    counts.sent_segments, counts.in_doubt_segments
FROM mailings m {COUNTS_JOIN}
WHERE m.deleted_at IS NULL
"""  # noqa: S608 (constants)
# Of very many, those that run, and then the newest.
MAX_LIVE_MAILINGS = 500
# One statement, with the time: a single row without an id if there is no such mailing.
UNSETTLED = text(f"""
SELECT extract(epoch FROM clock_timestamp())::float8 AS read_at, {STOPPED} AS stopped, found.*
FROM (VALUES (1)) AS one LEFT JOIN (
    {MAILINGS_WITH_PARTS} AND m.id IN (
        SELECT id FROM mailings WHERE NOT settled AND deleted_at IS NULL
        ORDER BY status = 'running' DESC, id DESC LIMIT {MAX_LIVE_MAILINGS}
    )
) AS found ON true ORDER BY found.id
""")  # noqa: S608 (constants)
INSTANTS = ("start_at", "launch_at", "end_at", "started_at", "finished_at")
# Fields that the rows of another version may lack.
NEW_FIELDS = {*PARTS, "launch_at", "pause_reason"}


class Snapshot(NamedTuple):
    """The unsettled mailings by id, with their parts and rates, and the provider's health.

    `at` is when they were read, by PostgreSQL's clock.
    """

    mailings: dict[int, dict[str, Any]]
    health: dict[str, Any]
    at: datetime


class SnapshotCache:
    """The latest snapshot: this process's copy of the one that all processes share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._state: dict[str, Any] = {}
        self._snapshot = Snapshot({}, {}, datetime.min.replace(tzinfo=UTC))

    def get(self) -> Snapshot:
        """Return the snapshot; one thread refreshes a stale one while the others wait."""
        with self._lock:
            if time.monotonic() - self._read_at >= MAX_AGE_SECONDS:
                self._state = self._read_state()
                mailings = {row["id"]: _parse_instants(row) for row in self._state["mailings"]}
                at = datetime.fromtimestamp(self._state["at"], UTC)
                self._snapshot = Snapshot(mailings, self._state["health"], at)
                self._read_at = time.monotonic()
            return self._snapshot

    def _read_state(self) -> dict[str, Any]:
        """Return the shared state; refresh it if no other process has done so this second."""
        redis = job_queues().connection
        try:
            own_turn = redis.set(TURN_KEY, 1, nx=True, px=int(MAX_AGE_SECONDS * 1000))
            stored: Any = redis.get(SNAPSHOT_KEY)
        except (RedisError, OSError):
            return build_state(self._state, None)
        shared_state = parse_state(stored)
        if shared_state is not None and not own_turn:
            return shared_state
        previous = self._state if shared_state is None else shared_state
        try:
            state = build_state(previous, read_fleet_status(redis))
            redis.set(SNAPSHOT_KEY, orjson.dumps(state), px=int(HISTORY_SECONDS * 1000))
        except (RedisError, OSError):
            state = build_state(previous, None)
        return state


def parse_state(stored: bytes | None) -> dict[str, Any] | None:
    """Return a stored state; None if there is none, or something else under its key."""
    try:
        state = orjson.loads(stored or b"null")
    except orjson.JSONDecodeError:
        return None
    types = {"mailings": list, "health": dict, "past": list, "at": float}
    if not isinstance(state, dict):
        return None
    if not all(isinstance(state.get(key), types[key]) for key in types):
        return None
    # Another version of the service, which runs during an upgrade, may know other parts.
    return state if all(set(row) >= NEW_FIELDS for row in state["mailings"]) else None


def build_state(previous: Mapping[str, Any], fleet: FleetStatus | None) -> dict[str, Any]:
    """Read a new state as JSON. Its `past` holds recent counts, from which rates are computed."""
    rows = fetch_all(UNSETTLED)
    ((now, stopped), *_) = [(float(row.pop("read_at")), row.pop("stopped")) for row in rows]
    mailings = [row for row in rows if row["id"] is not None]
    past = [each for each in previous.get("past", []) if now - HISTORY_SECONDS <= each["at"] <= now]
    base = next((each for each in past if each["at"] >= now - RATE_SECONDS), None)
    for row in mailings:
        row["rate"] = _measure_rate(row, base, now)
    counters = fleet.counters if fleet else {}
    earlier = next((each["counters"] for each in past if each["counters"]), counters)
    if not past or now - past[-1]["at"] >= HISTORY_STEP_SECONDS:
        sent = {str(row["id"]): row["sent"] for row in mailings}
        past.append({"at": now, "sent": sent, "counters": counters})
    health = assess_health(fleet, earlier)
    health["stopped"] = stopped
    state = {"mailings": mailings, "health": health, "past": past, "at": now}
    parsed: dict[str, Any] = orjson.loads(orjson.dumps(state))
    return parsed


def _measure_rate(
    row: Mapping[str, Any], base: Mapping[str, Any] | None, now: float
) -> float | None:
    """Return the messages per second sent since `base`, or None if that is not known yet."""
    sent = base["sent"].get(str(row["id"])) if base else None
    if base is None or sent is None or now - base["at"] < MAX_AGE_SECONDS / 2:
        return None
    return max(0.0, float(row["sent"] - sent) / (now - float(base["at"])))


def _parse_instants(row: dict[str, Any]) -> dict[str, Any]:
    return row | {n: datetime.fromisoformat(row[n]) for n in INSTANTS if row[n] is not None}


def init_live_figures(app: Flask) -> None:
    """Give the application its snapshot cache."""
    app.extensions["admin_live"] = SnapshotCache()


def read_snapshot() -> Snapshot:
    """Return a snapshot that is at most a second old."""
    cache: SnapshotCache = current_app.extensions["admin_live"]
    return cache.get()


def seconds_left(row: Mapping[str, Any]) -> float | None:
    """Return how long the due messages take at the present rate; None if that is not known."""
    if row["status"] != "running" or not row.get("rate") or not row["due"]:
        return None
    return float(row["due"] / row["rate"])


def is_late(row: Mapping[str, Any], now: datetime) -> bool:
    """Return whether, at the present rate, a mailing ends before all due messages are sent."""
    left = seconds_left(row)
    return left is not None and left * 0.9 > max(
        0.0, (dispatch_end(row["end_at"]) - now).total_seconds()
    )


def find_braked(snapshot: Snapshot) -> list[int]:
    """Return the mailings that the provider's refusals have paused."""
    return [
        row["id"]
        for row in snapshot.mailings.values()
        if row.get("pause_reason") == PauseReason.REFUSALS  # an earlier version stores no reason
    ]


def alert_codes(snapshot: Snapshot, now: datetime) -> str:
    """Return the conditions that the dashboard must show at once, as codes for its script."""
    health = snapshot.health
    running = [row for row in snapshot.mailings.values() if row["status"] == "running"]
    return " ".join(
        [
            f"provider:{health['state']}:{health['reason'] or ''}",
            *(f"late:{row['id']}" for row in running if is_late(row, now)),
            *(f"braked:{mailing_id}" for mailing_id in find_braked(snapshot)),
            f"dispatchers:{bool(health.get('dispatchers', 1))}",
            f"stopped:{health.get('stopped', False)}",
        ]
    )

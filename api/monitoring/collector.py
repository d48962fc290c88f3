"""Reads the service's own figures when Prometheus asks: from PostgreSQL, and from Redis.

Each source has its own moment: where one is away, the other's figures are there all the same, and
notification_source_up says which. Reading both takes a few milliseconds.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator

import psycopg2
import structlog
from flask import Flask
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from api.db import db
from shared import __version__, metrics
from shared.domain.statuses import MailingStatus, MessageStatus
from shared.metrics import METRICS
from shared.queues import CONTROL_QUEUE, DISPATCH_QUEUE, fail_fast_client

log = structlog.get_logger()

# A settled mailing's counts are on its row; of the others, the batches' are summed. A batch is due
# as worker/dispatch/claim_queries.py has it, but for the moments after PostgreSQL's own start.
COUNTS = text("""
SELECT status, deleted_at IS NOT NULL AS deleted, count(*) AS mailings, 0::bigint AS pending,
    sum(sent)::bigint AS sent, sum(failed)::bigint AS failed, sum(expired)::bigint AS expired,
    sum(cancelled)::bigint AS cancelled, 0::bigint AS due, 0::float8 AS lag, 0::float8 AS delay
FROM mailings WHERE settled GROUP BY 1, 2
UNION ALL
SELECT g.status, g.deleted_at IS NOT NULL, count(*), sum(b.pending)::bigint,
    sum(b.sent)::bigint, sum(b.failed)::bigint, sum(b.expired)::bigint, sum(b.cancelled)::bigint,
    sum(b.due)::bigint,
    coalesce(extract(epoch FROM now() - min(b.due_at) FILTER (WHERE g.rate_limit IS NULL)), 0),
    coalesce(extract(epoch FROM now() - min(g.start_at) FILTER (
        WHERE g.status = 'scheduled' AND g.start_at <= now())), 0)
FROM mailings g CROSS JOIN LATERAL (
    SELECT coalesce(sum(pending), 0) AS pending, coalesce(sum(sent), 0) AS sent,
        coalesce(sum(failed), 0) AS failed, coalesce(sum(expired), 0) AS expired,
        coalesce(sum(cancelled), 0) AS cancelled,
        count(*) FILTER (WHERE free) AS due, min(due_at) FILTER (WHERE free) AS due_at
    FROM batches CROSS JOIN LATERAL (
        SELECT g.status = 'running' AND g.end_at > now() AND due_at <= now()
            AND (leased_until IS NULL OR leased_until < now()) AS free
    ) AS f
    WHERE mailing_id = g.id
) b
WHERE NOT g.settled GROUP BY 1, 2
""")
CONNECTIONS = text("""
SELECT CASE WHEN application_name IN ('api', 'notification-control', 'notification-dispatch')
        THEN application_name ELSE 'other' END AS application,
    CASE WHEN state IN ('active', 'idle') THEN state
        WHEN state LIKE 'idle in transaction%' THEN 'in_transaction' ELSE 'other' END AS state,
    count(*) AS n
FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1, 2
""")
MOST_CONNECTIONS = text("SELECT current_setting('max_connections')::int")
APPLICATIONS = ("api", "notification-control", "notification-dispatch", "other")
CONNECTION_STATES = ("active", "idle", "in_transaction", "other")
BREAKER_REASONS = ("unavailable", "unknown", "unauthorized", "throttled")
OUTCOMES = (
    "accepted",
    "rejected",
    "declined",
    "throttled",
    "unauthorized",
    "unavailable",
    "unknown",
)
WORKER_STATES = ("busy", "idle", "other")
SCHEDULED_KEY = "rq:scheduler:scheduled_jobs"

Samples = dict[tuple[str, ...], float]


def gauge(name: str, value: float | Samples) -> Metric:
    """A gauge, whether it has labels or not."""
    family = GaugeMetricFamily(name, METRICS[name].help, labels=METRICS[name].labels)
    for labels, number in ({(): value} if not isinstance(value, dict) else value).items():
        family.add_metric(labels, number)
    return family


def counter(name: str, value: float | Samples) -> Metric:
    family = CounterMetricFamily(name, METRICS[name].help, labels=METRICS[name].labels)
    for labels, number in ({(): value} if not isinstance(value, dict) else value).items():
        family.add_metric(labels, number)
    return family


class FleetCollector(Collector):
    """Everything of shared/metrics.py, as it is at this moment."""

    def __init__(self, app: Flask, redis_url: str):
        self._app = app
        self._redis = fail_fast_client(redis_url)

    def describe(self) -> Iterable[Metric]:
        """Known without asking anybody."""
        return ()

    def collect(self) -> Iterator[Metric]:
        up: Samples = {}
        yield from self._ask("postgresql", self._from_postgresql, up)
        yield from self._ask("redis", self._from_redis, up)
        yield gauge("notification_source_up", up)
        python = platform.python_version()
        yield gauge("notification_build_info", {(__version__, python): 1})

    def _ask(self, source: str, read: Callable[[], list[Metric]], up: Samples) -> list[Metric]:
        up[source,] = 0
        try:
            families = read()
        except (SQLAlchemyError, psycopg2.Error, RedisError, OSError) as error:
            gist = str(getattr(error, "orig", error)).strip().partition("\n")[0]
            log.warning("metrics.unavailable", source=source, error=gist)
            return []
        up[source,] = 1
        return families

    def _from_postgresql(self) -> list[Metric]:
        with self._app.app_context(), db.engine.connect() as connection:
            connection.execute(text("SET LOCAL statement_timeout = '2s'; SET LOCAL jit = off"))
            return [*_counts(connection), *_connections(connection)]

    def _from_redis(self) -> list[Metric]:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.time()
        pipeline.hgetall(metrics.COUNTERS_KEY)
        pipeline.hgetall(metrics.SENDERS_KEY)
        pipeline.get(metrics.SWEPT_KEY)
        pipeline.hmget(metrics.BREAKER_KEY, "until", "reason")
        pipeline.get(metrics.HOLD_KEY)
        pipeline.zcard(SCHEDULED_KEY)
        for queue in (CONTROL_QUEUE, DISPATCH_QUEUE):
            pipeline.llen(f"rq:queue:{queue}")
            pipeline.smembers(f"rq:workers:{queue}")
        time_, counters, senders, swept, breaker, hold, scheduled, *queues = pipeline.execute()
        now = time_[0] + time_[1] / 1e6
        members = {CONTROL_QUEUE: queues[1], DISPATCH_QUEUE: queues[3]}
        jobs: Samples = {
            (CONTROL_QUEUE,): queues[0],
            (DISPATCH_QUEUE,): queues[2],
            ("scheduled",): scheduled,
        }
        # Without a moment of a sweep there is no age: absent() says so.
        age = (
            [gauge("notification_sweep_age_seconds", max(0.0, now - float(swept)))] if swept else []
        )
        return [
            *_counters({name.decode(): float(value) for name, value in counters.items()}),
            *_senders(senders.values()),
            _breaker(breaker, float(hold or 0) > now),
            gauge("notification_queue_jobs", jobs),
            gauge("notification_workers", self._workers(members)),
            *age,
        ]

    def _workers(self, members: dict[str, set[bytes]]) -> Samples:
        counts: Samples = {(queue, state): 0 for queue in members for state in WORKER_STATES}
        keys = [(queue, key) for queue, names in members.items() for key in names]
        pipeline = self._redis.pipeline(transaction=False)
        for _, key in keys:
            pipeline.hget(key, "state")
        for (queue, _), state in zip(keys, pipeline.execute(), strict=True):
            if state is not None:  # else it is gone, and RQ has not noticed yet
                name = state.decode()
                counts[queue, name if name in WORKER_STATES else "other"] += 1
        return counts


def _counts(connection: Connection) -> Iterator[Metric]:
    messages: Samples = {(status,): 0 for status in MessageStatus}
    mailings: Samples = {(status,): 0 for status in MailingStatus}
    due, lag, delay = 0, 0.0, 0.0
    for row in connection.execute(COUNTS).mappings():
        for status in MessageStatus:
            messages[status,] += row[status]
        if not row["deleted"]:
            mailings[row["status"],] += row["mailings"]
        due += row["due"]
        lag, delay = max(lag, row["lag"]), max(delay, row["delay"])
    yield gauge("notification_messages_total", messages)
    yield gauge("notification_mailings", mailings)
    yield gauge("notification_batches_due", due)
    yield gauge("notification_dispatch_lag_seconds", lag)
    yield gauge("notification_launch_delay_seconds", delay)


def _connections(connection: Connection) -> Iterator[Metric]:
    counts: Samples = {(app, state): 0 for app in APPLICATIONS for state in CONNECTION_STATES}
    for row in connection.execute(CONNECTIONS).mappings():
        counts[row["application"], row["state"] or "other"] += row["n"]
    yield gauge("notification_database_connections", counts)
    most = connection.execute(MOST_CONNECTIONS).scalar_one()
    yield gauge("notification_database_connections_max", most)


def _counters(counted: dict[str, float]) -> Iterator[Metric]:
    attempts: Samples = {(o,): counted.get(f"attempt:{o}", 0.0) for o in OUTCOMES}
    yield counter("notification_attempts_total", attempts)
    edges = [*map(str, metrics.LATENCY_BUCKETS), "+Inf"]
    below, buckets = 0.0, []
    for i, edge in enumerate(edges):
        below += counted.get(f"bucket:{i}", 0.0)
        buckets.append((edge, below))
    name = "notification_provider_request_seconds"
    seconds = HistogramMetricFamily(name, METRICS[name].help)
    seconds.add_metric((), buckets, counted.get("seconds", 0.0))
    yield seconds
    yield counter("notification_messages_late_total", counted.get("late", 0.0))


def _senders(entries: Iterable[bytes]) -> Iterator[Metric]:
    """Dispatchers that said lately what they do; a killed one falls silent."""
    in_flight = used = limit = 0.0
    for entry in entries:
        at, flying, per_second, rate = map(float, entry.split())
        if time.time() - at < metrics.SENDER_STALE_SECONDS:
            in_flight += flying
            used += per_second
            limit = max(limit, rate)
    yield gauge("notification_in_flight", in_flight)
    yield gauge("notification_rate_used", used)
    yield gauge("notification_rate_limit", limit)


def _breaker(breaker: list[bytes | None], throttled: bool) -> Metric:
    until, reason = float(breaker[0] or 0), (breaker[1] or b"").decode()
    opened: Samples = {(name,): float(bool(until) and name == reason) for name in BREAKER_REASONS}
    opened["throttled",] = float(throttled)
    return gauge("notification_breaker_open", opened)

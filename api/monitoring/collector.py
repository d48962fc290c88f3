"""Collects the metrics of mailings and workers at each scrape, from PostgreSQL and from Redis.

Each source is read on its own: if one is unavailable, the other's metrics are still exported, and
notification_source_up reports which. Reading both takes a few milliseconds.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import cast

import psycopg2
import structlog
from flask import Flask, current_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from psycopg2.extensions import cursor as Cursor
from redis.exceptions import RedisError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from api.db import db
from shared import __version__, metrics
from shared.db.batch_conditions import LAUNCH_DUE, MAY_SEND
from shared.db.budgets import POLICY_BUDGET, read_budgets
from shared.db.mailing_counts import COUNTS_JOIN
from shared.db.policy import STOPPED
from shared.db.undelivered_mails import count_undelivered_mails
from shared.domain.statuses import MailingStatus, MessageStatus, PauseReason
from shared.fleet_status import FleetStatus, read_fleet_status
from shared.metrics import METRICS
from shared.redis_client import fail_fast_client

log = structlog.get_logger()

SENDABLE = MAY_SEND.replace("%(end_margin)s", ":end_margin")
# Settled mailings are counted by their rows, without reading batches; the others by their batches.
MAILINGS = text(f"""
SELECT status, deleted_at IS NOT NULL AS deleted, count(*) AS mailings, 0::bigint AS pending,
    sum(sent)::bigint AS sent, sum(failed)::bigint AS failed, sum(expired)::bigint AS expired,
    sum(cancelled)::bigint AS cancelled, sum(cancelled_opted_out)::bigint AS opted_out,
    sum(sent_segments)::bigint AS sent_segments,
    sum(in_doubt_segments)::bigint AS in_doubt_segments, 0::bigint AS due, 0::float8 AS lag,
    0::float8 AS delay
FROM mailings WHERE settled GROUP BY 1, 2
UNION ALL
SELECT m.status, m.deleted_at IS NOT NULL, count(*), sum(counts.pending)::bigint,
    sum(counts.sent)::bigint, sum(counts.failed)::bigint, sum(counts.expired)::bigint,
    sum(counts.cancelled)::bigint, sum(counts.cancelled_opted_out)::bigint,
    sum(counts.sent_segments)::bigint,
    sum(counts.in_doubt_segments)::bigint,
    coalesce(sum(due_batches) FILTER (WHERE {SENDABLE}), 0)::bigint,
    coalesce(extract(epoch FROM now() - min(oldest_due_at) FILTER (
        WHERE {SENDABLE} AND m.rate_limit IS NULL)), 0),
    coalesce(extract(epoch FROM now() - min(greatest(m.start_at, m.launch_not_before)) FILTER (
        WHERE m.status = 'scheduled' AND {LAUNCH_DUE})), 0)
FROM mailings m {COUNTS_JOIN} WHERE NOT m.settled GROUP BY 1, 2
""")  # noqa: S608 (constants)
PAUSED = text("""
SELECT pause_reason, count(*) FROM mailings WHERE status = 'paused' AND deleted_at IS NULL
GROUP BY 1
""")
SENDING_STOPPED = text(f"SELECT {STOPPED}")
CONNECTIONS = text("""
SELECT CASE WHEN application_name
            IN ('api', 'notification-control', 'notification-dispatch', 'notification-report')
        THEN application_name ELSE 'other' END AS application,
    CASE WHEN state IN ('active', 'idle') THEN state
        WHEN state LIKE 'idle in transaction%' THEN 'in_transaction' ELSE 'other' END AS state,
    count(*) AS n
FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1, 2
""")
MAX_CONNECTIONS = text("SELECT current_setting('max_connections')::int")
SESSIONS = text("""
SELECT role, count(*) AS n FROM admin_sessions WHERE ended_at IS NULL AND expires_at > now()
GROUP BY 1
""")
IMPORTS = text("""
SELECT CASE WHEN u.finished_at IS NOT NULL THEN 'undone' WHEN u.import_id IS NOT NULL THEN 'undoing'
    WHEN status = 'receiving' THEN 'waiting' ELSE status::text END AS state, count(*) AS n
FROM imports i LEFT JOIN import_undos u ON u.import_id = i.id GROUP BY 1
""")
IMPORT_STATES = ("waiting", "running", "finished", "failed", "undoing", "undone")
ROLES = ("viewer", "operator", "admin")
APPLICATIONS = (
    "api",
    "notification-control",
    "notification-dispatch",
    "notification-report",
    "other",
)
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

Samples = dict[tuple[str, ...], float]


def _build_family(
    kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, value: float | Samples
) -> Metric:
    """Build a metric from one value, or from a value for each combination of labels."""
    family = kind(name, METRICS[name].help, labels=METRICS[name].labels)
    for labels, number in ({(): value} if not isinstance(value, dict) else value).items():
        family.add_metric(labels, number)
    return family


gauge = partial(_build_family, GaugeMetricFamily)
counter = partial(_build_family, CounterMetricFamily)


class FleetCollector(Collector):
    """Collects all metrics of shared/metrics.py."""

    def __init__(self, app: Flask, redis_url: str):
        self._app = app
        self._redis = fail_fast_client(redis_url)

    def describe(self) -> Iterable[Metric]:
        """Return no metrics, so that registering the collector reads nothing."""
        return ()

    def collect(self) -> Iterator[Metric]:
        up: Samples = {}
        yield from self._read_source("postgresql", self._read_postgresql, up)
        yield from self._read_source("redis", self._read_redis, up)
        yield gauge("notification_source_up", up)
        python = platform.python_version()
        yield gauge("notification_build_info", {(__version__, python): 1})

    def _read_source(
        self, source: str, read: Callable[[], list[Metric]], up: Samples
    ) -> list[Metric]:
        up[source,] = 0
        try:
            families = read()
        except (SQLAlchemyError, psycopg2.Error, RedisError, OSError) as error:
            summary = str(getattr(error, "orig", error)).strip().partition("\n")[0]
            log.warning("metrics.unavailable", source=source, error=summary)
            return []
        up[source,] = 1
        return families

    def _read_postgresql(self) -> list[Metric]:
        with self._app.app_context(), db.engine.connect() as connection:
            connection.execute(text("SET LOCAL statement_timeout = '2s'; SET LOCAL jit = off"))
            return [
                *_mailing_metrics(connection),
                *_connection_metrics(connection),
                _session_metric(connection),
                _import_metric(connection),
            ]

    def _read_redis(self) -> list[Metric]:
        status = read_fleet_status(self._redis)
        jobs: Samples = {(queue,): length for queue, length in status.queue_lengths.items()}
        jobs["scheduled",] = status.scheduled_jobs
        workers: Samples = {(queue, s): 0 for queue in status.worker_states for s in WORKER_STATES}
        for queue, states in status.worker_states.items():
            for state in states:
                workers[queue, state if state in WORKER_STATES else "other"] += 1
        families = [
            *_counter_metrics(status.counters),
            _breaker_metric(status),
            gauge("notification_in_flight", status.in_flight),
            gauge("notification_concurrency_limit", status.concurrency_limit),
            gauge("notification_rate_used", status.rate_used),
            gauge("notification_rate_limit", status.rate_limit),
            gauge("notification_queue_jobs", jobs),
            gauge("notification_workers", workers),
        ]
        # Without a known sweep the metric is missing, which absent() detects.
        if status.sweep_age_seconds is not None:
            families.append(gauge("notification_sweep_age_seconds", status.sweep_age_seconds))
        if status.sweep_seconds is not None:
            families.append(gauge("notification_sweep_seconds", status.sweep_seconds))
        for name, instant in (
            ("notification_token_expiry_timestamp_seconds", status.token_expires_at),
            ("notification_token_renewal_timestamp_seconds", status.token_renew_at),
        ):
            if instant is not None:
                families.append(gauge(name, instant))
        return families


def _mailing_metrics(connection: Connection) -> Iterator[Metric]:
    messages: Samples = {(status,): 0 for status in MessageStatus}
    mailings: Samples = {(status,): 0 for status in MailingStatus}
    segments: Samples = {("sent",): 0, ("in_doubt",): 0}
    opted_out, due, lag, delay = 0, 0, 0.0, 0.0
    for row in connection.execute(
        MAILINGS, {"end_margin": current_app.config["END_MARGIN"].total_seconds()}
    ).mappings():
        for status in MessageStatus:
            messages[status,] += row[status]
        for (state,) in segments:
            segments[state,] += row[f"{state}_segments"]
        if not row["deleted"]:
            mailings[row["status"],] += row["mailings"]
        opted_out += row["opted_out"]
        due += row["due"]
        lag, delay = max(lag, row["lag"]), max(delay, row["delay"])
    yield gauge("notification_messages_total", messages)
    yield gauge("notification_messages_opted_out", opted_out)
    yield gauge("notification_segments_total", segments)
    yield _budget_metric(connection)
    yield gauge("notification_mailings", mailings)
    paused: Samples = {(reason,): 0 for reason in PauseReason}
    for reason, n in connection.execute(PAUSED):
        paused[reason,] = n
    yield gauge("notification_mailings_paused", paused)
    yield _mail_metric(connection)
    stopped = connection.execute(SENDING_STOPPED).scalar_one()
    yield gauge("notification_sending_stopped", float(stopped))
    yield gauge("notification_batches_due", due)
    yield gauge("notification_dispatch_lag_seconds", lag)
    yield gauge("notification_launch_delay_seconds", delay)


def _budget_metric(connection: Connection) -> Metric:
    """Return the use of the policy's budget: no samples of a period without a limit."""
    samples: Samples = {}
    cursor = cast("Cursor", connection.connection.cursor())
    for use in read_budgets(cursor, POLICY_BUDGET):
        for period, found in (("day", use.day), ("month", use.month)):
            if found.limit is not None:
                samples[period, "limit"] = found.limit
                samples[period, "spent"] = found.spent
                samples[period, "reserved"] = found.reserved
    cursor.close()
    return gauge("notification_budget_segments", samples)


def _mail_metric(connection: Connection) -> Metric:
    cursor = cast("Cursor", connection.connection.cursor())
    samples: Samples = {
        (state,): n for state, n in count_undelivered_mails(cursor)._asdict().items()
    }
    cursor.close()
    return gauge("notification_mails_undelivered", samples)


def _connection_metrics(connection: Connection) -> Iterator[Metric]:
    counts: Samples = {(app, state): 0 for app in APPLICATIONS for state in CONNECTION_STATES}
    for row in connection.execute(CONNECTIONS).mappings():
        counts[row["application"], row["state"] or "other"] += row["n"]
    yield gauge("notification_database_connections", counts)
    limit = connection.execute(MAX_CONNECTIONS).scalar_one()
    yield gauge("notification_database_connections_max", limit)


def _session_metric(connection: Connection) -> Metric:
    counts: Samples = {(role,): 0 for role in ROLES}
    for row in connection.execute(SESSIONS).mappings():
        counts[row["role"],] = row["n"]
    return gauge("notification_admin_sessions", counts)


def _import_metric(connection: Connection) -> Metric:
    counts: Samples = {(state,): 0 for state in IMPORT_STATES}
    for row in connection.execute(IMPORTS).mappings():
        counts[row["state"],] = row["n"]
    return gauge("notification_imports", counts)


def _counter_metrics(counters: dict[str, float]) -> Iterator[Metric]:
    attempts: Samples = {(o,): counters.get(f"attempt:{o}", 0.0) for o in OUTCOMES}
    yield counter("notification_attempts_total", attempts)
    edges = [*map(str, metrics.LATENCY_BUCKETS), "+Inf"]
    below, buckets = 0.0, []
    for i, edge in enumerate(edges):
        below += counters.get(f"bucket:{i}", 0.0)
        buckets.append((edge, below))
    name = "notification_provider_request_seconds"
    seconds = HistogramMetricFamily(name, METRICS[name].help)
    seconds.add_metric((), buckets, counters.get("seconds", 0.0))
    yield seconds
    yield counter("notification_messages_late_total", counters.get("late", 0.0))


def _breaker_metric(status: FleetStatus) -> Metric:
    is_open = status.breaker_opened_at is not None
    opened: Samples = {
        (reason,): float(is_open and reason == status.breaker_reason) for reason in BREAKER_REASONS
    }
    opened["throttled",] = float(status.hold_until is not None)
    return gauge("notification_breaker_open", opened)

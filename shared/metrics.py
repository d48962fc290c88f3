"""The service's own metrics: what each is called and means, and where the fleet leaves its part.

Workers count in Redis (a pipeline a second each); the rest is read from PostgreSQL and Redis when
Prometheus asks. docs/metrics.md describes each for readers; a test holds the two together.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """One metric as Prometheus knows it."""

    name: str
    kind: str  # gauge, counter or histogram
    help: str
    labels: tuple[str, ...] = ()


ALL_METRICS = (
    # Read from PostgreSQL
    Metric(
        "notification_messages_total",
        "gauge",
        "Messages by present status, deleted mailings' included.",
        ("status",),
    ),
    Metric(
        "notification_mailings",
        "gauge",
        "Mailings by status, without the deleted ones.",
        ("status",),
    ),
    Metric("notification_batches_due", "gauge", "Batches that a dispatcher could take now."),
    Metric(
        "notification_dispatch_lag_seconds",
        "gauge",
        "Age of the oldest batch due and in nobody's hands (mailings with a rate aside).",
    ),
    Metric(
        "notification_launch_delay_seconds",
        "gauge",
        "For how long a mailing's start has come without a launch, the longest; 0 if none waits.",
    ),
    Metric(
        "notification_database_connections",
        "gauge",
        "PostgreSQL connections by application and state.",
        ("application", "state"),
    ),
    Metric(
        "notification_database_connections_max",
        "gauge",
        "How many connections PostgreSQL allows.",
    ),
    # Counted by the dispatchers, in Redis
    Metric(
        "notification_attempts_total",
        "counter",
        "Requests to the provider by outcome.",
        ("outcome",),
    ),
    Metric(
        "notification_provider_request_seconds",
        "histogram",
        "From a request's hand-off to the end of its answer.",
    ),
    Metric(
        "notification_messages_late_total",
        "counter",
        "Messages handed off after their mailing's end. Must stay 0.",
    ),
    Metric("notification_in_flight", "gauge", "Requests whose answers are awaited."),
    Metric(
        "notification_rate_limit",
        "gauge",
        "PROVIDER_RATE, messages a second over the fleet; 0: no limit, or nobody is sending.",
    ),
    Metric("notification_rate_used", "gauge", "Messages handed off in the last second, by all."),
    # Read from Redis
    Metric(
        "notification_breaker_open",
        "gauge",
        "1 while nothing is handed off for this reason (throttled: the provider asked to wait).",
        ("reason",),
    ),
    Metric(
        "notification_queue_jobs",
        "gauge",
        "Jobs that wait; scheduled are those for later.",
        ("queue",),
    ),
    Metric("notification_workers", "gauge", "Worker processes.", ("queue", "state")),
    Metric("notification_sweep_age_seconds", "gauge", "Since the last sweep was through."),
    # About this page itself
    Metric(
        "notification_source_up",
        "gauge",
        "1 if the source answered this scrape; at 0 its metrics are missing here.",
        ("source",),
    ),
    Metric("notification_build_info", "gauge", "Always 1; the labels tell.", ("version", "python")),
)
METRICS = {metric.name: metric for metric in ALL_METRICS}

# Upper edges, in seconds, of the histogram's buckets; the last one is without.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# A hash of counters: "attempt:<outcome>", "bucket:<index>", "seconds", "late".
COUNTERS_KEY = "notification:metrics"
# A hash of who is sending: worker → "at in_flight rate_used rate_limit", at in seconds since 1970.
SENDERS_KEY = "notification:metrics:senders"
SENDER_STALE_SECONDS = 10.0
# When the last sweep was through, in seconds since 1970.
SWEPT_KEY = "notification:metrics:swept"
# The breaker's state and the provider's wish to wait: see worker/provider/circuit_breaker.py.
BREAKER_KEY = "notification:breaker"
HOLD_KEY = "notification:hold"

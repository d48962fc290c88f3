"""The service's metrics: names, types, descriptions, and the Redis keys of workers' counters.

Each worker updates its counters in Redis once a second; other values are read from PostgreSQL and
Redis at a scrape. docs/metrics.md is the reference; a test compares the two.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """Name, type, description and labels of one metric."""

    name: str
    kind: str  # gauge, counter or histogram
    help: str
    labels: tuple[str, ...] = ()


ALL_METRICS = (
    # Read from PostgreSQL
    Metric(
        "notification_messages_total",
        "gauge",
        "Messages by current status, including those of deleted mailings.",
        ("status",),
    ),
    Metric(
        "notification_messages_opted_out",
        "gauge",
        "Messages that were cancelled because their client has opted out: a part of `cancelled`.",
    ),
    Metric(
        "notification_segments_total",
        "gauge",
        "SMS segments of messages that were sent, or are in doubt, of all mailings.",
        ("state",),
    ),
    Metric(
        "notification_budget_segments",
        "gauge",
        "The policy's budget of the present day and month: limit, spent and reserved; missing "
        "without a limit.",
        ("period", "state"),
    ),
    Metric(
        "notification_mailings",
        "gauge",
        "Mailings by status, excluding deleted ones.",
        ("status",),
    ),
    Metric(
        "notification_mailings_paused",
        "gauge",
        "Paused mailings by reason, excluding deleted ones.",
        ("reason",),
    ),
    Metric(
        "notification_mails_undelivered",
        "gauge",
        "Mails about events of mailings of the last two days that did not reach all recipients.",
        ("state",),
    ),
    Metric(
        "notification_imports",
        "gauge",
        "Imports of the last 30 days by state; `waiting`: files that are received or checked.",
        ("state",),
    ),
    Metric("notification_sending_stopped", "gauge", "1 during an emergency stop: nothing is sent."),
    Metric("notification_batches_due", "gauge", "Batches that a dispatcher could claim now."),
    Metric(
        "notification_dispatch_lag_seconds",
        "gauge",
        "Age of the oldest batch that is due and not leased (without a rate limit).",
    ),
    Metric(
        "notification_launch_delay_seconds",
        "gauge",
        "The longest time since a mailing's start without a launch; 0 if none waits.",
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
        "Maximum number of PostgreSQL connections.",
    ),
    Metric(
        "notification_admin_sessions", "gauge", "Open sessions of the admin UI by role.", ("role",)
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
        "Time from sending a request to the end of its response.",
    ),
    Metric(
        "notification_messages_late_total",
        "counter",
        "Messages sent after their mailing's end. Must stay 0.",
    ),
    Metric("notification_in_flight", "gauge", "Requests without a response so far."),
    Metric(
        "notification_concurrency_limit",
        "gauge",
        "Requests that may be in flight now; it adapts to the provider.",
    ),
    Metric(
        "notification_rate_limit",
        "gauge",
        "PROVIDER_RATE in messages per second; 0: no limit, or no worker is sending.",
    ),
    Metric("notification_rate_used", "gauge", "Messages sent in the last second by all workers."),
    # Read from Redis
    Metric(
        "notification_breaker_open",
        "gauge",
        "1 while nothing is sent for this reason (throttled: the provider asked to wait).",
        ("reason",),
    ),
    Metric(
        "notification_queue_jobs",
        "gauge",
        "Waiting jobs; scheduled ones start later.",
        ("queue",),
    ),
    Metric("notification_workers", "gauge", "Worker processes.", ("queue", "state")),
    Metric("notification_sweep_age_seconds", "gauge", "Seconds since the end of the last sweep."),
    Metric("notification_sweep_seconds", "gauge", "Duration of the last sweep in seconds."),
    Metric(
        "notification_token_expiry_timestamp_seconds",
        "gauge",
        "When the provider's token (a JWT) expires; missing if it states no end.",
    ),
    Metric(
        "notification_token_renewal_timestamp_seconds",
        "gauge",
        "From when on the provider's token should be renewed: a tenth of its validity, at most a "
        "week, before its end.",
    ),
    # About /metrics itself
    Metric(
        "notification_source_up",
        "gauge",
        "1 if the source responded to this scrape; at 0 its metrics are missing.",
        ("source",),
    ),
    Metric(
        "notification_build_info",
        "gauge",
        "Always 1; the labels have the versions.",
        ("version", "python"),
    ),
)
METRICS = {metric.name: metric for metric in ALL_METRICS}

# Upper bounds of the histogram's buckets in seconds; one more bucket is unbounded.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# A hash of counters: "attempt:<outcome>", "bucket:<index>", "seconds", "late".
COUNTERS_KEY = "notification:metrics"
# A hash of sending workers: name → "at in_flight rate_used rate_limit concurrency_limit"; `at` is
# in seconds since 1970.
SENDERS_KEY = "notification:metrics:senders"
SENDER_STALE_SECONDS = 10.0
# When the provider's token expires and when to renew it, in seconds since 1970: "expires renew".
# Stored by each sweep if the token is a JWT with an end.
TOKEN_KEY = "notification:token"  # noqa: S105 (the name of a key)
TOKEN_KEY_SECONDS = 60
# The end of the last sweep, in seconds since 1970.
SWEPT_KEY = "notification:metrics:swept"
# How many seconds the last sweep took.
SWEEP_SECONDS_KEY = "notification:metrics:sweep_seconds"
# The breaker's state, and the time until which the provider asked to wait.
BREAKER_KEY = "notification:breaker"
HOLD_KEY = "notification:hold"

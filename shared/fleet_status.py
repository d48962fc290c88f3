"""The status of the workers and the provider, read from what the workers store in Redis."""

from math import isfinite
from typing import Any, NamedTuple

from redis import Redis

from shared.metrics import (
    BREAKER_KEY,
    COUNTERS_KEY,
    HOLD_KEY,
    SENDER_STALE_SECONDS,
    SENDERS_KEY,
    SWEEP_SECONDS_KEY,
    SWEPT_KEY,
    TOKEN_KEY,
)
from shared.queues import QUEUES

# Keys of RQ and rq-scheduler.
SCHEDULED_JOBS_KEY = "rq:scheduler:scheduled_jobs"
QUEUE_KEY = "rq:queue:{}"
QUEUE_WORKERS_KEY = "rq:workers:{}"


# A field of the hash in which RQ keeps a worker: which sending rules its version follows. The
# number grows when a rule is added that an older version would break.
# 1: the policy, limits of mailings and the emergency stop.
RULES_FIELD = "sending_rules"
RULES_LEVEL = 1


class FleetStatus(NamedTuple):
    """One reading. Times are seconds since 1970 by the clock of Redis."""

    at: float
    counters: dict[str, float]  # see COUNTERS_KEY
    senders: int  # dispatchers that have reported recently
    in_flight: int
    concurrency_limit: int  # so many requests may be in flight now
    rate_used: float
    rate_limit: float  # 0: none, or no sender
    breaker_opened_at: float | None  # None: closed
    breaker_probe_at: float | None
    breaker_reason: str | None
    hold_until: float | None  # the provider asked to wait until then
    sweep_age_seconds: float | None  # None: no sweep is known
    sweep_seconds: float | None  # how long the last one took
    token_expires_at: float | None  # None: the provider's token states no end
    token_renew_at: float | None
    queue_lengths: dict[str, int]
    scheduled_jobs: int
    worker_states: dict[str, list[str]]  # RQ's states of the live workers, by queue


def read_fleet_status(redis: Redis) -> FleetStatus:
    """Read the status in two round trips. Raise RedisError."""
    pipeline: Any = redis.pipeline(transaction=False)
    pipeline.time()
    pipeline.hgetall(COUNTERS_KEY)
    pipeline.hgetall(SENDERS_KEY)
    pipeline.hmget(BREAKER_KEY, "until", "opened_at", "reason")
    pipeline.get(HOLD_KEY)
    pipeline.mget(SWEPT_KEY, SWEEP_SECONDS_KEY)
    pipeline.get(TOKEN_KEY)
    pipeline.zcard(SCHEDULED_JOBS_KEY)
    for queue in QUEUES:
        pipeline.llen(QUEUE_KEY.format(queue))
    for queue in QUEUES:
        pipeline.smembers(QUEUE_WORKERS_KEY.format(queue))
    time_, counters, senders, breaker, hold, sweep, token, scheduled, *queues = pipeline.execute()
    now = time_[0] + time_[1] / 1e6
    # A killed dispatcher's entry stays, but is not renewed.
    reports = [[_parse_number(field) for field in entry.split()] for entry in senders.values()]
    # Version 1.0 reports no number of requests that may be in flight.
    reports = [
        [*report, report[1]][:5]
        for report in reports
        if len(report) in (4, 5) and now - report[0] < SENDER_STALE_SECONDS
    ]
    swept, sweep_seconds = sweep
    probe_at, opened_at = _parse_number(breaker[0]), _parse_number(breaker[1])
    hold_until = _parse_number(hold)
    expires_at, renew_at = [_parse_number(part) for part in (*(token or b"").split(), b"", b"")][:2]
    return FleetStatus(
        at=now,
        counters={
            name.decode(errors="replace"): _parse_number(value) for name, value in counters.items()
        },
        senders=len(reports),
        in_flight=int(sum(report[1] for report in reports)),
        concurrency_limit=int(sum(report[4] for report in reports)),
        rate_used=sum(report[2] for report in reports),
        rate_limit=max((report[3] for report in reports), default=0.0),
        breaker_opened_at=opened_at if probe_at else None,
        breaker_probe_at=probe_at or None,
        breaker_reason=(breaker[2] or b"").decode(errors="replace") or None,
        hold_until=hold_until if hold_until > now else None,
        sweep_age_seconds=max(0.0, now - _parse_number(swept)) if swept else None,
        sweep_seconds=_parse_number(sweep_seconds) if sweep_seconds else None,
        token_expires_at=expires_at or None,
        token_renew_at=renew_at or None,
        queue_lengths=dict(zip(QUEUES, queues[: len(QUEUES)], strict=True)),
        scheduled_jobs=scheduled,
        worker_states=_read_worker_states(
            redis, dict(zip(QUEUES, queues[len(QUEUES) :], strict=True))
        ),
    )


def count_old_workers(redis: Redis) -> int:
    """Return how many live workers do not follow all sending rules. Raise RedisError."""
    pipeline: Any = redis.pipeline(transaction=False)
    for queue in QUEUES:
        pipeline.smembers(QUEUE_WORKERS_KEY.format(queue))
    keys = [key for workers in pipeline.execute() for key in workers]
    for key in keys:
        pipeline.hmget(key, "state", RULES_FIELD)
    return sum(
        state is not None and _parse_number(level) < RULES_LEVEL
        for state, level in pipeline.execute()
    )


def _read_worker_states(redis: Redis, workers: dict[str, set[bytes]]) -> dict[str, list[str]]:
    """Read the states of live workers: a killed one stays in its set until RQ notices."""
    keys = [(queue, key) for queue, keys in workers.items() for key in keys]
    pipeline: Any = redis.pipeline(transaction=False)
    for _, key in keys:
        pipeline.hget(key, "state")
    states: dict[str, list[str]] = {queue: [] for queue in workers}
    for (queue, _), state in zip(keys, pipeline.execute(), strict=True):
        if state is not None:  # else its key has expired
            states[queue].append(state.decode(errors="replace"))
    return states


def _parse_number(value: bytes | None) -> float:
    """Return a stored number; 0 for one that is missing or malformed, as all these are figures."""
    try:
        number = float(value or 0)
    except ValueError:
        return 0.0
    return number if isfinite(number) else 0.0

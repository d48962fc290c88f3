"""The health of the provider and of the workers, from what the workers store in Redis."""

from collections.abc import Mapping
from typing import Any

from redis import Redis

from shared import metrics
from shared.queues import CONTROL_QUEUE, DISPATCH_QUEUE

# Without a sweep, work that lost jobs left undone is not found. In seconds.
MAX_SWEEP_AGE = 60.0
SLOW_QUANTILE = 0.95


def read_fleet_status(redis: Redis) -> dict[str, Any]:
    """Read the workers' counters and the provider's state. Raise RedisError."""
    pipeline: Any = redis.pipeline(transaction=False)
    pipeline.time()
    pipeline.hgetall(metrics.COUNTERS_KEY)
    pipeline.hgetall(metrics.SENDERS_KEY)
    pipeline.hmget(metrics.BREAKER_KEY, "until", "opened_at", "reason")
    pipeline.get(metrics.HOLD_KEY)
    pipeline.get(metrics.SWEPT_KEY)
    for queue in (DISPATCH_QUEUE, CONTROL_QUEUE):
        pipeline.smembers(f"rq:workers:{queue}")
    time_, counters, senders, breaker, hold, swept, *workers = pipeline.execute()
    now = time_[0] + time_[1] / 1e6
    alive: Any = redis.pipeline(transaction=False)
    for names in workers:
        # A killed worker stays in the set until RQ notices, but its own key expires.
        alive.exists(*(names or {"none"}))
    dispatchers, controllers = alive.execute()
    until, opened_at, reason = breaker
    senders = [list(map(float, each.split())) for each in senders.values()]
    senders = [each for each in senders if now - each[0] < metrics.SENDER_STALE_SECONDS]
    return {
        "at": now,
        "counters": {name.decode(): float(value) for name, value in counters.items()},
        "in_flight": int(sum(each[1] for each in senders)),
        "used": sum(each[2] for each in senders),
        "limit": max((each[3] for each in senders), default=0.0),
        "senders": len(senders),
        "opened_at": float(opened_at or 0) if float(until or 0) else None,
        "tried_at": float(until or 0) or None,
        "reason": (reason or b"").decode() or None,
        "hold": float(hold or 0) if float(hold or 0) > now else None,
        "swept": max(0.0, now - float(swept)) if swept else None,
        "dispatchers": dispatchers,
        "controllers": controllers,
    }


def assess_health(status: Mapping[str, Any] | None, earlier: Mapping[str, float]) -> dict[str, Any]:
    """Return the provider's health, with the responses since the counters were `earlier`.

    A `status` of None means that Redis cannot be reached.
    """
    if status is None:
        return {"state": "unseen", "reason": None, "until": None, **_count_responses({})}
    counted = {
        name: value - earlier.get(name, 0.0)
        for name, value in status["counters"].items()
        if value > earlier.get(name, 0.0)
    }
    kept = ("reason", "used", "limit", "in_flight", "dispatchers", "controllers", "swept")
    found = {name: status[name] for name in kept} | _count_responses(counted)
    if status["opened_at"] is not None:
        state, until = "open", status["tried_at"]
    elif status["hold"] is not None:
        state, until = "throttled", status["hold"]
    else:
        state, until = ("working" if status["senders"] or found["answers"] else "idle"), None
    return found | {"state": state, "until": until}


def _count_responses(counted: Mapping[str, float]) -> dict[str, Any]:
    outcomes = {
        name.removeprefix("attempt:"): int(value)
        for name, value in counted.items()
        if name.startswith("attempt:") and value >= 1
    }
    buckets = [counted.get(f"bucket:{n}", 0.0) for n in range(len(metrics.LATENCY_BUCKETS) + 1)]
    return {
        "answers": sum(outcomes.values()),
        "accepted": outcomes.pop("accepted", 0),
        "others": outcomes,
        "typical_ms": latency_quantile(buckets, 0.5),
        "slow_ms": latency_quantile(buckets, SLOW_QUANTILE),
    }


def latency_quantile(buckets: list[float], share: float) -> float | None:
    """Return the latency in ms of this quantile, interpolated within its bucket."""
    wanted, below, lower = sum(buckets) * share, 0.0, 0.0
    if not wanted:
        return None
    for count, upper in zip(
        buckets, (*metrics.LATENCY_BUCKETS, metrics.LATENCY_BUCKETS[-1]), strict=True
    ):
        if below + count >= wanted:
            return 1000 * (lower + (upper - lower) * (wanted - below) / count)
        below, lower = below + count, upper
    return 1000 * lower

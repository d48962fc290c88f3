"""How the provider and the fleet are doing: as the workers leave it in Redis, read in one go."""

from collections.abc import Mapping
from typing import Any

from redis import Redis

from shared import metrics
from shared.queues import CONTROL_QUEUE, DISPATCH_QUEUE

# Without a sweep for so long, nobody finds what lost jobs left undone.
STALE_SWEEP = 60.0
SLOW = 0.95


def read_vitals(redis: Redis) -> dict[str, Any]:
    """What Redis knows at this moment. Raises RedisError."""
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
        # One that was killed stays in the set until RQ notices, but its own key goes.
        alive.exists(*(names or {"nobody"}))
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


def judge(vitals: Mapping[str, Any] | None, earlier: Mapping[str, float]) -> dict[str, Any]:
    """The provider's health, with what was counted since `earlier` (a minute ago, say)."""
    if vitals is None:
        return {"state": "unseen", "reason": None, "until": None, **_counted({})}
    counted = {
        name: value - earlier.get(name, 0.0)
        for name, value in vitals["counters"].items()
        if value > earlier.get(name, 0.0)
    }
    kept = ("reason", "used", "limit", "in_flight", "dispatchers", "controllers", "swept")
    found = {name: vitals[name] for name in kept} | _counted(counted)
    if vitals["opened_at"] is not None:
        state, until = "open", vitals["tried_at"]
    elif vitals["hold"] is not None:
        state, until = "throttled", vitals["hold"]
    else:
        state, until = ("working" if vitals["senders"] or found["answers"] else "idle"), None
    return found | {"state": state, "until": until}


def _counted(counted: Mapping[str, float]) -> dict[str, Any]:
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
        "typical_ms": quantile(buckets, 0.5),
        "slow_ms": quantile(buckets, SLOW),
    }


def quantile(buckets: list[float], share: float) -> float | None:
    """The latency, in ms, below which this share of requests lies: as even within a bucket."""
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

"""The health of the provider and of the workers, from what the workers store in Redis."""

from collections.abc import Mapping
from typing import Any

from shared import metrics
from shared.fleet_status import FleetStatus
from shared.queues import CONTROL_QUEUE, DISPATCH_QUEUE

# Without a sweep, work that lost jobs left undone is not found. In seconds.
MAX_SWEEP_AGE = 60.0
SLOW_QUANTILE = 0.95


def assess_health(status: FleetStatus | None, earlier: Mapping[str, float]) -> dict[str, Any]:
    """Return the provider's health, with the responses since the counters were `earlier`.

    A `status` of None means that Redis cannot be reached.
    """
    if status is None:
        return {"state": "unseen", "reason": None, "until": None, **_count_responses({})}
    counted = {
        name: value - earlier.get(name, 0.0)
        for name, value in status.counters.items()
        if value > earlier.get(name, 0.0)
    }
    health = {
        "reason": status.breaker_reason,
        "used": status.rate_used,
        "limit": status.rate_limit,
        "in_flight": status.in_flight,
        "concurrency": status.concurrency_limit,
        "dispatchers": len(status.worker_states[DISPATCH_QUEUE]),
        "controllers": len(status.worker_states[CONTROL_QUEUE]),
        "swept": status.sweep_age_seconds,
        "token_expires_at": status.token_expires_at,
        "token_renew_at": status.token_renew_at,
        **_count_responses(counted),
    }
    if status.breaker_opened_at is not None:
        return health | {"state": "open", "until": status.breaker_probe_at}
    if status.hold_until is not None:
        return health | {"state": "throttled", "until": status.hold_until}
    works = status.senders or health["answers"]
    return health | {"state": "working" if works else "idle", "until": None}


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

"""Removes from Redis what is not as RQ or this code writes it, so that it stops no process.

Redis carries hints only, so what is removed is lost work for a second: the sweep finds it. Jobs
that cannot be read are removed where they are read (`NotificationJob`).
"""

import re
from collections.abc import Mapping
from typing import Any

import structlog
from redis import Redis

from shared.fleet_status import QUEUE_KEY, QUEUE_WORKERS_KEY, SCHEDULED_JOBS_KEY
from shared.metrics import (
    BREAKER_KEY,
    COUNTERS_KEY,
    HOLD_KEY,
    SENDERS_KEY,
    SWEEP_SECONDS_KEY,
    SWEPT_KEY,
)
from shared.queues import QUEUES

log = structlog.get_logger()

REGISTRIES = ("wip", "finished", "failed", "deferred", "scheduled", "canceled", "ready")
# Every key of which all processes depend, with its type.
KEY_TYPES = {
    SCHEDULED_JOBS_KEY: "zset",
    "rq:scheduler_lock": "string",
    "rq:workers": "set",
    "rq:queues": "set",
    COUNTERS_KEY: "hash",
    SENDERS_KEY: "hash",
    SWEPT_KEY: "string",
    SWEEP_SECONDS_KEY: "string",
    BREAKER_KEY: "hash",
    HOLD_KEY: "string",
    **{QUEUE_KEY.format(queue): "list" for queue in QUEUES},
    **{f"{QUEUE_KEY.format(queue)}:intermediate": "list" for queue in QUEUES},
    **{QUEUE_WORKERS_KEY.format(queue): "set" for queue in QUEUES},
    **{f"rq:{registry}:{queue}": "zset" for registry in REGISTRIES for queue in QUEUES},
}
# The id of a job; in a registry also with the id of its execution.
REGISTRY_ENTRY = re.compile(rb"[A-Za-z0-9_-]+(:[A-Za-z0-9_-]+)?")
QUEUE_ENTRY = re.compile(rb"[A-Za-z0-9_-]+")


def remove_wrong_types(redis: Redis, own_keys: Mapping[str, str]) -> None:
    """Remove keys of the wrong type; `own_keys` are further ones with their types."""
    key_types = {**KEY_TYPES, **own_keys}
    pipeline: Any = redis.pipeline(transaction=False)
    for key in key_types:
        pipeline.type(key)
    for (key, expected), actual in zip(key_types.items(), pipeline.execute(), strict=True):
        actual = actual.decode()
        if actual not in ("none", expected):
            redis.delete(key)
            log.error("redis.key_removed", key=key, reason=f"its type is {actual}, not {expected}")


def remove_bad_entries(redis: Redis) -> None:
    """Remove from queues and registries what is no id of a job. The types of keys are right."""
    for key, kind in KEY_TYPES.items():
        if kind not in ("list", "zset"):
            continue
        is_list = kind == "list"
        entries: Any = redis.lrange(key, 0, -1) if is_list else redis.zrange(key, 0, -1)
        pattern = QUEUE_ENTRY if is_list or key == SCHEDULED_JOBS_KEY else REGISTRY_ENTRY
        for entry in entries:
            if not pattern.fullmatch(entry):
                _ = redis.lrem(key, 0, entry) if is_list else redis.zrem(key, entry)
                log.error("redis.entry_removed", key=key, entry=repr(entry)[:100])

"""Counts a dispatcher's requests, and publishes the counts in Redis for /metrics.

Counting costs a few additions per message. The database thread publishes once a second; while
Redis is unavailable the counts are kept here.
"""

import uuid
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from shared.metrics import COUNTERS_KEY, LATENCY_BUCKETS, SENDERS_KEY
from shared.redis_client import read_redis_time
from worker.dispatch.db_thread import DatabaseThread
from worker.provider.outcomes import Outcome
from worker.runtime.database import Database

log = structlog.get_logger()

PUBLISH_SECONDS = 1.0
# The pause after a failure, so that an unavailable Redis does not block the database thread.
RETRY_SECONDS = 5.0


class DispatchCounters:
    """One dispatcher's counters. `rate` is the fleet's limit, None for none."""

    def __init__(self, redis: Redis, rate: float | None):
        self._redis, self._rate = redis, rate or 0.0
        self._name = uuid.uuid4().hex[:12]
        self._outcomes: dict[Outcome, int] = {}
        self._accepted = 0
        self._latencies: list[float] = []
        self._measured = 0  # so many of these were returned by `measure`
        self._unmeasured = (0, 0.0)  # number and sum of latencies that were published before
        self._late = 0
        self._unpublished: Counter[str] = Counter()
        self._unpublished_seconds = 0.0
        self._publishing = False
        self._published_at = self._next_publish = 0.0

    def count_outcome(self, outcome: Outcome, latency: float) -> None:
        """Count a finished request; `latency` is 0 if it was not sent."""
        if outcome is Outcome.ACCEPTED:  # nearly always, and an enum's hash is slow
            self._accepted += 1
        else:
            self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        if latency:
            self._latencies.append(latency)

    def measure(self) -> tuple[int, float]:
        """Return the number of requests answered since the last call, and their seconds."""
        answers, seconds = self._unmeasured
        latencies = self._latencies[self._measured :]
        self._unmeasured, self._measured = (0, 0.0), len(self._latencies)
        return answers + len(latencies), seconds + sum(latencies)

    def count_late(self) -> None:
        """Count a message that was sent after its mailing's end. This must never happen."""
        self._late += 1

    def publish(
        self, db_thread: DatabaseThread, now: float, in_flight: int, concurrency: int
    ) -> None:
        """Add the counts to the fleet's once a second."""
        if now < self._next_publish or self._publishing:
            return
        elapsed = now - self._published_at if self._published_at else PUBLISH_SECONDS
        self._published_at, self._next_publish = now, now + PUBLISH_SECONDS
        self._publishing = True
        rate_used = self._collect() / max(elapsed, 0.001)
        figures = f"{in_flight} {rate_used:.3f} {self._rate:g} {concurrency}"

        def on_published(succeeded: bool | None, error: Exception | None) -> None:
            self._publishing = False
            if not succeeded:
                self._next_publish = now + RETRY_SECONDS

        db_thread.submit(on_published, self._write, figures)

    def publish_last(self, db_thread: DatabaseThread) -> None:
        """Publish the last counts and remove this dispatcher from the senders."""
        self._collect()
        db_thread.submit(lambda *_: None, self._write, None)

    def _collect(self) -> int:
        """Move the counts to the unpublished ones; return the number of requests sent."""
        self._unmeasured = self.measure()
        self._measured = 0
        latencies, self._latencies = sorted(self._latencies), []
        edges = [bisect_right(latencies, edge) for edge in LATENCY_BUCKETS]
        buckets = [after - before for before, after in pairwise([0, *edges, len(latencies)])]
        outcomes, self._outcomes = self._outcomes, {}
        unpublished = self._unpublished.copy()
        if self._accepted:
            outcomes[Outcome.ACCEPTED] = self._accepted
            self._accepted = 0
        unpublished.update({f"attempt:{outcome}": n for outcome, n in outcomes.items()})
        unpublished.update({f"bucket:{i}": n for i, n in enumerate(buckets) if n})
        if self._late:
            unpublished["late"] += self._late
        self._late = 0
        self._unpublished_seconds += sum(latencies)
        self._unpublished = unpublished
        return len(latencies)

    def _write(self, _db: Database, figures: str | None) -> bool:
        """Write to Redis, in the database thread; the loop changes nothing read here meanwhile."""
        try:
            self._write_counts(figures)
        except (RedisError, OSError) as error:
            log.debug("metrics.unavailable", source="redis", error=str(error))
            return False
        self._unpublished = Counter()
        self._unpublished_seconds = 0.0
        return True

    def _write_counts(self, figures: str | None) -> None:
        # By the clock of Redis, which also tells readers how old the figures are.
        now = 0.0 if figures is None else read_redis_time(self._redis)
        pipeline: Any = self._redis.pipeline(transaction=True)
        for name, n in self._unpublished.items():
            pipeline.hincrby(COUNTERS_KEY, name, n)
        if self._unpublished_seconds:
            pipeline.hincrbyfloat(COUNTERS_KEY, "seconds", self._unpublished_seconds)
        if figures is None:
            pipeline.hdel(SENDERS_KEY, self._name)
        else:
            pipeline.hset(SENDERS_KEY, self._name, f"{now:.3f} {figures}")
        pipeline.execute()

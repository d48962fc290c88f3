"""Counts what a dispatcher does, and once a second leaves it where /metrics finds it.

Counting is a few additions a message. The way to Redis is the clerk's; while Redis is away the
counts wait here.
"""

import time
import uuid
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from shared.metrics import COUNTERS_KEY, LATENCY_BUCKETS, SENDERS_KEY
from worker.dispatch.db_thread import Clerk
from worker.provider.outcomes import Outcome
from worker.runtime.database import Database, DatabaseError

log = structlog.get_logger()

EVERY = 1.0
# The clerk's time is precious: a Redis that is away is left alone for a while.
PAUSE = 5.0


class Tally:
    """One dispatcher's counts. `rate` is the fleet's limit, None for none."""

    def __init__(self, redis: Redis, rate: float | None):
        self._redis, self._rate = redis, rate or 0.0
        self._name = uuid.uuid4().hex[:12]
        self._outcomes: dict[Outcome, int] = {}
        self._accepted = 0
        self._latencies: list[float] = []
        self._late = 0
        self._waiting: Counter[str] = Counter()  # what Redis has not been told yet
        self._waiting_seconds = 0.0
        self._telling = False
        self._told_at = self._next = 0.0

    def count(self, outcome: Outcome, latency: float) -> None:
        """A request ended; `latency` is 0 if it was never handed off."""
        if outcome is Outcome.ACCEPTED:  # nearly always, and an enum's hash is slow
            self._accepted += 1
        else:
            self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        if latency:
            self._latencies.append(latency)

    def count_late(self) -> None:
        """A message left after its mailing's end. That is never to happen."""
        self._late += 1

    def tell(self, clerk: Clerk, now: float, in_flight: int) -> None:
        """Once a second: have the clerk add the counts to the fleet's."""
        if now < self._next or self._telling:
            return
        elapsed = now - self._told_at if self._told_at else EVERY
        self._told_at, self._next = now, now + EVERY
        self._telling = True
        used = self._collect() / max(elapsed, 0.001)
        sender = f"{time.time():.3f} {in_flight} {used:.3f} {self._rate:g}"

        def told(done: bool | None, error: DatabaseError | None) -> None:
            self._telling = False
            if not done:
                self._next = now + PAUSE

        clerk.ask(told, self._tell, sender)

    def say_goodbye(self, clerk: Clerk) -> None:
        """The last counts; this dispatcher is no longer sending."""
        self._collect()
        clerk.ask(lambda *_: None, self._tell, None)

    def _collect(self) -> int:
        """Move the counts to where the clerk takes them from; return the hand-offs."""
        latencies, self._latencies = sorted(self._latencies), []
        edges = [bisect_right(latencies, edge) for edge in LATENCY_BUCKETS]
        buckets = [after - before for before, after in pairwise([0, *edges, len(latencies)])]
        outcomes, self._outcomes = self._outcomes, {}
        waiting = self._waiting.copy()
        if self._accepted:
            outcomes[Outcome.ACCEPTED] = self._accepted
            self._accepted = 0
        waiting.update({f"attempt:{outcome}": n for outcome, n in outcomes.items()})
        waiting.update({f"bucket:{i}": n for i, n in enumerate(buckets) if n})
        if self._late:
            waiting["late"] += self._late
        self._late = 0
        self._waiting_seconds += sum(latencies)
        self._waiting = waiting
        return len(latencies)

    def _tell(self, _db: Database, sender: str | None) -> bool:
        """In the clerk's thread; the loop changes nothing of what is read here meanwhile."""
        pipeline: Any = self._redis.pipeline(transaction=True)
        for name, n in self._waiting.items():
            pipeline.hincrby(COUNTERS_KEY, name, n)
        if self._waiting_seconds:
            pipeline.hincrbyfloat(COUNTERS_KEY, "seconds", self._waiting_seconds)
        if sender is None:
            pipeline.hdel(SENDERS_KEY, self._name)
        else:
            pipeline.hset(SENDERS_KEY, self._name, sender)
        try:
            pipeline.execute()
        except (RedisError, OSError) as error:
            log.debug("metrics.unavailable", source="redis", error=str(error))
            return False
        self._waiting = Counter()
        self._waiting_seconds = 0.0
        return True

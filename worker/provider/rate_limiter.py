"""How many messages per second the whole fleet hands off, and each mailing.

A worker holds slots, a few dozen milliseconds' worth, that Redis has given it (slots.py says how),
and each hand-off uses one. It asks for more at most some 40 times a second.

Keys: `notification:rate` and `notification:rate:<mailing id>`, each the last slot given.
"""

import math
import random
from collections.abc import Mapping

from worker.provider.rate_slots import GRANT, Bucket, ServerClock, interval_of
from worker.provider.redis_client import HotRedis

KEY = "notification:rate"
# How often a worker asks, at random in between: then several share alike without any register.
ASK_EVERY = (0.020, 0.030)
# ... and if the grant was cut at COVER and more was to be had.
ASK_AGAIN = 0.010


class RateLimiter:
    """The hand-offs that this worker may make now: `rate` is the fleet's, None for no limit.

    Mailings without a limit of their own share one bucket; each of the others has its own, whose
    slots are slots of both limits, given together or not at all.
    """

    def __init__(self, redis: HotRedis, rate: float | None) -> None:
        self._redis = redis
        self._script = redis.script(GRANT)
        self._interval = interval_of(rate)
        self._shared = Bucket()
        self._own: dict[int, Bucket] = {}
        self._clock = ServerClock()
        self._next_ask = 0.0

    @property
    def available(self) -> bool:
        """False while Redis is away: where there is a limit, nothing is to be handed off."""
        return self._redis.available

    def ready(self, mailing_id: int, mailing_rate: float | None, now: float) -> bool:
        """Whether `take` would succeed."""
        if mailing_rate is None and not self._interval:
            return True
        bucket = self._bucket(mailing_id, mailing_rate)
        return bucket is not None and bucket.head(now) <= now

    def take(self, mailing_id: int, mailing_rate: float | None, now: float) -> float:
        """Use one slot: the message may leave before the moment returned; 0.0 means there is none.

        Without any limit that moment is infinity.
        """
        if mailing_rate is None and not self._interval:
            return math.inf
        bucket = self._bucket(mailing_id, mailing_rate)
        return bucket.take(now) if bucket is not None else 0.0

    def next_at(self, mailing_id: int, mailing_rate: float | None, now: float) -> float:
        """When something changes for this mailing: a slot may be used, or `refill` be called."""
        if mailing_rate is None and not self._interval:
            return now
        bucket = self._bucket(mailing_id, mailing_rate)
        if bucket is None:
            return self._next_ask
        begins = bucket.head(now)
        return begins if begins < math.inf else max(self._next_ask, bucket.ask_at)

    def refill(self, demands: Mapping[int, tuple[float | None, int]], now: float) -> None:
        """Ask Redis for slots, if it is time to: one round trip for all, or none.

        `demands` says for each mailing this worker has messages of: its own rate (None: no limit),
        and how many messages are wanted soon. Call it every turn of the loop. Redis being away is
        not an error here: then there are no slots.
        """
        if now < self._next_ask:
            return
        asked: list[tuple[str, Bucket, float, int]] = []
        unlimited = 0
        for mailing_id, (rate, wanted) in demands.items():
            if rate is None:
                unlimited += wanted
                continue
            bucket = self._own.setdefault(mailing_id, Bucket())
            if bucket.ask_at <= now and (count := bucket.missing(wanted, now)) > 0:
                asked.append((f"{KEY}:{mailing_id}", bucket, interval_of(rate), count))
        if self._interval and unlimited and self._shared.ask_at <= now:
            count = self._shared.missing(unlimited, now)
            if count > 0:
                asked.append((KEY, self._shared, 0.0, count))
        if asked:
            self._ask(asked)
            for mailing_id in self._own.keys() - demands.keys():
                if self._own[mailing_id].head(now) == math.inf:
                    del self._own[mailing_id]

    def _ask(self, asked: list[tuple[str, Bucket, float, int]]) -> None:
        before = self._redis.clock()
        answer = self._redis.run(
            self._script,
            [KEY, *(key for key, _, _, _ in asked)],
            [self._interval, *(arg for _, _, own, count in asked for arg in (own, count))],
        )
        after = self._redis.clock()
        self._next_ask = after + random.uniform(*ASK_EVERY)  # noqa: S311 (no secret)
        if answer is None:
            self._next_ask = max(self._next_ask, self._redis.next_try)
            return
        server = answer[0] / 1e6
        self._clock.observe(server, before, after)
        for i, (_, bucket, own, count) in enumerate(asked):
            given, fleet_first, own_first, again = answer[4 * i + 1 : 4 * i + 5]
            interval = max(own, self._interval) / 1e6
            bucket.settle()
            bucket.add(
                given,
                (server + fleet_first / 1e6, (self._interval or own) / 1e6),
                (server + own_first / 1e6, interval),
                self._clock,
            )
            bucket.ask_at = before + again / 1e6
            if given < count and not again:
                self._next_ask = after + ASK_AGAIN

    def _bucket(self, mailing_id: int, mailing_rate: float | None) -> Bucket | None:
        return self._shared if mailing_rate is None else self._own.get(mailing_id)

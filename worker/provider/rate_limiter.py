"""Limits the messages per second of the whole fleet, and of each mailing with its own rate.

A worker holds slots for a few dozen milliseconds, granted by Redis (see rate_slots.py), and uses
one for each message it sends. It requests slots at most some 40 times a second.

Keys: FLEET_KEY and `<FLEET_KEY>:<mailing id>`, each the last slot granted.
"""

import math
import random
from collections.abc import Mapping
from typing import NamedTuple

from worker.provider.rate_slots import ServerClock, SlotBucket, slot_interval
from worker.provider.redis_client import FailFastRedis, read_lua_script

FLEET_KEY = "notification:rate"
# The range of random pauses between requests: several workers get equal shares without a register.
REQUEST_PAUSE_SECONDS = (0.020, 0.030)
# The pause after a grant that was cut at COVER while more slots were available.
SHORT_PAUSE_SECONDS = 0.010
SCRIPT = read_lua_script("rate_slots")


class SlotRequest(NamedTuple):
    """Slots wanted for one key; `interval` is the mailing's own one, 0 if it has no limit."""

    key: str
    bucket: SlotBucket
    interval: float
    wanted: int


class RateLimiter:
    """The slots of one worker. `rate` is the fleet's messages per second, None for no limit.

    Mailings without a limit of their own share one bucket. Each other mailing has its own, whose
    slots belong to both limits and are granted together or not at all.
    """

    def __init__(self, redis: FailFastRedis, rate: float | None) -> None:
        self._redis = redis
        self._script = redis.register_script(SCRIPT)
        self._interval = slot_interval(rate)
        self._shared = SlotBucket()
        self._own: dict[int, SlotBucket] = {}
        self._clock = ServerClock()
        self._next_request = 0.0

    def has_slot(self, mailing_id: int, mailing_rate: float | None, now: float) -> bool:
        """Return whether `acquire` would succeed."""
        if mailing_rate is None and not self._interval:
            return True
        bucket = self._bucket(mailing_id, mailing_rate)
        return bucket is not None and bucket.usable_from(now) <= now

    def acquire(self, mailing_id: int, mailing_rate: float | None, now: float) -> float:
        """Use one slot; return the instant before which the message must be sent, 0.0 if none.

        Without any limit that instant is infinity.
        """
        if mailing_rate is None and not self._interval:
            return math.inf
        bucket = self._bucket(mailing_id, mailing_rate)
        return bucket.acquire(now) if bucket is not None else 0.0

    def refill(self, demands: Mapping[int, tuple[float | None, int]], now: float) -> None:
        """Request slots from Redis if a request is due: one round trip for all mailings, or none.

        `demands` maps each mailing with messages here to its own rate (None: no limit) and to the
        number of messages to send soon. Call it in every cycle of the loop. While Redis is
        unavailable no slots are granted.
        """
        if now < self._next_request:
            return
        requests: list[SlotRequest] = []
        unlimited = 0
        for mailing_id, (rate, wanted) in demands.items():
            if rate is None:
                unlimited += wanted
                continue
            bucket = self._own.setdefault(mailing_id, SlotBucket())
            if bucket.request_at <= now and (count := bucket.shortfall(wanted, now)) > 0:
                key = f"{FLEET_KEY}:{mailing_id}"
                requests.append(SlotRequest(key, bucket, slot_interval(rate), count))
        if self._interval and unlimited and self._shared.request_at <= now:
            count = self._shared.shortfall(unlimited, now)
            if count > 0:
                requests.append(SlotRequest(FLEET_KEY, self._shared, 0.0, count))
        if requests:
            self._request(requests)
            for mailing_id in self._own.keys() - demands.keys():
                if self._own[mailing_id].usable_from(now) == math.inf:
                    del self._own[mailing_id]

    def _request(self, requests: list[SlotRequest]) -> None:
        before = self._redis.clock()
        reply = self._redis.run_script(
            self._script,
            [FLEET_KEY, *(request.key for request in requests)],
            [self._interval, *(arg for r in requests for arg in (r.interval, r.wanted))],
        )
        after = self._redis.clock()
        self._next_request = after + random.uniform(*REQUEST_PAUSE_SECONDS)  # noqa: S311 (no secret)
        if reply is None:
            self._next_request = max(self._next_request, self._redis.next_attempt_at)
            return
        server = reply[0] / 1e6
        self._clock.observe(server, before, after)
        for i, (_, bucket, own, wanted) in enumerate(requests):
            granted, fleet_first, own_first, again = reply[4 * i + 1 : 4 * i + 5]
            bucket.start_period()
            bucket.add_slots(
                granted,
                (server + fleet_first / 1e6, (self._interval or own) / 1e6),
                (server + own_first / 1e6, max(own, self._interval) / 1e6),
                self._clock,
            )
            bucket.request_at = before + again / 1e6
            if granted < wanted and not again:
                self._next_request = after + SHORT_PAUSE_SECONDS

    def _bucket(self, mailing_id: int, mailing_rate: float | None) -> SlotBucket | None:
        return self._shared if mailing_rate is None else self._own.get(mailing_id)

"""Token buckets in Redis, shared by all processes of the API.

A bucket holds up to `burst` tokens and gains `rate` tokens per second; each request takes one. A
process takes some tokens at once and uses them up within LEASE_SECONDS, so that few requests cost a
round trip; a bucket that is nearly empty gives out one token at a time. While Redis cannot serve,
every request is permitted.

Keys: `notification:bucket:<policy>:<caller>`, each the moment at which the bucket is full again.
"""

import math
import time
from threading import Lock
from typing import NamedTuple

from redis.exceptions import RedisError

from shared.redis_client import OutageLog, describe_address, describe_error, fail_fast_client

LEASE_SECONDS = 1.0
MAX_LEASED_TOKENS = 10
# How long every request is permitted, without asking, after an error of Redis.
OUTAGE_PAUSE_SECONDS = 2.0
REDIS_TIMEOUT_SECONDS = 0.2
# More callers than this are forgotten together; Redis still has their buckets.
MAX_LEASES = 10_000

# KEYS: the bucket. ARGV: microseconds per token, burst, tokens wanted.
# Returns: tokens granted, tokens left, microseconds until there is a token.
TAKE = """
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local latest = now + burst * interval  -- of an empty bucket, unless the clock was set back
local full = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or '') or now, now), latest)
local available = math.floor((latest - full) / interval + 0.000001)
local granted = math.min(wanted, available, math.max(1, math.floor(available / 10)))
if granted > 0 then
    full = full + granted * interval
    redis.call('SET', KEYS[1], string.format('%.0f', full),
        'PX', math.ceil((full - now) / 1000) + 1000)
end
local missing = math.max(0, full + interval - latest)
return {granted, available - granted, math.ceil(missing)}
"""


class Policy(NamedTuple):
    """A limit of requests: `burst` at once, and `rate` per second in the long run."""

    name: str
    rate: float
    burst: int

    @property
    def window_seconds(self) -> int:
        """How long an empty bucket takes to fill."""
        return max(1, math.ceil(self.burst / self.rate))

    @property
    def seconds_per_token(self) -> int:
        return max(1, math.ceil(1 / self.rate))


class Quota(NamedTuple):
    """The answer to one request: whether it is permitted, and what is left of the bucket."""

    permitted: bool
    left: int


class _Lease:
    """Tokens of one bucket that this process holds; `left` is what Redis still has."""

    __slots__ = ("expires_at", "left", "refused_until", "tokens")

    def __init__(self) -> None:
        self.tokens = self.left = 0
        self.expires_at = self.refused_until = 0.0


class TokenBuckets:
    """The buckets of one policy."""

    def __init__(self, redis_url: str, policy: Policy) -> None:
        self._redis = fail_fast_client(redis_url, REDIS_TIMEOUT_SECONDS)
        self._take = self._redis.register_script(TAKE)
        self._outage_log = OutageLog(redis=describe_address(redis_url))
        self.policy = policy
        self._wanted = max(1, min(MAX_LEASED_TOKENS, policy.burst // 100))
        self._lock = Lock()
        self._leases: dict[str, _Lease] = {}
        self._outage_until = 0.0

    def take_token(self, caller: str) -> Quota | None:
        """Take one token of this caller's bucket. Return None while Redis cannot serve."""
        now = time.monotonic()
        with self._lock:
            lease = self._leases.get(caller)
            if lease is not None:
                if lease.tokens and now < lease.expires_at:
                    lease.tokens -= 1
                    return Quota(True, lease.left + lease.tokens)
                if now < lease.refused_until:
                    return Quota(False, 0)
        if now < self._outage_until:
            return None
        return self._renew(caller, now)

    def _renew(self, caller: str, now: float) -> Quota | None:
        key = f"notification:bucket:{self.policy.name}:{caller}"
        interval = round(1e6 / self.policy.rate)
        try:
            granted, left, wait = self._take(
                keys=[key], args=[interval, self.policy.burst, self._wanted]
            )
        except RedisError as error:
            self._outage_until = time.monotonic() + OUTAGE_PAUSE_SECONDS
            self._outage_log.report_failure(describe_error(error))
            return None
        self._outage_log.report_success()
        with self._lock:
            if len(self._leases) >= MAX_LEASES:
                self._leases = {}
            lease = self._leases.setdefault(caller, _Lease())
            lease.left = left
            if not granted:
                lease.refused_until = now + wait / 1e6
                return Quota(False, 0)
            # Another thread may have taken tokens at the same time.
            kept = lease.tokens if now < lease.expires_at else 0
            lease.tokens = kept + granted - 1
            lease.expires_at = now + LEASE_SECONDS
            return Quota(True, left + lease.tokens)

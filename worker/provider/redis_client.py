"""The sending loop's own way to Redis: one short round trip, or none at all.

The loop that keeps thousands of requests in flight must not wait for Redis. So its client gives
up after 100 ms, retries nothing, and once Redis has failed it is left alone for a while: even a
Redis that swallows every packet then costs the loop a seventh of its time, not all of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from worker.runtime.clock import boottime

TIMEOUT = 0.1  # seconds for connecting, and for each answer
PAUSE = 0.6  # seconds without a try after a failure

log = structlog.get_logger()


def hot_client(redis_url: str) -> Redis:
    """A client for one thread that fails within 100 ms instead of waiting."""
    return Redis.from_url(
        redis_url,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        # Each of these would be a round trip of its own on every new connection.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


class HotRedis:
    """Runs Lua scripts, and knows whether Redis answers. It never raises for Redis' sake.

    The rate and the breaker share one, so that they do not each find out that Redis is away.
    After a failure nothing is tried before `next_try`.
    """

    def __init__(self, client: Redis, clock: Callable[[], float] = boottime) -> None:
        self.clock = clock
        self.available = True
        self._client = client
        self.next_try = 0.0

    def script(self, lua: str) -> Script:
        """Prepare a script; talks to nobody."""
        return self._client.register_script(lua)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any | None:
        """The script's answer, or None while Redis is away."""
        if not self.available and self.clock() < self.next_try:
            return None
        try:
            answer = script(keys=keys, args=args)
        except (RedisError, OSError) as error:
            if self.available:
                log.warning("redis.away", error=f"{type(error).__name__}: {error}")
            self.available = False
            self.next_try = self.clock() + PAUSE
            return None
        if not self.available:
            log.info("redis.back")
        self.available = True
        return answer

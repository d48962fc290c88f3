"""Redis client of the sending loop, which fails fast instead of waiting.

The loop keeps thousands of requests in flight and must not block on Redis. The client gives up
after 100 ms, never retries, and pauses after a failure. A Redis that drops every packet therefore
costs the loop a seventh of its time.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
from redis import Redis
from redis.commands.core import Script
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from shared.redis_client import describe_error, fail_fast_client
from worker.runtime.clock import boottime

TIMEOUT_SECONDS = 0.1  # for connecting, and for each reply
PAUSE_SECONDS = 0.6  # without an attempt after a failure

log = structlog.get_logger()


def sending_loop_client(redis_url: str) -> Redis:
    """Return a client for one thread whose calls fail within 100 ms."""
    return fail_fast_client(
        redis_url,
        TIMEOUT_SECONDS,
        # Each of these would add a round trip to every new connection.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def read_lua_script(name: str, **constants: float) -> str:
    """Return the text of `<name>.lua` beside this module, with `constants` defined above it."""
    definitions = "".join(f"local {constant} = {value}\n" for constant, value in constants.items())
    return definitions + Path(__file__).with_name(f"{name}.lua").read_text()


class FailFastRedis:
    """Runs Lua scripts and tracks whether Redis is available; never raises on its failure.

    The rate limiter and the circuit breaker share an instance, so that each outage is detected
    once. After a failure nothing is attempted before `next_attempt_at`.
    """

    def __init__(self, client: Redis, clock: Callable[[], float] = boottime) -> None:
        self.clock = clock
        self.available = True
        self.next_attempt_at = 0.0
        self._client = client

    def register_script(self, lua: str) -> Script:
        """Prepare a script for `run_script`, without a round trip."""
        return self._client.register_script(lua)

    def run_script(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any | None:
        """Return the script's reply, or None while Redis is unavailable."""
        if not self.available and self.clock() < self.next_attempt_at:
            return None
        try:
            reply = script(keys=keys, args=args)
        except (RedisError, OSError) as error:
            if self.available:
                log.warning("redis.away", error=describe_error(error))
            self.available = False
            self.next_attempt_at = self.clock() + PAUSE_SECONDS
            return None
        if not self.available:
            log.info("redis.back")
        self.available = True
        return reply

"""Redis clients: which errors are those of a server that cannot serve, and what is done then.

A server that is down, loading, demoted to a replica (READONLY), full (OOM) or that refuses the user
cannot serve for a while, and an operator or a failover ends that. After such an error the
connection is closed, because behind a proxy or a Service address a new one may lead to another
server.
"""

import socket
import time
import weakref
from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import structlog
from redis import ConnectionPool, Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

T = TypeVar("T")

log = structlog.get_logger()

OUTAGE_ERRORS = (
    ConnectionError,  # also: refused user or password, server loading its data
    TimeoutError,
    socket.timeout,
    ReadOnlyError,
    OutOfMemoryError,
    NoPermissionError,
    ClusterDownError,
)
# A server that has become a replica; what waited in a blocking command gets UNBLOCKED.
DEMOTION_CODES = ("READONLY", "UNBLOCKED")
# Codes of such errors for which redis-py has no classes.
OUTAGE_CODES = ("UNBLOCKED", "MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE")

# How long to wait before each attempt, in seconds. It overflows after a thousand failures.
BACKOFF = ExponentialBackoff(cap=0.5, base=0.05)
REMINDER_SECONDS = 60.0  # between two log lines about one outage

# The kernel detects a server that has vanished: 5 s of silence and three unanswered probes.
KEEPALIVE = {
    "socket_keepalive": True,
    "socket_keepalive_options": {
        socket.TCP_KEEPIDLE: 5,
        socket.TCP_KEEPINTVL: 2,
        socket.TCP_KEEPCNT: 3,
    },
}

# Written and expired at once, to learn whether Redis can be written to.
CHECK_KEY = "notification:check"


def is_outage(error: BaseException) -> bool:
    """Return whether an error says that the server cannot serve now, whatever the command."""
    if isinstance(error, OUTAGE_ERRORS):
        return True
    return isinstance(error, ResponseError) and error_code(error) in OUTAGE_CODES


def is_wrong_type(error: BaseException) -> bool:
    """Return whether a key holds another type of data than the command needs."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def error_code(error: BaseException) -> str:
    """Return the short name of an error of Redis: READONLY, OOM, timeout, unreachable and so on."""
    code = getattr(error, "status_code", None)  # of errors for which redis-py has a class
    if code and code != "ERR":
        return str(code)
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionError | OSError):
        return "unreachable"
    first = str(error).partition(" ")[0]
    return first if first.isalpha() and first.isupper() else "error"


def describe_error(error: BaseException) -> str:
    """Return an error with its code, which redis-py removes from the text."""
    code, text = error_code(error), str(error)
    return text if text.startswith(code) else f"{code}: {text}"


def describe_address(redis_url: str) -> str:
    """Return where a URL leads and as which user, without the password."""
    parts = urlsplit(redis_url)
    user = f"{unquote(parts.username)}@" if parts.username else ""
    if parts.scheme == "unix":
        return f"unix://{user}{parts.path}"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{user}{host or 'localhost'}:{parts.port or 6379}{parts.path or '/0'}"


def read_redis_time(redis: Redis) -> float:
    """Return Redis's time in seconds since 1970, the clock of every instant stored there."""
    seconds, microseconds = redis.time()
    return seconds + microseconds / 1e6


class OutageLog:
    """Logs when Redis stops serving, once a minute while it does not, and when it does again."""

    def __init__(self, **fields: object) -> None:
        self._fields = fields
        self._since: float | None = None
        self._remind_at = 0.0

    def report_failure(self, error: str) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now < self._remind_at:
            return
        self._remind_at = now + REMINDER_SECONDS
        seconds = round(now - self._since, 1)
        self.log_away(error=error, seconds=seconds, **self._fields)

    def report_success(self) -> None:
        if self._since is not None:
            seconds = round(time.monotonic() - self._since, 1)
            self._since = None
            self.log_back(seconds=seconds, **self._fields)

    def log_away(self, **fields: object) -> None:
        log.warning("redis.away", **fields)

    def log_back(self, **fields: object) -> None:
        log.info("redis.back", **fields)


class DemotionAwareRetry(Retry):
    """Closes the other connections of the pool when one turns out to lead to a demoted server.

    That server still answers reads, with data that may be old. One instance serves all connections
    of a client, which copies it.
    """

    # Weak, because the pool refers to this object: a circle would keep sockets open.
    pool: Callable[[], ConnectionPool | None] = staticmethod(lambda: None)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def close_connections(self, error: Exception, fail: Callable[[], Any]) -> None:
        """Close the connection by `fail`, and after a demotion the idle ones."""
        pool = self.pool()
        if pool is not None and error_code(error) in DEMOTION_CODES:
            pool.disconnect(inuse_connections=False)
        fail()


class FailFastRetry(DemotionAwareRetry):
    """Never waits. Closes the connection after an outage's error; repeats once after READONLY."""

    def __init__(self) -> None:
        super().__init__(NoBackoff(), 0)

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        for failures in (1, 2):
            try:
                return do()
            except Exception as error:
                if not is_outage(error):
                    raise
                arguments = (error, failures) if with_failure_count else (error,)
                self.close_connections(error, partial(fail, *arguments))
                if failures == 2 or not isinstance(error, ReadOnlyError):
                    raise
        raise AssertionError("unreachable")


class PatientRetry(DemotionAwareRetry):
    """Repeats a command for as long as the server cannot serve, and logs the outage.

    `stopping` ends the waiting. `on_wait` is called before each attempt.
    """

    def __init__(self, outage_log: OutageLog, stopping: Event, on_wait: Callable[[], None]) -> None:
        super().__init__(BACKOFF, -1)
        self._outage_log, self._stopping, self._on_wait = outage_log, stopping, on_wait

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        failures = 0
        while True:
            try:
                result = do()
            except Exception as error:
                if not is_outage(error):
                    raise
                failures += 1
                self._outage_log.report_failure(describe_error(error))
                arguments = (error, failures) if with_failure_count else (error,)
                # Raises WatchError if keys are watched: the caller repeats its transaction.
                self.close_connections(error, partial(fail, *arguments))
                if self._stopping.is_set():
                    raise
            else:
                if failures:
                    self._outage_log.report_success()
                return result
            self._on_wait()
            time.sleep(BACKOFF.compute(min(failures, 10)))


def patient_client(
    redis_url: str, stopping: Event, on_wait: Callable[[], None], socket_timeout: float = 15.0
) -> Redis:
    """Return a client whose commands wait until Redis serves: for workers and schedulers."""
    outage_log = OutageLog(redis=describe_address(redis_url))
    return _make_client(
        redis_url,
        PatientRetry(outage_log, stopping, on_wait),
        socket_connect_timeout=5,
        socket_timeout=socket_timeout,
        health_check_interval=30,
        **KEEPALIVE,
    )


def fail_fast_client(redis_url: str, timeout: float = 0.3, **options: Any) -> Redis:
    """Return a client that never waits for longer than `timeout`: for request handlers."""
    return _make_client(
        redis_url,
        FailFastRetry(),
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        **options,
    )


def _make_client(redis_url: str, retry: DemotionAwareRetry, **options: Any) -> Redis:
    if redis_url.startswith("unix:"):
        options = {name: options[name] for name in options.keys() - KEEPALIVE.keys()}
    client = Redis.from_url(redis_url, retry=retry, **options)
    retry.pool = weakref.ref(client.connection_pool)
    return client

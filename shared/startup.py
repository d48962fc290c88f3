"""What a process says when it starts: its version, that of the time zone rules, and its servers.

A server that cannot be reached is logged in one line, and tried again until it can be.
"""

import platform
import sys
import time
from collections.abc import Callable
from threading import Event

import psycopg2
import structlog
from psycopg2.extensions import parse_dsn
from redis.exceptions import RedisError

from shared import __version__
from shared.db.connections import TransactionPooling, connect
from shared.domain.time_zones import RULES_VERSION
from shared.file_limit import get_file_limit
from shared.logging.redaction import redact
from shared.redis_client import (
    CHECK_KEY,
    OutageLog,
    describe_address,
    describe_error,
    fail_fast_client,
)

log = structlog.get_logger()

CONNECT_TIMEOUT_SECONDS = 5
FIRST_WAIT_SECONDS = 0.1
MAX_WAIT_SECONDS = 2.0


class DatabaseOutageLog(OutageLog):
    """The same for PostgreSQL."""

    def log_away(self, **fields: object) -> None:
        log.warning("database.unavailable", **fields)

    def log_back(self, **fields: object) -> None:
        log.info("database.back", **fields)


def describe_database(url: str) -> str:
    """Return where a connection string of libpq leads, without user and password."""
    try:
        parts = parse_dsn(url)
    except psycopg2.Error:
        return "malformed address"
    hosts, ports = parts.get("host", "localhost").split(","), parts.get("port", "5432").split(",")
    ports += ports[-1:] * (len(hosts) - len(ports))
    servers = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
    return f"{servers}/{parts.get('dbname', '')}"


def log_start(
    database_url: str | None, redis_url: str | None, demo: list[str], **fields: object
) -> None:
    """Log that this process has started, what it connects to, and which settings are the demo's."""
    log.info(
        "process.started",
        version=__version__,
        python=platform.python_version(),
        time_zones=RULES_VERSION,
        **({"database": describe_database(database_url)} if database_url else {}),
        **({"redis": describe_address(redis_url)} if redis_url else {}),
        open_files=get_file_limit(),
        **fields,
    )
    if demo:
        log.warning("process.demo", settings=demo)


def wait_for_database(
    url: str, stopping: Event, on_wait: Callable[[], None] = lambda: None
) -> None:
    """Return when PostgreSQL accepts a connection, or when `stopping` is set.

    Exit with one line if `url` leads to a pooler in transaction mode.
    """

    def open_connection() -> None:
        try:
            connect(url, "start", {}, CONNECT_TIMEOUT_SECONDS).close()
        except TransactionPooling as error:
            sys.exit(f"setting DATABASE_URL: {error}")

    outage_log = DatabaseOutageLog(database=describe_database(url))
    _wait_for(open_connection, psycopg2.Error, outage_log, stopping, on_wait)


def wait_for_redis(url: str, stopping: Event) -> None:
    """Return when Redis can be written to, or when `stopping` is set."""
    redis = fail_fast_client(url, CONNECT_TIMEOUT_SECONDS)
    outage_log = OutageLog(redis=describe_address(url))

    def write() -> None:
        redis.set(CHECK_KEY, 1, px=1000)

    _wait_for(write, (RedisError, OSError), outage_log, stopping, lambda: None)
    redis.close()


def _wait_for(
    attempt: Callable[[], None],
    errors: type[Exception] | tuple[type[Exception], ...],
    outage_log: OutageLog,
    stopping: Event,
    on_wait: Callable[[], None],
) -> None:
    wait = FIRST_WAIT_SECONDS
    while not stopping.is_set():
        on_wait()
        try:
            attempt()
        except errors as error:
            text = describe_error(error) if isinstance(error, RedisError) else str(error)
            outage_log.report_failure(str(redact(text)).strip().partition("\n")[0])
        else:
            outage_log.report_success()
            return
        time.sleep(wait)
        wait = min(2 * wait, MAX_WAIT_SECONDS)

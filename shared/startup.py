"""What a process says when it starts: its version, and which servers it uses.

A server that cannot be reached is logged in one line, and tried again until it can be.
"""

import platform
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import psycopg2
import structlog
from psycopg2.extensions import parse_dsn

from shared import __version__
from shared.db.connections import primary_only
from shared.logging.redaction import redact
from shared.redis_client import OutageLog, describe_address

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


def log_start(database_url: str | None, redis_url: str, **fields: object) -> None:
    """Log that this process has started, and what it is going to connect to."""
    log.info(
        "process.started",
        version=__version__,
        python=platform.python_version(),
        **({"database": describe_database(database_url)} if database_url else {}),
        redis=describe_address(redis_url),
        **fields,
    )


def wait_for_database(url: str, stopping: Event, on_wait: Callable[[], None]) -> None:
    """Return when PostgreSQL accepts a connection, or when `stopping` is set."""
    outage_log = DatabaseOutageLog(database=describe_database(url))
    options: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **primary_only(url)}
    wait = FIRST_WAIT_SECONDS
    while not stopping.is_set():
        on_wait()
        try:
            psycopg2.connect(url, **options).close()
        except psycopg2.Error as error:
            outage_log.report_failure(str(redact(str(error))).strip().partition("\n")[0])
        else:
            outage_log.report_success()
            return
        time.sleep(wait)
        wait = min(2 * wait, MAX_WAIT_SECONDS)

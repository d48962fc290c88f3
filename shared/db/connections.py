"""Connections to PostgreSQL; errors that mean "PostgreSQL is unavailable".

After a failover an address, or an old connection through a proxy, may lead to a standby, where
reads work and writes fail with SQLSTATE 25006. New connections refuse such a server. A process that
meets one on an open connection treats it as an outage and opens another connection.

Settings of a session, such as timeouts, are set after connecting, because PgBouncer refuses the
start-up parameter `options`. They, prepared statements and advisory locks need a session, so a
pooler that gives each transaction another one is refused.
"""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.errors import ReadOnlySqlTransaction
from psycopg2.extensions import parse_dsn

from shared.db.prepared_statements import PreparingConnection
from shared.db.rows import fetch_one_row

# Two connections that a pooler serves with the same sessions show it within so many statements.
POOLING_CHECKS = 10
START_TIMEOUT_SECONDS = 2

# Errors that pass with time: an outage, a read-only server, a lock held by another transaction.
TRANSIENT_ERRORS = (psycopg2.OperationalError, psycopg2.InterfaceError, ReadOnlySqlTransaction)


def primary_only(url: str) -> dict[str, str]:
    """Return the connection parameters that refuse a read-only server, unless `url` has its own.

    Of several hosts in the URL, libpq then takes the first one that accepts writes.
    """
    if "target_session_attrs" in parse_dsn(url):
        return {}
    return {"target_session_attrs": "read-write"}


class TransactionPooling(psycopg2.OperationalError):
    """The address leads to a pooler whose clients share sessions."""

    def __init__(self) -> None:
        super().__init__(
            "leads to a connection pooler that shares sessions (pool_mode = transaction); it must "
            "be in session mode (docs/operations.md, Connections)"
        )


_checked_urls: set[str] = set()


def connect(
    url: str, name: str, settings: Mapping[str, str], connect_timeout: int, **parameters: Any
) -> PreparingConnection:
    """Open a connection to the primary server with these settings of its session.

    `connect_timeout` (seconds) also limits the wait for a session of a pooler. `parameters` are
    libpq's. Raises psycopg2.Error; TransactionPooling behind such a pooler.
    """
    connection: PreparingConnection = psycopg2.connect(  # type: ignore[call-overload]
        url,
        application_name=name,
        connection_factory=PreparingConnection,
        connect_timeout=connect_timeout,
        **primary_only(url),
        **parameters,
    )
    try:
        # Outside of a transaction, so that no rollback undoes it.
        connection.autocommit = True
        settings_sql = ", set_config(%s, %s, false)" * len(settings)
        values = [text for setting in settings.items() for text in setting]
        with _break_after(connection, connect_timeout), connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_backend_pid(){settings_sql}", values)
            pid = fetch_one_row(cursor)[0]
        # A pooler tells its clients numbers of its own.
        if pid != connection.info.backend_pid and url not in _checked_urls:
            _check_pooling(url, connection, connect_timeout)
            _checked_urls.add(url)
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection


def _check_pooling(url: str, first: PreparingConnection, connect_timeout: int) -> None:
    """Raise TransactionPooling if two connections do not have a session each."""
    second = psycopg2.connect(  # type: ignore[call-overload]
        url, connect_timeout=connect_timeout, **primary_only(url)
    )
    try:
        second.autocommit = True
        sessions: tuple[set[int], set[int]] = (set(), set())
        for _ in range(POOLING_CHECKS):
            for connection, pids in zip((first, second), sessions, strict=True):
                with _break_after(connection, connect_timeout), connection.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    pids.add(fetch_one_row(cursor)[0])
    finally:
        second.close()
    if any(len(pids) != 1 for pids in sessions) or sessions[0] == sessions[1]:
        raise TransactionPooling


@contextmanager
def _break_after(connection: psycopg2.extensions.connection, seconds: float) -> Iterator[None]:
    """Break the connection if the block takes longer: a statement may wait for a pooler's session.

    The server's timeouts do not apply yet, and a pooler ignores the cancelling of such a statement.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as handle:

        def shut_down() -> None:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, shut_down)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def exit_if_transactions_are_pooled(url: str) -> None:
    """Exit with one line if `url` leads to a pooler in transaction mode; ignore outages."""
    try:
        connect(url, "start", {}, START_TIMEOUT_SECONDS).close()
    except TransactionPooling as error:
        sys.exit(f"setting DATABASE_URL: {error}")
    except psycopg2.Error:
        return

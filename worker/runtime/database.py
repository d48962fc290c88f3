"""The worker's connection to PostgreSQL: one per thread, reopened after a failure."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Self

import psycopg2
from psycopg2.extensions import cursor as Cursor

from shared.db import on_commit
from shared.db.connections import TRANSIENT_ERRORS, connect
from shared.db.prepared_statements import GENERIC_PLANS, PreparingConnection

CONNECT_TIMEOUT_SECONDS = 5
# The kernel detects a server that has vanished within seconds, not hours.
TCP = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# A statement that waits longer than this for a lock fails and is repeated by its caller. When the
# network is cut in a transaction, its locks are kept until the server ends the idle session: well
# before a lease ends, or the holder of a batch could not report in time after the network returns.
SESSION_SETTINGS = {
    "timezone": "UTC",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    **GENERIC_PLANS,
}

DatabaseError = psycopg2.Error
# Classes of SQLSTATE that concern the server or the connection, not one statement.
OUTAGE_CLASSES = ("08", "25006", "53", "57P")


def is_outage(error: BaseException) -> bool:
    """Whether PostgreSQL is unavailable, so that other statements would fail as well."""
    if not isinstance(error, TRANSIENT_ERRORS):
        return False
    code: str | None = error.pgcode
    return code is None or code.startswith(OUTAGE_CLASSES)


class Database:
    """A connection that is reopened at the next use after an error; callers repeat their work."""

    def __init__(self, url: str, name: str, statement_timeout: float = 30.0):
        self._url = url
        self._name = name
        self._settings = {
            **SESSION_SETTINGS,
            "statement_timeout": str(int(statement_timeout * 1000)),
        }
        self._connection: PreparingConnection | None = None

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Yield a cursor; commit at the end, or roll back if anything is raised.

        Raises DatabaseError. After a transient error the connection is reopened at next use.
        """
        connection = self._open()
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
            on_commit.flush_after_commit(connection)
        except TRANSIENT_ERRORS:
            self.close()
            raise
        finally:
            on_commit.discard_after_rollback(connection)

    @contextmanager
    def autocommit(self) -> Iterator[Cursor]:
        """Yield a cursor that commits each statement: for ANALYZE and session-level locks."""
        connection = self._open()
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
            connection.autocommit = False
        except psycopg2.Error:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> PreparingConnection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(
                self._url, self._name, self._settings, CONNECT_TIMEOUT_SECONDS, **TCP
            )
        return self._connection


class ConnectionThread:
    """A thread that runs functions of one database connection, one after the other."""

    def __init__(self, db: Database):
        self._db = db
        self._executor = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run `function(db, *args)` on the thread; its log lines carry the caller's ids."""
        return self._executor.submit(copy_context().run, function, self._db, *args)

"""The fleet's connection to PostgreSQL: one per thread, dropped when it fails, opened anew."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import cursor as Cursor

from shared.db import on_commit
from shared.db.prepared_statements import GENERIC_PLAN_OPTION, PreparingConnection

# A server that is gone without a word is noticed by the kernel within these, not after hours.
TCP = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# Whatever waits longer than this for a row or a plan is better repeated than waited for.
OPTIONS = (
    "-c timezone=UTC -c lock_timeout=5s -c idle_in_transaction_session_timeout=30s "
    f"{GENERIC_PLAN_OPTION}"
)

DatabaseError = psycopg2.Error
# Of these, what passes with time: the server is away, or somebody was in the way.
TRANSIENT_ERRORS = (psycopg2.OperationalError, psycopg2.InterfaceError)


class Database:
    """A connection that comes back by itself: whoever meets an error tries again later."""

    def __init__(self, url: str, name: str, statement_timeout: float = 30.0):
        self._url = url
        self._name = name
        self._options = f"{OPTIONS} -c statement_timeout={int(statement_timeout * 1000)}"
        self._connection: PreparingConnection | None = None

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """A cursor whose work is committed at the end, or rolled back if anything is raised.

        Raises DatabaseError; after one that says nothing of the connection it is opened anew.
        """
        connection = self._open()
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
            on_commit.flush_after_commit(connection)
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            self.close()
            raise
        finally:
            on_commit.discard_after_rollback(connection)

    @contextmanager
    def autocommit(self) -> Iterator[Cursor]:
        """A cursor each of whose statements stands alone: for ANALYZE and advisory locks."""
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
            connection: PreparingConnection = psycopg2.connect(  # type: ignore[call-overload]
                self._url,
                application_name=self._name,
                options=self._options,
                connection_factory=PreparingConnection,
                **TCP,
            )
            self._connection = connection
        return self._connection

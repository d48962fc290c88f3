"""The API's access to PostgreSQL: one pool of connections, one session per request.

There are two ways to reach the database, each for one need:

* What a person edits (a mailing, a client, a token, an opt-out, an import) goes through the ORM:
  `db.session` with the models in `shared.db`, which are the schema of record.
* What is counted, listed across tables or changed in bulk goes through named SQL constants:
  `fetch_all` for reads; `session_cursor` for statements that the workers share, in the session's
  transaction; `transaction` for work in many short steps; and `autocommit_cursor` for the few most
  frequent statements, where each is a transaction of its own and costs a single round trip.
"""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import psycopg2
import structlog
from flask import Flask, g, has_request_context, request
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session
from psycopg2.errors import QueryCanceled
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import NamedTupleCursor
from sqlalchemy import Connection as SQLAlchemyConnection
from sqlalchemy import Engine, event, func, text
from sqlalchemy import select as sql_select
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from api.errors import FieldError, InvalidFields
from shared.db import on_commit
from shared.db.base import Base
from shared.db.connections import connect
from shared.db.prepared_statements import GENERIC_PLANS
from shared.db.schema import MIGRATIONS_PATH
from shared.domain.error_texts import error_text

# A request that waits longer than this for PostgreSQL is answered with 503. Commands (migrations)
# have no statement and lock timeouts.
CONNECT_TIMEOUT_SECONDS = 2
STATEMENT_TIMEOUT = "10s"
LOCK_TIMEOUT = "5s"
# The statements of a search, whose cost depends on what is searched for.
SEARCH_SECONDS = 5
SEARCH_TOO_SLOW = error_text(
    "the search takes longer than %(seconds)s seconds: search for more letters or digits, or add a"
    " filter",
    seconds=SEARCH_SECONDS,
)

# At most one connection per thread of a gunicorn process; with more threads, overflow connections.
POOL = {"pool_size": 8, "max_overflow": 24, "pool_timeout": 2}


log = structlog.get_logger()


class RequestSession(Session):
    """A session that opens no transaction for requests of the REST API that only read.

    Under READ COMMITTED each statement sees what was committed before it, in a transaction or not,
    so the only difference is that BEGIN and ROLLBACK are omitted: two round trips.
    """

    def get_bind(self, *arguments: Any, **named: Any) -> Any:
        engine = super().get_bind(*arguments, **named)
        level = _isolation_level()
        return _engine_with_level(engine, level) if isinstance(engine, Engine) and level else engine


def _isolation_level() -> str | None:
    if not has_request_context():
        return None
    if "isolation_level" in g:
        return str(g.isolation_level)
    only_reads = request.method in ("GET", "HEAD") and not request.path.startswith("/admin")
    return "AUTOCOMMIT" if only_reads else None


# Cached, because a session opens one connection for each engine object that it is given.
@lru_cache(maxsize=64)
def _engine_with_level(engine: Engine, level: str) -> Engine:
    return engine.execution_options(isolation_level=level)


class RequestDatabase(SQLAlchemy):
    """Closes the session at a request's end, also on a connection that has died meanwhile."""

    def _teardown_session(self, exc: BaseException | None) -> None:
        """Close the session. The response exists already: an error must not replace it."""
        try:
            super()._teardown_session(exc)
        except (SQLAlchemyError, psycopg2.Error) as error:
            reason = str(error).strip().partition("\n")[0]
            log.warning("database.unavailable", error=reason, error_class=type(error).__name__)
            try:
                self.session().invalidate()
            finally:
                self.session.registry.clear()


# A session lives as long as its request, so committed objects may still be presented. It flushes
# explicitly only, because the order of statements matters where rows are locked.
db = RequestDatabase(
    model_class=Base,
    session_options={"class_": RequestSession, "expire_on_commit": False, "autoflush": False},
)
migrate = Migrate()


def init_database(app: Flask, url: str, *, timeouts: bool = True) -> None:
    """Connect `app` to PostgreSQL; `timeouts` limits how long statements and locks may take."""
    settings = {"timezone": "UTC", **GENERIC_PLANS}
    if timeouts:
        settings |= {"statement_timeout": STATEMENT_TIMEOUT, "lock_timeout": LOCK_TIMEOUT}

    def connect_api() -> Connection:
        return connect(
            url,
            "api",
            settings,
            CONNECT_TIMEOUT_SECONDS,
            keepalives_idle=10,
            keepalives_interval=3,
            keepalives_count=3,
        )

    # libpq parses DATABASE_URL, so that it means the same as in every other PostgreSQL program.
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg2://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {**POOL, "creator": connect_api}
    db.init_app(app)
    with app.app_context():
        event.listen(
            db.engine, "commit", lambda c: on_commit.flush_after_commit(_driver_connection(c))
        )
        event.listen(db.engine, "rollback", _discard_after_rollback)
        event.listen(db.engine, "connect", _mark_as_new)
        event.listen(db.engine, "checkout", _replace_closed)
    migrate.init_app(app, db, directory=str(MIGRATIONS_PATH))


def _driver_connection(connection: Any) -> Connection:
    return cast(Connection, connection.connection.dbapi_connection)


def _discard_after_rollback(connection: SQLAlchemyConnection) -> None:
    if not connection.invalidated:  # else its driver's connection is gone already
        on_commit.discard_after_rollback(_driver_connection(connection))


def _mark_as_new(_: Connection, entry: ConnectionPoolEntry) -> None:
    entry.info["new"] = True


def _replace_closed(connection: Connection, entry: ConnectionPoolEntry, _: object) -> None:
    """Replace a pooled connection that PostgreSQL has closed, which makes its socket readable.

    This costs microseconds, where a test query costs a round trip.
    """
    if entry.info.pop("new", False):
        return
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    if connection.closed or poller.poll(0):
        raise InvalidatePoolError


@contextmanager
def autocommit_cursor() -> Iterator[Cursor]:
    """Open a cursor on which each statement is a transaction of its own, in one round trip."""
    pooled = db.engine.raw_connection()
    connection = cast(Connection, pooled.driver_connection)
    try:
        connection.autocommit = True
        with connection.cursor(cursor_factory=NamedTupleCursor) as cursor:
            yield cursor
    finally:
        if connection.closed:
            pooled.invalidate()
        else:
            connection.autocommit = False
        pooled.close()


def replace_connections() -> None:
    """Close the pooled connections, because the server they lead to is read-only."""
    db.engine.dispose()


def is_read_only() -> bool:
    """Return whether this request's connection leads to a server that accepts no writes."""
    return bool(db.session.scalar(text("SHOW transaction_read_only")) == "on")


def session_cursor() -> Cursor:
    """Return a psycopg2 cursor in the session's transaction, for statements shared with workers."""
    db.session.flush()
    return cast(Cursor, db.session.connection().connection.cursor())


@contextmanager
def transaction() -> Iterator[Cursor]:
    """Open a session cursor; commit at the end, or roll back after an exception."""
    try:
        yield session_cursor()
        db.session.commit()
    except BaseException:
        db.session.rollback()
        raise


def database_now() -> datetime:
    """Return the current time of PostgreSQL's clock, which decides about starts and ends."""
    return cast(datetime, db.session.scalar(sql_select(func.clock_timestamp())))


def use_one_snapshot() -> None:
    """Let all later statements of this request see one snapshot, so that their numbers add up."""
    g.isolation_level = "REPEATABLE READ"


@contextmanager
def limited_search(field: str) -> Iterator[None]:
    """Let no statement inside take longer than SEARCH_SECONDS, for searches without bounds.

    Raise InvalidFields for the parameter `field` instead of an answer that no repetition would get.
    """
    if _isolation_level() == "AUTOCOMMIT":
        g.isolation_level = "READ COMMITTED"  # SET LOCAL needs a transaction
    timeout = text("SELECT set_config('statement_timeout', :timeout, true)")
    db.session.execute(timeout, {"timeout": f"{SEARCH_SECONDS}s"})
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, QueryCanceled):
            raise
        db.session.rollback()
        raise InvalidFields(
            FieldError(SEARCH_TOO_SLOW, "search_too_slow", parameter=field)
        ) from error
    db.session.execute(timeout, {"timeout": STATEMENT_TIMEOUT})


def fetch_all(statement: Any, **values: Any) -> list[dict[str, Any]]:
    """Execute a textual statement and return its rows as dictionaries."""
    return [dict(row) for row in db.session.execute(statement, values).mappings()]

"""The API's way into PostgreSQL: one pool of connections, one session per request.

What is asked for most often goes past the session: one statement by itself is a transaction, and
costs one round trip (see `autocommit`).
"""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import psycopg2
from flask import Flask, g, has_request_context, request
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import NamedTupleCursor
from sqlalchemy import Engine, event, func
from sqlalchemy import select as sql_select
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from shared.db import on_commit
from shared.db.base import Base
from shared.db.prepared_statements import GENERIC_PLAN_OPTION, PreparingConnection
from shared.db.schema import MIGRATIONS_PATH

# A request that waits for PostgreSQL longer than this is answered with 503 rather than left
# hanging. Commands (migrations) may take as long as they need.
CONNECT_TIMEOUT = 2
STATEMENT_TIMEOUT = "10s"
LOCK_TIMEOUT = "5s"

# At most one connection per thread of a gunicorn process; with more threads, overflow connections.
POOL = {"pool_size": 8, "max_overflow": 24, "pool_timeout": 2}


class RequestSession(Session):
    """A session that begins no transaction where the API is only asked for something.

    Each statement sees what was committed before it, in a transaction or not, so all that is saved
    is BEGIN and ROLLBACK: two round trips.
    """

    def get_bind(self, *arguments: Any, **named: Any) -> Any:
        engine = super().get_bind(*arguments, **named)
        level = _isolation_level()
        return _at(engine, level) if isinstance(engine, Engine) and level else engine


def _isolation_level() -> str | None:
    if not has_request_context():
        return None
    if "isolation_level" in g:
        return str(g.isolation_level)
    only_asks = request.method in ("GET", "HEAD") and not request.path.startswith("/admin")
    return "AUTOCOMMIT" if only_asks else None


# One and the same for all: a session has a connection for each engine that it is given.
@lru_cache(maxsize=64)
def _at(engine: Engine, level: str) -> Engine:
    return engine.execution_options(isolation_level=level)


# A session lives as long as its request, so what was committed is still right to present; and it
# writes when it is told to, as order matters where rows are locked.
db = SQLAlchemy(
    model_class=Base,
    session_options={"class_": RequestSession, "expire_on_commit": False, "autoflush": False},
)
migrate = Migrate()


def init_database(app: Flask, url: str, *, limited: bool = True) -> None:
    """Connect `app` to PostgreSQL; `limited` bounds how long a statement may take."""
    options = f"-c timezone=UTC {GENERIC_PLAN_OPTION}"
    if limited:
        options += f" -c statement_timeout={STATEMENT_TIMEOUT} -c lock_timeout={LOCK_TIMEOUT}"

    def connect() -> Connection:
        return psycopg2.connect(
            url,
            connect_timeout=CONNECT_TIMEOUT,
            options=options,
            application_name="api",
            connection_factory=PreparingConnection,
            keepalives_idle=10,
            keepalives_interval=3,
            keepalives_count=3,
        )

    # Connecting is libpq's own business, so that DATABASE_URL means here what it means elsewhere.
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg2://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {**POOL, "creator": connect}
    db.init_app(app)
    with app.app_context():
        event.listen(
            db.engine, "commit", lambda c: on_commit.flush_after_commit(_driver_connection(c))
        )
        event.listen(
            db.engine, "rollback", lambda c: on_commit.discard_after_rollback(_driver_connection(c))
        )
        event.listen(db.engine, "connect", _mark_new)
        event.listen(db.engine, "checkout", _refuse_dead)
    migrate.init_app(app, db, directory=str(MIGRATIONS_PATH))


def _driver_connection(connection: Any) -> Connection:
    return cast(Connection, connection.connection.dbapi_connection)


def _mark_new(_: Connection, entry: ConnectionPoolEntry) -> None:
    entry.info["new"] = True


def _refuse_dead(connection: Connection, entry: ConnectionPoolEntry, _: object) -> None:
    """Have a connection replaced that PostgreSQL has closed: then there is something to read.

    Costs microseconds, where asking PostgreSQL costs a round trip.
    """
    if entry.info.pop("new", False):
        return
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    if connection.closed or poller.poll(0):
        raise InvalidatePoolError


@contextmanager
def autocommit_cursor() -> Iterator[Cursor]:
    """A cursor whose every statement is a transaction by itself, in one round trip."""
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


def session_cursor() -> Cursor:
    """A psycopg2 cursor in the session's transaction, for the ledger's statements."""
    db.session.flush()
    return cast(Cursor, db.session.connection().connection.cursor())


@contextmanager
def transaction() -> Iterator[Cursor]:
    """A cursor whose work is committed at the end, or rolled back: for work in many short steps."""
    try:
        yield session_cursor()
        db.session.commit()
    except BaseException:
        db.session.rollback()
        raise


def database_now() -> datetime:
    """The present instant by PostgreSQL's clock, which judges starts and ends."""
    return cast(datetime, db.session.scalar(sql_select(func.clock_timestamp())))


def use_one_snapshot() -> None:
    """Let every later statement of this request see the same instant: its numbers add up."""
    g.isolation_level = "REPEATABLE READ"


def fetch_all(statement: Any, **values: Any) -> list[dict[str, Any]]:
    """The rows of a textual statement, by column name."""
    return [dict(row) for row in db.session.execute(statement, values).mappings()]

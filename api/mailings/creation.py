"""Store a new mailing, with its text and its audit entry, in one statement.

Integrators create a mailing for each event. Through the session this takes seven round trips, which
cost the API more than all else about the request.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import Json

from api.actor import Actor
from api.audit_log import service as audit_log
from api.db import autocommit_cursor, session_cursor
from shared.db.audience import FILTER_COLUMNS
from shared.db.models import Mailing
from shared.db.policy import CURRENT_POLICY
from shared.db.prepared_statements import PreparedStatement
from shared.db.rows import fetch_one_row

# PostgreSQL sets the other columns.
GIVEN_COLUMNS = (
    *("name", "text", "start_at", "end_at", *FILTER_COLUMNS, "window_from", "window_to"),
    *("rate_limit", "max_audience", "stop_when", "budget", "launch_not_before", "request_id"),
)
MADE_COLUMNS = tuple(
    column.name for column in Mailing.__table__.columns if column.name not in GIVEN_COLUMNS
)
READ_CLOCK = f"SELECT clock_timestamp(), launch_delay FROM {CURRENT_POLICY} AS policy"  # noqa: S608
INSERT = PreparedStatement(
    "create_mailing",
    f"""
WITH made AS (
    INSERT INTO mailings ({", ".join(GIVEN_COLUMNS)})
    VALUES ({", ".join(f"%({name})s" for name in GIVEN_COLUMNS)})
    RETURNING *
), stored_text AS (
    INSERT INTO mailing_texts (mailing_id, version, text) SELECT id, text_version, text FROM made
), recorded AS ({audit_log.RECORD_CREATED_WITH_CHANGES})
SELECT {", ".join(MADE_COLUMNS)} FROM made
""",  # noqa: S608 (constants)
)


@contextmanager
def creating_cursor(*, in_session: bool) -> Iterator[Cursor]:
    """Open a cursor in the session's transaction, or one whose statements are transactions."""
    if in_session:
        yield session_cursor()
    else:
        with autocommit_cursor() as cursor:
            yield cursor


def read_clock_and_launch_delay(cursor: Cursor) -> tuple[datetime, int]:
    """Return the time of PostgreSQL's clock, and the seconds of the policy's launch delay."""
    cursor.execute(READ_CLOCK)
    now, launch_delay = fetch_one_row(cursor)
    return now, launch_delay


def insert_mailing(
    cursor: Cursor, mailing: Mailing, actor: Actor, changes: Mapping[str, Any]
) -> None:
    """Store a new mailing and set what PostgreSQL has made; `changes` go into the audit log."""
    values = {name: getattr(mailing, name) for name in GIVEN_COLUMNS}
    values["attributes"] = Json(values["attributes"])
    for name in ("stop_when", "budget"):
        values[name] = values[name] and Json(values[name])
    audited = {"entity": "mailing", "changes": Json(changes), **audit_log.actor_columns(actor)}
    INSERT.run(cursor, values | audited)
    for name, value in zip(MADE_COLUMNS, fetch_one_row(cursor), strict=True):
        setattr(mailing, name, value)

"""Fetches the row of a statement that always returns one."""

from typing import Any

from psycopg2.extensions import cursor as Cursor


def fetch_one_row(cursor: Cursor) -> tuple[Any, ...]:
    """Return the next row of the result; raise LookupError if there is none."""
    row = cursor.fetchone()
    if row is None:
        # The statement is not named: the error may be logged, and it would include values.
        raise LookupError("a statement that always returns a row returned none")
    return row

"""Reads the one row that a statement certainly returns."""

from typing import Any

from psycopg2.extensions import cursor as Cursor


def fetch_one_row(cursor: Cursor) -> tuple[Any, ...]:
    """The next row of a result that must have one; LookupError if it has none."""
    row = cursor.fetchone()
    if row is None:
        # Not which statement: it would come with its values, and this may be logged.
        raise LookupError("a statement that always finds a row found none")
    return row

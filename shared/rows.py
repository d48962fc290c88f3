"""Reads the one row that a statement certainly returns."""

from typing import Any

from psycopg2.extensions import cursor as Cursor


def one_row(cursor: Cursor) -> tuple[Any, ...]:
    """The next row of a result that must have one; LookupError if it has none."""
    row = cursor.fetchone()
    if row is None:
        raise LookupError(f"no row from: {cursor.query!r:.200}")
    return row

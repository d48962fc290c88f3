"""Rows as statements return them, and values as statements take them."""

from collections.abc import Iterable
from typing import Any

from psycopg2.extensions import cursor as Cursor


def one_row(cursor: Cursor) -> tuple[Any, ...]:
    """The next row of a result that must have one; LookupError if it has none."""
    row = cursor.fetchone()
    if row is None:
        # Not which statement: it would come with its values, and this may be logged.
        raise LookupError("a statement that always finds a row found none")
    return row


def array_literal(values: Iterable[float]) -> str:
    """Numbers as PostgreSQL reads an array: much faster than psycopg2's own way for thousands."""
    return "{" + ",".join(map(repr, values)) + "}"

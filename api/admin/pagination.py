"""Pages of the admin UI's lists: each continues after the last key of the page before."""

from collections.abc import Sequence
from typing import TypeVar

from flask import request

from api.admin.forms.text_fields import read_id

PAGE_SIZE = 25

Row = TypeVar("Row")


def requested_start() -> int:
    """Return the key after which the requested page starts: 0 for the first page."""
    return read_id(request.args.get("after", "")) or 0


def split_page(rows: Sequence[Row]) -> tuple[Sequence[Row], Row | None]:
    """Split PAGE_SIZE + 1 rows into a page and its last row, which is None on the last page."""
    return rows[:PAGE_SIZE], rows[PAGE_SIZE - 1] if len(rows) > PAGE_SIZE else None

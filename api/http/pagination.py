"""Keyset pagination: a page continues after the last id of the page before.

Rows inserted meanwhile do not shift the pages.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from api.cursors import encode_cursor

Row = TypeVar("Row")


def build_page(
    found: Sequence[Row],
    limit: int,
    present: Callable[[Row], dict[str, Any]],
    id_of: Callable[[Row], int],
) -> dict[str, Any]:
    """Build a page from up to `limit` + 1 rows; the extra row means that another page follows."""
    shown = found[:limit]
    has_more = len(found) > limit
    return {
        "items": [present(row) for row in shown],
        "next_cursor": encode_cursor(id_of(shown[-1])) if has_more else None,
    }

"""Keyset pagination: a page continues after the last id of the page before.

Rows inserted meanwhile do not shift the pages. Cursors are opaque to callers.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

MAX_ID = 2**63 - 1
DEFAULT_LIMIT = 50
MAX_LIMIT = 500

Row = TypeVar("Row")


def encode_cursor(last_id: int) -> str:
    return base64.urlsafe_b64encode(str(last_id).encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> int:
    """Return the id of a cursor. Raise ValueError for what `encode_cursor` cannot have made."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        last_id = int(base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii"))
    except (binascii.Error, ValueError):
        raise ValueError("not a cursor") from None
    if not 0 <= last_id <= MAX_ID or encode_cursor(last_id) != cursor:
        raise ValueError("not a cursor")
    return last_id


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

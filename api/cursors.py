"""Cursors of lists: the id of a page's last row, opaque to callers; and the bounds of a page."""

import base64
import binascii
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import InstrumentedAttribute

Found = TypeVar("Found", bound=Select[Any])

MAX_ID = 2**63 - 1
DEFAULT_LIMIT = 50
MAX_LIMIT = 500


class Page(NamedTuple):
    """Up to `limit` rows that follow the id `after`, in the order of ids or the reverse.

    `after` of 0 begins the list, in both orders.
    """

    after: int
    limit: int
    descending: bool = False

    @property
    def before(self) -> int:
        """The id below which the rows of a descending page are."""
        return self.after or MAX_ID

    def bound(self, found: Found, key: InstrumentedAttribute[int]) -> Found:
        """Restrict a query to this page of its rows, ordered by `key`."""
        if self.descending:
            found = found.where(key < self.before).order_by(key.desc())
        else:
            found = found.where(key > self.after).order_by(key)
        return found.limit(self.limit)


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


def between(
    column: InstrumentedAttribute[datetime], since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """Return the SQL conditions of instants from `since` to before `until`; None is no bound."""
    return [
        *([] if since is None else [column >= since]),
        *([] if until is None else [column < until]),
    ]

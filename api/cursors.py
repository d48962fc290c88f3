"""Cursors of lists: the id of a page's last row, opaque to callers; and the limits of a page."""

import base64
import binascii

MAX_ID = 2**63 - 1
DEFAULT_LIMIT = 50
MAX_LIMIT = 500


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

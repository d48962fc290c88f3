"""Bind the ids of clients that a request names by phone to its log lines.

The address of such a request has no client id, and the log must show everything about a client.
"""

from collections.abc import Sequence

import structlog
from sqlalchemy import text

from api.db import fetch_all

OWNERS = text("SELECT id FROM clients WHERE phone = ANY (:phones) ORDER BY id")
# More are not named in one line: a list of phones is a filter, and each message is logged anyway.
MAX_BOUND_CLIENTS = 100


def bind_owners(phones: Sequence[int]) -> list[int]:
    """Bind and return the ids of the clients that have these phones."""
    ids = [row["id"] for row in fetch_all(OWNERS, phones=list(phones))]
    bind_clients(ids)
    return ids


def bind_clients(client_ids: Sequence[int]) -> None:
    """Bind client ids to all later log lines of this request."""
    if client_ids:
        structlog.contextvars.bind_contextvars(client_ids=list(client_ids)[:MAX_BOUND_CLIENTS])

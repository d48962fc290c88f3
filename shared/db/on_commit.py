"""Logs what a transaction did, after its commit; a rollback discards the lines.

Bulk changes register the ids they changed; the code that commits flushes them. So the log has the
end of each message by its id, even if one statement ended hundreds.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

# Keeps a line readable, and below the length at which log collectors cut.
IDS_PER_LINE = 500

log = structlog.get_logger()

_pending_lines: "WeakKeyDictionary[Connection, list[dict[str, Any]]]" = WeakKeyDictionary()


def log_on_commit(cursor: Cursor, event: str, **fields: Any) -> None:
    """Log this event when the cursor's transaction is committed."""
    _pending_lines.setdefault(cursor.connection, []).append({"event": event, **fields})


def log_messages_on_commit(
    cursor: Cursor,
    event: str,
    message_ids: Sequence[int],
    client_ids: Sequence[int] | None = None,
    **fields: Any,
) -> None:
    """Log an event of many messages on commit: their ids, and their clients' in the same order."""
    for at in range(0, len(message_ids), IDS_PER_LINE):
        part = slice(at, at + IDS_PER_LINE)
        clients = {} if client_ids is None else {"client_ids": list(client_ids[part])}
        log_on_commit(cursor, event, **fields, message_ids=list(message_ids[part]), **clients)


def log_clients_on_commit(
    cursor: Cursor, event: str, client_ids: Sequence[int], **fields: Any
) -> None:
    """Log an event of many clients on commit."""
    for at in range(0, len(client_ids), IDS_PER_LINE):
        log_on_commit(cursor, event, **fields, client_ids=list(client_ids[at : at + IDS_PER_LINE]))


def flush_after_commit(connection: Connection) -> None:
    """Write the lines registered on this connection; call it after COMMIT."""
    for line in _pending_lines.pop(connection, ()):
        log.info(**line)


def discard_after_rollback(connection: Connection) -> None:
    """Drop the lines registered on this connection; call it after ROLLBACK."""
    _pending_lines.pop(connection, None)

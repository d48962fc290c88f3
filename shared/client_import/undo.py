"""Undoes an import in chunks: created clients are deleted, changed ones get their values back.

A client that was used by a mailing since, or changed by a person or another import, is left as it
is and counted as kept. That is judged again in each chunk, under the locks of its clients, since
people and launches go on meanwhile. A chunk is one short transaction and advances the checkpoint,
so an undo may be interrupted anywhere, repeated, or run twice.

Created clients that no mailing knows are deleted as a whole, not as an erasure does it: nothing
refers to their ids. A launch that has read one before finds no client when it sends, and cancels
the message as for any deleted client.
"""

from collections.abc import Collection
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.on_commit import log_clients_on_commit, log_on_commit
from shared.db.rows import fetch_one_row

CHUNK_CLIENTS = 10_000
# How long earlier values are kept, as an interval of PostgreSQL.
UNDO_PERIOD = "7 days"

# Mailings `g` that may have used a client since the import `i` was received.
USING_MAILINGS = """
g.audience > 0
    AND (NOT g.settled OR g.finished_at >= coalesce(i.received_at, i.created_at))
"""
# A message `m` that uses what the import wrote: all but those that had ended by then.
USES_CLIENT = """
NOT (m.status = 'sent' AND m.sent_at < coalesce(i.received_at, i.created_at))
    AND NOT (m.status IN ('expired', 'cancelled') AND NOT m.in_doubt
        AND m.created_at < coalesce(i.received_at, i.created_at))
"""
COUNT_USED = f"""
SELECT g.id, used.clients FROM imports i JOIN mailings g ON {USING_MAILINGS}
CROSS JOIN LATERAL (
    SELECT count(*) AS clients FROM messages m JOIN clients c ON c.id = m.client_id
    WHERE m.mailing_id = g.id AND c.last_import_id = i.id AND {USES_CLIENT}
) AS used
WHERE i.id = %(import)s AND used.clients > 0 ORDER BY g.id
"""  # noqa: S608 (constants)
FIND_USED = f"""
SELECT DISTINCT used.client_id FROM imports i JOIN mailings g ON {USING_MAILINGS}
CROSS JOIN LATERAL (
    SELECT client_id FROM messages m
    WHERE m.mailing_id = g.id AND m.client_id = ANY (%(ids)s::bigint[]) AND {USES_CLIENT}
) AS used
WHERE i.id = %(import)s
"""  # noqa: S608 (constants)

# A client that the import has created has version 1 until it is edited.
CREATED = """
FROM clients c
WHERE c.id > %(after)s AND c.id <= %(last)s AND c.last_import_id = %(import)s
    AND c.deleted_at IS NULL AND NOT EXISTS (
        SELECT FROM import_changes d WHERE d.import_id = %(import)s AND d.client_id = c.id)
"""
UNTOUCHED = "c.version = d.version + 1 AND c.last_import_id = d.import_id"
COUNT_EDITED = f"""
SELECT (SELECT count(*) {CREATED} AND c.version > 1) + (
    SELECT count(*) FROM import_changes d JOIN clients c ON c.id = d.client_id
    WHERE d.import_id = %(import)s AND c.deleted_at IS NULL AND NOT ({UNTOUCHED}))
"""  # noqa: S608 (constants)

# An import `i` after which another has changed clients.
SUPERSEDED = """
EXISTS (
    SELECT FROM imports l WHERE l.status <> 'receiving' AND l.created + l.updated > 0
        AND coalesce(l.received_at, l.created_at) > coalesce(i.received_at, i.created_at))
"""

# The undo is locked as long as a chunk takes: another process that finds it locked does nothing.
LOCK = """
SELECT u.after_client_id, i.last_client_id
FROM import_undos u JOIN imports i ON i.id = u.import_id
WHERE u.import_id = %(import)s AND u.finished_at IS NULL FOR NO KEY UPDATE OF u SKIP LOCKED
"""
LOCK_CREATED = f"""
SELECT c.id, c.version = 1 {CREATED} ORDER BY c.id LIMIT %(limit)s FOR UPDATE OF c
"""
DELETE_CREATED = "DELETE FROM clients WHERE id = ANY (%s::bigint[])"
NEXT_CHANGES = """
SELECT client_id FROM import_changes WHERE import_id = %(import)s ORDER BY client_id LIMIT %(limit)s
"""
# The bounds keep each statement from reading the changes of the whole import, whose number the
# planner does not know. Clients are locked in the order of phones, as a merge locks them.
CHUNK = "d.import_id = %(import)s AND d.client_id BETWEEN %(first)s AND %(until)s"
LOCK_CHANGED = f"""
SELECT c.id, {UNTOUCHED} FROM import_changes d JOIN clients c ON c.id = d.client_id
WHERE {CHUNK} AND c.deleted_at IS NULL
ORDER BY c.phone FOR NO KEY UPDATE OF c
"""  # noqa: S608 (constants)
RESTORE = f"""
UPDATE clients c SET operator_code = d.operator_code, operator_code_given = d.operator_code_given,
    tag = d.tag, timezone = d.timezone, attributes = d.attributes,
    last_import_id = d.last_import_id, version = c.version + 1, updated_at = now()
FROM import_changes d
WHERE {CHUNK} AND d.client_id = c.id AND d.client_id = ANY (%(ids)s::bigint[])
"""  # noqa: S608 (CHUNK is a constant)
DELETE_CHANGES = f"DELETE FROM import_changes d WHERE {CHUNK}"  # noqa: S608 (a constant)
ADVANCE = """
UPDATE import_undos SET deleted = deleted + %(deleted)s, restored = restored + %(restored)s,
    kept = kept + %(kept)s, after_client_id = greatest(after_client_id, %(after)s),
    updated_at = now()
WHERE import_id = %(import)s
"""
FINISH = """
UPDATE imports SET undo_until = NULL WHERE id = %(import)s;
UPDATE import_undos SET finished_at = now(), updated_at = now() WHERE import_id = %(import)s
RETURNING deleted, restored, kept
"""


class UndoneClients(NamedTuple):
    """The clients of one chunk by what became of them."""

    deleted: int = 0
    restored: int = 0
    kept: int = 0


def count_used(cursor: Cursor, import_id: int) -> list[tuple[int, int]]:
    """Return the mailings that have used clients of an import since, with how many."""
    cursor.execute(COUNT_USED, {"import": import_id})
    return cursor.fetchall()


def count_edited(cursor: Cursor, import_id: int, after: int, last: int) -> int:
    """Count the clients of an import that were edited since; created ones are in (after, last]."""
    cursor.execute(COUNT_EDITED, {"import": import_id, "after": after, "last": last})
    return int(fetch_one_row(cursor)[0])


def undo_chunk(cursor: Cursor, import_id: int, size: int = CHUNK_CLIENTS) -> UndoneClients | None:
    """Undo the next clients of an import; return None if the undo is finished or locked."""
    cursor.execute(LOCK, {"import": import_id})
    row = cursor.fetchone()
    if row is None:
        return None
    after, last = row
    values = {"import": import_id, "after": after, "last": last or 0, "limit": size}
    undone, after = _delete_created(cursor, values)
    if undone is None:
        undone = _restore_changed(cursor, values)
    if undone is None:
        cursor.execute(FINISH, values)
        counts = UndoneClients(*fetch_one_row(cursor))
        log_on_commit(cursor, "import.undone", import_id=import_id, **counts._asdict())
        return None
    cursor.execute(ADVANCE, values | undone._asdict() | {"after": after})
    return undone


def _delete_created(cursor: Cursor, values: dict[str, int]) -> tuple[UndoneClients | None, int]:
    """Delete the next created clients; return None without any, and the new checkpoint."""
    cursor.execute(LOCK_CREATED, values)
    found = cursor.fetchall()
    if not found:
        return None, values["after"]
    unused = _leave_used(cursor, values["import"], [id_ for id_, untouched in found if untouched])
    cursor.execute(DELETE_CREATED, (unused,))
    _log(cursor, values["import"], unused, "deleted")
    return UndoneClients(deleted=len(unused), kept=len(found) - len(unused)), found[-1][0]


def _restore_changed(cursor: Cursor, values: dict[str, int]) -> UndoneClients | None:
    """Give the next changed clients their earlier values back; return None without any."""
    cursor.execute(NEXT_CHANGES, values)
    ids = [client_id for (client_id,) in cursor.fetchall()]
    if not ids:
        return None
    values = values | {"first": ids[0], "until": ids[-1]}
    cursor.execute(LOCK_CHANGED, values)
    found = cursor.fetchall()
    unused = _leave_used(cursor, values["import"], [id_ for id_, untouched in found if untouched])
    cursor.execute(RESTORE, values | {"ids": unused})
    cursor.execute(DELETE_CHANGES, values)
    _log(cursor, values["import"], unused, "restored")
    return UndoneClients(restored=len(unused), kept=len(found) - len(unused))


def _leave_used(cursor: Cursor, import_id: int, ids: Collection[int]) -> list[int]:
    """Return the clients that no mailing has used since the import."""
    cursor.execute(FIND_USED, {"import": import_id, "ids": list(ids)})
    used = {client_id for (client_id,) in cursor.fetchall()}
    return [client_id for client_id in ids if client_id not in used]


def _log(cursor: Cursor, import_id: int, ids: list[int], change: str) -> None:
    log_clients_on_commit(cursor, "client.import_undone", ids, import_id=import_id, change=change)

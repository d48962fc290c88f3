"""Merges the rows of an import into the clients, chunk by chunk in the order of their phones.

A chunk is one short transaction that locks the import, merges the next rows behind its checkpoint
and moves that on; so a merge may die anywhere, be repeated, or run twice. The order makes the index
on phones grow at its end, and two imports never wait for each other in a circle.
"""

from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor
from psycopg2.sql import SQL, Composed, Identifier

from shared import ledger
from shared.aftermath import note_clients
from shared.rows import one_row

CHUNK_ROWS = 20_000

LOCK = """
SELECT merged_phone, default_timezone FROM imports
WHERE id = %s AND status = 'running' FOR NO KEY UPDATE SKIP LOCKED
"""
INDEX = "CREATE INDEX IF NOT EXISTS {index} ON {waiting} (phone, line)"
UNTIL = """
SELECT coalesce((SELECT phone FROM {waiting} WHERE phone > %s ORDER BY phone OFFSET %s LIMIT 1),
    (SELECT max(phone) FROM {waiting} WHERE phone > %s))
"""
# Of rows with one phone the last wins; the others are rejected, with the reason.
ROWS = """
WITH rows AS MATERIALIZED (
    SELECT *, lead(line) OVER (PARTITION BY phone ORDER BY line) AS again FROM {waiting}
    WHERE phone > %(after)s AND phone <= %(until)s
)
"""
INSERT = f"""
{ROWS}, repeated AS (
    INSERT INTO rejected_rows (import_id, line, phone, operator_code, tag, timezone, attributes,
        faults)
    SELECT %(import)s, line, phone::text, coalesce(operator_code, ''), coalesce(tag, ''),
        coalesce(timezone, ''), coalesce(attributes, jsonb_build_object()),
        jsonb_build_array(jsonb_build_array('phone',
            format('phone is given again in line %%s, and the last one wins', again)))
    FROM rows WHERE again IS NOT NULL
    ON CONFLICT DO NOTHING
), made AS (
    INSERT INTO clients (phone, operator_code, operator_code_given, tag, timezone, attributes)
    SELECT phone, coalesce(operator_code, substr(phone::text, 2, 3)), operator_code IS NOT NULL,
        coalesce(tag, ''), coalesce(timezone, %(default_timezone)s),
        coalesce(attributes, jsonb_build_object())
    FROM rows WHERE again IS NULL ORDER BY phone
    ON CONFLICT (phone) DO NOTHING RETURNING id
)
SELECT (SELECT count(*) FROM rows), (SELECT count(*) FROM rows WHERE again IS NULL),
    ARRAY(SELECT id FROM made)
"""  # noqa: S608 (constants)
KNOWN = """
FROM rows r JOIN clients c ON c.phone = r.phone AND c.phone > %(after)s AND c.phone <= %(until)s
WHERE r.again IS NULL
"""
# A given operator code that is the present one is no change, so that a file that was exported and
# comes back leaves everything as it was.
CHANGED = """
(r.operator_code <> c.operator_code OR r.tag <> c.tag OR r.timezone <> c.timezone
    OR NOT c.attributes @> r.attributes)
"""
COMPARE = f"{ROWS} SELECT count(*), count(*) FILTER (WHERE {CHANGED}) {KNOWN}"
# Their rows are locked first, in the order of their phones, and looked at again thereafter.
LOCK_CHANGED = f"""
{ROWS} SELECT c.id, CASE WHEN r.timezone <> c.timezone THEN r.timezone END
{KNOWN} AND {CHANGED} ORDER BY c.phone FOR NO KEY UPDATE OF c
"""
UPDATE = f"""
{ROWS}
UPDATE clients c SET tag = coalesce(r.tag, c.tag), timezone = coalesce(r.timezone, c.timezone),
    operator_code = coalesce(r.operator_code, c.operator_code),
    operator_code_given = c.operator_code_given
        OR coalesce(r.operator_code <> c.operator_code, false),
    attributes = c.attributes || coalesce(r.attributes, jsonb_build_object()), updated_at = now()
FROM rows r
WHERE r.again IS NULL AND c.phone = r.phone AND c.phone > %(after)s AND c.phone <= %(until)s
    AND {CHANGED}
"""  # noqa: S608 (constants)
ADVANCE = """
UPDATE imports SET merged_phone = %(until)s, rows_done = rows_done + %(rows)s,
    created = created + %(created)s, updated = updated + %(updated)s,
    unchanged = unchanged + %(unchanged)s, rejected = rejected + %(rejected)s, updated_at = now()
WHERE id = %(import)s
"""
FINISH = """
UPDATE imports SET status = 'finished', finished_at = now(), updated_at = now() WHERE id = %s
"""
FAIL = """
UPDATE imports SET status = 'failed', failure = %s, finished_at = now(), updated_at = now()
WHERE id = %s AND status = 'running'
"""
DROP = "DROP TABLE IF EXISTS {waiting}"


class Merged(NamedTuple):
    """What became of the rows of one chunk."""

    rows: int
    created: int
    updated: int
    unchanged: int
    rejected: int
    moved: int


def statement(template: str, import_id: int) -> Composed:
    """A statement on the table in which the import's rows wait."""
    return SQL(template).format(
        waiting=Identifier(f"import_rows_{import_id}"),
        index=Identifier(f"import_rows_{import_id}_phone"),
    )


def merge_chunk(cursor: Cursor, import_id: int, size: int = CHUNK_ROWS) -> Merged | None:
    """Merge the next rows, or finish; None if nothing is left, or somebody else is at it."""
    cursor.execute(LOCK, (import_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    after, default_timezone = row
    if after == 0:
        cursor.execute(statement(INDEX, import_id))
    cursor.execute(statement(UNTIL, import_id), (after, size - 1, after))
    (until,) = one_row(cursor)
    if until is None:
        cursor.execute(FINISH, (import_id,))
        drop_waiting(cursor, import_id)
        return None
    values = {
        "import": import_id,
        "after": after,
        "until": until,
        "default_timezone": default_timezone,
    }
    merged = _merge(cursor, import_id, values)
    cursor.execute(ADVANCE, values | merged._asdict())
    return merged


def fail(cursor: Cursor, import_id: int, reason: str) -> None:
    """End an import that cannot be merged; what was merged stays."""
    cursor.execute(FAIL, (reason, import_id))
    drop_waiting(cursor, import_id)


def drop_waiting(cursor: Cursor, import_id: int) -> None:
    cursor.execute(statement(DROP, import_id))


def _merge(cursor: Cursor, import_id: int, values: dict[str, object]) -> Merged:
    created = updated = moved = 0
    while True:
        cursor.execute(statement(INSERT, import_id), values)
        rows, wanted, made = one_row(cursor)
        note_clients(cursor, "client.imported", made, import_id=import_id, change="created")
        created += len(made)
        if len(made) == wanted:
            break
        cursor.execute(statement(COMPARE, import_id), values)
        known, changed = one_row(cursor)
        # All are known now, unless one was deleted a moment ago: then it is inserted after all.
        if known == wanted:
            if changed:
                updated, moved = _update(cursor, import_id, values)
            break
    return Merged(rows, created, updated, wanted - created - updated, rows - wanted, moved)


def _update(cursor: Cursor, import_id: int, values: dict[str, object]) -> tuple[int, int]:
    cursor.execute(statement(LOCK_CHANGED, import_id), values)
    changed = cursor.fetchall()
    ids = [client_id for client_id, _ in changed]
    note_clients(cursor, "client.imported", ids, import_id=import_id, change="updated")
    cursor.execute(statement(UPDATE, import_id), values)
    updated = cursor.rowcount
    zones = {client_id: zone for client_id, zone in changed if zone is not None}
    return updated, ledger.move_messages(cursor, zones) if zones else 0

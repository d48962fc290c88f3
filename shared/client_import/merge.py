"""Merges the rows of an import into the clients, in chunks ordered by phone.

An import has one or two parts, each a range of phones, so that two connections can work on it. A
chunk is one short transaction that locks a free part, merges the next rows after its checkpoint and
advances the checkpoint. So a merge may be interrupted anywhere, repeated, or run twice. Due to the
order the index on phones grows in few places, and chunks cannot deadlock.
"""

from typing import NamedTuple

from psycopg2.errors import UniqueViolation
from psycopg2.extensions import cursor as Cursor
from psycopg2.sql import SQL, Composed, Identifier

from shared.db import status_changes
from shared.db.on_commit import log_clients_on_commit
from shared.db.rows import fetch_one_row
from shared.domain.error_texts import error_text

CHUNK_ROWS = 10_000

# Rejected rows of an import that are kept, with their errors; further ones are only counted.
MAX_KEPT_REJECTED = 20_000

# An import with more rows has two parts.
PART_ROWS = 50_000

RUNNING = """
SELECT default_timezone, undo_until IS NOT NULL,
    EXISTS (SELECT FROM import_parts WHERE import_id = i.id)
FROM imports i WHERE id = %s AND status = 'running'
"""
LOCK_IMPORT = f"{RUNNING} FOR NO KEY UPDATE SKIP LOCKED"
LEFT = "SELECT rows_total - rows_done FROM imports WHERE id = %s"
INDEX = """
CREATE INDEX IF NOT EXISTS {index} ON {waiting} (phone, line);
ANALYZE {waiting} (phone)
"""
DIVIDE = """
WITH bounds AS (
    SELECT 0 AS part, 0::bigint AS first, (
        SELECT phone FROM {waiting} WHERE %(rows)s > %(part_rows)s
        ORDER BY phone OFFSET %(rows)s / 2 LIMIT 1
    ) AS last
)
INSERT INTO import_parts (import_id, part, merged_phone, last_phone)
SELECT %(import)s, 0, 0, coalesce(last, 79999999999) FROM bounds
UNION ALL SELECT %(import)s, 1, last, 79999999999 FROM bounds WHERE last IS NOT NULL
"""
LOCK_PART = """
SELECT part, merged_phone, last_phone FROM import_parts WHERE import_id = %s
ORDER BY part LIMIT 1 FOR UPDATE SKIP LOCKED
"""
UNTIL = """
SELECT coalesce(
    (SELECT phone FROM {waiting} WHERE phone > %(after)s AND phone <= %(last)s
        ORDER BY phone OFFSET %(skip)s LIMIT 1),
    (SELECT max(phone) FROM {waiting} WHERE phone > %(after)s AND phone <= %(last)s))
"""
END_PART = "DELETE FROM import_parts WHERE import_id = %s AND part = %s"
# Of several rows with the same phone the last one is used; those that say something else are
# rejected. So are those of a client that was deleted since the file was sent: an erasure is not
# undone by an older file.
ROWS = """
WITH erased AS MATERIALIZED (
    SELECT e.phone FROM erasures e, imports i
    WHERE i.id = %(import)s AND e.requested_at >= i.created_at
        AND e.phone > %(after)s AND e.phone <= %(until)s
), rows AS MATERIALIZED (
    SELECT *, CASE WHEN phone IN (SELECT phone FROM erased) THEN 0
        ELSE lead(line) OVER (PARTITION BY phone ORDER BY line) END AS again FROM {waiting}
    WHERE phone > %(after)s AND phone <= %(until)s
)
"""
# New rows are found by a join, as an insert with conflict handling costs a quarter more. Due to the
# sort all ids are allocated before the first insert, so they are adjacent: this chunk writes to its
# own pages of an index that ends in the id, and not to those that the other part's merge writes.
INSERT = f"""
{ROWS}, differing AS MATERIALIZED (
    SELECT r.* FROM rows r WHERE again > 0 AND (
        SELECT (w.operator_code, w.tag, w.timezone, w.attributes)
            IS DISTINCT FROM (r.operator_code, r.tag, r.timezone, r.attributes)
        FROM {{waiting}} w WHERE w.phone = r.phone ORDER BY w.line DESC LIMIT 1
    )
), repeated AS (
    INSERT INTO rejected_rows (import_id, line, phone, operator_code, tag, timezone, attributes,
        faults)
    SELECT %(import)s, line, phone::text, coalesce(operator_code, ''), coalesce(tag, ''),
        coalesce(timezone, ''), coalesce(attributes, jsonb_build_object()),
        jsonb_build_array(jsonb_build_array('phone',
            format('phone is given again in row %%s with other values, and the last one wins',
                again),
            'repeated', again))
    FROM differing
    ORDER BY line LIMIT (
        SELECT greatest(0, %(max_kept)s - count(*)) FROM (
            SELECT FROM rejected_rows WHERE import_id = %(import)s LIMIT %(max_kept)s
        ) kept
    )
    ON CONFLICT DO NOTHING
), erased_rows AS (
    INSERT INTO rejected_rows (import_id, line, phone, operator_code, tag, timezone, faults)
    SELECT %(import)s, line, '', '', '', '', jsonb_build_array(jsonb_build_array('phone',
        'the client was deleted after this file was sent', 'client_deleted'))
    FROM rows WHERE again = 0
    ORDER BY line LIMIT (
        SELECT greatest(0, %(max_kept)s - count(*)) FROM (
            SELECT FROM rejected_rows WHERE import_id = %(import)s LIMIT %(max_kept)s
        ) kept
    )
    ON CONFLICT DO NOTHING
), fresh AS MATERIALIZED (
    SELECT nextval('clients_id_seq') AS id, sorted.* FROM (
        SELECT * FROM rows
        WHERE again IS NULL AND NOT EXISTS (SELECT FROM clients c
            WHERE c.phone = rows.phone AND c.phone > %(after)s AND c.phone <= %(until)s)
        ORDER BY phone OFFSET 0
    ) AS sorted
), made AS (
    INSERT INTO clients (id, phone, operator_code, operator_code_given, tag, timezone, attributes,
        last_import_id)
    SELECT id, phone, coalesce(operator_code, substr(phone::text, 2, 3)),
        operator_code IS NOT NULL, coalesce(tag, ''), coalesce(timezone, %(default_timezone)s),
        coalesce(attributes, jsonb_build_object()), %(import)s
    FROM fresh ORDER BY id
)
SELECT count(*), count(*) FILTER (WHERE again IS NULL),
    count(*) FILTER (WHERE again = 0) + (SELECT count(*) FROM differing),
    ARRAY(SELECT id FROM fresh)
FROM rows
"""  # noqa: S608 (constants)
KNOWN = """
FROM rows r JOIN clients c ON c.phone = r.phone AND c.phone > %(after)s AND c.phone <= %(until)s
WHERE r.again IS NULL
"""
# A given operator code that equals the current one is no change, so importing an exported file
# changes nothing.
CHANGED = """
(r.operator_code <> c.operator_code OR r.tag <> c.tag OR r.timezone <> c.timezone
    OR NOT c.attributes @> r.attributes)
"""
COMPARE = f"{ROWS} SELECT count(*), count(*) FILTER (WHERE {CHANGED}) {KNOWN}"
# The rows are locked first, ordered by phone, and compared again afterwards. What they are now is
# kept for an undo. A client that gets another phone may be changed twice: what it was first stays.
LOCK_CHANGED = f"""
{ROWS}, locked AS MATERIALIZED (
    SELECT c.*, CASE WHEN r.timezone <> c.timezone THEN r.timezone END AS new_timezone
    {KNOWN} AND {CHANGED} ORDER BY c.phone FOR NO KEY UPDATE OF c
), kept AS (
    INSERT INTO import_changes (import_id, client_id, version, operator_code, operator_code_given,
        tag, timezone, attributes, last_import_id)
    SELECT %(import)s, id, version, operator_code, operator_code_given, tag, timezone, attributes,
        last_import_id
    FROM locked WHERE %(undoable)s ORDER BY id ON CONFLICT DO NOTHING
)
SELECT id, new_timezone FROM locked
"""  # noqa: S608 (constants)
UPDATE = f"""
{ROWS}
UPDATE clients c SET tag = coalesce(r.tag, c.tag), timezone = coalesce(r.timezone, c.timezone),
    operator_code = coalesce(r.operator_code, c.operator_code),
    operator_code_given = c.operator_code_given
        OR coalesce(r.operator_code <> c.operator_code, false),
    attributes = c.attributes || coalesce(r.attributes, jsonb_build_object()), updated_at = now(),
    version = c.version + 1, last_import_id = %(import)s
FROM rows r
WHERE r.again IS NULL AND c.phone = r.phone AND c.phone > %(after)s AND c.phone <= %(until)s
    AND {CHANGED}
"""  # noqa: S608 (constants)
ADVANCE_PART = """
UPDATE import_parts SET merged_phone = %(until)s WHERE import_id = %(import)s AND part = %(part)s
"""
# Executed last, as both parts of an import update this row.
ADVANCE = """
UPDATE imports SET rows_done = rows_done + %(rows)s, created = created + %(created)s,
    updated = updated + %(updated)s, unchanged = unchanged + %(unchanged)s,
    rejected = rejected + %(rejected)s, updated_at = now(),
    undoable = undoable + CASE WHEN %(undoable)s THEN %(created)s + %(updated)s ELSE 0 END,
    first_client_id = least(first_client_id, %(first_id)s),
    last_client_id = greatest(last_client_id, %(last_id)s)
WHERE id = %(import)s
"""
FINISH = """
UPDATE imports SET status = 'finished', finished_at = now(), updated_at = now() WHERE id = %s
"""
FAILURE = error_text(
    "The service could not merge the rest of this file. Send it again: the rows that were merged "
    "will be found unchanged."
)
FAIL = """
UPDATE imports SET status = 'failed', failure = %s, finished_at = now(), updated_at = now()
WHERE id = %s AND status = 'running'
"""
END_PARTS = "DELETE FROM import_parts WHERE import_id = %s"
DROP = "DROP TABLE IF EXISTS {waiting}"


class MergedRows(NamedTuple):
    """The rows of one chunk by result, the messages moved to other batches, the created ids."""

    rows: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    moved: int = 0
    first_id: int | None = None
    last_id: int | None = None


NOTHING = MergedRows()


def import_statement(template: str, import_id: int) -> Composed:
    """Insert the names of the import's table of waiting rows and its index into a statement."""
    return SQL(template).format(
        waiting=Identifier(f"import_rows_{import_id}"),
        index=Identifier(f"import_rows_{import_id}_phone"),
    )


def merge_chunk(cursor: Cursor, import_id: int, size: int = CHUNK_ROWS) -> MergedRows | None:
    """Merge the next rows; return None if the import is finished or all its parts are locked.

    The steps that divide an import and that end a part merge no rows.
    """
    cursor.execute(RUNNING, (import_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    default_timezone, undoable, divided = row
    if not divided:
        return _divide_or_finish(cursor, import_id)
    cursor.execute(LOCK_PART, (import_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    part, after, last = row
    span = {"after": after, "last": last, "skip": size - 1}
    cursor.execute(import_statement(UNTIL, import_id), span)
    (until,) = fetch_one_row(cursor)
    if until is None:
        cursor.execute(END_PART, (import_id, part))
        return NOTHING
    values = {
        "import": import_id,
        "part": part,
        "after": after,
        "until": until,
        "default_timezone": default_timezone,
        "undoable": undoable,
        "max_kept": MAX_KEPT_REJECTED,
    }
    merged = _merge(cursor, import_id, values)
    cursor.execute(ADVANCE_PART, values)
    cursor.execute(ADVANCE, values | merged._asdict())
    return merged


def fail_import(cursor: Cursor, import_id: int) -> None:
    """Mark an import as failed; merged rows stay."""
    cursor.execute(END_PARTS, (import_id,))
    cursor.execute(FAIL, (FAILURE, import_id))
    drop_waiting_rows(cursor, import_id)


def _divide_or_finish(cursor: Cursor, import_id: int) -> MergedRows | None:
    """Divide an import into parts, or finish it if all rows are merged."""
    cursor.execute(LOCK_IMPORT, (import_id,))
    if cursor.fetchone() is None:
        return None
    # Check again under the lock, as another process may have divided it meanwhile.
    cursor.execute(RUNNING, (import_id,))
    *_, divided = fetch_one_row(cursor)
    cursor.execute(LEFT, (import_id,))
    (left,) = fetch_one_row(cursor)
    if left and not divided:
        cursor.execute(import_statement(INDEX, import_id))
        sizes = {"import": import_id, "rows": left, "part_rows": PART_ROWS}
        cursor.execute(import_statement(DIVIDE, import_id), sizes)
    if left:
        return NOTHING
    cursor.execute(FINISH, (import_id,))
    drop_waiting_rows(cursor, import_id)
    return None


def drop_waiting_rows(cursor: Cursor, import_id: int) -> None:
    cursor.execute(import_statement(DROP, import_id))


def _merge(cursor: Cursor, import_id: int, values: dict[str, object]) -> MergedRows:
    created: list[int] = []
    updated = moved = 0
    while True:
        cursor.execute("SAVEPOINT inserting")
        try:
            cursor.execute(import_statement(INSERT, import_id), values)
        except UniqueViolation:  # Another transaction created a client: compare with it.
            cursor.execute("ROLLBACK TO inserting")
            continue
        rows, wanted, rejected, made = fetch_one_row(cursor)
        log_clients_on_commit(
            cursor, "client.imported", made, import_id=import_id, change="created"
        )
        created += made
        if len(made) == wanted:
            break
        cursor.execute(import_statement(COMPARE, import_id), values)
        known, changed = fetch_one_row(cursor)
        # All clients exist now, unless one was deleted meanwhile: then insert it.
        if known == wanted:
            if changed:
                updated, moved = _update(cursor, import_id, values)
            break
    unchanged = rows - rejected - len(created) - updated
    ids = (min(created), max(created)) if created else (None, None)
    return MergedRows(rows, len(created), updated, unchanged, rejected, moved, *ids)


def _update(cursor: Cursor, import_id: int, values: dict[str, object]) -> tuple[int, int]:
    cursor.execute(import_statement(LOCK_CHANGED, import_id), values)
    changed = cursor.fetchall()
    ids = [client_id for client_id, _ in changed]
    log_clients_on_commit(cursor, "client.imported", ids, import_id=import_id, change="updated")
    cursor.execute(import_statement(UPDATE, import_id), values)
    updated = cursor.rowcount
    zones = {client_id: zone for client_id, zone in changed if zone is not None}
    return updated, status_changes.move_client_messages(cursor, zones) if zones else 0

"""Files that a person has uploaded: kept for an hour, checked, and then imported or given up."""

from collections.abc import Callable
from typing import Any

import structlog
from psycopg2 import Binary
from psycopg2.extras import Json

from api.actor import Actor
from api.clients.import_check import FileCheck, check_upload, inspect_columns
from api.clients.import_upload import (
    ImportOptions,
    clean_file_name,
    delete_draft,
    start_merge,
)
from api.db import db, transaction
from api.enqueue import job_queues
from api.errors import NotFound
from shared.client_import.bad_file import BadFile
from shared.client_import.columns import ColumnMapping
from shared.client_import.text_source import file_too_large
from shared.db.import_models import ImportFile
from shared.db.rows import fetch_one_row
from shared.domain.error_texts import error_text

log = structlog.get_logger()

PART_BYTES = 1024 * 1024
CREATE = """
INSERT INTO import_files (name, uploaded_by, tag, timezone) VALUES (%s, %s, %s, %s) RETURNING id
"""
ADD_PART = "INSERT INTO import_file_parts (file_id, part, data) VALUES (%s, %s, %s)"
READ_PART = "SELECT data FROM import_file_parts WHERE file_id = %s AND part = %s"
SAVE = "UPDATE import_files SET mapping = %s, state = %s, draft_id = %s WHERE id = %s"
# The next file gets the draft only if no other request has.
TAKE_DRAFT = "DELETE FROM import_files WHERE id = %s AND draft_id = %s RETURNING name"
DELETE = "DELETE FROM import_files WHERE id = %s"
# An erasure that was requested since the upload applies to the file.
AGE_DRAFT = "UPDATE imports SET created_at = %s WHERE id = %s AND created_at > %s"


def store_file(read: Callable[[int], bytes], options: ImportOptions, limit: int) -> int:
    """Store an uploaded file and check it; return its id. Raise BadFile if it is unusable."""
    name, actor = clean_file_name(options.file_name), options.actor.name
    with transaction() as cursor:
        cursor.execute(CREATE, (name, actor, options.tag, options.timezone))
        (file_id,) = fetch_one_row(cursor)
    try:
        part = size = 0
        rest = b""
        while chunk := read(PART_BYTES):
            size += len(chunk)
            if size > limit:
                raise file_too_large(limit)
            rest += chunk
            while len(rest) >= PART_BYTES:
                _add_part(file_id, part, rest[:PART_BYTES])
                part, rest = part + 1, rest[PART_BYTES:]
        _add_part(file_id, part, rest)
        columns = inspect_columns(read_file(file_id))
        state = {"columns": [list(column) for column in columns]}
        with transaction() as cursor:
            cursor.execute(SAVE, (Json({}), Json(state), None, file_id))
    except BaseException:
        delete_file(file_id)
        raise
    return int(file_id)


def read_file(file_id: int) -> Callable[[int], bytes]:
    """Return a function that reads up to n bytes of a stored file."""
    part, rest = 0, b""

    def read(n: int) -> bytes:
        nonlocal part, rest
        if not rest:
            with transaction() as cursor:
                cursor.execute(READ_PART, (file_id, part))
                row = cursor.fetchone()
            rest, part = bytes(row[0]) if row else b"", part + 1
        taken, rest = rest[:n], rest[n:]
        return taken

    return read


def get_file(file_id: int) -> ImportFile:
    """Return a stored file. Raise NotFound, also after an hour."""
    found = db.session.get(ImportFile, file_id)
    if found is None:
        raise NotFound(error_text("There is no such file any more. Upload it again."))
    return found


def check_stored_file(file_id: int, mapping: ColumnMapping, actor: Actor) -> None:
    """Check a stored file with a mapping, and keep the result. Raise BadFile or NotFound."""
    found = get_file(file_id)
    draft, state, created_at = found.draft_id, dict(found.state), found.created_at
    options = ImportOptions(actor, found.tag, found.timezone, mapping)
    db.session.rollback()
    if draft is not None:
        delete_draft(draft)
    given = {"columns": dict(mapping.columns), "timezones": dict(mapping.timezones)}
    with transaction() as cursor:
        cursor.execute(SAVE, (Json(given), Json(_without_check(state)), None, file_id))
    checked = check_upload(read_file(file_id), options)
    with transaction() as cursor:
        cursor.execute(AGE_DRAFT, (created_at, checked.import_id, created_at))
        cursor.execute(
            SAVE, (Json(given), Json(_with_check(state, checked)), checked.import_id, file_id)
        )


def import_stored_file(file_id: int, draft_id: int, actor: Actor) -> int:
    """Start the merge of a checked file; return the import's id. Raise BadFile if it is too old."""
    with transaction() as cursor:
        cursor.execute(TAKE_DRAFT, (file_id, draft_id))
        taken = cursor.fetchone()
        if taken is None:
            raise BadFile("The file was checked again meanwhile.", "checked_again")
    start_merge(draft_id, actor, taken[0])
    log.info("import.received", import_id=draft_id)
    job_queues().enqueue_import_merge(draft_id, actor.request_id)
    return draft_id


def delete_file(file_id: int) -> None:
    """Delete a stored file."""
    with transaction() as cursor:
        cursor.execute(DELETE, (file_id,))


def _add_part(file_id: int, part: int, data: bytes) -> None:
    with transaction() as cursor:
        cursor.execute(ADD_PART, (file_id, part, Binary(data)))


def _without_check(state: dict[str, Any]) -> dict[str, Any]:
    return {"columns": state["columns"], "zones": state.get("zones", [])}


def _with_check(state: dict[str, Any], checked: FileCheck) -> dict[str, Any]:
    zones = {value: [value, zone, rows] for value, zone, rows in state.get("zones", [])}
    zones |= {zone.value: list(zone) for zone in checked.zones}
    return {
        "columns": [list(column) for column in checked.columns],
        "zones": list(zones.values()),
        "counts": checked.merge._asdict(),
    }

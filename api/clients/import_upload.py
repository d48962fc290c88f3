"""Receive a file of clients (CSV, XLSX, NDJSON): COPY its rows into an import's waiting table.

Merging starts once the whole file has been received, so an unusable file changes nothing. Until
then the import is a draft, which no list shows. Each flush is a transaction of its own: a slow
upload holds no locks and no snapshot.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from flask import current_app
from psycopg2 import Error as DatabaseError

from api.actor import Actor
from api.audit_log import service as audit_log
from api.clients.csv_rows import CsvRowReceiver
from api.clients.ndjson_rows import NdjsonRowReceiver
from api.clients.row_receiver import TOO_SLOW, RowReceiver
from api.db import transaction
from shared.client_import.bad_file import BadFile
from shared.client_import.columns import (
    NO_MAPPING,
    ColumnMapping,
    ColumnPlan,
    plan_client_columns,
)
from shared.client_import.csv_reader import CsvReader
from shared.client_import.merge import drop_waiting_rows, import_statement
from shared.client_import.ndjson_reader import NdjsonReader
from shared.client_import.row_rules import RowParser
from shared.client_import.text_source import READ_BYTES
from shared.client_import.undo import UNDO_PERIOD
from shared.client_import.xlsx_reader import XlsxReader
from shared.db.rows import fetch_one_row

CREATE_IMPORT = "INSERT INTO imports (default_timezone, request_id) VALUES (%s, %s) RETURNING id"
CREATE_WAITING_TABLE = """
CREATE TABLE {waiting} (line int NOT NULL, phone bigint NOT NULL, operator_code text, tag text,
    timezone text, attributes jsonb) WITH (autovacuum_enabled = off)
"""
SET_COLUMNS = """
UPDATE imports SET ignored_columns = %s, attribute_columns = %s, updated_at = now()
WHERE id = %s AND status = 'receiving'
"""
START_MERGE = f"""
UPDATE imports SET status = 'running', created_by = %s, file_name = %s, received_at = now(),
    undo_until = now() + interval '{UNDO_PERIOD}', updated_at = now()
WHERE id = %s AND status = 'receiving'
"""  # noqa: S608 (a constant)
DELETE_IMPORT = "DELETE FROM imports WHERE id = %s AND status = 'receiving'"
DELETE_REJECTED = "DELETE FROM rejected_rows WHERE import_id = %s"


# What a workbook begins with, as any ZIP archive does.
WORKBOOK_MAGIC = b"PK\x03\x04"

ClientFile = CsvReader | XlsxReader

MAX_FILE_NAME_LENGTH = 200


class ImportOptions(NamedTuple):
    """Who imports a file, its name, what its columns are, and what fills empty or missing cells."""

    actor: Actor
    tag: str | None = None
    timezone: str | None = None
    mapping: ColumnMapping = NO_MAPPING
    file_name: str = ""


def open_client_file(
    read: Callable[[int], bytes],
    mapping: ColumnMapping = NO_MAPPING,
    plan: Callable[[Sequence[str], ColumnMapping], ColumnPlan] = plan_client_columns,
) -> ClientFile:
    """Read the header of a file of clients, CSV or XLSX. Raise BadFile.

    `read(n)` returns up to n bytes. The first bytes decide the format, not what it is called.
    """
    begun = read(READ_BYTES)
    while 0 < len(begun) < len(WORKBOOK_MAGIC) and (more := read(READ_BYTES)):
        begun += more
    reader = XlsxReader if begun.startswith(WORKBOOK_MAGIC) else CsvReader

    def read_all(n: int) -> bytes:
        nonlocal begun
        if begun:
            taken, begun = begun[:n], begun[n:]
            return taken
        return read(n)

    limit = current_app.config["IMPORT_MAX_BYTES"]
    return reader(read_all, lambda header: plan(header, mapping), limit)


def open_ndjson_file(read: Callable[[int], bytes]) -> NdjsonReader:
    """Open an NDJSON file of clients; `read(n)` returns up to n bytes."""
    return NdjsonReader(read, current_app.config["IMPORT_MAX_BYTES"])


def clean_file_name(name: str) -> str:
    """Return the last part of a path, without characters that cannot be stored or shown."""
    name = name.replace("\\", "/").rpartition("/")[2]
    return "".join(filter(str.isprintable, name))[:MAX_FILE_NAME_LENGTH]


def receive_rows(
    reader: ClientFile | NdjsonReader,
    options: ImportOptions,
    report_progress: Callable[[], object] = lambda: None,
) -> int:
    """Copy all rows of a file into the waiting table of a new import; return the import's id.

    `report_progress` is called after each flush. Raise BadFile; then nothing is left behind.
    """
    import_id, _ = receive_draft(reader, options, report_progress)
    start_merge(import_id, options.actor, options.file_name)
    return import_id


def start_merge(import_id: int, actor: Actor, file_name: str) -> None:
    """Make a draft an import that is merged. Raise BadFile if it was given up."""
    with transaction() as cursor:
        cursor.execute(START_MERGE, (actor.name, clean_file_name(file_name), import_id))
        if not cursor.rowcount:
            raise BadFile(TOO_SLOW, "given_up")
        audit_log.record_change(actor, "received", "import", import_id)


def receive_draft(
    reader: ClientFile | NdjsonReader,
    options: ImportOptions,
    report_progress: Callable[[], object] = lambda: None,
) -> tuple[int, RowParser]:
    """Copy all rows of a file into the waiting table of a draft; return its id, and the parser.

    The arguments are those of receive_rows. Raise BadFile; then nothing is left behind.
    """
    default_timezone = current_app.config["DEFAULT_TIMEZONE"]
    exact = not isinstance(reader, NdjsonReader) and reader.exact
    parser = RowParser(
        options.tag,
        options.timezone,
        default_timezone is not None,
        options.mapping.timezones,
        exact,
    )
    with transaction() as cursor:
        cursor.execute(CREATE_IMPORT, (default_timezone, options.actor.request_id))
        (import_id,) = fetch_one_row(cursor)
        cursor.execute(import_statement(CREATE_WAITING_TABLE, import_id))
    try:
        receiver: RowReceiver
        if isinstance(reader, NdjsonReader):
            receiver = NdjsonRowReceiver(import_id, reader, parser)
        else:
            receiver = CsvRowReceiver(import_id, reader, parser)
        receiver.run(report_progress)
        with transaction() as cursor:
            cursor.execute(SET_COLUMNS, (reader.ignored, list(reader.extras), import_id))
            if not cursor.rowcount:
                raise BadFile(TOO_SLOW, "given_up")
    except BaseException:
        with suppress(DatabaseError):  # the sweep deletes it later
            delete_draft(import_id)
        raise
    finally:
        reader.close()
    return int(import_id), parser


def delete_draft(import_id: int) -> None:
    """Delete a draft with its rows."""
    with transaction() as cursor:
        cursor.execute(DELETE_IMPORT, (import_id,))
        if not cursor.rowcount:
            return  # it is merged already, or the sweep has deleted it
        drop_waiting_rows(cursor, import_id)
        cursor.execute(DELETE_REJECTED, (import_id,))

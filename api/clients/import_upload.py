"""Receive a file of clients, CSV or NDJSON: COPY its checked rows into an import's waiting table.

Merging starts once the whole file has been received, so an unusable file changes nothing. Each
flush is a transaction of its own: a slow upload holds no locks and no snapshot.
"""

from collections.abc import Callable
from contextlib import suppress

from flask import current_app
from psycopg2 import Error as DatabaseError

from api.actor import Actor
from api.audit_log import service as audit_log
from api.clients.csv_rows import CsvRowReceiver
from api.clients.ndjson_rows import NdjsonRowReceiver
from api.clients.row_receiver import TOO_SLOW, RowReceiver
from api.db import transaction
from shared.client_import.bad_file import BadFile
from shared.client_import.columns import NO_MAPPING, ColumnMapping, plan_client_columns
from shared.client_import.csv_reader import CsvReader
from shared.client_import.merge import drop_waiting_rows, import_statement
from shared.client_import.ndjson_reader import NdjsonReader
from shared.client_import.row_rules import RowParser
from shared.db.rows import fetch_one_row

CREATE_IMPORT = "INSERT INTO imports (default_timezone, request_id) VALUES (%s, %s) RETURNING id"
CREATE_WAITING_TABLE = """
CREATE TABLE {waiting} (line int NOT NULL, phone bigint NOT NULL, operator_code text, tag text,
    timezone text, attributes jsonb) WITH (autovacuum_enabled = off)
"""
FINISH_RECEIVING = """
UPDATE imports SET status = 'running', ignored_columns = %s, attribute_columns = %s,
    updated_at = now()
WHERE id = %s AND status = 'receiving'
"""
DELETE_IMPORT = "DELETE FROM imports WHERE id = %s AND status = 'receiving'"
DELETE_REJECTED = "DELETE FROM rejected_rows WHERE import_id = %s"


def open_client_file(
    read: Callable[[int], bytes], mapping: ColumnMapping = NO_MAPPING
) -> CsvReader:
    """Read the header of a CSV file of clients; `read(n)` returns up to n bytes. Raise BadFile."""
    limit = current_app.config["IMPORT_MAX_BYTES"]
    return CsvReader(read, lambda header: plan_client_columns(header, mapping), limit)


def open_ndjson_file(read: Callable[[int], bytes]) -> NdjsonReader:
    """Open an NDJSON file of clients; `read(n)` returns up to n bytes."""
    return NdjsonReader(read, current_app.config["IMPORT_MAX_BYTES"])


def receive_rows(
    reader: CsvReader | NdjsonReader,
    *,
    tag: str | None,
    timezone: str | None,
    actor: Actor,
    mapping: ColumnMapping = NO_MAPPING,
    report_progress: Callable[[], object] = lambda: None,
) -> int:
    """Copy all rows of a file into the waiting table of a new import; return the import's id.

    `tag` and `timezone` fill empty or missing cells. `report_progress` is called after each flush.
    Raise BadFile; then nothing is left behind.
    """
    default_timezone = current_app.config["DEFAULT_TIMEZONE"]
    exact = isinstance(reader, CsvReader) and reader.exact
    parser = RowParser(tag, timezone, default_timezone is not None, mapping.timezones, exact)
    with transaction() as cursor:
        cursor.execute(CREATE_IMPORT, (default_timezone, actor.request_id))
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
            cursor.execute(FINISH_RECEIVING, (reader.ignored, list(reader.extras), import_id))
            if not cursor.rowcount:
                raise BadFile(TOO_SLOW, "given_up")
            audit_log.record_change(actor, "received", "import", import_id)
    except BaseException:
        with suppress(DatabaseError):  # the sweep deletes it later
            _delete_import(import_id)
        raise
    return int(import_id)


def _delete_import(import_id: int) -> None:
    with transaction() as cursor:
        cursor.execute(DELETE_IMPORT, (import_id,))
        drop_waiting_rows(cursor, import_id)
        cursor.execute(DELETE_REJECTED, (import_id,))

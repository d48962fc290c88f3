"""Receive a CSV file of clients: check its rows and COPY them into the waiting table of an import.

Merging starts once the whole file has been received, so an unusable file changes nothing. Each
flush is a transaction of its own: a slow upload holds no locks and no snapshot.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO

import orjson
from flask import current_app
from psycopg2 import Error as DatabaseError

from api.actor import Actor
from api.audit_log import service as audit_log
from api.db import transaction
from shared.client_import.csv_reader import BadFile, CsvReader, CsvRow
from shared.client_import.merge import MAX_KEPT_REJECTED, drop_waiting_rows, import_statement
from shared.client_import.row_rules import (
    COLUMN_NAMES,
    COLUMNS,
    CellError,
    ClientRow,
    RowParser,
    parse_attributes,
)
from shared.db.rows import fetch_one_row
from shared.domain.attributes import MAX_ATTRIBUTES, parse_attribute_name
from shared.domain.phones import PHONE

# Rows are flushed at whichever comes first. A flush updates the import, which shows the sweep that
# the file is still being received.
FLUSH_ROWS = 10_000
FLUSH_SECONDS = 30.0
# Distinct tags, zones and operator codes whose parsed form is cached, each.
MAX_CACHED_CELLS = 10_000
# Characters kept of each cell of a rejected row.
MAX_REJECTED_CELL = 200

CREATE_IMPORT = "INSERT INTO imports (default_timezone, request_id) VALUES (%s, %s) RETURNING id"
CREATE_WAITING_TABLE = """
CREATE TABLE {waiting} (line int NOT NULL, phone bigint NOT NULL, operator_code text, tag text,
    timezone text, attributes jsonb) WITH (autovacuum_enabled = off)
"""
# A flush need not wait for the disk: a crash that loses it also aborts the upload, and the last
# commit (FINISH_RECEIVING) makes all earlier ones durable.
ADD_PROGRESS = """
SET LOCAL synchronous_commit = off;
UPDATE imports SET rows_total = rows_total + %(rows)s, rows_done = rows_done + %(rejected)s,
    rejected = rejected + %(rejected)s, updated_at = now()
WHERE id = %(import)s AND status = 'receiving'
"""
COPY_ROWS = "COPY {waiting} FROM STDIN"
COPY_REJECTED = """
COPY rejected_rows (import_id, line, phone, operator_code, tag, timezone, attributes, faults)
FROM STDIN
"""
FINISH_RECEIVING = """
UPDATE imports SET status = 'running', ignored_columns = %s, attribute_columns = %s,
    updated_at = now()
WHERE id = %s AND status = 'receiving'
"""
DELETE_IMPORT = "DELETE FROM imports WHERE id = %s AND status = 'receiving'"
DELETE_REJECTED = "DELETE FROM rejected_rows WHERE import_id = %s"

NULL = r"\N"
COPY_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
TOO_MANY_CELLS = (
    'the row has more cells than the header; put a cell that holds the delimiter in quotes: "a,b"'
)
TOO_SLOW = "The file came in too slowly and was given up: send it again."


def open_client_file(read: Callable[[int], bytes]) -> CsvReader:
    """Read the header of a CSV file of clients; `read(n)` returns up to n bytes. Raise BadFile."""
    limit = current_app.config["IMPORT_MAX_BYTES"]
    return CsvReader(read, COLUMN_NAMES, ("phone",), limit, parse_attribute_name, MAX_ATTRIBUTES)


def receive_rows(
    reader: CsvReader,
    *,
    tag: str | None,
    timezone: str | None,
    actor: Actor,
    report_progress: Callable[[], object] = lambda: None,
) -> int:
    """Copy all rows of a file into the waiting table of a new import; return the import's id.

    `tag` and `timezone` fill empty or missing cells. `report_progress` is called after each flush.
    Raise BadFile; then nothing is left behind.
    """
    default_timezone = current_app.config["DEFAULT_TIMEZONE"]
    parser = RowParser(tag, timezone, default_timezone is not None)
    with transaction() as cursor:
        cursor.execute(CREATE_IMPORT, (default_timezone, actor.request_id))
        (import_id,) = fetch_one_row(cursor)
        cursor.execute(import_statement(CREATE_WAITING_TABLE, import_id))
    try:
        _RowReceiver(import_id, reader, parser).run(report_progress)
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


def _copy_json(values: Mapping[str, str]) -> str:
    return orjson.dumps(values).decode().replace("\\", r"\\")


def _copy_attributes(attributes: Mapping[str, str]) -> str:
    return _copy_json(attributes) if attributes else NULL


class _RowReceiver:
    """Parses the rows of a file and copies them to PostgreSQL, some thousands at a time."""

    def __init__(self, import_id: int, reader: CsvReader, parser: RowParser):
        self._import_id = import_id
        self._reader = reader
        self._parser = parser
        self._accepted: list[str] = []
        # Of rejected rows, the first are kept as COPY text; all since the last flush are counted.
        self._rejected: list[str] = []
        self._rejected_rows = self._kept_rows = 0
        # Cells parsed earlier: the cell as given → its COPY text.
        self._codes: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._zones: dict[str, str] = {}

    def run(self, report_progress: Callable[[], object]) -> None:
        flushed = time.monotonic()
        for _ in self._parse_rows():
            waiting = len(self._accepted) + self._rejected_rows
            if waiting >= FLUSH_ROWS or time.monotonic() - flushed > FLUSH_SECONDS:
                self._flush()
                flushed = time.monotonic()
                report_progress()
        self._flush()
        report_progress()

    def _parse_rows(self) -> Iterator[None]:
        """Parse all rows, yielding after every 500; the hot loop of an import.

        Rows whose cells were all parsed before take the short way, without the parser.
        """
        # A missing column is read from an empty cell that is appended to every row.
        absent = width = self._reader.width
        at_phone, at_code, at_tag, at_zone = (
            self._reader.columns.get(name, absent) for name in COLUMNS
        )
        is_phone = PHONE.fullmatch
        accept = self._accepted.append
        codes, tags, zones = self._codes, self._tags, self._zones
        extras = self._reader.extras
        attributes = NULL
        for rows, row in enumerate(self._reader, 1):
            line, cells, _ = row
            if len(cells) == width:
                cells.append("")
                phone = cells[at_phone]
                code = codes.get(cells[at_code])
                tag = tags.get(cells[at_tag])
                zone = zones.get(cells[at_zone])
                if extras:
                    attributes = self._parse_attributes(cells)
                if code and zone and tag is not None and attributes and is_phone(phone):
                    accept(f"{line}\t{phone}\t{code}\t{tag}\t{zone}\t{attributes}\n")
                else:
                    self._parse_row(row)
            else:
                self._parse_row(row)
            if not rows % 500:
                yield

    def _parse_attributes(self, cells: Sequence[str]) -> str:
        """Return the attributes as COPY text; an empty text if one is invalid."""
        values = {name: cells[index] for name, index in self._reader.extras.items()}
        attributes, faults = parse_attributes(values)
        return "" if faults else _copy_attributes(attributes)

    def _parse_row(self, row: CsvRow) -> None:
        """Accept or reject a row that has cells not parsed before, or is malformed."""
        width, places = self._reader.width, self._reader.columns
        line, cells, fault = row
        cells = cells + [""] * (width - len(cells))
        given = [cells[places[name]] if name in places else "" for name in COLUMNS]
        extra = {name: cells[index] for name, index in self._reader.extras.items()}
        if fault is not None:
            self._reject(line, given, extra, [CellError("", fault, "quotes")])
        elif any(cell.strip() for cell in cells[width:]):
            self._reject(line, given, extra, [CellError("", TOO_MANY_CELLS, "too_many_cells")])
        elif any(cell.strip() for cell in cells):
            phone, code, tag, zone = given
            parsed = self._parser.parse_row(phone, code, tag if "tag" in places else None, zone)
            attributes, faults = parse_attributes(extra)
            if isinstance(parsed, ClientRow) and not faults:
                self._accept(line, given, parsed, attributes)
            else:
                faults = (parsed if isinstance(parsed, list) else []) + faults
                self._reject(line, given, extra, faults)

    def _accept(
        self, line: int, given: Sequence[str], row: ClientRow, attributes: Mapping[str, str]
    ) -> None:
        fields = [NULL if each is None else each.translate(COPY_ESCAPES) for each in row]
        written = _copy_attributes(attributes)
        self._accepted.append("\t".join((str(line), *fields, written)) + "\n")
        for cache, cell, field in zip(
            (self._codes, self._tags, self._zones), given[1:], fields[1:], strict=True
        ):
            if len(cache) < MAX_CACHED_CELLS:
                cache[cell] = field

    def _reject(
        self, line: int, given: Sequence[str], extra: Mapping[str, str], faults: list[CellError]
    ) -> None:
        self._rejected_rows += 1
        if self._kept_rows == MAX_KEPT_REJECTED:
            return
        self._kept_rows += 1
        kept = {name: cell[:MAX_REJECTED_CELL] for name, cell in extra.items()}
        cells = (cell[:MAX_REJECTED_CELL].translate(COPY_ESCAPES) for cell in given)
        errors = orjson.dumps([list(fault) for fault in faults]).decode().translate(COPY_ESCAPES)
        self._rejected.append(
            "\t".join((str(self._import_id), str(line), *cells, _copy_json(kept), errors)) + "\n"
        )

    def _flush(self) -> None:
        rejected = self._rejected_rows
        rows = {"rows": len(self._accepted) + rejected, "rejected": rejected}
        with transaction() as cursor:
            cursor.execute(ADD_PROGRESS, rows | {"import": self._import_id})
            if not cursor.rowcount:
                raise BadFile(TOO_SLOW, "given_up")
            if self._accepted:
                copy = import_statement(COPY_ROWS, self._import_id)
                cursor.copy_expert(copy, BytesIO("".join(self._accepted).encode()))
            if self._rejected:
                cursor.copy_expert(COPY_REJECTED, BytesIO("".join(self._rejected).encode()))
        self._accepted.clear()
        self._rejected.clear()
        self._rejected_rows = 0

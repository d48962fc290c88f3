"""Takes a file of clients in: reads and checks its rows and puts them by COPY into a waiting table.

Nothing of a file is merged before all of it is here, so one that turns out to be unusable changes
nothing. Each flush is a transaction of its own: a slow upload holds no locks and no snapshot.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO

import orjson
from psycopg2 import Error as DatabaseError

from api import audit_log
from api.actor import Actor
from api.db import transaction
from shared.client_import.csv_reader import BadFile, CsvReader, CsvRow
from shared.client_import.merge import drop_waiting_rows, import_statement
from shared.client_import.row_rules import (
    COLUMNS,
    CellError,
    ClientRow,
    RowParser,
    parse_attributes,
)
from shared.db.rows import fetch_one_row
from shared.domain.phones import PHONE

# A flush is due after so many rows, or so many seconds, so that it shows that the file is coming.
FLUSH_ROWS = 10_000
FLUSH_SECONDS = 30.0
# Different tags, zones and codes whose reading is remembered.
REMEMBERED = 10_000
# Of a refused row's cell, at most this much is kept.
KEPT = 200

BEGIN = "INSERT INTO imports (default_timezone, request_id) VALUES (%s, %s) RETURNING id"
MAKE_WAITING = """
CREATE TABLE {waiting} (line int NOT NULL, phone bigint NOT NULL, operator_code text, tag text,
    timezone text, attributes jsonb) WITH (autovacuum_enabled = off)
"""
# A crash that could lose a flush breaks the upload off as well; its last commit waits for the disk,
# and so for all before it.
PROGRESS = """
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
RECEIVED = """
UPDATE imports SET status = 'running', ignored_columns = %s, attribute_columns = %s,
    updated_at = now()
WHERE id = %s AND status = 'receiving'
"""
FORGET = "DELETE FROM imports WHERE id = %s AND status = 'receiving'"
FORGET_REJECTED = "DELETE FROM rejected_rows WHERE import_id = %s"

NULL = r"\N"
ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
EXTRA_DETAIL = (
    'the row has more cells than the header; put a cell that holds the delimiter in quotes: "a,b"'
)
GIVEN_UP = "The file came in too slowly and was given up: send it again."


def receive(
    sheet: CsvReader,
    rules: RowParser,
    actor: Actor,
    default_timezone: str | None = None,
    progress: Callable[[], object] = lambda: None,
) -> int:
    """Take all of a file in; the id of its import, which is then to be merged.

    `progress` is called now and then. Raises BadFile; then nothing is left behind.
    """
    with transaction() as cursor:
        cursor.execute(BEGIN, (default_timezone, actor.request_id))
        (import_id,) = fetch_one_row(cursor)
        cursor.execute(import_statement(MAKE_WAITING, import_id))
    try:
        _Intake(import_id, sheet, rules).run(progress)
        with transaction() as cursor:
            cursor.execute(RECEIVED, (sheet.ignored, list(sheet.extras), import_id))
            if not cursor.rowcount:
                raise BadFile(GIVEN_UP, "given_up")
            audit_log.record_change(actor, "received", "import", import_id)
    except BaseException:
        with suppress(DatabaseError):  # the sweep does it later
            _forget(import_id)
        raise
    return int(import_id)


def _forget(import_id: int) -> None:
    with transaction() as cursor:
        cursor.execute(FORGET, (import_id,))
        drop_waiting_rows(cursor, import_id)
        cursor.execute(FORGET_REJECTED, (import_id,))


def _json(values: Mapping[str, str]) -> str:
    return orjson.dumps(values).decode().replace("\\", r"\\")


def _copied(attributes: Mapping[str, str]) -> str:
    return _json(attributes) if attributes else NULL


class _Intake:
    """Rows on their way from the file to PostgreSQL, some thousands at a time."""

    def __init__(self, import_id: int, sheet: CsvReader, rules: RowParser):
        self._import_id = import_id
        self._sheet = sheet
        self._rules = rules
        self._accepted: list[str] = []
        self._rejected: list[str] = []
        # What is remembered of cells: as they were given → as COPY takes them.
        self._codes: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._zones: dict[str, str] = {}

    def run(self, progress: Callable[[], object]) -> None:
        flushed = time.monotonic()
        for _ in self._portions():
            waiting = len(self._accepted) + len(self._rejected)
            if waiting >= FLUSH_ROWS or time.monotonic() - flushed > FLUSH_SECONDS:
                self._flush()
                flushed = time.monotonic()
                progress()
        self._flush()
        progress()

    def _portions(self) -> Iterator[None]:
        """Read rows, pausing after every few hundred; the hot loop of an import."""
        # A column that is not there is read from a cell that is appended to every row.
        absent = width = self._sheet.width
        at_phone, at_code, at_tag, at_zone = (
            self._sheet.columns.get(name, absent) for name in COLUMNS
        )
        is_phone = PHONE.fullmatch
        accept = self._accepted.append
        codes, tags, zones = self._codes, self._tags, self._zones
        extras = self._sheet.extras
        attributes = NULL
        for rows, row in enumerate(self._sheet, 1):
            line, cells, _ = row
            if len(cells) == width:
                cells.append("")
                phone = cells[at_phone]
                code = codes.get(cells[at_code])
                tag = tags.get(cells[at_tag])
                zone = zones.get(cells[at_zone])
                if extras:
                    attributes = self._read_attributes(cells)
                if code and zone and tag is not None and attributes and is_phone(phone):
                    accept(f"{line}\t{phone}\t{code}\t{tag}\t{zone}\t{attributes}\n")
                else:
                    self._read(row)
            else:
                self._read(row)
            if not rows % 500:
                yield

    def _read_attributes(self, cells: Sequence[str]) -> str:
        """The attributes as COPY takes them; nothing if they are wrong."""
        values = {name: cells[index] for name, index in self._sheet.extras.items()}
        attributes, faults = parse_attributes(values)
        return "" if faults else _copied(attributes)

    def _read(self, row: CsvRow) -> None:
        """Read a row that is not made of cells that were met before."""
        width, places = self._sheet.width, self._sheet.columns
        line, cells, fault = row
        cells = cells + [""] * (width - len(cells))
        given = [cells[places[name]] if name in places else "" for name in COLUMNS]
        extra = {name: cells[index] for name, index in self._sheet.extras.items()}
        if fault is not None:
            self._reject(line, given, extra, [CellError("", fault, "quotes")])
        elif any(cell.strip() for cell in cells[width:]):
            self._reject(line, given, extra, [CellError("", EXTRA_DETAIL, "too_many_cells")])
        elif any(cell.strip() for cell in cells):
            phone, code, tag, zone = given
            read = self._rules.read(phone, code, tag if "tag" in places else None, zone)
            attributes, faults = parse_attributes(extra)
            if isinstance(read, ClientRow) and not faults:
                self._accept(line, given, read, attributes)
            else:
                faults = (read if isinstance(read, list) else []) + faults
                self._reject(line, given, extra, faults)

    def _accept(
        self, line: int, given: Sequence[str], row: ClientRow, attributes: Mapping[str, str]
    ) -> None:
        fields = [NULL if each is None else each.translate(ESCAPED) for each in row]
        written = _copied(attributes)
        self._accepted.append("\t".join((str(line), *fields, written)) + "\n")
        for memory, cell, field in zip(
            (self._codes, self._tags, self._zones), given[1:], fields[1:], strict=True
        ):
            if len(memory) < REMEMBERED:
                memory[cell] = field

    def _reject(
        self, line: int, given: Sequence[str], extra: Mapping[str, str], faults: list[CellError]
    ) -> None:
        kept = {name: cell[:KEPT] for name, cell in extra.items()}
        cells = (cell[:KEPT].translate(ESCAPED) for cell in given)
        said = orjson.dumps([list(fault) for fault in faults]).decode().translate(ESCAPED)
        self._rejected.append(
            "\t".join((str(self._import_id), str(line), *cells, _json(kept), said)) + "\n"
        )

    def _flush(self) -> None:
        rows = {"rows": len(self._accepted) + len(self._rejected), "rejected": len(self._rejected)}
        with transaction() as cursor:
            cursor.execute(PROGRESS, rows | {"import": self._import_id})
            if not cursor.rowcount:
                raise BadFile(GIVEN_UP, "given_up")
            if self._accepted:
                copy = import_statement(COPY_ROWS, self._import_id)
                cursor.copy_expert(copy, BytesIO("".join(self._accepted).encode()))
            if self._rejected:
                cursor.copy_expert(COPY_REJECTED, BytesIO("".join(self._rejected).encode()))
        self._accepted.clear()
        self._rejected.clear()

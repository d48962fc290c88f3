"""Copies the parsed rows of an uploaded file to PostgreSQL, some thousands at a time."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO

import orjson

from api.db import transaction
from shared.client_import.bad_file import BadFile
from shared.client_import.merge import MAX_KEPT_REJECTED, import_statement
from shared.client_import.row_rules import CellError, ClientRow, RowParser

# Rows are flushed at whichever comes first. A flush updates the import, which shows the sweep that
# the file is still being received.
FLUSH_ROWS = 10_000
FLUSH_SECONDS = 30.0
# Distinct tags, zones and operator codes whose parsed form is cached, each.
MAX_CACHED_CELLS = 10_000
# Characters kept of each cell of a rejected row.
MAX_REJECTED_CELL = 200

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
NULL = r"\N"
COPY_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
TOO_SLOW = "The file came in too slowly and was given up: send it again."


def copy_json(values: Mapping[str, str]) -> str:
    return orjson.dumps(values).decode().replace("\\", r"\\")


def copy_attributes(attributes: Mapping[str, str]) -> str:
    return copy_json(attributes) if attributes else NULL


def copy_fields(row: ClientRow) -> list[str]:
    return [NULL if each is None else each.translate(COPY_ESCAPES) for each in row]


class RowReceiver:
    """Accepts and rejects the rows of a file; a subclass parses them."""

    def __init__(self, import_id: int, parser: RowParser):
        self._import_id = import_id
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
        """Parse all rows, yielding after every 500."""
        raise NotImplementedError

    def _accept(
        self, line: int, given: Sequence[str], row: ClientRow, attributes: Mapping[str, str]
    ) -> None:
        fields = copy_fields(row)
        self._append(line, fields, attributes)
        for cache, cell, field in zip(
            (self._codes, self._tags, self._zones), given[1:], fields[1:], strict=True
        ):
            if len(cache) < MAX_CACHED_CELLS:
                cache[cell] = field

    def _append(self, line: int, fields: Sequence[str], attributes: Mapping[str, str]) -> None:
        written = copy_attributes(attributes)
        self._accepted.append("\t".join((str(line), *fields, written)) + "\n")

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
            "\t".join((str(self._import_id), str(line), *cells, copy_json(kept), errors)) + "\n"
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

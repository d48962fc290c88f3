"""Imports of clients: start one from a file, show its progress and its rejected rows."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from sqlalchemy import select

from api.clients.import_upload import (
    ImportOptions,
    open_client_file,
    open_ndjson_file,
    receive_rows,
)
from api.cursors import Page, between
from api.db import db
from api.enqueue import job_queues
from api.errors import NotFound
from shared.client_import.columns import COLUMNS
from shared.client_import.merge import MAX_KEPT_REJECTED
from shared.db.import_models import Import, RejectedRow
from shared.domain.error_texts import error_text
from shared.domain.spreadsheets import unescape_formula
from shared.domain.statuses import ImportStatus

log = structlog.get_logger()

MAX_REPORTED_ERRORS = 100
REJECTED_PAGE_ROWS = 5_000
MAX_SHOWN_VALUE = 64

# An import is shown once its whole file has been received.
RECEIVED = select(Import).where(Import.status != ImportStatus.RECEIVING)


class RejectedCell(NamedTuple):
    """An error of a rejected row: its row and column (empty for the row as a whole), a code.

    `found` is what the detail names, such as the later row that has the same phone; `value` is the
    cell as given. Old errors lack a code.
    """

    line: int
    column: str
    detail: str
    code: str = ""
    found: str | int = ""
    value: str = ""

    @property
    def sentence(self) -> str:
        """The detail with the value, as in: phone "916" must be 11 digits."""
        return self.quote_value(self.detail)

    def quote_value(self, detail: str) -> str:
        """Return a detail that begins with the column with the value after that."""
        if not self.value or not detail.startswith((f"{self.column} ", f"{self.column}: ")):
            return detail
        return f'{self.column} "{self.value}"{detail[len(self.column) :]}'


def start_import(
    read: Callable[[int], bytes], options: ImportOptions, *, ndjson: bool = False
) -> Import:
    """Receive a file of clients and enqueue its merge; return the import.

    `read(n)` returns up to n bytes. Raise BadFile, which leaves nothing behind.
    """
    started = time.monotonic()
    reader = open_ndjson_file(read) if ndjson else open_client_file(read, options.mapping)
    import_id = receive_rows(reader, options)
    log.info(
        "import.received",
        import_id=import_id,
        bytes=reader.size,
        seconds=round(time.monotonic() - started, 3),
    )
    job_queues().enqueue_import_merge(import_id, options.actor.request_id)
    return get_import(import_id)


def get_import(import_id: int) -> Import:
    """Return an import. Raise NotFound if there is none, or its file is still being received."""
    found = db.session.get(Import, import_id)
    if found is None or found.status == ImportStatus.RECEIVING:
        raise NotFound(error_text("There is no such import."))
    return found


def list_imports(
    page: Page,
    statuses: Collection[ImportStatus] | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Sequence[Import]:
    """Return a page of imports by id: in one of the statuses, begun between two instants."""
    found = RECEIVED.where(*between(Import.created_at, since, until))
    if statuses is not None:
        found = found.where(Import.status.in_(statuses))
    return db.session.scalars(page.bound(found, Import.id)).all()


def count_kept_rows(found: Import) -> int:
    """Return how many of an import's rejected rows are kept; the others are only counted."""
    return min(found.rejected, MAX_KEPT_REJECTED)


def list_rejected_rows(import_id: int, limit: int) -> list[tuple[int, list[RejectedCell]]]:
    """Return the first rejected rows of an import: the line and its errors."""
    rows = db.session.execute(
        select(RejectedRow)
        .where(RejectedRow.import_id == import_id)
        .order_by(RejectedRow.line)
        .limit(limit)
    )
    return [(row.line, list(_rejected_cells(row))) for row in rows.scalars()]


def list_rejected_cells(import_id: int) -> list[RejectedCell]:
    """Return the first MAX_REPORTED_ERRORS errors of an import, by line."""
    rows = list_rejected_rows(import_id, MAX_REPORTED_ERRORS)
    return [error for _, errors in rows for error in errors][:MAX_REPORTED_ERRORS]


def export_rejected_rows(
    found: Import, describe: Callable[[RejectedCell], str]
) -> tuple[Sequence[str], Iterator[list[tuple[Any, ...]]]]:
    """Return the columns of a file of an import's rejected rows, and its rows in pages, by line.

    The file can be corrected and imported again. `describe` words each error in its last column.
    """
    columns = ("line", *COLUMNS, *found.attribute_columns, "reason")
    return columns, _iter_rejected_pages(found.id, found.attribute_columns, describe)


def _rejected_cells(row: Any) -> Iterator[RejectedCell]:
    """Yield the errors of a rejected row, with the cells that have them."""
    for column, detail, *rest in row.faults:
        cell = getattr(row, column) if column in COLUMNS else row.attributes.get(column, "")
        code, found = [*rest, "", ""][:2]
        yield RejectedCell(row.line, column, detail, code, found, cell[:MAX_SHOWN_VALUE])


def _iter_rejected_pages(
    import_id: int, attributes: Sequence[str], describe: Callable[[RejectedCell], str]
) -> Iterator[list[tuple[Any, ...]]]:
    page = (
        select(RejectedRow)
        .with_only_columns(
            RejectedRow.line,
            *(getattr(RejectedRow, name) for name in COLUMNS),
            RejectedRow.attributes,
            RejectedRow.faults,
        )
        .where(RejectedRow.import_id == import_id)
        .order_by(RejectedRow.line)
    )
    after, left = 0, MAX_KEPT_REJECTED
    while rows := db.session.execute(
        page.where(RejectedRow.line > after).limit(min(left, REJECTED_PAGE_ROWS))
    ).all():
        left -= len(rows)
        yield [
            (
                row.line,
                # As the import reads them: the file is escaped as a whole.
                *(unescape_formula(cell) for cell in row[1:-2]),
                *(unescape_formula(row.attributes.get(name, "")) for name in attributes),
                "; ".join(map(describe, _rejected_cells(row))),
            )
            for row in rows
        ]
        after = rows[-1].line

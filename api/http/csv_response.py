"""CSV responses of any length in little memory, written page by page.

The format is what programs expect (RFC 4180): UTF-8, commas, and no byte order mark, which many
programs would read as a part of the first column's name. `excel=true` adds the mark and uses
semicolons, which Excel needs in locales where the comma is the decimal separator.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from io import StringIO
from typing import Any

import structlog
from flask import Response, stream_with_context

from api.actor import current_actor
from api.db import db
from api.limits.concurrency import ConcurrencyLimit
from api.schemas.responses import format_instant
from shared.domain.error_texts import error_text
from shared.domain.spreadsheets import escape_formula

log = structlog.get_logger()

BOM = "\ufeff"

# Rows, or lines that are in the format of the file already.
CsvPage = Sequence[Sequence[Any]] | str

# Of one process. An export lasts as long as its client takes to read it.
EXPORTS = ConcurrencyLimit(error_text("exports"), per_process=3, per_caller=2, retry_after=5)


def stream_csv(
    name: str,
    open_rows: Callable[[], tuple[Sequence[str], Iterator[CsvPage]]],
    excel: bool = False,
) -> Response:
    """Respond with the rows of all pages as a file; texts in it cannot run as formulas.

    `open_rows` returns the header and the pages; it is called once the export is admitted. The
    first page is read at once, so that an outage then is answered with 503; a later outage
    truncates the response, which HTTP clients detect. No connection is held between pages. Raise
    RateLimited for too many exports at once.
    """
    leave = EXPORTS.admit(current_actor().name)
    try:
        header, pages = open_rows()
        first = next(pages, ())
        db.session.rollback()
    except BaseException:
        leave()
        raise

    def generate() -> Iterator[bytes]:
        mark = (BOM if excel else "").encode()
        yield mark + _encode([header], excel) + _encode(first, excel)
        try:
            for page in pages:
                db.session.rollback()
                yield _encode(page, excel)
        except Exception as error:
            log.warning("export.broken", file=name, error_class=type(error).__name__)
            raise
        finally:
            leave()

    response = Response(
        stream_with_context(generate()),
        mimetype="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
    response.call_on_close(leave)  # also if the client is gone before the first byte
    return response


def separator_of(excel: bool) -> str:
    """Return the character between two cells."""
    return ";" if excel else ","


def _encode(page: CsvPage, excel: bool) -> bytes:
    if isinstance(page, str):
        return page.encode()
    text = StringIO()
    writer = csv.writer(text, delimiter=separator_of(excel))
    writer.writerows([_format_cell(cell) for cell in row] for row in page)
    return text.getvalue().encode()


def _format_cell(cell: Any) -> Any:
    if cell is None or isinstance(cell, int):  # most cells
        return cell
    if isinstance(cell, str):
        return escape_formula(cell)
    return format_instant(cell) if isinstance(cell, datetime) else cell

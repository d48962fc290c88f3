"""Answers a CSV file of any length in little memory, page by page.

UTF-8 and commas, as programs expect (RFC 4180), and no byte order mark: to many of them it would be
part of the first column's name. With `excel=true` the mark and semicolons, which Excel needs to
open the file by a double click where the comma is the decimal separator.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from io import StringIO
from typing import Any

import structlog
from flask import Response, stream_with_context

from api.db import db
from api.schemas.responses import format_instant
from shared.domain.spreadsheets import escape_formula

log = structlog.get_logger()

BOM = "\ufeff"


def stream_csv(
    name: str, header: Sequence[str], pages: Iterator[Sequence[Sequence[Any]]], excel: bool = False
) -> Response:
    """The rows of all pages as a file of this name. Texts in them cannot run as formulas.

    The first page is read now, so that an outage is still answered as one; one that comes later
    cuts the answer short, which every client notices. Between pages no connection is held.
    """
    first = next(pages, ())
    db.session.rollback()

    def parts() -> Iterator[bytes]:
        yield (BOM if excel else "").encode() + _encode((header, *first), excel)
        try:
            for page in pages:
                db.session.rollback()
                yield _encode(page, excel)
        except Exception as error:
            log.warning("export.broken", file=name, error_class=type(error).__name__)
            raise

    return Response(
        stream_with_context(parts()),
        mimetype="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _encode(rows: Iterable[Sequence[Any]], excel: bool) -> bytes:
    text = StringIO()
    writer = csv.writer(text, delimiter=";" if excel else ",")
    writer.writerows([_format_cell(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def _format_cell(cell: Any) -> Any:
    if isinstance(cell, str):
        return escape_formula(cell)
    return format_instant(cell) if isinstance(cell, datetime) else cell

"""Imports: a file of clients goes in, a job merges it, and its report says what became of each row.

The body is read as it comes in, whatever its size; see staging.py.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import structlog
from flask import Blueprint, Response, current_app, request
from pydantic import ConfigDict, Field
from sqlalchemy import select

from api.actor import current_actor
from api.clients.import_upload import receive
from api.db import db
from api.enqueue import job_queues
from api.errors import ContentTooLarge, FieldError, InvalidFields, NotFound
from api.http.csv_response import stream_csv
from api.http.pagination import build_page
from api.http.problems import BadRequest, UnsupportedMediaType
from api.http.request_parsing import discard_body
from api.openapi.operation import CsvUpload, operation
from api.schemas import examples
from api.schemas.base import PageQuery, Query
from api.schemas.csv_query import CsvQuery
from api.schemas.fields import Tag, Timezone
from api.schemas.responses import ResponseModel, format_instant
from shared.client_import.csv_reader import BadFile, BadHeader, CsvReader, FileTooLarge
from shared.client_import.row_rules import COLUMN_NAMES, COLUMNS, RowParser, parse_attribute_name
from shared.db.import_models import Import, RejectedRow
from shared.domain.attributes import MAX_ATTRIBUTES
from shared.domain.statuses import ImportStatus

log = structlog.get_logger()
blueprint = Blueprint("imports", __name__)

SHOWN_ERRORS = 100
UPLOAD_EXAMPLE = (
    "phone;tag;timezone\r\n+7 (916) 123-45-67;vip;Europe/Moscow\r\n79261234567;;Asia/Omsk\r\n"
)
REJECTED_EXAMPLE = (
    "line,phone,operator_code,tag,timezone,reason\r\n"
    "17,9161234567,,vip,Europe/Moscow,"
    '"phone must be 11 digits and start with 7, for example 79161234567"\r\n'
)


class ImportQuery(Query):
    """What stands for an empty or missing cell."""

    tag: Tag | None = Field(default=None, description="The tag of rows that have none.")
    timezone: Timezone | None = Field(
        default=None, description="The time zone of rows that have none."
    )


class RowError(ResponseModel):
    """What is wrong with a row, and what to do about it."""

    line: int = Field(description="Where the row begins; the header is in line 1.")
    column: str = Field(description="Empty if it is about the row as a whole.", examples=["phone"])
    detail: str = Field(
        examples=["line 17: phone must be 11 digits and start with 7, for example 79161234567"]
    )


class ImportAnswer(ResponseModel):
    """An import. What was done adds up: rows_done = created + updated + unchanged + rejected."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.IMPORT]})

    id: int
    status: ImportStatus = Field(json_schema_extra={"enum": ["running", "finished", "failed"]})
    rows_total: int
    rows_done: int
    created: int
    updated: int
    unchanged: int
    rejected: int
    errors: list[RowError] = Field(description="The first 100; rejected.csv has all.")
    attribute_columns: list[str] = Field(description="Columns of the file that are attributes.")
    ignored_columns: list[str] = Field(description="Columns of the file that mean nothing here.")
    failure: str | None = Field(description="Why it failed, and what to do.")
    created_at: str = Field(json_schema_extra={"format": "date-time"})
    finished_at: str | None = Field(json_schema_extra={"format": "date-time"})


class ImportPage(ResponseModel):
    """A page of imports, by id."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.page_of(examples.IMPORT)]})

    items: list[ImportAnswer]
    next_cursor: str | None


@blueprint.post("/clients/import")
@operation(
    "imports",
    response=ImportAnswer,
    status=202,
    description="The file is taken in; ask for its import until that is finished.",
    query=ImportQuery,
    body=CsvUpload(UPLOAD_EXAMPLE),
)
def import_clients(query: ImportQuery) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Import clients from a CSV file

    The body is the file itself. Its first line names the columns, in any order: `phone`
    (телефон), `operator_code` (код оператора), `tag` (тег, метка), `timezone` (часовой пояс);
    only the phone is needed. Up to 20 other columns are attributes, named as the column is with
    underscores for spaces; an empty cell leaves the attribute as it is. Cells are separated by
    commas, semicolons or tabs; the encoding is UTF-8 or Windows-1251. A phone may be written as
    `79161234567`, `+7 (916) 123-45-67` or `8 916 123 45 67`.

    Clients are found by their phones: a new phone makes a client, a known one is updated. A column
    that is not there leaves what is known as it is, and an empty operator code or time zone does
    too; an empty tag clears the tag. If a phone is given twice, the last row wins. Rows with
    mistakes are rejected one by one; a file that cannot be read as a whole changes nothing.
    """
    limit = current_app.config["IMPORT_MAX_BYTES"]
    try:
        import_id = take_in(upload_reader(limit), query)
    except FileTooLarge as error:
        raise ContentTooLarge(str(error)) from None
    except BadFile as error:
        discard_body(request, limit)
        if isinstance(error, BadHeader):
            raise InvalidFields(FieldError(str(error), "file_header")) from None
        raise BadRequest(str(error)) from None
    location = {"Location": f"/api/v1/imports/{import_id}"}
    return _present(_find(import_id)), 202, location


def take_in(read: Callable[[int], bytes], query: ImportQuery) -> int:
    """Take a file in and have it merged; the id of its import. Raises BadFile."""
    actor = current_actor()
    started = time.monotonic()
    default_timezone = current_app.config["DEFAULT_TIMEZONE"]
    rules = RowParser(query.tag, query.timezone, default_timezone is not None)
    limit = current_app.config["IMPORT_MAX_BYTES"]
    sheet = CsvReader(read, COLUMN_NAMES, ("phone",), limit, parse_attribute_name, MAX_ATTRIBUTES)
    import_id = receive(sheet, rules, actor, default_timezone)
    log.info(
        "import.received",
        import_id=import_id,
        bytes=sheet.size,
        seconds=round(time.monotonic() - started, 3),
    )
    job_queues().merge_import(import_id, actor.request_id)
    return import_id


@blueprint.get("/imports")
@operation("imports", response=ImportPage, description="A page of imports.", query=PageQuery)
def list_imports(query: PageQuery) -> dict[str, Any]:
    """List imports

    By id, the oldest first. They are kept for 30 days.
    """
    found = select(Import).where(Import.id > query.cursor, Import.status != ImportStatus.RECEIVING)
    rows = db.session.scalars(found.order_by(Import.id).limit(query.limit + 1)).all()
    return build_page(rows, query.limit, _present, lambda each: each.id)


@blueprint.get("/imports/<id:import_id>")
@operation("imports", response=ImportAnswer, description="The import.", problems=(404,))
def get_import(import_id: int) -> dict[str, Any]:
    """Get an import

    While it is running, `rows_done` tells how far it has come.
    """
    return _present(_find(import_id))


@blueprint.get("/imports/<id:import_id>/rejected.csv")
@operation(
    "imports",
    response=None,
    description="The rejected rows.",
    query=CsvQuery,
    csv=REJECTED_EXAMPLE,
    problems=(404,),
)
def get_rejected_rows(import_id: int, query: CsvQuery) -> Response:
    """Download an import's rejected rows

    With the reason in a column. The file may be corrected and imported again as it is.
    """
    return answer_rejected(import_id, query, lambda fault: str(fault[1]))


def answer_rejected(
    import_id: int, query: CsvQuery, says: Callable[[Sequence[Any]], str]
) -> Response:
    """The rejected rows as a file; `says` puts a fault into words."""
    attributes = _find(import_id).attribute_columns
    header = ("line", *COLUMNS, *attributes, "reason")
    rows = _rejected(import_id, attributes, says)
    return stream_csv(f"import-{import_id}-rejected.csv", header, rows, query.excel)


def upload_reader(limit: int) -> Callable[[int], bytes]:
    """Reads the request's body, which may be larger than other bodies."""
    if request.mimetype != "text/csv":
        raise UnsupportedMediaType(
            "Send the file itself as the body, with the header Content-Type: text/csv."
        )
    if request.content_encoding not in (None, "", "identity"):
        raise UnsupportedMediaType("Send the body without a content encoding.")
    length = request.content_length
    if length is not None and length > limit:
        raise ContentTooLarge(
            f"The file is larger than {limit} bytes: split it and send the parts."
        )
    request.max_content_length = limit + 1  # one more, so that its excess is met by the sheet
    stream, received = request.stream, 0

    def read(n: int) -> bytes:
        nonlocal received
        try:
            chunk = stream.read(n)
        except OSError:
            raise BadRequest("The body is cut short, or its chunks are malformed.") from None
        received += len(chunk)
        if not chunk and length is not None and received < length:
            raise BadRequest("The body is cut short.")
        return chunk

    return read


def _find(import_id: int) -> Import:
    found = db.session.get(Import, import_id)
    if found is None or found.status == ImportStatus.RECEIVING:
        raise NotFound("There is no such import.")
    return found


def _present(found: Import) -> dict[str, Any]:
    counts = ("rows_total", "rows_done", "created", "updated", "unchanged", "rejected")
    return {
        "id": found.id,
        "status": found.status,
        **{name: getattr(found, name) for name in counts},
        "errors": list(_errors(found.id)) if found.rejected else [],
        "attribute_columns": found.attribute_columns,
        "ignored_columns": found.ignored_columns,
        "failure": found.failure,
        "created_at": format_instant(found.created_at),
        "finished_at": format_instant(found.finished_at),
    }


def _errors(import_id: int) -> Iterator[dict[str, Any]]:
    rows = db.session.execute(
        select(RejectedRow.line, RejectedRow.faults)
        .where(RejectedRow.import_id == import_id)
        .order_by(RejectedRow.line)
        .limit(SHOWN_ERRORS)
    )
    errors = (
        {"line": line, "column": column, "detail": f"line {line}: {detail}"}
        for line, faults in rows
        for column, detail, *_ in faults
    )
    yield from islice(errors, SHOWN_ERRORS)


def _rejected(
    import_id: int, attributes: Sequence[str], says: Callable[[Sequence[Any]], str]
) -> Iterator[list[tuple[Any, ...]]]:
    after = 0
    while True:
        found = db.session.execute(
            select(RejectedRow)
            .with_only_columns(
                RejectedRow.line,
                *(getattr(RejectedRow, name) for name in COLUMNS),
                RejectedRow.attributes,
                RejectedRow.faults,
            )
            .where(RejectedRow.import_id == import_id, RejectedRow.line > after)
            .order_by(RejectedRow.line)
            .limit(5_000)
        ).all()
        if not found:
            return
        after = found[-1].line
        yield [
            (
                *row[:-2],
                *(row.attributes.get(name, "") for name in attributes),
                "; ".join(map(says, row.faults)),
            )
            for row in found
        ]

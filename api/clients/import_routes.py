"""REST routes of imports: upload a CSV file of clients, follow its merge, get its rejected rows."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from flask import Blueprint, Response, current_app

from api.actor import current_actor
from api.clients import import_service
from api.clients.import_check import check_upload, parse_mapping
from api.clients.import_schemas import (
    REJECTED_EXAMPLE,
    UPLOAD_EXAMPLE,
    ImportAnswer,
    ImportCheck,
    ImportListQuery,
    ImportPage,
    ImportQuery,
    UndoAnswer,
    UndoQuery,
)
from api.clients.import_undo import find_undo_end, request_undo
from api.clients.import_upload import ImportOptions, delete_draft
from api.clients.row_error_texts import NUMBERED, find_row_error_text
from api.errors import ContentTooLarge, FieldError, InvalidFields
from api.http.csv_response import stream_csv
from api.http.csv_upload import UPLOADS, csv_body_reader, is_ndjson, upload_name
from api.http.file_problems import describe_bad_file
from api.http.localisation import negotiate_language, translate
from api.http.pagination import build_page
from api.http.problems import BadRequest
from api.openapi.bodies import CsvUpload
from api.openapi.operation import operation
from api.schemas.csv_query import CsvQuery
from api.schemas.responses import format_instant
from shared.client_import.bad_file import BadFile, BadHeader, FileTooLarge
from shared.client_import.columns import NO_MAPPING
from shared.db.import_models import Import
from shared.domain.error_texts import error_text

blueprint = Blueprint("imports", __name__)

T = TypeVar("T")


@blueprint.post("/clients/import")
@operation(
    "imports",
    response=ImportAnswer,
    status=202,
    description="The file is received. Poll its import until it is finished.",
    query=ImportQuery,
    body=CsvUpload(UPLOAD_EXAMPLE),
)
def import_clients(query: ImportQuery) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Import clients from a CSV, XLSX or NDJSON file

    The body is the file itself. Its first line names the columns, in any order: `phone`
    (телефон), `operator_code` (код оператора), `tag` (тег, метка), `timezone` (часовой пояс);
    only the phone is required. Other columns are attributes, named like the column with underscores
    for spaces; an empty cell leaves the attribute unchanged. Cells are separated by commas,
    semicolons or tabs; the encoding is UTF-8, UTF-16 or Windows-1251. A phone may be written as
    `79161234567`, `+7 (916) 123-45-67`, `8 916 123 45 67` or `916 123 45 67`; a time zone as
    `Europe/Moscow`, `МСК` or `Москва`. What may mean another number or zone is rejected, with the
    likely meaning in the error.

    Clients are matched by phone: a new phone creates a client, a known one updates it. A missing
    column, an empty operator code or an empty time zone leaves the value unchanged; an empty tag
    clears the tag. If a phone is given twice, the last row wins, and an earlier one that differs is
    rejected. An export is imported as it was written, so it leaves everything unchanged. Invalid
    rows are rejected one by one; a file that is unreadable as a whole changes nothing.

    The body may also be a workbook (`Content-Type:
    application/vnd.openxmlformats-officedocument.spreadsheetml.sheet`): the first visible sheet
    with a header is read, formulas by their stored values, numbers with all digits, dates as
    `2026-11-28`.

    The body may also be NDJSON (`Content-Type: application/x-ndjson`): one JSON object per line,
    with the fields `phone`, `operator_code`, `tag`, `timezone` and `attributes`, by the same rules.
    In `errors` of the import, each rejected line has a `code`.
    """
    started = _read_upload(import_service.start_import, query)
    return (
        _present(started, negotiate_language()),
        202,
        {"Location": f"/api/v1/imports/{started.id}"},
    )


@blueprint.post("/clients/import/check")
@operation(
    "imports",
    response=ImportCheck,
    description="What the import would do.",
    query=ImportQuery,
    body=CsvUpload(UPLOAD_EXAMPLE),
)
def check_clients_file(query: ImportQuery) -> dict[str, Any]:
    """Check a file of clients without importing it

    The body and the parameters are those of the import. The answer has what each column would be,
    with sample values; how many clients would be created and updated, and how many rows rejected;
    and the time zones that wait for a confirmation in `mapping`. Nothing is changed.
    """
    found = _read_upload(check_upload, query)
    delete_draft(found.import_id)
    language = negotiate_language()
    counts = ("rows", "created", "updated", "unchanged", "rejected")
    return {
        **{name: getattr(found.merge, name) for name in counts},
        "columns": [
            {"column": each.header, "target": each.target, "samples": each.samples}
            for each in found.columns
        ],
        "timezones": [each._asdict() for each in found.zones],
        "errors": [_present_error(each, language) for each in found.errors],
    }


@blueprint.get("/imports")
@operation("imports", response=ImportPage, description="A page of imports.", query=ImportListQuery)
def list_imports(query: ImportListQuery) -> dict[str, Any]:
    """List imports

    By id, the oldest first; with `order=desc` the newest. Imports are kept for 30 days.
    """
    found = import_service.list_imports(
        query.page(), query.status, since=query.created_since, until=query.created_until
    )
    present = partial(_present, language=negotiate_language())
    return build_page(found, query.limit, present, lambda each: each.id)


@blueprint.get("/imports/<id:import_id>")
@operation("imports", response=ImportAnswer, description="The import.", problems=(404,))
def get_import(import_id: int) -> dict[str, Any]:
    """Get an import

    While it is running, `rows_done` shows its progress.
    """
    return _present(import_service.get_import(import_id), negotiate_language())


@blueprint.post("/imports/<id:import_id>/undo")
@operation(
    "imports",
    response=ImportAnswer,
    status=202,
    description="The undo has begun. Poll its import until `undo.finished_at` is set.",
    query=UndoQuery,
    problems=(404, 409),
)
def undo_import(import_id: int, query: UndoQuery) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Undo the last import

    Clients that it created are deleted, and those that it changed get their earlier values back.
    Possible for seven days, for the last import, and while no mailing has used one of its clients:
    otherwise the 409 says what is against it. Clients that were edited since are a 409 as well, or
    stay as they are with `keep_edited=true`. Nothing is overwritten: `undo.kept` counts clients
    that were edited or used while the undo was under way.
    """
    found = request_undo(import_id, current_actor(), keep_edited=query.keep_edited)
    answer = _present(found, negotiate_language())
    return answer, 202, {"Location": f"/api/v1/imports/{import_id}"}


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

    The first 20,000 of them; the import's `rejected_kept` says how many. The last column is the
    reason, in the language of `Accept-Language`. The file can be corrected and imported again.
    """
    found = import_service.get_import(import_id)
    language = negotiate_language()
    rows = import_service.export_rejected_rows(
        found, lambda error: _describe_error(error, language)
    )
    return stream_csv(f"import-{import_id}-rejected.csv", lambda: rows, query.excel)


def _present(found: Import, language: str) -> dict[str, Any]:
    counts = ("rows_total", "rows_done", "created", "updated", "unchanged", "rejected")
    return {
        "id": found.id,
        "status": found.status,
        **{name: getattr(found, name) for name in counts},
        "rejected_kept": import_service.count_kept_rows(found),
        "errors": [
            _present_error(each, language)
            for each in (import_service.list_rejected_cells(found.id) if found.rejected else ())
        ],
        "attribute_columns": found.attribute_columns,
        "ignored_columns": found.ignored_columns,
        "failure": found.failure and translate(found.failure, language),
        "created_by": found.created_by,
        "file_name": found.file_name,
        "created_at": format_instant(found.created_at),
        "finished_at": format_instant(found.finished_at),
        "undo_until": format_instant(find_undo_end(found)),
        "undo": None if found.undo is None else UndoAnswer.present(found.undo),
    }


def _present_error(error: import_service.RejectedCell, language: str) -> dict[str, Any]:
    numbered = error_text(NUMBERED, line=error.line, error=_describe_error(error, language))
    return {
        "line": error.line,
        "column": error.column,
        "value": error.value,
        "detail": translate(numbered, language),
        "code": error.code,
    }


def _describe_error(error: import_service.RejectedCell, language: str) -> str:
    return error.quote_value(translate(find_row_error_text(error), language))


def _read_upload(receive: Callable[..., T], query: ImportQuery) -> T:
    """Call `receive` with a function that reads the uploaded file; raise problems for bad files."""
    mapping = parse_mapping(query.mapping) if query.mapping else None
    try:
        with UPLOADS.admitting(current_actor().name):
            read = csv_body_reader(current_app.config["IMPORT_MAX_BYTES"], all_types=True)
            options = ImportOptions(
                current_actor(),
                query.tag,
                query.timezone,
                mapping or NO_MAPPING,
                upload_name() or query.file_name or "",
            )
            return receive(read, options, ndjson=is_ndjson())
    except FileTooLarge as error:
        raise ContentTooLarge(describe_bad_file(error)) from None
    except BadFile as error:
        if isinstance(error, BadHeader):
            raise InvalidFields(FieldError(describe_bad_file(error), "file_header")) from None
        raise BadRequest(describe_bad_file(error), code="file_unusable") from None

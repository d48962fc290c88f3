"""REST routes of opt-outs: phones that must never be sent anything."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response

from api.actor import current_actor
from api.errors import ContentTooLarge, FieldError, InvalidFields
from api.http.csv_response import stream_csv
from api.http.csv_upload import UPLOADS, csv_body_reader
from api.http.file_problems import describe_bad_file
from api.http.idempotency import mark_replayed, read_idempotency_key
from api.http.pagination import build_page
from api.openapi.bodies import CsvUpload
from api.openapi.operation import operation
from api.opt_outs import service
from api.opt_outs.schemas import (
    CSV_EXAMPLE,
    NewOptOuts,
    OptOutImport,
    OptOutPage,
    OptOutQuery,
    OptOutsAdded,
    SourceQuery,
    present_opt_out,
)
from api.schemas.csv_query import CsvQuery
from shared.client_import.bad_file import BadFile, FileTooLarge

blueprint = Blueprint("opt_outs", __name__)


@blueprint.post("/opt-outs")
@operation(
    "opt-outs",
    response=OptOutsAdded,
    description="The numbers of added and existing opt-outs. An existing one stays unchanged.",
    body=NewOptOuts,
    idempotent=True,
)
def add_opt_outs(body: NewOptOuts) -> tuple[dict[str, int], int, dict[str, str]]:
    """Opt phones out

    Within a second no mailing sends to these phones any more, and pending messages for their
    clients are cancelled (reason: opted out). The opt-out belongs to the phone: it also holds when
    its client is deleted and created again.
    """
    actor = current_actor()
    key = read_idempotency_key(body, actor)
    added = service.add_opt_outs(map(int, body.phones), body.source, actor, key)
    return added.counts(), 200, mark_replayed(added.replayed)


@blueprint.get("/opt-outs")
@operation("opt-outs", response=OptOutPage, description="A page of opt-outs.", query=OptOutQuery)
def list_opt_outs(query: OptOutQuery) -> dict[str, Any]:
    """List opt-outs

    By phone, the lowest first; with `order=desc` the highest.
    """
    phone = None if query.phone is None else int(query.phone)
    found = service.list_opt_outs(query.page(), phone)
    return build_page(found, query.limit, present_opt_out, lambda row: row.phone)


@blueprint.delete("/opt-outs/<phone:phone>")
@operation(
    "opt-outs",
    response=None,
    status=204,
    description="The opt-out is removed.",
    problems=(404,),
)
def remove_opt_out(phone: str) -> tuple[str, int]:
    """Remove an opt-out

    Mailings can send to the phone again. Cancelled messages stay cancelled.
    """
    service.remove_opt_out(int(phone), current_actor())
    return "", 204


@blueprint.post("/opt-outs/import")
@operation(
    "opt-outs",
    response=OptOutImport,
    description="The totals of the rows, and why rows were rejected.",
    query=SourceQuery,
    body=CsvUpload(CSV_EXAMPLE),
)
def import_opt_outs(query: SourceQuery) -> dict[str, Any]:
    """Import opt-outs

    A CSV file of up to 16 MiB with a column `phone` and an optional column `source`. Rows without a
    valid phone are rejected and reported. The others are added while the file is received, a
    thousand at a time. Sending the file again does no harm.
    """
    limit, actor = service.MAX_FILE_BYTES, current_actor()
    try:
        with UPLOADS.admitting(actor.name):
            imported = service.import_opt_outs(csv_body_reader(limit), query.source, actor)
    except FileTooLarge as error:
        raise ContentTooLarge(describe_bad_file(error)) from None
    except BadFile as error:
        raise InvalidFields(FieldError(describe_bad_file(error), "file_unusable")) from None
    return asdict(imported)


@blueprint.get("/opt-outs.csv")
@operation(
    "opt-outs",
    response=None,
    description="All opt-outs, as CSV.",
    query=CsvQuery,
    csv=CSV_EXAMPLE,
)
def export_opt_outs(query: CsvQuery) -> Response:
    """Export opt-outs

    All of them, ordered by phone. The file can be imported again.
    """
    pages = service.iter_opt_out_pages()
    return stream_csv("opt-outs.csv", lambda: (service.EXPORT_COLUMNS, pages), query.excel)

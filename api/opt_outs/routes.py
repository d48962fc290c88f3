"""Opt-outs: phones that are never written to, whoever they belong to and come to belong to."""

from collections.abc import Iterator
from typing import Any

import structlog
from flask import Blueprint, Response, request
from sqlalchemy import delete, select

from api import audit_log
from api.actor import current_actor
from api.clients.imports import upload_reader
from api.db import db, session_cursor
from api.errors import ContentTooLarge, FieldError, InvalidFields, NotFound
from api.http.csv_response import stream_csv
from api.http.pagination import build_page
from api.http.request_parsing import discard_body
from api.openapi.operation import CsvUpload, operation
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
from api.schemas.responses import format_instant
from shared.client_import import csv_reader
from shared.db import opt_outs as opt_out_records
from shared.db.opt_outs import OptOut
from shared.domain.phones import parse_phone
from shared.domain.spreadsheets import unescape_formula
from shared.logging.log_config import mask_phone

log = structlog.get_logger()
blueprint = Blueprint("opt_outs", __name__)

# Phones of a file are added so many at a time, each time for good: a long file holds up nobody.
CHUNK = 1_000
MAX_FILE = 16 * 1024 * 1024
# Of a file's unreadable rows, so many are told.
TOLD = 100
EXPORT_ROWS = 5_000
EXPORTED = ("phone", "source", "created_at")

COLUMNS = {
    name: column
    for column, names in {
        "phone": "phone|phone number|mobile|msisdn|tel|телефон|номер|номер телефона|мобильный",
        "source": "source|reason|источник|причина",
    }.items()
    for name in names.split("|")
}


@blueprint.post("/opt-outs")
@operation(
    "opt-outs",
    response=OptOutsAdded,
    description="What was added; a phone that was opted out already stays as it was.",
    body=NewOptOuts,
)
def add_opt_outs(body: NewOptOuts) -> dict[str, int]:
    """Opt phones out

    Nothing is written to them any more within a second, in no mailing, and what is pending for
    their clients is cancelled (reason: opted out). It holds for the phone: also when its client is
    deleted and created again.
    """
    phones = {int(phone) for phone in body.phones}
    added, cancelled = _add(phones, body.source)
    db.session.commit()
    log.info("opt_outs.added", added=added, messages_cancelled=cancelled)
    return {"added": added, "existing": len(phones) - added, "messages_cancelled": cancelled}


@blueprint.get("/opt-outs")
@operation("opt-outs", response=OptOutPage, description="A page of opt-outs.", query=OptOutQuery)
def list_opt_outs(query: OptOutQuery) -> dict[str, Any]:
    """List opt-outs

    By phone.
    """
    found = select(OptOut).where(OptOut.phone > query.cursor)
    if query.phone is not None:
        found = found.where(OptOut.phone == int(query.phone))
    rows = db.session.scalars(found.order_by(OptOut.phone).limit(query.limit + 1)).all()
    return build_page(rows, query.limit, present_opt_out, lambda row: row.phone)


@blueprint.delete("/opt-outs/<id:phone>")
@operation(
    "opt-outs",
    response=None,
    status=204,
    description="The phone may be written to.",
    problems=(404,),
)
def remove_opt_out(phone: int) -> tuple[str, int]:
    """Remove an opt-out

    The phone may be written to again. What was cancelled stays cancelled.
    """
    removed = delete(OptOut).where(OptOut.phone == phone).returning(OptOut.source)
    source = db.session.scalar(removed)
    if source is None:
        raise NotFound("This phone is not opted out.")
    audit_log.record_change(
        current_actor(),
        "removed",
        "opt_out",
        changes={"phone": mask_phone(phone), "source": source},
    )
    db.session.commit()
    log.info("opt_out.removed", phone=mask_phone(phone))
    return "", 204


@blueprint.post("/opt-outs/import")
@operation(
    "opt-outs",
    response=OptOutImport,
    description="What became of the rows.",
    query=SourceQuery,
    body=CsvUpload(CSV_EXAMPLE),
)
def import_opt_outs(query: SourceQuery) -> dict[str, Any]:
    """Import opt-outs

    A CSV file of up to 16 MiB with a column `phone` and, if you like, `source`. Rows that cannot
    be read are told and left out; the others are added as the file comes in, a thousand at a time.
    Sending the file again is harmless.
    """
    counts = {"rows": 0, "added": 0, "existing": 0, "rejected": 0, "messages_cancelled": 0}
    faults: list[dict[str, Any]] = []
    try:
        sheet = csv_reader.CsvReader(upload_reader(MAX_FILE), COLUMNS, ("phone",), MAX_FILE)
        for chunk in _chunks(sheet, query.source, counts, faults):
            for source, phones in sorted(chunk.items()):
                added, cancelled = _add(phones, source)
                counts["added"] += added
                counts["existing"] += len(phones) - added
                counts["messages_cancelled"] += cancelled
                db.session.commit()
    except csv_reader.FileTooLarge as error:
        raise ContentTooLarge(str(error)) from None
    except csv_reader.BadFile as error:
        discard_body(request, MAX_FILE)
        raise InvalidFields(FieldError(str(error), "file_unusable")) from None
    log.info("opt_outs.imported", **counts)
    return counts | {"faults": faults}


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

    All of them, by phone. The file may be imported again.
    """
    return stream_csv("opt-outs.csv", EXPORTED, _pages(), query.excel)


def _add(phones: set[int], source: str) -> tuple[int, int]:
    """Add opt-outs; how many are new, and how many messages were cancelled."""
    added, cancelled = opt_out_records.add_opt_outs(session_cursor(), sorted(phones), source)
    noted = [(None, {"phone": mask_phone(phone), "source": source}) for phone in added]
    audit_log.record_changes(current_actor(), "added", "opt_out", noted)
    return len(added), cancelled


def _chunks(
    sheet: csv_reader.CsvReader, source: str, counts: dict[str, int], faults: list[dict[str, Any]]
) -> Iterator[dict[str, set[int]]]:
    """Readable rows some at a time, by source; what is wrong with others goes to `faults`."""
    chunk: dict[str, set[int]] = {}
    at_phone, at_source = sheet.columns["phone"], sheet.columns.get("source")
    size = 0
    for row in sheet:
        counts["rows"] += 1
        cells = row.cells + [""] * (sheet.width - len(row.cells))
        try:
            if row.fault is not None:
                raise ValueError(row.fault)
            phone = int(parse_phone(cells[at_phone]))
        except ValueError as error:
            counts["rejected"] += 1
            if len(faults) < TOLD:
                faults.append({"line": row.line, "detail": str(error)})
            continue
        given = unescape_formula(cells[at_source].strip())[:64] if at_source is not None else ""
        chunk.setdefault(given or source, set()).add(phone)
        size += 1
        if size == CHUNK:
            yield chunk
            chunk, size = {}, 0
    yield chunk


def _pages() -> Iterator[list[tuple[Any, ...]]]:
    after = 0
    while True:
        columns = (OptOut.phone, OptOut.source, OptOut.created_at)
        found = select(*columns).where(OptOut.phone > after).order_by(OptOut.phone)
        rows = db.session.execute(found.limit(EXPORT_ROWS)).all()
        yield [(phone, source, format_instant(at)) for phone, source, at in rows]
        if len(rows) < EXPORT_ROWS:
            return
        after = rows[-1].phone

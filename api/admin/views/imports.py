"""Imports of clients: a file is taken in, by the page's script or as a plain form; its report."""

from collections.abc import Callable
from inspect import unwrap
from io import BytesIO
from itertools import islice
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from flask_babel import gettext as _
from pydantic import ValidationError
from sqlalchemy import select
from werkzeug.wrappers import Response as BaseResponse

from api.admin.auth import require_scope
from api.admin.forms.field_errors import from_schema, text_of
from api.admin.presenters.import_errors import says_of_file, says_of_row
from api.clients.imports import ImportQuery, answer_rejected, take_in, upload_reader
from api.clients.imports import get_import as api_get_import
from api.db import db
from api.errors import ContentTooLarge, ServiceError
from api.http.problems import Problem, status_code
from api.http.request_parsing import discard_body
from api.schemas.csv_query import CsvQuery
from shared.client_import.csv_reader import BadFile
from shared.db.import_models import Import, RejectedRow
from shared.domain.scopes import Scope
from shared.domain.statuses import ImportStatus

blueprint = Blueprint("imports", __name__)

get_import = unwrap(api_get_import)

SHOWN = 100
# What a form's body holds besides the file, which waits in /tmp while the form is checked: there
# may be little room. The page's script sends it by itself, and is not bound by this.
FRAME = 64 * 1024
PLAIN_MAX_BYTES = 32 * 1024 * 1024


@blueprint.get("/clients/import")
@require_scope(Scope.WRITE)
def choose_file() -> str:
    return _page()


@blueprint.post("/clients/import")
def upload() -> BaseResponse | tuple[str | dict[str, Any], int]:
    """Take a file in: as the body, from the page's script that shows the progress, or in a form."""
    plain = request.mimetype == "multipart/form-data"
    given = request.form if plain else request.args
    fields = {name: text_of(given, name) for name in ("tag", "timezone")}
    limit = current_app.config["IMPORT_MAX_BYTES"]
    try:
        query = ImportQuery.model_validate({k: v for k, v in fields.items() if v})
        if plain:
            file = request.files.get("file")
            read: Callable[[int], bytes] = (file.stream if file else BytesIO()).read
            if not file or not file.filename:
                return _page(_("Choose a file first."), fields), 422
        else:
            read = upload_reader(limit)
        import_id = take_in(read, query)
    except ValidationError as error:
        return _refused("; ".join(from_schema(error).values()), 422, fields, plain)
    except BadFile as error:
        if not plain:
            discard_body(request, limit)
        return _refused(says_of_file(error), 422, fields, plain)
    except ContentTooLarge:
        return _refused(_too_large(plain), 413, fields, plain)
    except (Problem, ServiceError) as problem:
        says = _("The file did not arrive. Check the connection and try again.")
        status = problem.status if isinstance(problem, Problem) else status_code(problem)
        return _refused(says, status, fields, plain)
    address = url_for("admin.imports.show", import_id=import_id)
    return redirect(address, 303) if plain else ({"page": address}, 202)


@blueprint.get("/imports/<id:import_id>")
def show(import_id: int) -> str:
    each = get_import(import_id)
    return render_template(
        "admin/import_progress.html", each=each, errors=_errors(import_id) if each["errors"] else []
    )


@blueprint.get("/imports/<id:import_id>/rejected.csv")
def rejected(import_id: int) -> Response:
    return answer_rejected(import_id, CsvQuery.model_validate({"excel": "true"}), says_of_row)


def allow_upload() -> None:
    """Before a form's body is read, which happens at the check of its CSRF token."""
    if request.endpoint == "admin.imports.upload":
        plain = request.mimetype == "multipart/form-data"
        request.max_content_length = _limit(plain) + FRAME


def _limit(plain: bool) -> int:
    """How many bytes a file may have."""
    limit: int = current_app.config["IMPORT_MAX_BYTES"]
    return min(limit, PLAIN_MAX_BYTES) if plain else limit


def _refused(
    says: str, status: int, fields: dict[str, str], plain: bool
) -> tuple[str | dict[str, Any], int]:
    return (_page(says, fields) if plain else {"problem": says}), status


def _page(problem: str | None = None, fields: dict[str, str] | None = None) -> str:
    recent = db.session.scalars(
        select(Import)
        .where(Import.status != ImportStatus.RECEIVING)
        .order_by(Import.id.desc())
        .limit(5)
    ).all()
    return render_template(
        "admin/import.html",
        recent=recent,
        limit=current_app.config["IMPORT_MAX_BYTES"],
        too_large=_too_large(plain=False),
        problem=problem,
        fields=fields or {"tag": "", "timezone": _default_zone()},
    )


def _default_zone() -> str:
    return current_app.config["DEFAULT_TIMEZONE"] or "Europe/Moscow"


def _too_large(plain: bool) -> str:
    megabytes = _limit(plain) // 2**20
    says: str = _("The file is larger than %(n)s MB: split it and import the parts.", n=megabytes)
    return says


def _errors(import_id: int) -> list[dict[str, Any]]:
    """What is wrong with the first rows, and what to do about each."""
    found = db.session.execute(
        select(RejectedRow.line, RejectedRow.faults)
        .where(RejectedRow.import_id == import_id)
        .order_by(RejectedRow.line)
        .limit(SHOWN)
    )
    errors = (
        {"line": line, "column": fault[0], "says": says_of_row(fault)}
        for line, faults in found
        for fault in faults
    )
    return list(islice(errors, SHOWN))

"""Pages of imports: upload a file of clients, say what its columns are, see what will happen.

Then follow the merge, correct rejected rows, or undo the import. The page's script uploads the file
as the body of a request, to show progress. Without scripts the browser submits a form.
"""

from typing import Any
from urllib.parse import unquote

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext
from pydantic import ValidationError
from werkzeug.wrappers import Response as BaseResponse

from api.actor import current_actor
from api.admin.auth import require_scope
from api.admin.forms.field_errors import errors_from_schema, field_text
from api.admin.forms.import_mapping import (
    MappingFields,
    find_errors,
    make_mapping,
    propose_fields,
    read_fields,
    restore_fields,
)
from api.admin.pagination import PAGE_SIZE, requested_start, split_page
from api.admin.presenters.import_errors import (
    MAPPING_ERRORS,
    describe_cell_error,
    describe_file_error,
    describe_undo_refusal,
)
from api.audit_log.service import find_people_by_name
from api.clients import import_files, import_service
from api.clients.import_schemas import ImportQuery
from api.clients.import_undo import find_undo_end, request_undo
from api.clients.import_upload import ImportOptions
from api.cursors import Page
from api.errors import Conflict, ContentTooLarge, RateLimited, ServiceError
from api.http.csv_response import stream_csv
from api.http.csv_upload import UPLOADS, csv_body_reader
from api.http.problems import Problem, status_code
from shared.client_import.bad_file import BadFile
from shared.db.import_models import ImportFile
from shared.domain.scopes import Scope
from shared.domain.zone_names import ZONES_BY_OFFSET

blueprint = Blueprint("imports", __name__)

LATEST_IMPORTS = 5
# Rows with errors on the page of a checked file.
SHOWN_ERRORS = 20
# Bytes of a form's body besides the file.
FORM_OVERHEAD_BYTES = 64 * 1024
# A form's file is spooled to /tmp while the CSRF token is checked, and there may be little room.
# Uploads by script are streamed and not bound by this.
FORM_FILE_MAX_BYTES = 32 * 1024 * 1024
TOO_MANY_FILES = lazy_gettext(
    "Too many files are being read at this moment. Wait a little and try again."
)


@blueprint.get("/clients/import")
@require_scope(Scope.WRITE)
def choose_file() -> str:
    return _render_form()


@blueprint.post("/clients/import")
def upload_file() -> BaseResponse | tuple[str | dict[str, Any], int]:
    """Start an import from the request's body or from a submitted form.

    Respond to the script with JSON: the import's page, or a problem.
    """
    is_form = _is_form()
    given = request.form if is_form else request.args
    fields = {name: field_text(given, name) for name in ("tag", "timezone")}
    limit = current_app.config["IMPORT_MAX_BYTES"]
    try:
        query = ImportQuery.model_validate({k: v for k, v in fields.items() if v})
        file = request.files.get("file") if is_form else None
        if is_form and not (file and file.filename):
            return _render_form(_("Choose a file first."), fields), 422
        # In a header, since addresses are logged and the name may be that of a person.
        sent_name = unquote(request.headers.get("X-File-Name", ""))
        name = sent_name if file is None else file.filename or ""
        with UPLOADS.admitting(current_actor().name):
            file_id = import_files.store_file(
                file.stream.read if file else csv_body_reader(limit),
                ImportOptions(current_actor(), query.tag, query.timezone, file_name=name),
                limit,
            )
            _check_proposal(file_id)
    except ValidationError as error:
        return _reject("; ".join(errors_from_schema(error).values()), 422, fields)
    except BadFile as error:
        return _reject(describe_file_error(error), 422, fields)
    except ContentTooLarge:
        return _reject(_too_large(_max_file_bytes()), 413, fields)
    except RateLimited:
        return _reject(str(TOO_MANY_FILES), 429, fields)
    except (Problem, ServiceError) as error:
        message = _("The file did not arrive. Check the connection and try again.")
        status = error.status if isinstance(error, Problem) else status_code(error)
        return _reject(message, status, fields)
    page = url_for(".map_columns", file_id=file_id)
    return redirect(page, 303) if is_form else ({"page": page}, 202)


@blueprint.get("/clients/import/<id:file_id>")
@require_scope(Scope.WRITE)
def map_columns(file_id: int) -> str:
    found = import_files.get_file(file_id)
    return _render_mapping(found, restore_fields(found.mapping, found.state), {})


@blueprint.post("/clients/import/<id:file_id>")
def submit_mapping(file_id: int) -> BaseResponse | tuple[str, int]:
    """Check the file with the submitted mapping, or import it as it was checked."""
    found = import_files.get_file(file_id)
    columns, zones = found.state["columns"], found.state.get("zones", [])
    values = [value for value, *_rest in zones]
    fields = read_fields(request.form, len(columns), len(zones))
    errors = find_errors(fields)
    if errors:
        return _render_mapping(found, fields, errors), 422
    mapping = make_mapping(fields, values)
    given = {"columns": dict(mapping.columns), "timezones": dict(mapping.timezones)}
    draft = field_text(request.form, "draft")
    is_checked = found.draft_id is not None and draft == str(found.draft_id)
    try:
        if request.form.get("step") == "import" and is_checked and given == found.mapping:
            import_id = import_files.import_stored_file(file_id, int(draft), current_actor())
            return redirect(url_for(".show_import", import_id=import_id), 303)
        with UPLOADS.admitting(current_actor().name):
            import_files.check_stored_file(file_id, mapping, current_actor())
    except RateLimited:
        return _render_mapping(found, fields, {"": str(TOO_MANY_FILES)}), 429
    except BadFile as error:
        found = import_files.get_file(file_id)
        return _render_mapping(found, fields, {"": describe_file_error(error)}), 422
    return redirect(url_for(".map_columns", file_id=file_id) + "#result", 303)


@blueprint.get("/imports")
def list_imports() -> str:
    start = requested_start()
    found = import_service.list_imports(Page(start, PAGE_SIZE + 1, descending=True))
    page, last = split_page(found)
    return render_template(
        "admin/imports.html",
        imports=page,
        people=find_people_by_name(each.created_by for each in page),
        following=last.id if last else None,
        paged=start > 0,
    )


@blueprint.get("/imports/<id:import_id>")
def show_import(import_id: int) -> str:
    return _render_import(import_id)


@blueprint.post("/imports/<id:import_id>")
def undo_import(import_id: int) -> BaseResponse | tuple[str, int]:
    keep_edited = "keep_edited" in request.form
    try:
        request_undo(import_id, current_actor(), keep_edited=keep_edited)
    except (Conflict, RateLimited) as refusal:
        return _render_import(import_id, refusal), status_code(refusal)
    return redirect(url_for(".show_import", import_id=import_id), 303)


@blueprint.get("/imports/<id:import_id>/rejected.csv")
def export_rejected(import_id: int) -> Response:
    found = import_service.get_import(import_id)
    rows = import_service.export_rejected_rows(found, describe_cell_error)
    return stream_csv(f"import-{import_id}-rejected.csv", lambda: rows, excel=True)


def allow_large_upload() -> None:
    """Raise the limit of the body's size for uploads; runs before the CSRF check reads a form."""
    if request.endpoint == "admin.imports.upload_file":
        request.max_content_length = _max_file_bytes() + FORM_OVERHEAD_BYTES


def _render_import(import_id: int, refusal: ServiceError | None = None) -> str:
    found = import_service.get_import(import_id)
    errors = import_service.list_rejected_cells(import_id) if found.rejected else []
    undo = found.undo
    return render_template(
        "admin/import_progress.html",
        each=found,
        errors=[(error, describe_cell_error(error)) for error in errors],
        kept=import_service.count_kept_rows(found),
        people=find_people_by_name([found.created_by, undo.requested_by if undo else None]),
        undo_until=find_undo_end(found),
        refusal=refusal,
        refusal_text=describe_undo_refusal(refusal) if refusal else "",
    )


def _is_form() -> bool:
    return request.mimetype == "multipart/form-data"


def _max_file_bytes() -> int:
    """Return how many bytes the file of this request may have."""
    limit: int = current_app.config["IMPORT_MAX_BYTES"]
    return min(limit, FORM_FILE_MAX_BYTES) if _is_form() else limit


def _reject(message: str, status: int, fields: dict[str, str]) -> tuple[str | dict[str, Any], int]:
    return (_render_form(message, fields) if _is_form() else {"problem": message}), status


def _check_proposal(file_id: int) -> None:
    """Check a new file with the proposed mapping, if that is complete."""
    fields = propose_fields(import_files.get_file(file_id).state["columns"])
    if not find_errors(fields):
        try:
            import_files.check_stored_file(file_id, make_mapping(fields, ()), current_actor())
        except BadFile:  # no mapping makes it usable
            import_files.delete_file(file_id)
            raise


def _render_mapping(found: ImportFile, fields: MappingFields, errors: dict[str, str]) -> str:
    state, draft = found.state, found.draft_id
    counts = state.get("counts") if draft is not None else None
    cells = import_service.list_rejected_cells(draft) if draft is not None else []
    return render_template(
        "admin/import_mapping.html",
        file=found,
        columns=state["columns"],
        zones=state.get("zones", []),
        fields=fields,
        errors={name: MAPPING_ERRORS.get(code, code) for name, code in errors.items()},
        counts=counts,
        error_labels=_label_fields(state),
        rejected=[(cell, describe_cell_error(cell, checked=True)) for cell in cells[:SHOWN_ERRORS]],
        time_zones=sorted(ZONES_BY_OFFSET.values()),
    )


def _label_fields(state: dict[str, Any]) -> dict[str, str]:
    """Return what the fields of the form are called: the header of the column, or the cell."""
    labels = {"": str(_("File"))}
    for at, (header, *_rest) in enumerate(state["columns"]):
        labels[f"target-{at}"] = labels[f"name-{at}"] = header or str(_("Column %(n)s", n=at + 1))
    for at, (value, *_rest) in enumerate(state.get("zones", [])):
        labels[f"zone-{at}"] = value.upper()
    return labels


def _render_form(problem: str | None = None, fields: dict[str, str] | None = None) -> str:
    limit = current_app.config["IMPORT_MAX_BYTES"]
    default_zone = current_app.config["DEFAULT_TIMEZONE"] or "Europe/Moscow"
    recent = import_service.list_imports(Page(0, LATEST_IMPORTS, descending=True))
    return render_template(
        "admin/import.html",
        recent=recent,
        people=find_people_by_name(each.created_by for each in recent),
        limit=limit,
        too_large=_too_large(limit),
        problem=problem,
        fields=fields or {"tag": "", "timezone": default_zone},
    )


def _too_large(limit: int) -> str:
    megabytes = limit // 2**20
    return str(_("The file is larger than %(n)s MB: split it and import the parts.", n=megabytes))

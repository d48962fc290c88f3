"""Pages of clients: search, show, create, change, delete and export them."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from flask import (
    Blueprint,
    Response,
    current_app,
    flash,
    redirect,
    render_template,
    request,
    url_for,
)
from flask_babel import gettext as _
from pydantic import ValidationError
from werkzeug.wrappers import Response as BaseResponse

from api.actor import current_actor
from api.admin.auth import require_scope
from api.admin.forms.compared_fields import CLIENT_FIELDS
from api.admin.forms.edit_conflict import FormBasis, merge_fields, same_values
from api.admin.forms.field_errors import errors_from_schema, errors_from_service, field_text
from api.admin.forms.text_fields import (
    attribute_lines,
    read_attribute_lines,
    read_phone,
)
from api.admin.pagination import PAGE_SIZE, requested_start, split_page
from api.admin.presenters.client_timeline import build_timeline
from api.admin.presenters.conflict_page import render_conflict
from api.admin.presenters.recipients import select_shown
from api.clients import history, service
from api.clients.schemas import ClientChanges, NewClient
from api.clients.search import ClientSearch
from api.cursors import Page
from api.db import db
from api.errors import Conflict, InvalidFields, NotFound, VersionMismatch
from api.http.csv_response import separator_of, stream_csv
from api.mailings import message_export
from api.opt_outs import service as opt_outs
from api.schemas.fields import MAX_SEARCH_LENGTH
from shared.db.models import Client
from shared.domain.phones import derive_operator_code
from shared.domain.scopes import Scope
from shared.domain.time_zones import TIME_ZONES

blueprint = Blueprint("clients", __name__)

OPT_OUT_SOURCE = "admin"
SEARCH_FIELDS = ("q", "operator_code", "tag", "timezone")
FORM_FIELDS = ("phone", "operator_code", "tag", "timezone", "attributes")


@blueprint.get("/clients")
def list_clients() -> str:
    wanted = _submitted_search()
    search, after = _search_for(wanted), requested_start()
    searched = any(wanted.values())
    shown: Sequence[Client] = []
    last = problem = hits = None
    try:
        page, actor = Page(after, PAGE_SIZE + 1), current_actor()
        shown, last = split_page(service.list_clients(search, page, actor))
        hits = service.count_clients(search, actor) if searched else None
    except InvalidFields as error:
        problem = errors_from_service(error)["search"]
    return render_template(
        "admin/clients.html",
        clients=shown,
        following=last and last.id,
        wanted=wanted,
        searched=searched,
        hits=hits,
        max_counted=service.MAX_COUNTED,
        problem=problem,
        paged=bool(after),
        zones=sorted(TIME_ZONES),
    )


@blueprint.get("/clients/new")
@require_scope(Scope.WRITE)
def new_client() -> str:
    zone = current_app.config["DEFAULT_TIMEZONE"] or "Europe/Moscow"
    return _render_form(dict.fromkeys(FORM_FIELDS, "") | {"timezone": zone})


@blueprint.post("/clients/new")
def create_client() -> BaseResponse | tuple[str, int]:
    return _save(_submitted_fields())


@blueprint.get("/clients/<id:client_id>")
def show_client(client_id: int) -> str:
    client = service.get_client(client_id)
    found = history.read_client_history(client)
    return render_template(
        "admin/client.html",
        client=client,
        history=found,
        timeline=build_timeline(client, found),
        message_limit=history.MAX_MESSAGES,
    )


@blueprint.post("/clients/<id:client_id>/opt-out")
def opt_out(client_id: int) -> BaseResponse:
    """Opt the client's phone out; its pending messages are cancelled."""
    phone = service.get_client(client_id).phone
    if phone is not None:
        opt_outs.add_opt_outs([phone], OPT_OUT_SOURCE, current_actor())
    flash(_("The client is opted out: no mailing sends to this phone."), "success")
    return redirect(url_for(".show_client", client_id=client_id), 303)


@blueprint.post("/clients/<id:client_id>/opt-in")
def opt_in(client_id: int) -> BaseResponse:
    """Remove the opt-out of the client's phone; cancelled messages stay cancelled."""
    phone = service.get_client(client_id).phone
    with suppress(NotFound):
        if phone is not None:
            opt_outs.remove_opt_out(phone, current_actor())
    flash(_("Mailings can send to the phone again."), "success")
    return redirect(url_for(".show_client", client_id=client_id), 303)


@blueprint.get("/clients/<id:client_id>/edit")
@require_scope(Scope.WRITE)
def edit_client(client_id: int) -> str:
    client = service.get_client(client_id)
    return _render_form(_fields_of(client), client_id, basis=_basis_of(client))


@blueprint.post("/clients/<id:client_id>/edit")
def update_client(client_id: int) -> BaseResponse | tuple[str, int] | str:
    """Save the form; where the client was changed meanwhile, let the person choose."""
    client = service.get_client(client_id)
    fields = _submitted_fields()
    basis = FormBasis.from_form(request.form)
    resolve = request.form.get("resolve")
    if basis.version != client.version:
        return _render_conflict(client, fields)
    if resolve in ("merge", "edit"):
        merged = merge_fields(CLIENT_FIELDS, fields, _fields_of(client), request.form)
        if merged is None:
            return _render_conflict(client, fields, unpicked=True)
        if resolve == "edit":
            return _render_form(merged, client_id, basis=_basis_of(client))
        fields = merged
    return _save(fields, client, basis)


@blueprint.get("/clients/<id:client_id>/delete")
@require_scope(Scope.WRITE)
def confirm_delete(client_id: int) -> str:
    return render_template("admin/client_delete.html", client=service.get_client(client_id))


@blueprint.post("/clients/<id:client_id>/delete")
def delete_client(client_id: int) -> BaseResponse:
    service.delete_client(client_id, current_actor())
    flash(_("The client is deleted, and the personal data erased."), "success")
    return redirect(url_for(".list_clients"), 303)


@blueprint.get("/clients.csv")
def export_clients() -> BaseResponse:
    wanted = _submitted_search()
    search = _search_for(wanted)
    try:
        return stream_csv("clients.csv", lambda: service.export_clients(search), excel=True)
    except InvalidFields as error:
        flash(errors_from_service(error)["search"], "danger")
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value}
        return redirect(url_for(".list_clients", **given), 303)


@blueprint.get("/mailings/<id:mailing_id>/messages.csv")
def export_recipients(mailing_id: int) -> Response:
    status = request.args.get("status")
    pages = message_export.export_messages(
        mailing_id, *select_shown(status), separator=separator_of(excel=True)
    )
    name = f"mailing-{mailing_id}-messages.csv"
    return stream_csv(name, lambda: (message_export.EXPORT_COLUMNS, pages), excel=True)


def _submitted_search() -> dict[str, str]:
    wanted = {name: field_text(request.args, name) for name in SEARCH_FIELDS}
    # Links may name a phone.
    wanted["q"] = (wanted["q"] or field_text(request.args, "phone"))[:MAX_SEARCH_LENGTH]
    return wanted


def _search_for(wanted: dict[str, str]) -> ClientSearch:
    given = {name: value or None for name, value in wanted.items()}
    return ClientSearch(
        search=given["q"],
        operator_code=given["operator_code"],
        tag=given["tag"],
        timezone=given["timezone"],
    )


def _submitted_fields() -> dict[str, str]:
    return {name: field_text(request.form, name) for name in FORM_FIELDS}


def _fields_of(client: Client) -> dict[str, str]:
    """Return the form's fields for a client; an operator code of the phone is left empty."""
    derived = client.operator_code == derive_operator_code(client.phone)
    return {
        "phone": str(client.phone),
        "operator_code": "" if derived else client.operator_code or "",
        "tag": client.tag or "",
        "timezone": client.timezone or "",
        "attributes": attribute_lines(client.attributes.items()),
    }


def _basis_of(client: Client) -> FormBasis:
    return FormBasis.of_version(
        CLIENT_FIELDS, _fields_of(client), client.version, client.updated_at
    )


def _save(
    fields: dict[str, str], client: Client | None = None, basis: FormBasis | None = None
) -> BaseResponse | tuple[str, int]:
    """Create a client, or change one that has the version of the form's basis."""
    client_id = client.id if client is not None else None

    def reject(errors: dict[str, str], status: int = 422) -> tuple[str, int]:
        return _render_form(fields, client_id, errors, basis), status

    attributes, problem = read_attribute_lines(fields["attributes"])
    if problem is not None:
        return reject({"attributes": problem})
    known = client.attributes if client is not None else {}
    document = {
        "phone": read_phone(fields["phone"]) or fields["phone"],
        "operator_code": fields["operator_code"] or None,
        "tag": fields["tag"],
        "timezone": fields["timezone"],
        # An attribute whose line was deleted is removed.
        "attributes": dict.fromkeys(known) | attributes,
    }
    try:
        if client is None or basis is None:
            new = NewClient.model_validate(document)
            client_id = service.create_client(new, current_actor()).id
            flash(_("The client is added."), "success")
        else:
            changes = ClientChanges.model_validate(document)
            service.change_client(client.id, changes, current_actor(), {basis.version})
            flash(_("The changes are saved."), "success")
    except ValidationError as error:
        return reject(errors_from_schema(error))
    except InvalidFields as error:
        return reject(errors_from_service(error))
    except VersionMismatch:
        db.session.rollback()
        return _render_conflict(service.get_client(cast(int, client_id)), fields)
    except Conflict as error:
        owner = error.members.get("client_id")
        if client is None and owner is not None:
            existing = service.get_client(owner)
            if same_values(CLIENT_FIELDS, fields, _fields_of(existing)):
                flash(_("This client exists already, with the same data."), "success")
                return redirect(url_for(".show_client", client_id=owner), 303)
        return reject({"phone": _("Another client has this phone.")}, 409)
    return redirect(url_for(".show_client", client_id=client_id), 303)


def _render_conflict(
    client: Client, fields: dict[str, str], *, unpicked: bool = False
) -> BaseResponse | tuple[str, int]:
    there = url_for(".show_client", client_id=client.id)
    return render_conflict(
        CLIENT_FIELDS, fields, _fields_of(client), "client", client, there, unpicked=unpicked
    )


def _render_form(
    fields: dict[str, str],
    client_id: int | None = None,
    errors: dict[str, str] | None = None,
    basis: FormBasis | None = None,
) -> str:
    return render_template(
        "admin/client_form.html",
        fields=fields,
        errors=errors or {},
        client_id=client_id,
        basis=basis,
        zones=sorted(TIME_ZONES),
    )

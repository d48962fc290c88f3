"""The directory of clients: searched, made, changed, deleted, exported."""

from inspect import unwrap
from typing import Any

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
from sqlalchemy import select, text
from werkzeug.wrappers import Response as BaseResponse

from api.admin.auth import needs
from api.admin.forms.field_errors import from_resource, from_schema, text_of
from api.admin.forms.text_fields import (
    attribute_lines,
    phone_expected,
    read_attribute_lines,
    read_phone,
)
from api.clients.routes import change_client, create_client, delete_client, get_client
from api.db import db, rows
from api.errors import Conflict, InvalidFields
from api.exports import ClientCsvQuery, MessageCsvQuery
from api.exports import export_clients as api_export_clients
from api.exports import export_messages as api_export_messages
from api.schemas.requests import ClientChanges, NewClient
from shared.db.models import Client
from shared.domain.scopes import Scope
from shared.domain.statuses import MessageStatus
from shared.domain.time_zones import TIME_ZONES

clients = Blueprint("clients", __name__)

create = unwrap(create_client)
get = unwrap(get_client)
change = unwrap(change_client)
remove = unwrap(delete_client)
export_clients = unwrap(api_export_clients)
export_messages = unwrap(api_export_messages)

PAGE = 25
FIELDS = ("phone", "operator_code", "tag", "timezone")
FORM = (*FIELDS, "attributes")
HISTORY = text("""
SELECT g.id AS mailing_id, g.name, g.text, m.id, m.status, m.reason, m.attempts, m.sent_at,
    m.in_doubt, g.start_at
FROM mailings g CROSS JOIN LATERAL (
    SELECT * FROM messages WHERE mailing_id = g.id AND client_id = :client_id
) m
WHERE g.deleted_at IS NULL AND g.audience > 0 ORDER BY g.id DESC LIMIT 50
""")


@clients.get("/clients")
def index() -> str:
    wanted = {name: text_of(request.args, name) for name in FIELDS}
    problem = None
    after = request.args.get("after", "")
    found = select(Client).where(Client.deleted_at.is_(None))
    if wanted["phone"]:
        phone = read_phone(wanted["phone"])
        if phone is None:
            problem = phone_expected()
        found = found.where(Client.phone == int(phone or 0))
    for name in ("operator_code", "tag", "timezone"):
        if wanted[name]:
            found = found.where(getattr(Client, name) == wanted[name])
    if after.isdecimal() and len(after) < 19:
        found = found.where(Client.id > int(after))
    listed = db.session.scalars(found.order_by(Client.id).limit(PAGE + 1)).all()
    return render_template(
        "admin/clients.html",
        clients=listed[:PAGE],
        following=listed[PAGE - 1].id if len(listed) > PAGE else None,
        wanted=wanted,
        searched=any(wanted.values()),
        problem=problem,
        paged=bool(after),
    )


@clients.get("/clients/new")
@needs(Scope.WRITE)
def new() -> str:
    zone = current_app.config["DEFAULT_TIMEZONE"] or "Europe/Moscow"
    return _form(dict.fromkeys(FORM, "") | {"timezone": zone})


@clients.post("/clients/new")
def make() -> BaseResponse | tuple[str, int]:
    return _save(None)


@clients.get("/clients/<id:client_id>")
def show(client_id: int) -> str:
    return render_template(
        "admin/client.html", client=get(client_id), history=rows(HISTORY, client_id=client_id)
    )


@clients.get("/clients/<id:client_id>/edit")
@needs(Scope.WRITE)
def edit(client_id: int) -> str:
    client = get(client_id)
    follows = client["operator_code"] == client["phone"][1:4]
    shown = {
        "operator_code": "" if follows else client["operator_code"],
        "attributes": attribute_lines(client["attributes"].items()),
    }
    return _form(client | shown, client_id)


@clients.post("/clients/<id:client_id>/edit")
def save(client_id: int) -> BaseResponse | tuple[str, int]:
    return _save(client_id)


@clients.get("/clients/<id:client_id>/delete")
@needs(Scope.WRITE)
def ask(client_id: int) -> str:
    return render_template("admin/client_delete.html", client=get(client_id))


@clients.post("/clients/<id:client_id>/delete")
def delete(client_id: int) -> BaseResponse:
    remove(client_id)
    flash(_("The client is deleted, and the personal data erased."), "success")
    return redirect(url_for("admin.clients.index"), 303)


@clients.get("/clients.csv")
def export() -> Response:
    query = ClientCsvQuery.model_validate(
        {name: text_of(request.args, name) for name in FIELDS if text_of(request.args, name)}
        | {"excel": "true"}
    )
    answer: Response = export_clients(query)
    return answer


@clients.get("/mailings/<id:mailing_id>/messages.csv")
def export_recipients(mailing_id: int) -> Response:
    status = request.args.get("status")
    known = MessageStatus(status) if status in list(MessageStatus) else None
    query = MessageCsvQuery.model_validate({"excel": "true"} | ({"status": known} if known else {}))
    answer: Response = export_messages(mailing_id, query)
    return answer


def _save(client_id: int | None) -> BaseResponse | tuple[str, int]:
    fields = {name: text_of(request.form, name) for name in FORM}
    known = get(client_id)["attributes"] if client_id is not None else {}
    attributes, problem = read_attribute_lines(fields["attributes"])
    if problem is not None:
        return _form(fields, client_id, {"attributes": problem}), 422
    phone = read_phone(fields["phone"])
    document = {
        "phone": phone or fields["phone"],
        "operator_code": fields["operator_code"] or None,
        "tag": fields["tag"],
        "timezone": fields["timezone"],
        # What is no longer written is removed.
        "attributes": dict.fromkeys(known) | attributes,
    }
    try:
        if client_id is None:
            made, _status, _headers = create(NewClient.model_validate(document))
            client_id = made["id"]
            flash(_("The client is added."), "success")
        else:
            change(client_id, ClientChanges.model_validate(document))
            flash(_("The changes are saved."), "success")
    except ValidationError as error:
        return _form(fields, client_id, from_schema(error)), 422
    except InvalidFields as error:
        return _form(fields, client_id, from_resource(error)), 422
    except Conflict:
        db.session.rollback()
        return _form(fields, client_id, {"phone": _("Another client has this phone.")}), 409
    return redirect(url_for("admin.clients.show", client_id=client_id), 303)


def _form(
    fields: dict[str, Any], client_id: int | None = None, faults: dict[str, str] | None = None
) -> str:
    return render_template(
        "admin/client_form.html",
        fields=fields,
        faults=faults or {},
        client_id=client_id,
        zones=sorted(TIME_ZONES),
    )

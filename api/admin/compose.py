"""Making and changing a mailing: the form, its live preview, the review before it is made."""

import re
from datetime import UTC, datetime, timedelta
from inspect import unwrap
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import get_timezone
from flask_babel import gettext as _
from pydantic import ValidationError
from werkzeug.wrappers import Response

from api.admin.audience import preview
from api.admin.faults import from_resource, from_schema, text_of
from api.admin.security import needs
from api.admin.shown import instant_field
from api.answers import present_mailing
from api.mailings import change_mailing, create_mailing, find_mailing
from api.problems import Conflict, Invalid
from api.schemas import MailingChanges, NewMailing
from shared.models import Mailing
from shared.scopes import Scope
from shared.statuses import MailingStatus
from shared.zones import ZONES

compose = Blueprint("compose", __name__)

create = unwrap(create_mailing)
change = unwrap(change_mailing)

FIELDS = (
    *("name", "text", "operator_codes", "tags", "starts", "start_at", "end_at", "zone"),
    *("limited", "window_from", "window_to", "rate_limit"),
)
LOCAL = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?")
# The form's field for what the API calls otherwise.
PLACES = {"start": "window", "end": "window", "from": "window", "to": "window"}


class Filled(NamedTuple):
    """A form as it was filled in, and the mailing's body that it stands for."""

    fields: dict[str, str]
    document: dict[str, Any]


@compose.get("/mailings/new")
@needs(Scope.WRITE)
def new() -> str:
    source = request.args.get("from", "")
    fields = _proposal()
    if source.isdecimal() and len(source) < 19:
        mailing = find_mailing(int(source))
        fields |= _fields_of(mailing) | {k: fields[k] for k in ("starts", "start_at", "end_at")}
    return _form(fields)


@compose.post("/mailings/new")
def review() -> str | Response | tuple[str, int]:
    """Show what would be made; make it once that has been confirmed."""
    filled = _read()
    try:
        body = NewMailing.model_validate(filled.document)
        if "confirmed" not in request.form:
            if "back" in request.form:
                return _form(filled.fields)
            return render_template(
                "admin/review.html", fields=filled.fields, body=body, preview=preview(body)
            )
        made, _status, _headers = create(body)
    except ValidationError as error:
        return _form(filled.fields, from_schema(error)), 422
    except Invalid as problem:
        return _form(filled.fields, from_resource(problem)), 422
    flash(_("The mailing is made. It starts by itself."), "success")
    return redirect(url_for("admin.mailings.show", mailing_id=made["id"]), 303)


@compose.post("/mailings/preview")
def live_preview() -> str:
    """The preview beside the form, of as much as is filled in."""
    filled = _read()
    document = {**filled.document, "text": filled.document["text"] or "-"}
    found: dict[str, Any] | None = None
    try:
        found = preview(NewMailing.model_validate(document))
    except ValidationError as error:
        faults = from_schema(error)
    except Invalid as problem:
        faults = from_resource(problem)
    else:
        faults = {}
    empty = not filled.document["text"]
    return render_template("admin/_preview.html", preview=found, faults=faults, empty=empty)


@compose.get("/mailings/<id:mailing_id>/edit")
@needs(Scope.WRITE)
def edit(mailing_id: int) -> str | Response:
    mailing = find_mailing(mailing_id)
    if mailing.status in (MailingStatus.FINISHED, MailingStatus.CANCELLED):
        flash(_("A mailing that has ended cannot change. Make a new one from it."), "warning")
        return redirect(url_for("admin.mailings.show", mailing_id=mailing_id))
    return _form(_fields_of(mailing), mailing=mailing)


@compose.post("/mailings/<id:mailing_id>/edit")
def save(mailing_id: int) -> Response | str | tuple[str, int]:
    mailing = find_mailing(mailing_id)
    filled = _read(mailing)
    document = filled.document
    if mailing.started_at is not None:
        del document["start_at"], document["filter"]
    try:
        change(mailing_id, MailingChanges.model_validate(document))
    except ValidationError as error:
        return _form(filled.fields, from_schema(error), mailing), 422
    except Invalid as problem:
        return _form(filled.fields, from_resource(problem), mailing), 422
    except Conflict:
        flash(
            _("The mailing has changed meanwhile, and this cannot be changed any more."), "danger"
        )
        return redirect(url_for("admin.mailings.show", mailing_id=mailing_id), 303)
    flash(_("The changes are saved. They apply to whatever was not yet attempted."), "success")
    return redirect(url_for("admin.mailings.show", mailing_id=mailing_id), 303)


def _form(
    fields: dict[str, str], faults: dict[str, str] | None = None, mailing: Mailing | None = None
) -> str:
    placed = {PLACES.get(name, name): says for name, says in (faults or {}).items()}
    return render_template("admin/mailing_form.html", fields=fields, faults=placed, mailing=mailing)


def _proposal() -> dict[str, str]:
    """Now, for a day, within decent hours."""
    soon = datetime.now(UTC).replace(minute=0) + timedelta(hours=1)
    return dict.fromkeys(FIELDS, "") | {
        "starts": "now",
        "start_at": instant_field(soon),
        "end_at": instant_field(soon + timedelta(days=1)),
        "zone": str(get_timezone()),
        "limited": "yes",
        "window_from": "09:00",
        "window_to": "21:00",
    }


def _fields_of(mailing: Mailing) -> dict[str, str]:
    shown = present_mailing(mailing)
    window = shown["window"] or {}
    return {
        "name": shown["name"] or "",
        "text": shown["text"],
        "operator_codes": ", ".join(mailing.operator_codes),
        "tags": ", ".join(mailing.tags),
        "starts": "later",
        "start_at": instant_field(mailing.start_at),
        "end_at": instant_field(mailing.end_at),
        "zone": str(get_timezone()),
        "limited": "yes" if window else "",
        "window_from": window.get("from", "09:00"),
        "window_to": window.get("to", "21:00"),
        "rate_limit": str(mailing.rate_limit or ""),
    }


def _read(mailing: Mailing | None = None) -> Filled:
    fields = {name: text_of(request.form, name) for name in FIELDS}
    # A browser sends line ends as CR LF; each would count, and cost, as two characters.
    fields["text"] = fields["text"].replace("\r\n", "\n")
    zone = fields["zone"] if fields["zone"] in ZONES else str(get_timezone())
    now = datetime.now(UTC).isoformat()
    starts_now = fields["starts"] == "now" and mailing is None
    kept = present_mailing(mailing)["filter"] if mailing is not None else {}
    document: dict[str, Any] = {
        "name": fields["name"] or None,
        "text": fields["text"],
        "start_at": now if starts_now else _instant(fields["start_at"], zone),
        "end_at": _instant(fields["end_at"], zone),
        "filter": {
            **kept,
            "operator_codes": _listed(fields["operator_codes"]),
            "tags": _listed(fields["tags"]),
        },
        "window": None,
        "rate_limit": None,
    }
    if mailing is not None:
        # A form knows minutes; what it shows unchanged is unchanged.
        for name in ("start_at", "end_at"):
            if fields[name] == instant_field(getattr(mailing, name)):
                document[name] = getattr(mailing, name).isoformat()
    if fields["limited"]:
        document["window"] = {"from": fields["window_from"], "to": fields["window_to"]}
    if fields["rate_limit"]:
        given = re.sub(r"\s", "", fields["rate_limit"])
        document["rate_limit"] = int(given) if given.isdecimal() else given
    return Filled(fields, document)


def _instant(local: str, zone: str) -> str:
    """A local time as an instant; what is none is left to be refused."""
    if LOCAL.fullmatch(local) is None:
        return ""
    try:
        return datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone)).isoformat()
    except (ValueError, OverflowError):
        return ""


def _listed(given: str) -> list[str]:
    return [each.strip() for each in re.split(r"[,;\n]", given) if each.strip()]

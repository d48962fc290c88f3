"""Making and changing a mailing: the form, its live preview, a test send, the review before it."""

import secrets
from inspect import unwrap
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from pydantic import ValidationError
from sqlalchemy import text
from werkzeug.wrappers import Response

from api.actor import current_actor
from api.admin.auth import require_scope
from api.admin.forms.field_errors import from_resource, from_schema
from api.admin.forms.mailing_form import RARER, Filled, fields_of, proposal, read_form
from api.admin.forms.text_fields import split_list
from api.admin.presenters.audience_preview import preview
from api.admin.presenters.test_send import Tried, try_text
from api.admin.views.mailings import titles
from api.db import db, fetch_all
from api.errors import Conflict, InvalidFields
from api.idempotency import IdempotencyKey
from api.mailings.routes import add_mailing, change_mailing, find_mailing
from api.mailings.schemas import MailingChanges, NewMailing, present_mailing
from shared.db.models import Mailing
from shared.domain.scopes import Scope
from shared.domain.statuses import MailingStatus

blueprint = Blueprint("compose", __name__)

change = unwrap(change_mailing)

# The form's field for what the API calls otherwise.
PLACES = {"start": "window", "end": "window", "from": "window", "to": "window"}
# Whose recipients may be left out; those with none have nobody to leave out.
RECENT = text("""
SELECT id, name, text, started_at, audience FROM mailings
WHERE deleted_at IS NULL AND (audience > 0 OR id = ANY (CAST(:chosen AS bigint[])))
ORDER BY id = ANY (CAST(:chosen AS bigint[])) DESC, id DESC
LIMIT greatest(8, cardinality(CAST(:chosen AS bigint[])))
""")
# What the newest clients have, or the last files brought in, to be put into a text.
ATTRIBUTES = text("""
SELECT name, count(*) AS n FROM (
    SELECT jsonb_object_keys(attributes) AS name FROM (
        SELECT attributes FROM clients WHERE deleted_at IS NULL ORDER BY id DESC LIMIT 500
    ) newest
    UNION ALL SELECT unnest(attribute_columns) FROM (
        SELECT attribute_columns FROM imports ORDER BY id DESC LIMIT 20
    ) files
) known GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8
""")


@blueprint.get("/mailings/new")
@require_scope(Scope.WRITE)
def new() -> str:
    source = request.args.get("from", "")
    fields = proposal()
    if source.isdecimal() and len(source) < 19:
        mailing = find_mailing(int(source))
        fields |= fields_of(mailing) | {k: fields[k] for k in ("starts", "start_at", "end_at")}
    return _form(fields)


@blueprint.post("/mailings/new")
def review() -> str | Response | tuple[str, int]:
    """Show what would be made; make it once that has been confirmed."""
    filled = read_form()
    if "back" in request.form:
        return _form(filled.fields)
    body, faults = _body(filled)
    if body is None:
        return _form(filled.fields, faults), 422
    try:
        if "confirmed" not in request.form:
            return _review(filled, body)
        # Made once, however often the button is pressed: the key is the review's own.
        once = request.form.get("once", "")[:64]
        actor = current_actor()
        key = IdempotencyKey.for_request(once, actor.token_id, request.path, body) if once else None
        made, _replayed = add_mailing(body, actor, key)
    except InvalidFields as problem:
        db.session.rollback()
        if problem.field_errors[0].code == "idempotency_key_reused":
            flash(_("This mailing was made already: here it is."), "warning")
            return redirect(url_for("admin.mailings.index"), 303)
        return _form(filled.fields, from_resource(problem)), 422
    flash(_("The mailing is made. It starts by itself."), "success")
    return redirect(url_for("admin.mailings.show", mailing_id=made["id"]), 303)


@blueprint.post("/mailings/preview")
def live_preview() -> str:
    """The preview beside the form, of as much as is filled in."""
    mailing = _edited()
    filled = read_form(mailing)
    document = {**filled.document, "text": filled.document["text"] or "-"}
    launched = mailing is not None and mailing.started_at is not None
    if mailing is not None and launched:
        document["filter"] = present_mailing(mailing)["filter"]
    found: dict[str, Any] | None = None
    body, faults = _body(filled._replace(document=document))
    if body is not None:
        db.session.rollback()  # the preview sees one instant, from its first statement on
        try:
            found = preview(body)
        except InvalidFields as problem:
            faults = from_resource(problem)
    empty = not filled.document["text"]
    return render_template(
        "admin/_preview.html", preview=found, faults=faults, empty=empty, narrows=not launched
    )


@blueprint.post("/mailings/test-send")
def send_test() -> str | tuple[str, int]:
    """Send the text to a few phones; the panel alone for the page's script, else the whole form."""
    mailing = _edited()
    filled = read_form(mailing)
    test = try_text(filled.fields["text"], filled.fields["test_phones"])
    if request.headers.get("X-Fragment"):
        return render_template("admin/_test.html", test=test)
    return _form(filled.fields, mailing=mailing, test=test)


@blueprint.get("/mailings/<id:mailing_id>/edit")
@require_scope(Scope.WRITE)
def edit(mailing_id: int) -> str | Response:
    mailing = find_mailing(mailing_id)
    if mailing.status in (MailingStatus.FINISHED, MailingStatus.CANCELLED):
        flash(_("A mailing that has ended cannot change. Make a new one from it."), "warning")
        return redirect(url_for("admin.mailings.show", mailing_id=mailing_id))
    return _form(fields_of(mailing), mailing=mailing)


@blueprint.post("/mailings/<id:mailing_id>/edit")
def save(mailing_id: int) -> Response | str | tuple[str, int]:
    mailing = find_mailing(mailing_id)
    filled = read_form(mailing)
    document = filled.document
    if mailing.started_at is not None:
        del document["start_at"], document["filter"]
    elif filled.faults:
        return _form(filled.fields, filled.faults, mailing), 422
    try:
        change(mailing_id, MailingChanges.model_validate(document))
    except ValidationError as error:
        return _form(filled.fields, from_schema(error), mailing), 422
    except InvalidFields as problem:
        return _form(filled.fields, from_resource(problem), mailing), 422
    except Conflict:
        flash(
            _("The mailing has changed meanwhile, and this cannot be changed any more."), "danger"
        )
        return redirect(url_for("admin.mailings.show", mailing_id=mailing_id), 303)
    flash(_("The changes are saved. They apply to whatever was not yet attempted."), "success")
    return redirect(url_for("admin.mailings.show", mailing_id=mailing_id), 303)


def _edited() -> Mailing | None:
    """The mailing that the form in this request changes; None if it makes a new one."""
    given = request.form.get("mailing", "")
    return find_mailing(int(given)) if given.isdecimal() and len(given) < 19 else None


def _body(filled: Filled) -> tuple[NewMailing | None, dict[str, str]]:
    """The mailing's body, or all that is wrong with it."""
    try:
        body = NewMailing.model_validate(filled.document)
    except ValidationError as error:
        return None, from_schema(error) | filled.faults
    return (None if filled.faults else body), filled.faults


def _review(filled: Filled, body: NewMailing) -> str:
    return render_template(
        "admin/review.html",
        fields=filled.fields,
        body=body,
        preview=preview(body),
        excluded=titles(body.filter.exclude_mailing_ids),
        once=secrets.token_urlsafe(16),
    )


def _form(
    fields: dict[str, str],
    faults: dict[str, str] | None = None,
    mailing: Mailing | None = None,
    test: Tried | None = None,
) -> str:
    placed = {PLACES.get(name, name): says for name, says in (faults or {}).items()}
    chosen = [int(each) for each in split_list(fields["exclude_mailing_ids"]) if each.isdecimal()]
    recent = _mailings(chosen)
    return render_template(
        "admin/mailing_form.html",
        fields=fields,
        faults=placed,
        mailing=mailing,
        recent=recent,
        chosen=chosen,
        others=[each for each in chosen if each not in {row["id"] for row in recent}],
        rarer=any(fields[name] or placed.get(name) for name in RARER),
        placeholders=["phone", "tag", *(row["name"] for row in fetch_all(ATTRIBUTES))],
        test=test,
    )


def _mailings(chosen: list[int]) -> list[dict[str, Any]]:
    return fetch_all(RECENT, chosen=[each for each in chosen if each < 2**63])

"""Create and change a mailing: the form, its live preview, a test send, and the review."""

import structlog
from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from pydantic import ValidationError
from werkzeug.wrappers import Response

from api.actor import current_actor
from api.admin.auth import require_scope
from api.admin.forms.compared_fields import FIXED_FIELDS, MAILING_FIELDS
from api.admin.forms.edit_conflict import FormBasis, merge_fields, same_values
from api.admin.forms.field_errors import errors_from_schema, errors_from_service, field_text
from api.admin.forms.mailing_form import (
    SubmittedForm,
    default_fields,
    fields_from_mailing,
    parse_fields,
    parse_form,
)
from api.admin.forms.text_fields import read_id
from api.admin.presenters.audience_preview import preview_for_template
from api.admin.presenters.conflict_page import render_conflict
from api.admin.presenters.mailing_form_page import form_key, render_form
from api.admin.presenters.policy_rules import describe_mailing_rules
from api.admin.presenters.test_send import send_test as send_test_messages
from api.db import db
from api.errors import Conflict, InvalidFields, VersionMismatch
from api.idempotency import IdempotencyKey
from api.mailings.action_rules import RULES, Action
from api.mailings.recipient_choices import list_attribute_values
from api.mailings.schemas import MailingChanges, NewMailing
from api.mailings.service import change_mailing, create_mailing, find_mailing, list_mailings_by_id
from api.policy.service import find_policy
from api.schemas.limits import Limits
from shared.db.models import Mailing
from shared.domain.scopes import Scope

blueprint = Blueprint("mailing_editor", __name__)

MAX_KEY_LENGTH = 64


@blueprint.get("/mailings/new")
@require_scope(Scope.WRITE)
def new_mailing() -> str:
    """Show an empty form, or one that repeats another mailing (`?from=7`) at the default times."""
    fields = default_fields()
    created_id = _find_created(field_text(request.args, "once")[:MAX_KEY_LENGTH])
    if created_id is not None:
        return render_template("admin/mailing_created.html", mailing_id=created_id)
    source_id = read_id(request.args.get("from", ""))
    if source_id is not None:
        structlog.contextvars.bind_contextvars(mailing_id=source_id)
        times = {name: fields[name] for name in ("starts", "start_at", "end_at")}
        fields = fields_from_mailing(find_mailing(source_id)) | times
    return render_form(fields)


@blueprint.post("/mailings/new")
def review_mailing() -> str | Response | tuple[str, int]:
    """Show the review of a new mailing; create it once the review is confirmed."""
    form = parse_form()
    once = field_text(request.form, "once")[:MAX_KEY_LENGTH]
    created_id = _find_created(once)
    if created_id is not None:
        if "confirmed" in request.form:
            return _show_created(created_id)
        return render_template("admin/mailing_created.html", mailing_id=created_id)
    if "back" in request.form:
        return render_form(form.fields)
    body, errors = _validate(form)
    if body is None:
        return render_form(form.fields, errors), 422
    try:
        if "confirmed" not in request.form:
            return _render_review(form, body)
        # The form's own key: repeated confirmations create one mailing.
        actor = current_actor()
        key = IdempotencyKey.for_request(once, actor.token_id, request.path, body) if once else None
        created = create_mailing(body, actor, key)
    except InvalidFields as error:
        db.session.rollback()
        if error.field_errors[0].code == "idempotency_key_reused":
            # Another confirmation came first: "now" is another instant in each.
            created_id = _find_created(once)
            if created_id is not None:
                return _show_created(created_id)
        return render_form(form.fields, errors_from_service(error)), 422
    return _show_created(created.presented["id"])


@blueprint.post("/mailings/preview")
def preview_mailing() -> str:
    """Render the preview beside the form, of the fields filled in so far."""
    mailing = _find_edited()
    form = parse_form(mailing)
    document = {**form.document, "text": form.document["text"] or "-"}
    launched_id = None
    if mailing is not None and mailing.started_at is not None:
        # The form has no fields of recipients and start: both are fixed.
        launched_id = mailing.id
        document |= {"start_at": mailing.start_at.isoformat(), "filter": {}}
        form = form._replace(errors={})
    found = {}
    body, errors = _validate(form._replace(document=document))
    if body is not None:
        db.session.rollback()  # the preview's snapshot must begin with its first statement
        try:
            found = preview_for_template(body, launched_id)
        except InvalidFields as error:
            errors = errors_from_service(error)
    return render_template(
        "admin/_preview.html",
        **found,
        errors=errors,
        empty=not form.document["text"],
        launched=launched_id is not None,
    )


@blueprint.get("/mailings/attribute-values")
@require_scope(Scope.WRITE)
def list_values() -> dict[str, list[str]]:
    """Return the frequent values of an attribute, to choose from."""
    name = field_text(request.args, "name")
    return {"values": [value for value, _clients in list_attribute_values(name)]}


@blueprint.post("/mailings/test-send")
def send_test() -> str:
    """Send the text to a few phones; return the results alone to the page's script."""
    mailing = _find_edited()
    form = parse_form(mailing)
    test = send_test_messages(form.fields["text"], form.fields["test_phones"])
    if request.headers.get("X-Fragment"):
        return render_template("admin/_test.html", test=test)
    return render_form(form.fields, mailing=mailing, test=test, basis=_basis())


@blueprint.get("/mailings/<id:mailing_id>/edit")
@require_scope(Scope.WRITE)
def edit_mailing(mailing_id: int) -> str | Response:
    mailing = find_mailing(mailing_id)
    if mailing.status not in RULES[Action.EDIT].possible:
        flash(_("A mailing that has ended cannot change. Create a copy of it."), "warning")
        return redirect(url_for("admin.mailings.show_mailing", mailing_id=mailing_id))
    return render_form(fields_from_mailing(mailing), mailing=mailing)


@blueprint.post("/mailings/<id:mailing_id>/edit")
def update_mailing(mailing_id: int) -> Response | str | tuple[str, int]:
    """Save the form; where the mailing was changed, started or ended meanwhile, lose nothing."""
    mailing = find_mailing(mailing_id)
    form = parse_form(mailing)
    theirs = fields_from_mailing(mailing)
    if mailing.status not in RULES[Action.EDIT].possible:
        return _render_ended(mailing, form.fields)
    fixed = FIXED_FIELDS if mailing.started_at is not None else ()
    # A form that was made before the start has these fields, which cannot change any more.
    started_meanwhile = bool(fixed) and "start_at" in request.form
    lost = started_meanwhile and not same_values(fixed, form.fields, theirs)
    for each in fixed:
        form.fields.update({name: theirs[name] for name in each.names})
    if lost:
        return render_form(form.fields, mailing=mailing, basis=_basis(), started=True), 409
    basis = FormBasis.from_form(request.form)
    if basis.version != mailing.version:
        return _render_conflict(mailing, form.fields)
    if request.form.get("resolve") in ("merge", "edit"):
        merged = merge_fields(MAILING_FIELDS, form.fields, theirs, request.form)
        if merged is None:
            return _render_conflict(mailing, form.fields, unpicked=True)
        if request.form["resolve"] == "edit":
            return render_form(merged, mailing=mailing)
        form = parse_fields(merged, mailing)
    if fixed:
        del form.document["start_at"], form.document["filter"]
    elif form.errors:
        return render_form(form.fields, form.errors, mailing, basis=basis), 422
    try:
        changes = MailingChanges.model_validate(form.document)
        change_mailing(mailing_id, changes, current_actor(), {basis.version})
    except ValidationError as error:
        return render_form(form.fields, errors_from_schema(error), mailing, basis=basis), 422
    except InvalidFields as error:
        return render_form(form.fields, errors_from_service(error), mailing, basis=basis), 422
    except VersionMismatch:
        db.session.rollback()
        return _render_conflict(find_mailing(mailing_id), form.fields)
    except Conflict:
        # It has ended or started between the check above and the lock.
        db.session.rollback()
        mailing = find_mailing(mailing_id)
        if mailing.status not in RULES[Action.EDIT].possible:
            return _render_ended(mailing, form.fields)
        return render_form(form.fields, mailing=mailing, basis=basis, started=True), 409
    flash(
        _("The changes are saved. They apply to messages that were not attempted yet."),
        "success",
    )
    return redirect(url_for("admin.mailings.show_mailing", mailing_id=mailing_id), 303)


def _find_edited() -> Mailing | None:
    """Return the mailing that the form in this request changes; None if it creates one."""
    mailing_id = read_id(request.form.get("mailing", ""))
    if mailing_id is None:
        return None
    structlog.contextvars.bind_contextvars(mailing_id=mailing_id)
    return find_mailing(mailing_id)


def _find_created(once: str) -> int | None:
    """Return the mailing that a form with this key has created."""
    answer = IdempotencyKey.find_answer(current_actor().token_id, once) if once else None
    return None if answer is None else int(answer["id"])


def _show_created(mailing_id: int) -> Response:
    flash(_("The mailing is created. It starts automatically."), "success")
    return redirect(url_for("admin.mailings.show_mailing", mailing_id=mailing_id), 303)


def _basis() -> FormBasis | None:
    """Return the basis that the submitted form states; None for the form of a new mailing."""
    return FormBasis.from_form(request.form) if "version" in request.form else None


def _render_conflict(
    mailing: Mailing, fields: dict[str, str], *, unpicked: bool = False
) -> Response | tuple[str, int]:
    there = url_for("admin.mailings.show_mailing", mailing_id=mailing.id)
    theirs = fields_from_mailing(mailing)
    return render_conflict(
        MAILING_FIELDS, fields, theirs, "mailing", mailing, there, unpicked=unpicked
    )


def _render_ended(mailing: Mailing, fields: dict[str, str]) -> tuple[str, int]:
    """Render the offer to create a new mailing from changes that came after the end."""
    if mailing.started_at is not None:  # the form has no fields of recipients
        theirs = fields_from_mailing(mailing)
        fixed = {name: theirs[name] for each in FIXED_FIELDS for name in each.names}
        fields = {**fields, **fixed}
    return render_template("admin/mailing_ended.html", fields=fields, mailing=mailing), 409


def _validate(form: SubmittedForm) -> tuple[NewMailing | None, dict[str, str]]:
    """Return the mailing that a form describes, or None and the errors by field."""
    try:
        body = NewMailing.model_validate(form.document)
    except ValidationError as error:
        return None, errors_from_schema(error) | form.errors
    return (None if form.errors else body), form.errors


def _render_review(form: SubmittedForm, body: NewMailing) -> str:
    policy = find_policy()
    own = Limits.from_body(body.max_audience, body.stop_when, body.budget)
    return render_template(
        "admin/review.html",
        rules=[*describe_mailing_rules(own, Limits.of(policy))],
        launch_delay=policy.launch_delay,
        **preview_for_template(body),
        fields=form.fields,
        body=body,
        excluded=list_mailings_by_id(body.filter.exclude_mailing_ids),
        once=form_key(),
    )

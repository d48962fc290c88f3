"""The audit log, for administrators: who did what, when, found by person and by thing."""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flask import Blueprint, render_template, request
from flask_babel import LazyString, lazy_gettext
from markupsafe import Markup
from sqlalchemy import select

from api.admin.auth import require_scope
from api.admin.forms.field_errors import field_text
from api.admin.presenters.formatting import MAILING_STATUSES, ROLE_NAMES, render_instant
from api.db import db
from shared.db.audit_models import AuditEntry
from shared.domain.scopes import Scope

blueprint = Blueprint("audit", __name__)

PAGE = 50
ENTITIES = {
    "mailing": lazy_gettext("Mailing"),
    "client": lazy_gettext("Client"),
    "token": lazy_gettext("API token"),
    "opt_out": lazy_gettext("Opt-out"),
    "import": lazy_gettext("Import"),
    "test_send": lazy_gettext("Test send"),
    "report": lazy_gettext("Daily report"),
    "person": lazy_gettext("Sign-in"),
}
FIELDS: dict[str, LazyString] = {
    "name": lazy_gettext("Name"),
    "text": lazy_gettext("Text"),
    "length": lazy_gettext("characters"),
    "version": lazy_gettext("version"),
    "start_at": lazy_gettext("Start"),
    "end_at": lazy_gettext("End"),
    "filter": lazy_gettext("Recipients"),
    "operator_codes": lazy_gettext("Operator codes"),
    "operator_code": lazy_gettext("Operator code"),
    "tags": lazy_gettext("Tags"),
    "tag": lazy_gettext("Tag"),
    "timezones": lazy_gettext("Time zones"),
    "timezone": lazy_gettext("Time zone"),
    "attributes": lazy_gettext("Attributes"),
    "exclude_mailing_ids": lazy_gettext("Left out"),
    "phones": lazy_gettext("Phones"),
    "phone": lazy_gettext("Phone"),
    "window": lazy_gettext("Permitted hours"),
    "rate_limit": lazy_gettext("Limit"),
    "status": lazy_gettext("Status"),
    "messages": lazy_gettext("Messages"),
    "role": lazy_gettext("Role"),
    "scope": lazy_gettext("May do"),
    "source": lazy_gettext("Source"),
    "day": lazy_gettext("Day"),
    "outcome": lazy_gettext("Outcome"),
}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


def changes_of(entry: AuditEntry) -> Iterator[tuple[str, Markup | str | None, Markup | str | None]]:
    """What changed: the field, and its values before and after, as far as they are kept."""
    for field, value in entry.changes.items():
        label = str(FIELDS.get(field) or field)
        if not isinstance(value, dict) or set(value) != {"old", "new"}:
            yield label, None, in_words(value)
        elif value["old"] is not None or value["new"] not in (None, "", {}, []):
            old = None if value["old"] is None else in_words(value["old"])
            yield label, old, in_words(value["new"]) or "—"


def in_words(value: Any) -> Markup | str | None:
    match value:
        case None:
            return None
        case {"from": begins, "to": ends}:
            return f"{begins}–{ends}"
        case dict():
            shown = ((FIELDS.get(name, name), in_words(each)) for name, each in value.items())
            return "; ".join(f"{name}: {each}" for name, each in shown if each)
        case list():
            return ", ".join(str(in_words(each)) for each in value)
        case str() if INSTANT.fullmatch(value):
            return render_instant(datetime.fromisoformat(value))
        case str():
            return str(MAILING_STATUSES.get(value) or ROLE_NAMES.get(value) or value)
    return str(value)


@blueprint.get("/audit")
@require_scope(Scope.ADMIN)
def index() -> str:
    wanted = {name: field_text(request.args, name) for name in ("actor", "entity", "entity_id")}
    before = request.args.get("before", "")
    found = select(AuditEntry)
    if wanted["actor"]:
        found = found.where(AuditEntry.actor == wanted["actor"])
    if wanted["entity"]:
        found = found.where(AuditEntry.entity == wanted["entity"])
    if wanted["entity_id"].isdecimal() and len(wanted["entity_id"]) < 19:
        found = found.where(AuditEntry.entity_id == int(wanted["entity_id"]))
    if before.isdecimal() and len(before) < 19:
        found = found.where(AuditEntry.id < int(before))
    listed = db.session.scalars(found.order_by(AuditEntry.id.desc()).limit(PAGE + 1)).all()
    return render_template(
        "admin/audit.html",
        entries=listed[:PAGE],
        following=listed[PAGE - 1].id if len(listed) > PAGE else None,
        wanted=wanted,
        entities=ENTITIES,
        changes_of=changes_of,
        paged=bool(before),
    )

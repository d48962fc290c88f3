"""The audit log, for administrators: who did what, when; searched by person and by object."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, render_template, request, url_for
from flask_babel import lazy_gettext
from markupsafe import Markup

from api.admin.auth import require_scope
from api.admin.forms.field_errors import errors_from_service, field_text
from api.admin.forms.text_fields import read_id
from api.admin.presenters.formatting import MAILING_STATUSES, ROLE_NAMES, render_instant
from api.admin.presenters.labels import FIELD_LABELS, SESSION_ENDS
from api.admin.presenters.mailing_list import day_start, read_date
from api.audit_log import service
from api.audit_log.service import AuditFilter
from api.errors import InvalidFields
from api.schemas.fields import MAX_SEARCH_LENGTH
from shared.db.audit_models import AuditEntry
from shared.domain.scopes import Scope

blueprint = Blueprint("audit", __name__)

PAGE_SIZE = 50
ENTITIES = {
    "mailing": lazy_gettext("Mailing"),
    "client": lazy_gettext("Client"),
    "token": lazy_gettext("API token"),
    "opt_out": lazy_gettext("Opt-out"),
    "import": lazy_gettext("Import of clients"),
    "test_send": lazy_gettext("Test send"),
    "report": lazy_gettext("Daily report"),
    "person": lazy_gettext("Sign-in"),
    "session": lazy_gettext("Session"),
    "policy": lazy_gettext("Policy"),
    "sending": lazy_gettext("All sending"),
}
SEARCH_FIELDS = ("actor", "entity", "entity_id", "q", "since", "until")
PAGES_BY_ID = {
    "mailing": ("admin.mailings.show_mailing", "mailing_id"),
    "client": ("admin.clients.show_client", "client_id"),
    "import": ("admin.imports.show_import", "import_id"),
}
PAGES = {
    "token": "admin.tokens.list_tokens",
    "opt_out": "admin.opt_outs.list_opt_outs",
    "report": "admin.reports.list_reports",
    "session": "admin.sessions.list_sessions",
}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


def describe_changes(
    entry: AuditEntry,
) -> Iterator[tuple[str, Markup | str | None, Markup | str | None]]:
    """Yield each changed field's label with the old and the new value, as far as recorded."""
    for field, value in entry.changes.items():
        label = str(FIELD_LABELS.get(field) or field)
        if not isinstance(value, dict) or set(value) != {"old", "new"}:
            yield label, None, format_value(value)
        elif value["old"] is not None or value["new"] not in (None, "", {}, []):
            old = None if value["old"] is None else format_value(value["old"])
            yield label, old, format_value(value["new"]) or "—"


def format_value(value: Any) -> Markup | str | None:
    match value:
        case None:
            return None
        case {"from": begins, "to": ends}:
            return f"{begins}–{ends}"
        case dict():
            shown = (
                (FIELD_LABELS.get(name, name), format_value(each)) for name, each in value.items()
            )
            return "; ".join(f"{name}: {each}" for name, each in shown if each)
        case list():
            return ", ".join(str(format_value(each)) for each in value)
        case str() if INSTANT.fullmatch(value):
            return render_instant(datetime.fromisoformat(value))
        case str():
            names = (MAILING_STATUSES, ROLE_NAMES, SESSION_ENDS)
            return str(next((each[value] for each in names if value in each), value))
    return str(value)


def link_to(entry: AuditEntry) -> str | None:
    """Return the address of the page about an entry's object; None if there is none."""
    if entry.entity in PAGES:
        return url_for(PAGES[entry.entity])
    if entry.entity in PAGES_BY_ID and entry.entity_id is not None:
        endpoint, parameter = PAGES_BY_ID[entry.entity]
        values: dict[str, Any] = {parameter: entry.entity_id}
        return url_for(endpoint, **values)
    return None


@blueprint.get("/audit")
@require_scope(Scope.ADMIN)
def list_entries() -> str:
    wanted = {name: field_text(request.args, name) for name in SEARCH_FIELDS}
    since, until = read_date(wanted["since"]), read_date(wanted["until"])
    before_id = read_id(request.args.get("before", ""))
    filters = AuditFilter(
        actor=wanted["actor"] or None,
        entity=wanted["entity"] or None,
        entity_id=read_id(wanted["entity_id"]),
        search=wanted["q"][:MAX_SEARCH_LENGTH] or None,
        since=None if since is None else day_start(since),
        until=None if until is None else day_start(until + timedelta(days=1)),
    )
    found: Sequence[AuditEntry] = []
    problem = None
    try:
        found = service.list_entries(filters, before_id=before_id, limit=PAGE_SIZE + 1)
    except InvalidFields as error:
        problem = errors_from_service(error)["search"]
    return render_template(
        "admin/audit.html",
        entries=found[:PAGE_SIZE],
        people=service.find_people(found),
        following=found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else None,
        wanted={name: value for name, value in wanted.items() if value},
        problem=problem,
        link_to=link_to,
        entities=ENTITIES,
        changes_of=describe_changes,
        paged=before_id is not None,
    )

"""The timeline of a client: messages, opt-outs, edits, imports and test sends, the latest first."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from flask import g, url_for
from flask_babel import gettext as _

from api.admin.presenters.labels import AUDIT_ACTIONS, FIELD_LABELS, describe_reason
from api.admin.presenters.recipients import shown_status
from api.audit_log import service as audit_log
from api.audit_log.service import AuditFilter
from api.clients.history import ClientHistory, ReceivedText
from shared.db.audit_models import AuditEntry
from shared.db.models import Client
from shared.domain.scopes import Scope

MAX_ENTRIES = 50
MAX_TITLE = 60


class TimelineEvent(NamedTuple):
    """One event: a kind that gives the icon, a title, and what more is known.

    `status` is a status of messages, `actor` who did it, as far as the reader may know.
    """

    at: datetime
    kind: str
    title: str
    detail: str = ""
    address: str | None = None
    status: str | None = None
    received: ReceivedText | None = None
    actor: str | None = None


def build_timeline(client: Client, history: ClientHistory) -> list[TimelineEvent]:
    """Return the events of a client's life, the latest first."""
    entries = [
        entry
        for entity in ("client", "opt_out")
        for entry in audit_log.list_entries(
            AuditFilter(entity, client.id), before_id=None, limit=MAX_ENTRIES
        )
    ]
    people = audit_log.find_people(entries)
    shows_actors = g.person.has_scope(Scope.WRITE)

    def name_actor(actor: str) -> str | None:
        if not shows_actors:
            return None
        return people[actor].name if actor in people else actor

    events = [
        *map(_describe_message, history.messages),
        *(_describe_entry(entry, name_actor(entry.actor)) for entry in entries),
        *(
            TimelineEvent(
                row["created_at"],
                "test",
                _("Test send"),
                received=ReceivedText(row["text"], exact="{" not in row["text"]),
                actor=name_actor(row["actor"]),
            )
            for row in history.test_sends
        ),
        *_describe_origin(client, history, entries),
    ]
    return sorted(events, key=lambda event: event.at, reverse=True)


def _describe_message(row: dict[str, Any]) -> TimelineEvent:
    title = row["name"] or row["text"]
    address = None
    if not row["mailing_deleted"]:
        address = url_for("admin.mailings.show_mailing", mailing_id=row["mailing_id"])
    return TimelineEvent(
        row["sent_at"] or row["attempted_at"] or row["created_at"],
        "message",
        title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 1]}…",
        describe_reason(row["reason"]),
        address,
        shown_status(row),
        row["received"],
    )


def _describe_entry(entry: AuditEntry, actor: str | None) -> TimelineEvent:
    if entry.entity == "opt_out":
        added = entry.action == "added"
        title = _("Opted out") if added else _("Opt-out removed")
        source = entry.changes.get("source") or ""
        detail = _("Source: %(source)s", source=source) if source else ""
        return TimelineEvent(entry.at, "opt_out", title, detail, actor=actor)
    if entry.action == "updated":
        fields = ", ".join(str(FIELD_LABELS.get(name) or name) for name in entry.changes)
        return TimelineEvent(entry.at, "edit", _("Data changed"), fields, actor=actor)
    if entry.action == "created":
        return TimelineEvent(entry.at, "added", _("Client added"), actor=actor)
    action = str(AUDIT_ACTIONS.get(entry.action) or entry.action)
    return TimelineEvent(entry.at, "edit", action, actor=actor)


def _describe_origin(
    client: Client, history: ClientHistory, entries: list[AuditEntry]
) -> Iterator[TimelineEvent]:
    """Yield what the audit log has no entry of its own for: imports, and earlier opt-outs."""
    imported = history.last_import
    if imported is not None:
        number = _("Import No. %(number)s", number=imported["id"])
        address = url_for("admin.imports.show_import", import_id=imported["id"])
        title = _("Added by an import") if imported["added"] else _("Data changed by an import")
        yield TimelineEvent(imported["created_at"], "import", title, number, address)
    created = any(entry.action == "created" for entry in entries if entry.entity == "client")
    if not created and (imported is None or not imported["added"]):
        yield TimelineEvent(client.created_at, "added", _("Client added"))
    opt_out = history.opt_out
    logged = any(entry.entity == "opt_out" and entry.action == "added" for entry in entries)
    if opt_out is not None and not logged:
        detail = _("Source: %(source)s", source=opt_out.source)
        yield TimelineEvent(opt_out.created_at, "opt_out", _("Opted out"), detail)

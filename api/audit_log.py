"""The audit log: who did what, when, to which mailing, client, token, opt-out or import.

An entry is written in the transaction of the change it tells of. Clients' data is personal and the
log is kept for good, so of a client only the names of the changed fields are kept, and a phone only
masked; of a text, its length and version.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

from flask import Blueprint
from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from sqlalchemy import insert, select

from api.actor import Actor
from api.db import db
from api.http.pagination import MAX_ID, build_page
from api.openapi.operation import operation
from api.schemas.base import PageQuery
from api.schemas.fields import Instant
from api.schemas.responses import ResponseModel, format_instant
from shared.db.audit_models import AuditEntry
from shared.domain.scopes import Scope

blueprint = Blueprint("audit_log", __name__)


# The same as `record`, of a thing that a statement has just made, as a part of that statement.
RECORD_CREATED = """
INSERT INTO audit_log (actor, request_id, action, entity, entity_id)
SELECT %(actor)s, %(request_id)s, 'created', %(entity)s, made.id FROM made
"""


def record_change(
    actor: Actor,
    action: str,
    entity: str,
    entity_id: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Add an entry to the audit log, in the transaction of the change."""
    record_changes(actor, action, entity, [(entity_id, changes or {})])


def record_changes(
    actor: Actor, action: str, entity: str, objects: Iterable[tuple[int | None, Mapping[str, Any]]]
) -> None:
    """Add one entry for each object, given as its id and its changes."""
    common = {**actor_columns(actor), "action": action, "entity": entity}
    entries = [common | {"entity_id": id_, "changes": dict(changes)} for id_, changes in objects]
    if entries:
        db.session.execute(insert(AuditEntry), entries)


def actor_columns(actor: Actor) -> dict[str, str | None]:
    """Return the columns of an entry that say who acted, and in which request."""
    return {"actor": actor.name, "request_id": actor.request_id}


def diff_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """How the log writes the fields that differ, which are JSON already."""
    return {
        name: {"old": old.get(name), "new": value}
        for name, value in new.items()
        if value != old.get(name)
    }


def hide_values(fields: Iterable[str]) -> dict[str, Any]:
    """How the log writes fields whose values are personal."""
    return dict.fromkeys(fields)


EXAMPLE: dict[str, Any] = {
    "id": 901,
    "at": "2030-12-02T06:10:00.000000Z",
    "actor": "token:billing",
    "action": "updated",
    "entity": "mailing",
    "entity_id": 17,
    "changes": {
        "end_at": {"old": "2030-12-02T18:00:00.000000Z", "new": "2030-12-02T19:00:00.000000Z"}
    },
    "request_id": "6b1f0c7c4f5a4c57a0b9d5a1f0c8f7e2",
}


class AuditEntryAnswer(ResponseModel):
    """Something that was done."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    id: int
    at: datetime
    actor: str = Field(description="`token:NAME`, `bootstrap`, a person, or `command`.")
    action: str = Field(examples=["updated"])
    entity: str = Field(examples=["mailing"])
    entity_id: int | None = Field(description="Its id; null for what has none, as an opt-out.")
    changes: dict[str, Any] = Field(
        description="Each changed field with `old` and `new`, or null where the value is personal;"
        " phones are masked, texts are given by length and version."
    )
    request_id: str | None


class AuditPage(ResponseModel):
    """A page of the audit log, the newest first."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"items": [EXAMPLE], "next_cursor": "NTA"}]}
    )

    items: list[AuditEntryAnswer]
    next_cursor: str | None


def _read_id(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and int(value) <= MAX_ID:
        return int(value)
    raise PydanticCustomError("id", "must be the id of something: a whole number")


class AuditQuery(PageQuery):
    entity: str | None = Field(
        default=None, max_length=64, description="What was changed: a `mailing`, a `client`, ..."
    )
    entity_id: (
        Annotated[
            int,
            BeforeValidator(_read_id),
            WithJsonSchema({"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_ID}),
        ]
        | None
    ) = Field(default=None, description="The id of what was changed; best with `entity`.")
    actor: str | None = Field(
        default=None, max_length=200, description="Who did it, as the log writes it."
    )
    action: str | None = Field(
        default=None, max_length=64, description="What was done: `created`, `updated`, ..."
    )
    since: Instant | None = Field(default=None, description="Not before this instant.")
    until: Instant | None = Field(default=None, description="Before this instant.")


@blueprint.get("/audit")
@operation(
    "audit",
    response=AuditPage,
    description="A page of the audit log.",
    query=AuditQuery,
    scope=Scope.ADMIN,
)
def list_audit(query: AuditQuery) -> dict[str, Any]:
    """List what was done

    The newest first. Filters combine. Reading is not noted, nor is a call that changed nothing.
    """
    found = select(AuditEntry).where(AuditEntry.id < (query.cursor or MAX_ID))
    for name in ("entity", "entity_id", "actor", "action"):
        wanted = getattr(query, name)
        if wanted is not None:
            found = found.where(getattr(AuditEntry, name) == wanted)
    if query.since is not None:
        found = found.where(AuditEntry.at >= query.since)
    if query.until is not None:
        found = found.where(AuditEntry.at < query.until)
    rows = db.session.scalars(found.order_by(AuditEntry.id.desc()).limit(query.limit + 1)).all()
    return build_page(rows, query.limit, present_entry, lambda entry: entry.id)


def present_entry(entry: AuditEntry) -> dict[str, Any]:
    kept = ("id", "actor", "action", "entity", "entity_id", "changes", "request_id")
    return {"at": format_instant(entry.at)} | {name: getattr(entry, name) for name in kept}

"""The audit log: record changes, and find recorded ones.

An entry is written in the transaction of the change that it describes. Clients' data is personal
and the log is kept forever, so of a client only the names of the changed fields are recorded; a
phone is masked, and of a text the length and the version are recorded.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Text, cast, insert, or_, select, tuple_

from api.actor import Actor
from api.db import db, limited_search
from shared.db.audit_models import AuditEntry
from shared.db.people_models import Person

# Like `record_change`, as a part of the statement that creates a row: `made` is a query of its id.
RECORD_CREATED = """
INSERT INTO audit_log (actor, request_id, action, entity, entity_id)
SELECT %(actor)s, %(request_id)s, 'created', %(entity)s, made.id FROM made
"""
RECORD_CREATED_WITH_CHANGES = """
INSERT INTO audit_log (actor, request_id, action, entity, entity_id, changes)
SELECT %(actor)s, %(request_id)s, 'created', %(entity)s, made.id, %(changes)s FROM made
"""


# People found by a part of a name or an e-mail.
MAX_ACTORS = 20


class AuditFilter(NamedTuple):
    """What an entry must match; None matches everything. `until` is exclusive.

    `actor` is an actor as entries name it, or a part of the name or e-mail of people. `search` has
    words that the recorded changes contain.
    """

    entity: str | None = None
    entity_id: int | None = None
    actor: str | None = None
    action: str | None = None
    search: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def record_change(
    actor: Actor,
    action: str,
    entity: str,
    entity_id: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Add an entry in the transaction of the change."""
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
    """Return the fields that differ, with old and new value. Values are JSON already."""
    return {
        name: {"old": old.get(name), "new": value}
        for name, value in new.items()
        if value != old.get(name)
    }


def hide_values(fields: Iterable[str]) -> dict[str, Any]:
    """Return the changes of fields whose values are personal: their names alone."""
    return dict.fromkeys(fields)


def name_person(issuer: str, subject: str) -> str:
    """Return a person as an entry names one. An issuer has no fragment, so this is unique."""
    return f"person:{issuer}#{subject}"


def find_people(entries: Iterable[AuditEntry]) -> dict[str, Person]:
    """Return the people among the actors of entries, by the name of the actor."""
    return find_people_by_name(entry.actor for entry in entries)


def find_people_by_name(actors: Iterable[str | None]) -> dict[str, Person]:
    """Return the people among actors, by the name of the actor."""
    pairs = set()
    for actor in actors:
        issuer, sign, subject = (actor or "").removeprefix("person:").partition("#")
        if actor is not None and actor.startswith("person:") and sign:
            pairs.add((issuer, subject))
    if not pairs:
        return {}
    found = select(Person).where(tuple_(Person.issuer, Person.subject).in_(pairs))
    return {name_person(each.issuer, each.subject): each for each in db.session.scalars(found)}


def find_actors(part: str) -> list[str]:
    """Return the people whose name or e-mail has this part, as entries name them."""
    stated = (each.icontains(part, autoescape=True) for each in (Person.email, Person.name))
    found = select(Person).where(or_(*stated)).order_by(Person.id.desc()).limit(MAX_ACTORS)
    return [name_person(each.issuer, each.subject) for each in db.session.scalars(found)]


def list_entries(
    filters: AuditFilter, *, before_id: int | None, limit: int
) -> Sequence[AuditEntry]:
    """Return the matching entries with an id below `before_id`, the newest first."""
    if filters.entity in ("client", "mailing") and filters.entity_id is not None:
        structlog.contextvars.bind_contextvars(**{f"{filters.entity}_id": filters.entity_id})
    found = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if before_id:
        found = found.where(AuditEntry.id < before_id)
    if filters.actor is not None:
        # Entries of earlier versions name people by e-mail.
        actors = (filters.actor, *find_actors(filters.actor))
        found = found.where(or_(*(AuditEntry.actor == actor for actor in actors)))
    for name in ("entity", "entity_id", "action"):
        value = getattr(filters, name)
        if value is not None:
            found = found.where(getattr(AuditEntry, name) == value)
    if filters.since is not None:
        found = found.where(AuditEntry.at >= filters.since)
    if filters.until is not None:
        found = found.where(AuditEntry.at < filters.until)
    if not filters.search:
        return db.session.scalars(found).all()
    changes = cast(AuditEntry.changes, Text)
    words = [changes.icontains(word, autoescape=True) for word in filters.search.split()]
    with limited_search("search"):
        return db.session.scalars(found.where(*words)).all()

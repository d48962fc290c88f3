"""The audit log in the API: the query that callers send, and the responses."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from api.schemas import examples
from api.schemas.base import PageQuery
from api.schemas.fields import Instant, QueryId, Search
from api.schemas.responses import ResponseModel, with_example
from shared.db.audit_models import AuditEntry
from shared.db.people_models import Person

EXAMPLE: dict[str, Any] = {
    "id": 901,
    "at": "2030-12-02T06:10:00.000000Z",
    "actor": "token:billing",
    "person": None,
    "action": "updated",
    "entity": "mailing",
    "entity_id": 17,
    "changes": {
        "end_at": {"old": "2030-12-02T18:00:00.000000Z", "new": "2030-12-02T19:00:00.000000Z"}
    },
    "request_id": "6b1f0c7c4f5a4c57a0b9d5a1f0c8f7e2",
}


class AuditPerson(ResponseModel):
    """A person's name and e-mail. Only issuer and subject identify a person."""

    name: str
    email: str
    email_verified: bool


class AuditEntryAnswer(ResponseModel):
    """A recorded change."""

    model_config = with_example(EXAMPLE)

    id: int
    at: datetime
    actor: str = Field(
        description="`token:NAME`, `bootstrap`, `command`, `provider` (the OpenID provider), or"
        " `person:ISSUER#SUBJECT`."
    )
    person: AuditPerson | None = Field(
        description="What the OpenID provider said last about a person; null for other actors."
    )
    action: str = Field(examples=["updated"])
    entity: str = Field(examples=["mailing"])
    entity_id: int | None = Field(description="The object's id; null if it has none (an opt-out).")
    changes: dict[str, Any] = Field(
        description="Each changed field with `old` and `new`, or null if the value is personal;"
        " phones are masked, texts are given by length and version."
    )
    request_id: str | None


class AuditPage(ResponseModel):
    """A page of the audit log, the newest entry first."""

    model_config = with_example(examples.page_of(EXAMPLE))

    items: list[AuditEntryAnswer]
    next_cursor: str | None


class AuditQuery(PageQuery):
    entity: str | None = Field(
        default=None, max_length=64, description="What was changed: a `mailing`, a `client`, ..."
    )
    entity_id: QueryId | None = Field(
        default=None, description="The id of what was changed; best with `entity`."
    )
    actor: str | None = Field(
        default=None,
        max_length=600,
        description="Who did it, as the log writes it, or a part of a person's name or e-mail.",
    )
    action: str | None = Field(
        default=None, max_length=64, description="What was done: `created`, `updated`, ..."
    )
    search: Search | None = Field(
        default=None, description="Words that the recorded changes contain, in any case."
    )
    since: Instant | None = Field(default=None, description="Not before this instant.")
    until: Instant | None = Field(default=None, description="Before this instant.")


def present_entry(entry: AuditEntry, people: Mapping[str, Person]) -> dict[str, Any]:
    found = people.get(entry.actor)
    person = None if found is None else AuditPerson.present(found)
    return AuditEntryAnswer.present(entry, person=person)

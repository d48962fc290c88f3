"""Sessions of people in the API: the query that callers send, and the responses."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.schemas import examples
from api.schemas.base import Query
from api.schemas.fields import Flag
from api.schemas.responses import ResponseModel, with_example


class SessionPerson(ResponseModel):
    """Who has signed in. Only issuer and subject identify a person; the rest may change."""

    issuer: str = Field(examples=["https://id.example.com"])
    subject: str = Field(examples=["248289761001"])
    name: str
    email: str
    email_verified: bool


class SessionAnswer(ResponseModel):
    """An open session of the admin UI."""

    model_config = with_example(examples.SESSION)

    id: int
    person: SessionPerson
    role: Literal["viewer", "operator", "admin"]
    started_at: datetime
    seen_at: datetime = Field(description="The last use, to the minute.")
    expires_at: datetime


class SessionPage(ResponseModel):
    """A page of open sessions, by id."""

    model_config = with_example(examples.page_of(examples.SESSION))

    items: list[SessionAnswer]
    next_cursor: str | None


class SessionEndQuery(Query):
    of_person: Flag = Field(default=False, description="End all sessions of this person.")


def present_session(row: Mapping[str, Any]) -> dict[str, Any]:
    return SessionAnswer.present(row, person=SessionPerson.present(row))

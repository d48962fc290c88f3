"""REST routes of people's sessions of the admin UI: list and end them."""

from typing import Any

from flask import Blueprint

from api.actor import current_actor
from api.http.pagination import build_page
from api.openapi.operation import operation
from api.people import sessions
from api.people.open_sessions import list_open_sessions
from api.people.schemas import SessionEndQuery, SessionPage, present_session
from api.schemas.base import ListQuery
from shared.domain.scopes import Scope

blueprint = Blueprint("people_sessions", __name__)


@blueprint.get("/sessions")
@operation(
    "sessions",
    response=SessionPage,
    description="A page of open sessions.",
    query=ListQuery,
    scope=Scope.ADMIN,
)
def list_sessions(query: ListQuery) -> dict[str, Any]:
    """List open sessions

    Who is signed in to the admin UI: by id, the oldest first, or with `order=desc` the newest.
    """
    found = list_open_sessions(query.page())
    return build_page(found, query.limit, present_session, lambda row: int(row["id"]))


@blueprint.delete("/sessions/<id:session_id>")
@operation(
    "sessions",
    response=None,
    status=204,
    description="The session has ended.",
    query=SessionEndQuery,
    problems=(404,),
    scope=Scope.ADMIN,
)
def end_session(session_id: int, query: SessionEndQuery) -> tuple[str, int]:
    """End a session

    At once and for every copy of its cookie; with `of_person=true`, all sessions of that person.
    The person can sign in again: to prevent that, first remove the role at the OpenID provider.
    """
    if query.of_person:
        sessions.end_sessions_of_person(session_id, "admin", current_actor())
    else:
        sessions.end_session(session_id, "admin", current_actor())
    return "", 204

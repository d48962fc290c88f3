"""REST routes of mailings: create, read, change, delete, actions, preview and test sends."""

from typing import Any

from flask import Blueprint

from api.actor import current_actor
from api.budgets import find_use
from api.http.etags import VersionedResponse, format_etag, read_if_match
from api.http.idempotency import mark_replayed, read_idempotency_key
from api.http.pagination import build_page
from api.mailings import actions, service
from api.mailings.preview import preview_mailing as build_preview
from api.mailings.preview_schemas import NewTestSend, PreviewAnswer, TestSendAnswer, present_preview
from api.mailings.schemas import (
    MailingAnswer,
    MailingChanges,
    MailingPage,
    MailingQuery,
    NewMailing,
    present_mailing,
)
from api.mailings.test_sends import send_test as send_test_messages
from api.openapi.operation import operation
from api.schemas.budget_use import BudgetUseAnswer, present_budget_use
from shared.db.models import Mailing
from shared.domain.scopes import Scope

blueprint = Blueprint("mailings", __name__)

describe_action = operation(
    "mailings",
    response=MailingAnswer,
    description="The mailing as it is now.",
    problems=(404, 409),
    versioned=True,
)


@blueprint.post("/mailings")
@operation(
    "mailings",
    response=MailingAnswer,
    status=201,
    description="The created mailing.",
    body=NewMailing,
    problems=(409,),
    idempotent=True,
    versioned=True,
)
def create_mailing(body: NewMailing) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Create a mailing

    It starts by itself at `start_at`, or at once if that has passed. Its audience is chosen then.
    Send the header `Idempotency-Key`, so that repeating the request creates no second mailing.
    """
    actor = current_actor()
    created = service.create_mailing(body, actor, read_idempotency_key(body, actor))
    headers = {"Location": f"/api/v1/mailings/{created.presented['id']}", "ETag": format_etag(1)}
    return created.presented, 201, headers | mark_replayed(created.replayed)


@blueprint.get("/mailings")
@operation("mailings", response=MailingPage, description="A page of mailings.", query=MailingQuery)
def list_mailings(query: MailingQuery) -> dict[str, Any]:
    """List mailings

    By id, the oldest first; with `order=desc` the newest.
    """
    found = service.list_mailings(query.page(), service.MailingSearch.from_query(query))
    return build_page(found, query.limit, present_mailing, lambda mailing: mailing.id)


@blueprint.get("/mailings/<id:mailing_id>")
@operation(
    "mailings", response=MailingAnswer, description="The mailing.", problems=(404,), versioned=True
)
def get_mailing(mailing_id: int) -> VersionedResponse:
    """Get a mailing"""
    return _respond(service.find_mailing(mailing_id))


@blueprint.patch("/mailings/<id:mailing_id>")
@operation(
    "mailings",
    response=MailingAnswer,
    description="The mailing as it is now.",
    body=MailingChanges,
    problems=(404, 409),
    versioned=True,
)
def change_mailing(mailing_id: int, body: MailingChanges) -> VersionedResponse:
    """Change a mailing

    Before its launch everything may change. Afterwards `name`, `text`, `end_at`, `window` and
    `rate_limit` may; they apply to messages that were not attempted yet. A finished or cancelled
    mailing cannot change.
    """
    return _respond(service.change_mailing(mailing_id, body, current_actor(), read_if_match()))


@blueprint.delete("/mailings/<id:mailing_id>")
@operation(
    "mailings",
    response=None,
    status=204,
    description="The mailing is deleted.",
    problems=(404,),
    versioned=True,
)
def delete_mailing(mailing_id: int) -> tuple[str, int]:
    """Delete a mailing

    Stops its sending within a second, and removes it from lists and statistics. Its messages can
    still be read until they are old enough to be dropped (`RETENTION_DAYS`).
    """
    service.delete_mailing(mailing_id, current_actor(), read_if_match())
    return "", 204


@blueprint.post("/mailings/<id:mailing_id>/start")
@describe_action
def start_mailing(mailing_id: int) -> VersionedResponse:
    """Start a scheduled mailing now

    Its `start_at` becomes the present instant. Has no effect if it is running already.
    """
    return _respond(actions.start_mailing(mailing_id, current_actor()))


@blueprint.post("/mailings/<id:mailing_id>/pause")
@describe_action
def pause_mailing(mailing_id: int) -> VersionedResponse:
    """Pause a mailing

    Nothing more is sent within a second. A scheduled mailing that is paused does not start.
    """
    return _respond(actions.pause_mailing(mailing_id, current_actor()))


@blueprint.post("/mailings/<id:mailing_id>/resume")
@describe_action
def resume_mailing(mailing_id: int) -> VersionedResponse:
    """Resume a paused mailing

    It continues where it stopped; one that had not started starts at its time, or at once if that
    has passed.
    """
    return _respond(actions.resume_mailing(mailing_id, current_actor()))


@blueprint.post("/mailings/<id:mailing_id>/cancel")
@describe_action
def cancel_mailing(mailing_id: int) -> VersionedResponse:
    """Cancel a mailing for good

    Nothing more is sent within a second, and pending messages become cancelled. A request that is
    in flight is awaited: if the provider accepts it, its message is sent after all.
    """
    return _respond(actions.cancel_mailing(mailing_id, current_actor()))


@blueprint.post("/mailings/<id:mailing_id>/retry-failed")
@describe_action
def retry_failed(mailing_id: int) -> VersionedResponse:
    """Try the failed messages again

    They become pending and their attempts start anew; a finished mailing runs again. Possible
    before the mailing's end.
    """
    return _respond(actions.retry_failed_messages(mailing_id, current_actor()))


@blueprint.get("/mailings/<id:mailing_id>/budget")
@operation("mailings", response=BudgetUseAnswer, description="What is used up.", problems=(404,))
def get_mailing_budget(mailing_id: int) -> dict[str, Any]:
    """Get what is used up of a mailing's own budget

    Of the present day and month, by the time zone of the daily report, in SMS segments. The
    policy's budget applies as well.
    """
    return present_budget_use(find_use(service.find_mailing(mailing_id).id))


@blueprint.post("/mailings/preview")
@operation(
    "mailings",
    response=PreviewAnswer,
    description="What the mailing would be.",
    body=NewMailing,
    scope=Scope.READ,
)
def preview_mailing(body: NewMailing) -> dict[str, Any]:
    """Preview a mailing

    Takes the body of a mailing, creates nothing, and returns whom it would reach with the clients
    as they are now, how it travels as SMS, what it costs, and whether it can finish before its end.
    """
    return present_preview(build_preview(body, current_actor()))


@blueprint.post("/mailings/test-send")
@operation(
    "mailings",
    response=TestSendAnswer,
    description="The result of each message.",
    body=NewTestSend,
    problems=(409, 429),
    idempotent=True,
)
def send_test(body: NewTestSend) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Send a text to a few phones now

    Takes the same way to the provider as a mailing, but belongs to none: it appears in no audience
    and no statistics. Placeholders take the values of the client with that phone, if there is one.
    Opted-out phones are skipped. Each message is tried once, even if the circuit breaker is open,
    and the response comes when the provider has answered. The setting `TEST_SENDS_PER_MINUTE`
    limits the messages. With the header `Idempotency-Key`, a repetition sends nothing again and
    returns the results of the first request.
    """
    actor = current_actor()
    sent = send_test_messages(
        body.text, list(map(int, body.phones)), actor, read_idempotency_key(body, actor)
    )
    return {"items": sent.results}, 200, mark_replayed(sent.replayed)


def _respond(mailing: Mailing) -> VersionedResponse:
    return present_mailing(mailing), 200, {"ETag": format_etag(mailing.version)}

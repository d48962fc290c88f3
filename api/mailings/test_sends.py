"""Test sends: a text to a few phones at once, to see how it arrives before everybody gets it.

The API writes the test down and a worker sends it, so there is one way to the provider. What is
waited for is in PostgreSQL; the job is only a hint, and one that comes too late sends nothing.
"""

import time
from typing import Annotated, Any

import structlog
from flask import Blueprint, current_app, g
from pydantic import ConfigDict, Field
from sqlalchemy import text

from api import audit_log
from api.actor import current_actor
from api.db import db, fetch_all
from api.enqueue import job_queues
from api.errors import FieldError, InvalidFields, RateLimited, Unavailable
from api.openapi.operation import operation
from api.schemas.base import Body
from api.schemas.fields import Phone
from api.schemas.personalisation import MailingText
from api.schemas.responses import ResponseModel
from shared.logging.log_config import mask_phone

log = structlog.get_logger()
blueprint = Blueprint("test_sends", __name__)

MOST_PHONES = 10
# A test that no worker has taken by then is given up, and is not sent any more.
CLAIM_SECONDS = 5
POLL_SECONDS = 0.05

# One that no worker took has sent nothing, and does not count.
USED = text("""
SELECT coalesce(sum(cardinality(phones)), 0)::int AS messages,
    coalesce(ceil(60 - extract(epoch FROM now() - min(created_at))), 0)::int AS free_in
FROM test_sends WHERE created_at > now() - interval '60 seconds'
    AND (claimed_at IS NOT NULL OR expires_at > now())
""")
LOCK = text("SELECT pg_advisory_xact_lock(hashtext('test_sends'))")
BEGIN = text("""
INSERT INTO test_sends (first_message_id, text, phones, actor, expires_at)
VALUES (take_ids('message_ids', :n), :text, :phones, :actor,
    clock_timestamp() + :seconds * interval '1 second') RETURNING id
""")
LOOK = text("""
SELECT results, claimed_at IS NOT NULL AS claimed, expires_at <= clock_timestamp() AS over
FROM test_sends WHERE id = :id
""")

RESULT: dict[str, Any] = {
    "message_id": 4712,
    "phone": "79161234567",
    "outcome": "accepted",
    "reason": "accepted",
    "http_status": 200,
    "latency_ms": 12,
    "excerpt": '{"code":0,"message":"OK"}',
}


class NewTestSend(Body):
    """A text, and whom to send it to."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "Hello!", "phones": ["79161234567"]}]}
    )

    text: MailingText
    phones: Annotated[list[Phone], Field(min_length=1, max_length=MOST_PHONES)]


class Unanswered(Unavailable):
    """Some of it may have been sent, unlike when nobody took it."""


class TestResult(ResponseModel):
    """What became of one message."""

    __test__ = False
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [RESULT]})

    message_id: int
    phone: str
    outcome: str = Field(
        description="`accepted`, `rejected`, `declined`, `throttled`, `unauthorized`,"
        " `unavailable`, `unknown`, `not_sent` or `opted_out`."
    )
    reason: str
    http_status: int | None
    latency_ms: int | None
    excerpt: str = Field(description="The beginning of what the provider answered.")


class TestSendAnswer(ResponseModel):
    """What became of a test, phone by phone."""

    __test__ = False
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"items": [RESULT]}]})

    items: list[TestResult]


@blueprint.post("/mailings/test-send")
@operation(
    "mailings",
    response=TestSendAnswer,
    description="What became of each message.",
    body=NewTestSend,
    problems=(429,),
)
def send_test(body: NewTestSend) -> dict[str, Any]:
    """Send a text to a few phones now

    Through the same way as any mailing, and outside of every one: nothing of it is in audiences or
    statistics. Placeholders take the values of the client the phone belongs to, if any. Opted-out
    phones are left out. It is tried once, whatever the breaker says, and the answer comes when the
    provider's answers are there. The setting `TEST_SENDS_PER_MINUTE` limits the messages.
    """
    phones = [int(phone) for phone in dict.fromkeys(body.phones)]
    _demand_room(len(phones))
    values = {"n": len(phones), "text": body.text, "phones": phones, "actor": g.actor}
    (made,) = fetch_all(BEGIN, seconds=CLAIM_SECONDS, **values)
    changes = {
        "phones": [mask_phone(phone) for phone in phones],
        "text": {"length": len(body.text)},
    }
    audit_log.record_change(current_actor(), "sent", "test_send", made["id"], changes)
    db.session.commit()
    log.info("test_send.created", test_send_id=made["id"], messages=len(phones))
    if not job_queues().send_test(made["id"], g.request_id):
        raise Unavailable("The workers cannot be reached: nothing was sent. Try again in a moment.")
    return {"items": _await_results(made["id"])}


def _demand_room(messages: int) -> None:
    """Hold whoever sends tests at the same time back until this one is counted."""
    limit: int = current_app.config["TEST_SENDS_PER_MINUTE"]
    if messages > limit:
        raise InvalidFields(
            FieldError(f"may be at most {limit}, the limit per minute", "too_many", "/phones")
        )
    db.session.execute(LOCK)
    (used,) = fetch_all(USED)
    if used["messages"] + messages > limit:
        left = max(limit - used["messages"], 0)
        raise RateLimited(
            f"At most {limit} test messages may be sent per minute; {left} are left now.",
            seconds=max(used["free_in"], 1),
        )


def _await_results(test_id: int) -> list[dict[str, Any]]:
    while True:
        (test,) = fetch_all(LOOK, id=test_id)
        db.session.rollback()  # no connection is held while waiting
        if test["results"] is not None:
            results: list[dict[str, Any]] = test["results"]
            return results
        if test["over"]:
            if test["claimed"]:
                raise Unanswered(
                    "A worker took the test and did not answer: some of it may have been sent."
                )
            raise Unavailable(
                "No worker took the test in time: nothing was sent. Try again in a moment."
            )
        time.sleep(POLL_SECONDS)

"""Test sends: send a text to a few phones at once, to see how it arrives before a mailing starts.

The API stores the test and a worker sends it, so there is one way to the provider. The API waits
for the result in PostgreSQL. The job is only a hint: one that comes too late sends nothing.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from flask import current_app
from sqlalchemy import text

from api.actor import Actor
from api.audit_log import service as audit_log
from api.client_log import bind_owners
from api.db import db, fetch_all, session_cursor
from api.enqueue import job_queues
from api.errors import Conflict, FieldError, InvalidFields, RateLimited, Unavailable
from api.idempotency import AnswerNotStored, IdempotencyKey
from shared.db.policy import read_stop
from shared.domain.error_texts import error_text
from shared.logging.redaction import mask_phone

log = structlog.get_logger()

MAX_PHONES = 10
# A test that no worker has claimed within this time expires, and is not sent.
CLAIM_SECONDS = 5
POLL_SECONDS = 0.05

# A test that expired unclaimed has sent nothing, and does not count.
MESSAGES_OF_LAST_MINUTE = text("""
SELECT coalesce(sum(cardinality(phones)), 0)::int AS messages,
    coalesce(ceil(60 - extract(epoch FROM now() - min(created_at))), 0)::int AS free_in
FROM test_sends WHERE created_at > now() - interval '60 seconds'
    AND (claimed_at IS NOT NULL OR expires_at > now())
""")
LOCK = text("SELECT pg_advisory_xact_lock(hashtext('test_sends'))")
INSERT = text("""
INSERT INTO test_sends (first_message_id, text, phones, actor, expires_at)
VALUES (take_ids('message_ids', :n), :text, :phones, :actor,
    clock_timestamp() + :seconds * interval '1 second') RETURNING id
""")
RESULT = text("""
SELECT results, claimed_at IS NOT NULL AS claimed, expires_at <= clock_timestamp() AS expired
FROM test_sends WHERE id = :id
""")


class Unanswered(Unavailable):
    """A worker claimed the test and did not report: some messages may have been sent."""

    code = "unanswered_test_send"


class TestResults(NamedTuple):
    """The result of each message; `replayed` if an earlier request sent them."""

    results: list[dict[str, Any]]
    replayed: bool = False


def send_test(
    message: str, phones: Sequence[int], actor: Actor, key: IdempotencyKey | None = None
) -> TestResults:
    """Send a text to phones through a worker, and wait for the result of each message.

    With `key`, a repetition of an earlier request sends nothing and waits for its results; one of
    which nothing was sent is carried out.

    Raise InvalidFields or RateLimited beyond the limit per minute, Conflict during an emergency
    stop, Unavailable if nothing was sent, Unanswered if that is unknown, AnswerNotStored if the
    results are not stored any more.
    """
    phones = list(dict.fromkeys(phones))
    bind_owners(phones)
    if key is not None:
        db.session.execute(LOCK)  # of several repetitions of an expired test, one sends it
        first = key.claim()
        if first is not None and not _is_expired(first["test_send_id"]):
            return TestResults(_await_results(first["test_send_id"]), replayed=True)
    if read_stop(session_cursor()).stopped_at is not None:
        raise Conflict(
            error_text(
                "All sending is stopped, and test sends are too: an administrator can resume it."
            ),
            "sending_stopped",
        )
    _check_rate(len(phones))
    (test,) = fetch_all(
        INSERT, n=len(phones), text=message, phones=phones, actor=actor.name, seconds=CLAIM_SECONDS
    )
    changes = {"phones": [mask_phone(phone) for phone in phones], "text": {"length": len(message)}}
    audit_log.record_change(actor, "sent", "test_send", test["id"], changes)
    if key is not None:
        key.store({"test_send_id": test["id"]})
    db.session.commit()
    log.info("test_send.created", test_send_id=test["id"], messages=len(phones))
    if not job_queues().enqueue_test_send(test["id"], actor.request_id):
        raise Unavailable(
            error_text("The workers cannot be reached: nothing was sent. Try again in a moment."),
            code="workers_unavailable",
        )
    return TestResults(_await_results(test["id"]))


def _is_expired(test_id: int) -> bool:
    """Return whether a test can never be sent any more. Raise AnswerNotStored."""
    found = fetch_all(RESULT, id=test_id)
    if not found:
        raise AnswerNotStored(
            error_text("It was sent before; its results are not stored any more.")
        )
    return bool(found[0]["expired"] and not found[0]["claimed"])


def _check_rate(messages: int) -> None:
    """Check the limit per minute; concurrent test sends wait until this one is counted."""
    limit: int = current_app.config["TEST_SENDS_PER_MINUTE"]
    if messages > limit:
        raise InvalidFields(
            FieldError(
                error_text("may be at most %(limit)s, the limit per minute", limit=limit),
                "too_many",
                "/phones",
            )
        )
    db.session.execute(LOCK)
    (used,) = fetch_all(MESSAGES_OF_LAST_MINUTE)
    if used["messages"] + messages > limit:
        left = max(limit - used["messages"], 0)
        raise RateLimited(
            error_text(
                "At most %(limit)s test messages may be sent per minute; %(left)s are left now.",
                limit=limit,
                left=left,
            ),
            seconds=max(used["free_in"], 1),
            code="too_many_test_sends",
        )


def _await_results(test_id: int) -> list[dict[str, Any]]:
    while True:
        (test,) = fetch_all(RESULT, id=test_id)
        db.session.rollback()  # release the connection while waiting
        if test["results"] is not None:
            results: list[dict[str, Any]] = test["results"]
            return results
        if test["expired"]:
            if test["claimed"]:
                raise Unanswered(
                    error_text(
                        "A worker took the test and did not answer: some of it may have been sent."
                    )
                )
            raise Unavailable(
                error_text(
                    "No worker took the test in time: nothing was sent. Try again in a moment."
                ),
                code="workers_unavailable",
            )
        time.sleep(POLL_SECONDS)

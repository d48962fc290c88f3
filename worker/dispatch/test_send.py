"""Sends a test: a text to a few phones at once, outside of every mailing.

Tests are needed most during a problem, so the circuit breaker is not consulted. The provider's rate
limit is, and everything is bounded in time. A test is claimed before it is sent, so that none is
sent twice.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from shared.config.settings import WorkerSettings
from shared.db.minute_counts import (
    IN_DOUBT_SEGMENTS,
    SENT_SEGMENTS,
    TEST_SENDS,
    MinuteKey,
    add_minute_counts,
)
from shared.db.policy import STOPPED, read_stop
from shared.domain.phones import derive_operator_code
from shared.domain.segments import count_segments
from shared.domain.templates import RenderingError, compile_stored_template
from shared.logging.redaction import mask_phone
from worker.dispatch.claim_queries import CLIENT_VALUES
from worker.dispatch.leased_batch import encode_body_end
from worker.provider.http.client import HttpClient, Request, Result
from worker.provider.outcomes import Failure, Outcome
from worker.provider.rate_limiter import RateLimiter
from worker.provider.redis_client import FailFastRedis, sending_loop_client
from worker.runtime.clock import boottime
from worker.runtime.database import Database, DatabaseError

log = structlog.get_logger()

# A person waits for the result, so this limits PROVIDER_TIMEOUT.
MAX_EXCHANGE_SECONDS = 15.0
# How long a message may wait for a rate slot.
MAX_WAIT_SECONDS = 5.0
RECORD_SECONDS = 2.0
POLL_SECONDS = 0.02
STOP_CHECK_SECONDS = 0.4
OPTED_OUT = "opted_out"
# How the segments of a test are counted, by its outcome; those of others are not.
COUNTED_AS = {Outcome.ACCEPTED: SENT_SEGMENTS, Outcome.UNKNOWN: IN_DOUBT_SEGMENTS}

CLAIM = f"""
UPDATE test_sends SET claimed_at = now(), expires_at = now() + %s * interval '1 second'
WHERE id = %s AND claimed_at IS NULL AND expires_at > now()
    AND NOT {STOPPED}
RETURNING text, phones, first_message_id
"""  # noqa: S608 (STOPPED is a constant)
# Of each phone: its client, whether it has opted out, and the values of the client.
RECIPIENTS = f"""
SELECT t.phone, c.id, o.phone IS NOT NULL, CASE WHEN c.id IS NOT NULL THEN {CLIENT_VALUES} END
FROM unnest(%s::bigint[]) AS t (phone)
LEFT JOIN opt_outs o ON o.phone = t.phone LEFT JOIN clients c ON c.phone = t.phone
"""  # noqa: S608 (CLIENT_VALUES is a constant)
CLIENTS = """
SELECT c.id FROM test_sends t JOIN clients c ON c.phone = ANY (t.phones)
WHERE t.id = %s ORDER BY c.id
"""
FINISH = "UPDATE test_sends SET results = %s, finished_at = now() WHERE id = %s"


class TestMessage(Request):
    """A test's request; `expires` is the boottime before which it must be sent."""

    __slots__ = ("expires",)

    expires: float


class StopCheck:
    """Reads twice a second whether an emergency stop has begun; an error changes nothing."""

    def __init__(self, db: Database):
        self._db = db
        self._stopped = False
        self._read_at = 0.0

    def is_stopped(self, now: float) -> bool:
        """Return whether nothing more may be sent; `now` is a boottime."""
        if now - self._read_at > STOP_CHECK_SECONDS:
            self._read_at = now
            with suppress(DatabaseError), self._db.transaction() as cursor:
                self._stopped = read_stop(cursor).stopped_at is not None
        return self._stopped


def start_test_send(
    settings: WorkerSettings, token: str, test_id: int, request_id: str | None
) -> None:
    """Send a test in a thread of its own, so that launches and sweeps do not wait for it."""
    threading.Thread(
        target=_run_thread, args=(settings, token, test_id, request_id), name=f"test-send-{test_id}"
    ).start()


def _run_thread(settings: WorkerSettings, token: str, test_id: int, request_id: str | None) -> None:
    db = Database(settings.database_url, "notification-test-send")
    with structlog.contextvars.bound_contextvars(request_id=request_id, test_send_id=test_id):
        try:
            send_test(db, settings, token, test_id, request_id)
        except DatabaseError as error:
            log.warning("database.unavailable", what="test send", error=str(error).strip())
        except Exception:  # the end of a thread: logged, as nothing else would see it
            log.exception("test_send.failed", client_ids=_find_clients(db, test_id))
        finally:
            db.close()


def _find_clients(db: Database, test_id: int) -> list[int]:
    """Return the ids of the clients of a test, or none if PostgreSQL does not respond."""
    try:
        with db.transaction() as cursor:
            cursor.execute(CLIENTS, (test_id,))
            return [client_id for (client_id,) in cursor.fetchall()]
    except DatabaseError:
        return []


def send_test(
    db: Database, settings: WorkerSettings, token: str, test_id: int, request_id: str | None
) -> None:
    """Claim a test, send it, and record the result of each message."""
    timeout = min(settings.provider_timeout, MAX_EXCHANGE_SECONDS)
    with db.transaction() as cursor:
        cursor.execute(CLAIM, (MAX_WAIT_SECONDS + timeout + RECORD_SECONDS, test_id))
        row = cursor.fetchone()
        if row is None:
            return  # claimed by another worker, expired, or all sending is stopped
        text, phones, first_id = row
        cursor.execute(RECIPIENTS, (phones,))
        recipients = {phone: columns for phone, *columns in cursor.fetchall()}
    messages: deque[TestMessage] = deque()
    results: dict[int, dict[str, Any]] = {}
    segments: dict[int, int] = {}
    minutes: Counter[MinuteKey] = Counter()
    for message_id, phone in enumerate(phones, first_id):
        _, opted_out, values = recipients[phone]
        results[message_id] = _unsent(Outcome.NOT_SENT, "provider_rate")
        if opted_out:
            results[message_id] = _unsent(OPTED_OUT, OPTED_OUT)
            continue
        try:
            rendered = _render(text, phone, values)
        except RenderingError as error:
            results[message_id] = _unsent(Outcome.NOT_SENT, str(error))
        else:
            segments[message_id] = count_segments(rendered)
            body = b'{"id":%d,"phone":%d%b' % (message_id, phone, encode_body_end(rendered))
            messages.append(TestMessage(message_id, body, request_id))
    for result in _send(settings, token, messages, timeout, StopCheck(db)):
        sent_at = datetime.fromtimestamp(result.finished_at, UTC)
        if what := COUNTED_AS.get(result.outcome):
            minutes[MinuteKey(TEST_SENDS, sent_at, what)] += segments[result.request.message_id]
        results[result.request.message_id] = {
            "outcome": str(result.outcome),
            "reason": result.reason,
            "http_status": result.http_status,
            "latency_ms": int(result.latency * 1000),
            "excerpt": result.excerpt,
        }
    items = []
    for message_id, phone in enumerate(phones, first_id):
        item = results[message_id]
        logged = {name: value for name, value in item.items() if name != "excerpt"}
        if recipients[phone][0] is not None:
            logged["client_id"] = recipients[phone][0]
        log.info("test_send.message", message_id=message_id, phone=mask_phone(phone), **logged)
        items.append({"message_id": message_id, "phone": str(phone), **item})
    with db.transaction() as cursor:
        cursor.execute(FINISH, (orjson.dumps(items).decode(), test_id))
        add_minute_counts(cursor, minutes)


def _unsent(outcome: str, reason: str) -> dict[str, Any]:
    """Return the result of a message that was not sent."""
    item = {"outcome": str(outcome), "reason": reason, "http_status": None}
    return item | {"latency_ms": None, "excerpt": ""}


def _render(text: str, phone: int, values: dict[str, str] | None) -> str:
    """Render the text, without a client from the phone alone. Raises RenderingError."""
    values = values or {"phone": str(phone), "operator_code": derive_operator_code(phone)}
    return compile_stored_template(text).render(values)


def _send(
    settings: WorkerSettings,
    token: str,
    waiting: deque[TestMessage],
    timeout: float,
    stop: StopCheck,
) -> Iterator[Result[TestMessage]]:
    """Send messages; yield the results of those that got a rate slot in time."""
    if not waiting:
        return
    redis = FailFastRedis(sending_loop_client(settings.redis_url))
    limiter = RateLimiter(redis, settings.provider_rate)
    http_client = HttpClient[TestMessage](
        base_url=settings.provider_url,
        token=token,
        concurrency=len(waiting),
        timeout=timeout,
        may_send=lambda message: boottime() < message.expires,
    )
    latest = boottime() + MAX_WAIT_SECONDS
    try:
        while http_client.in_flight or (waiting and boottime() < latest):
            now = boottime()
            if stop.is_stopped(now):
                waiting.clear()
            limiter.refill({0: (None, len(waiting))}, now)
            while waiting and now < latest and (expires := limiter.acquire(0, None, now)):
                message = waiting.popleft()
                message.expires = min(expires, latest)
                http_client.submit(message)
            for result in http_client.poll(POLL_SECONDS):
                if result.outcome is Outcome.NOT_SENT and result.reason != Failure.OPEN_FILES:
                    waiting.append(result.request)
                else:
                    yield result
    finally:
        http_client.close()

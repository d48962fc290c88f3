"""Sends a test: a text to a few phones at once, through the same client, outside of every mailing.

A test is wanted most when something is wrong, so the breaker is not asked; the provider's rate is,
and everything is bounded in time. A test is claimed before it is sent, so none is sent twice.
"""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import structlog

from shared.config.settings import WorkerSettings
from shared.domain.templates import RenderingError, compile_stored_template
from shared.logging.log_config import mask_phone
from worker.dispatch.claim_queries import VALUES
from worker.dispatch.leased_batch import text_tail
from worker.provider.http.client import HttpClient, Request, Result
from worker.provider.outcomes import Outcome
from worker.provider.rate_limiter import RateLimiter
from worker.provider.redis_client import FailFastRedis, fail_fast_client
from worker.runtime.clock import boottime
from worker.runtime.database import Database, DatabaseError

log = structlog.get_logger()

# However patient mailings are, somebody waits for a test.
LONGEST_EXCHANGE = 15.0
# For so long a message may wait for its turn within the provider's rate.
TURN_SECONDS = 5.0
RECORD_SECONDS = 2.0
OPTED_OUT = "opted_out"

CLAIM = """
UPDATE test_sends SET claimed_at = now(), expires_at = now() + %s * interval '1 second'
WHERE id = %s AND claimed_at IS NULL AND expires_at > now()
RETURNING text, phones, first_message_id
"""
# What is known of each phone: whether it is opted out, and the values of the client it belongs to.
KNOWN = f"""
SELECT t.phone, o.phone IS NOT NULL, CASE WHEN c.id IS NOT NULL THEN {VALUES} END
FROM unnest(%s::bigint[]) AS t (phone)
LEFT JOIN opt_outs o ON o.phone = t.phone LEFT JOIN clients c ON c.phone = t.phone
"""  # noqa: S608 (VALUES is a constant)
FINISH = "UPDATE test_sends SET results = %s, finished_at = now() WHERE id = %s"


class Turn(Request):
    """A request of a test; `expires` is the boottime before which it must leave."""

    __slots__ = ("expires",)

    expires: float


class Unsent(NamedTuple):
    """Why a message is not handed off."""

    outcome: str
    reason: str


NO_TURN = Unsent(str(Outcome.NOT_SENT), "provider_rate")


def start(settings: WorkerSettings, test_id: int, request_id: str | None) -> None:
    """Send a test on a thread of its own: launches and sweeps do not wait for the provider."""
    threading.Thread(
        target=_run, args=(settings, test_id, request_id), name=f"test-send-{test_id}"
    ).start()


def _run(settings: WorkerSettings, test_id: int, request_id: str | None) -> None:
    db = Database(settings.database_url, "notification-test-send")
    with structlog.contextvars.bound_contextvars(request_id=request_id, test_send_id=test_id):
        try:
            run(db, settings, test_id, request_id)
        except DatabaseError as error:
            log.warning("database.unavailable", what="test send", error=str(error).strip())
        except Exception:
            log.exception("test_send.failed")
        finally:
            db.close()


def run(db: Database, settings: WorkerSettings, test_id: int, request_id: str | None) -> None:
    """Claim a test, send it, and write down what became of each message."""
    timeout = min(settings.provider_timeout, LONGEST_EXCHANGE)
    with db.transaction() as cursor:
        cursor.execute(CLAIM, (TURN_SECONDS + timeout + RECORD_SECONDS, test_id))
        row = cursor.fetchone()
        if row is None:
            return  # another worker has it, or nobody waits for it any more
        text, phones, first_id = row
        cursor.execute(KNOWN, (phones,))
        known = {phone: (opted_out, values) for phone, opted_out, values in cursor.fetchall()}
    turns: deque[Turn] = deque()
    ends: dict[int, Result[Turn] | Unsent] = {}
    for message_id, phone in enumerate(phones, first_id):
        made = _make(text, message_id, phone, *known[phone], request_id)
        if isinstance(made, Turn):
            turns.append(made)
        else:
            ends[message_id] = made
    ends |= {each.request.message_id: each for each in _exchange(settings, turns, timeout)}
    results = []
    for message_id, phone in enumerate(phones, first_id):
        end = _describe(ends.get(message_id, NO_TURN))
        shown = {name: value for name, value in end.items() if name != "excerpt"}
        log.info("test_send.message", message_id=message_id, phone=mask_phone(phone), **shown)
        results.append({"message_id": message_id, "phone": str(phone), **end})
    with db.transaction() as cursor:
        cursor.execute(FINISH, (orjson.dumps(results).decode(), test_id))


def _make(
    text: str,
    message_id: int,
    phone: int,
    opted_out: bool,
    values: dict[str, str] | None,
    request_id: str | None,
) -> Turn | Unsent:
    if opted_out:
        return Unsent(OPTED_OUT, OPTED_OUT)
    digits = str(phone)
    try:
        rendered = compile_stored_template(text).render(
            values or {"phone": digits, "operator_code": digits[1:4]}
        )
    except RenderingError as why:
        return Unsent(str(Outcome.NOT_SENT), str(why))
    return Turn(
        message_id, b'{"id":%d,"phone":%d%b' % (message_id, phone, text_tail(rendered)), request_id
    )


def _exchange(
    settings: WorkerSettings, waiting: deque[Turn], timeout: float
) -> Iterator[Result[Turn]]:
    """The results of those that found their turn in time."""
    if not waiting:
        return
    limiter = RateLimiter(
        FailFastRedis(fail_fast_client(settings.redis_url)), settings.provider_rate
    )
    client: HttpClient[Turn] = HttpClient(
        base_url=settings.provider_url,
        token=settings.provider_token.get_secret_value(),
        concurrency=len(waiting),
        timeout=timeout,
        may_send=lambda request: boottime() < request.expires,
    )
    latest = boottime() + TURN_SECONDS
    try:
        while client.in_flight or (waiting and boottime() < latest):
            now = boottime()
            limiter.refill({0: (None, len(waiting))}, now)
            while waiting and now < latest and (expires := limiter.acquire(0, None, now)):
                turn = waiting.popleft()
                turn.expires = min(expires, latest)
                client.submit(turn)
            for result in client.poll(0.02):
                if result.outcome is Outcome.NOT_SENT:
                    waiting.append(result.request)
                else:
                    yield result
    finally:
        client.close()


def _describe(end: Result[Turn] | Unsent) -> dict[str, Any]:
    sent = end if isinstance(end, Result) else None
    return {
        "outcome": str(end.outcome),
        "reason": end.reason,
        "http_status": sent.http_status if sent else None,
        "latency_ms": int(sent.latency * 1000) if sent else None,
        "excerpt": sent.excerpt if sent else "",
    }

"""What became of one hand-off: an answer, or the failure to get one, in; an outcome out.

Pure, and the only place that reads the provider's answers. An answer is judged by its status
alone, save for 200, where only the body tells acceptance from anything else.
"""

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

import orjson

MAX_RETRY_AFTER = 3600.0
EXCERPT_LENGTH = 200


class Outcome(StrEnum):
    """How one attempt ended. What follows from it is the dispatcher's decision."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DECLINED = "declined"
    THROTTLED = "throttled"
    UNAUTHORIZED = "unauthorized"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"
    NOT_SENT = "not_sent"

    @property
    def burns_attempt(self) -> bool:
        """It counts against the message's attempts."""
        return self not in _BURNS_NO_ATTEMPT

    @property
    def in_doubt(self) -> bool:
        """The provider may have the message although it did not say so."""
        return self is Outcome.UNKNOWN

    @property
    def provider_works(self) -> bool:
        """The provider answered as one that is well: the breaker may close."""
        return self in _PROVIDER_WORKS

    @property
    def final(self) -> bool:
        """The message is not to be handed over again."""
        return self in _FINAL

    @property
    def trips_breaker(self) -> bool:
        """A run of these means that the provider is not well."""
        return self in _TRIPS_BREAKER


_BURNS_NO_ATTEMPT = frozenset({Outcome.THROTTLED, Outcome.UNAUTHORIZED, Outcome.NOT_SENT})
_PROVIDER_WORKS = frozenset({Outcome.ACCEPTED, Outcome.REJECTED, Outcome.DECLINED})
_FINAL = frozenset({Outcome.ACCEPTED, Outcome.REJECTED})
_TRIPS_BREAKER = frozenset({Outcome.UNAVAILABLE, Outcome.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome and what there is to say about it."""

    outcome: Outcome
    http_status: int | None
    retry_after: float | None  # seconds from now, within [0, MAX_RETRY_AFTER]
    excerpt: str  # the beginning of the answer, fit for a log line and a database
    reason: str  # short and machine-readable: http_422, timeout, not_json


# Providers say the same few things a million times, so what a 200's body means is remembered.
_KNOWN_BODIES: dict[bytes, Verdict] = {}
_KNOWN_BODIES_MAX = 1024
_KNOWN_BODY_LENGTH = 256


def classify_answer(
    status: int, body: bytes, retry_after_header: str | None, too_long: bool, now: float
) -> Verdict:
    """Judge a complete answer, or one that was cut because it was `too_long`."""
    if status == 200 and not too_long:
        known = _KNOWN_BODIES.get(body)
        if known is not None:
            return known
        outcome, reason = _judge_body(body)
        verdict = Verdict(outcome, 200, None, make_excerpt(body), reason)
        if len(body) <= _KNOWN_BODY_LENGTH:
            if len(_KNOWN_BODIES) >= _KNOWN_BODIES_MAX:
                _KNOWN_BODIES.clear()
            _KNOWN_BODIES[body] = verdict
        return verdict
    retry_after = parse_retry_after(retry_after_header, now)
    outcome = _judge_status(status, told_to_wait=retry_after is not None)
    reason = f"http_{status}"
    if 300 <= status < 400:
        reason = "redirect"
    elif too_long and outcome is Outcome.UNKNOWN:
        reason = "too_long"
    return Verdict(outcome, status, retry_after, make_excerpt(body), reason)


def _judge_status(status: int, *, told_to_wait: bool) -> Outcome:
    if status in (401, 403):
        return Outcome.UNAUTHORIZED
    if status == 429 or (status == 503 and told_to_wait):
        return Outcome.THROTTLED
    if status in (408, 425) or 500 <= status < 600:
        return Outcome.UNAVAILABLE
    if 400 <= status < 500:
        return Outcome.REJECTED
    return Outcome.UNKNOWN


def _judge_body(body: bytes) -> tuple[Outcome, str]:
    """Read a 200's body. Only an object with an integer `code` is an answer."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Outcome.UNKNOWN, "not_json"
    if type(answer) is not dict:
        return Outcome.UNKNOWN, "not_object"
    if "code" not in answer:
        return Outcome.UNKNOWN, "code_missing"
    code = answer["code"]
    if type(code) is not int:  # not isinstance: to Python, True and False are integers
        return Outcome.UNKNOWN, "code_not_integer"
    return (Outcome.ACCEPTED if code == 0 else Outcome.DECLINED), f"code_{code}"


class Failure(StrEnum):
    """Why there is no complete answer; the values are reasons, as logs and attempts have them."""

    NOT_PERMITTED = "not_permitted"  # by our own side, in the last moment
    DNS = "dns"
    CONNECTION_REFUSED = "connection_refused"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    TIMEOUT = "timeout"
    RESET = "reset"
    TRUNCATED = "truncated"
    TOO_LONG = "too_long"
    NOT_HTTP = "not_http"


def classify_failure(
    failure: Failure, handed_off: bool, *, http_status: int | None = None, detail: str = ""
) -> Verdict:
    """Judge an exchange that ended without a complete answer.

    Once handed off, a request may have been read whatever went wrong afterwards. Before that
    nothing can have been.
    """
    if handed_off:
        outcome = Outcome.UNKNOWN
    elif failure is Failure.NOT_PERMITTED:
        outcome = Outcome.NOT_SENT
    else:
        outcome = Outcome.UNAVAILABLE
    excerpt = make_excerpt(detail.encode("utf-8", "replace"))
    return Verdict(outcome, http_status, None, excerpt, str(failure))


def parse_retry_after(header: str | None, now: float) -> float | None:
    """Read `Retry-After`, seconds or an HTTP date, into bounded seconds from `now`.

    What cannot be read tells nothing, so it is as good as absent.
    """
    if header is None:
        return None
    text = header.strip()
    if re.fullmatch(r"[0-9]+", text):
        # Measured by its length first: Python refuses to read integers of thousands of digits.
        digits = text.lstrip("0")
        return min(float(digits or 0), MAX_RETRY_AFTER) if len(digits) < 10 else MAX_RETRY_AFTER
    try:
        date = parsedate_to_datetime(text)
        # HTTP dates are UTC, also in the forms that Python reads as having no zone.
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def make_excerpt(body: bytes) -> str:
    """The beginning of an answer as one line of printable characters."""
    text = body[: EXCERPT_LENGTH * 4].decode("utf-8", "replace")
    text = "".join(char for char in " ".join(text.split()) if char.isprintable())
    return text[:EXCERPT_LENGTH]

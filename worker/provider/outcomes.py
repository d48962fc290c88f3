"""Classifies the end of a request: a response or a failure in, an outcome out.

Pure functions, and the only place that interprets the provider's responses. A response is
classified by its status alone, except that a 200 is accepted only if its body says so.
"""

import codecs
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

import orjson

MAX_RETRY_AFTER_SECONDS = 3600.0
EXCERPT_LENGTH = 200
MAX_EXACT_FLOAT = 2**53  # larger integers are rounded when they are parsed as a float


class Outcome(StrEnum):
    """How one attempt ended; the dispatcher decides what follows."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DECLINED = "declined"
    THROTTLED = "throttled"
    UNAUTHORIZED = "unauthorized"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"
    NOT_SENT = "not_sent"

    @property
    def counts_attempt(self) -> bool:
        """It counts towards the message's attempts."""
        return self not in _NOT_COUNTED

    @property
    def in_doubt(self) -> bool:
        """The provider may have the message although it did not confirm that."""
        return self is Outcome.UNKNOWN

    @property
    def provider_works(self) -> bool:
        """The provider answered normally: the circuit breaker may close."""
        return self in _PROVIDER_WORKS

    @property
    def final(self) -> bool:
        """The message must not be sent again."""
        return self in _FINAL

    @property
    def trips_breaker(self) -> bool:
        """A run of these opens the circuit breaker."""
        return self in _TRIPS_BREAKER


_NOT_COUNTED = frozenset({Outcome.THROTTLED, Outcome.UNAUTHORIZED, Outcome.NOT_SENT})
_PROVIDER_WORKS = frozenset({Outcome.ACCEPTED, Outcome.REJECTED, Outcome.DECLINED})
_FINAL = frozenset({Outcome.ACCEPTED, Outcome.REJECTED})
_TRIPS_BREAKER = frozenset({Outcome.UNAVAILABLE, Outcome.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Classification:
    """An outcome and its details."""

    outcome: Outcome
    http_status: int | None
    retry_after: float | None  # seconds from now, within [0, MAX_RETRY_AFTER_SECONDS]
    excerpt: str  # the beginning of the response, fit for a log line and a database
    reason: str  # short and machine-readable: http_422, timeout, not_json


# Providers repeat a few bodies a million times, so the classification of a 200's body is cached.
_BODY_CACHE: dict[bytes, Classification] = {}
_MAX_CACHED_BODIES = 1024
_MAX_CACHED_BODY_LENGTH = 256


def classify_response(
    status: int, body: bytes, retry_after_header: str | None, too_long: bool, now: float
) -> Classification:
    """Classify a complete response, or one that was cut because it was `too_long`."""
    if status == 200 and not too_long:
        cached = _BODY_CACHE.get(body)
        if cached is not None:
            return cached
        outcome, reason = _classify_body(body)
        classification = Classification(outcome, 200, None, make_excerpt(body), reason)
        if len(body) <= _MAX_CACHED_BODY_LENGTH:
            if len(_BODY_CACHE) >= _MAX_CACHED_BODIES:
                _BODY_CACHE.clear()
            _BODY_CACHE[body] = classification
        return classification
    retry_after = parse_retry_after(retry_after_header, now)
    outcome = _classify_status(status, has_retry_after=retry_after is not None)
    reason = f"http_{status}"
    if 300 <= status < 400:
        reason = "redirect"
    elif too_long and outcome is Outcome.UNKNOWN:
        reason = "too_long"
    return Classification(outcome, status, retry_after, make_excerpt(body), reason)


def _classify_status(status: int, *, has_retry_after: bool) -> Outcome:
    if status in (401, 403):
        return Outcome.UNAUTHORIZED
    if status == 429 or (status == 503 and has_retry_after):
        return Outcome.THROTTLED
    if status in (408, 425) or 500 <= status < 600:
        return Outcome.UNAVAILABLE
    if 400 <= status < 500:
        return Outcome.REJECTED
    return Outcome.UNKNOWN


def _classify_body(body: bytes) -> tuple[Outcome, str]:
    """Classify a 200's body. Only an object with an integer `code` is a valid response.

    JSON has one kind of number: 0.0 is the integer 0.
    """
    try:
        response = orjson.loads(body.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError:
        return Outcome.UNKNOWN, "not_json"
    if type(response) is not dict:
        return Outcome.UNKNOWN, "not_object"
    if "code" not in response:
        return Outcome.UNKNOWN, "code_missing"
    code = response["code"]
    if type(code) is float and code.is_integer() and abs(code) < MAX_EXACT_FLOAT:
        code = int(code)
    if type(code) is not int:  # not isinstance: to Python, True and False are integers
        return Outcome.UNKNOWN, "code_not_integer"
    return (Outcome.ACCEPTED if code == 0 else Outcome.DECLINED), f"code_{code}"


class Failure(StrEnum):
    """Why there is no complete response; the values are the reasons in logs and attempts."""

    NOT_PERMITTED = "not_permitted"  # by this side, right before sending
    OPEN_FILES = "open_files"  # this process or machine has no free file descriptor
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
    failure: Failure, sent: bool, *, http_status: int | None = None, detail: str = ""
) -> Classification:
    """Classify a request that ended without a complete response.

    Once sent, a request may have reached the provider whatever failed afterwards; before that it
    cannot have.
    """
    if sent:
        outcome = Outcome.UNKNOWN
    elif failure in (Failure.NOT_PERMITTED, Failure.OPEN_FILES):
        outcome = Outcome.NOT_SENT
    else:
        outcome = Outcome.UNAVAILABLE
    excerpt = make_excerpt(detail.encode("utf-8", "replace"))
    return Classification(outcome, http_status, None, excerpt, str(failure))


def parse_retry_after(header: str | None, now: float) -> float | None:
    """Convert `Retry-After`, seconds or an HTTP date, into bounded seconds from `now`.

    An invalid header is treated as absent.
    """
    if header is None:
        return None
    text = header.strip()
    if re.fullmatch(r"[0-9]+", text):
        # Compare the length first: Python refuses to parse integers of thousands of digits.
        digits = text.lstrip("0")
        if len(digits) >= 10:
            return MAX_RETRY_AFTER_SECONDS
        return min(float(digits or 0), MAX_RETRY_AFTER_SECONDS)
    try:
        date = parsedate_to_datetime(text)
        # HTTP dates are UTC, also in the forms that Python parses as having no zone.
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def make_excerpt(body: bytes) -> str:
    """Return the beginning of a response as one line of printable characters."""
    text = body[: EXCERPT_LENGTH * 4].decode("utf-8", "replace")
    text = "".join(char for char in " ".join(text.split()) if char.isprintable())
    return text[:EXCERPT_LENGTH]

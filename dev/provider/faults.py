"""What the provider can answer, and every way an answer can go wrong."""

import itertools
import random
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from functools import cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dev.provider.http1 import Response

BIG_BODY = 10 * 1000 * 1000
BOMB_INFLATED = 64 * 1024 * 1024

Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
HeaderText = Annotated[str, Field(min_length=1, pattern=r"^[\x21-\x7e]+$")]


class FaultSettings(BaseModel):
    """The settings that shape a fault's response."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    retry_after: Annotated[int, Field(ge=0)] = 3
    late_after: Seconds = 15.0
    drip_interval: Seconds = 1.0
    redirect_to: HeaderText = "http://elsewhere.invalid/"


class ConnectionEnd(Enum):
    """What happens to the connection after a reaction."""

    KEEP = "kept open if the client wants that"
    CLOSE = "closed in order"
    RESET = "reset"
    HANG = "left open; nothing more is read or sent"


@dataclass(frozen=True, slots=True)
class Reaction:
    """What the provider does about one request: send a response, or raw bytes at an interval."""

    response: Response | None = None
    raw: Iterable[bytes] = ()
    interval: float = 0.0  # seconds between the raw pieces
    delay: float = 0.0  # seconds before anything is sent
    end: ConnectionEnd = ConnectionEnd.KEEP


@dataclass(frozen=True, slots=True)
class Answer:
    """One kind of answer; `accepts` says whether the message counts as accepted."""

    accepts: bool
    react: Callable[[FaultSettings], Reaction]


OK = Response(200, b'{"code":0,"message":"OK"}')
ACCEPT = Reaction(OK)
# The bytes of OK, for faults of the framing.
_OK_BYTES = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n"
_OK_BYTES += b'{"code":0,"message":"OK"}'


def error_response(status: int, message: str, *headers: tuple[str, str]) -> Response:
    """Return an error in the provider's format; `message` must need no JSON escapes."""
    return Response(status, b'{"code":%d,"message":"%b"}' % (status, message.encode()), *headers)


def _fixed(reaction: Reaction, accepts: bool = False) -> Answer:
    return Answer(accepts, lambda settings: reaction)


def _refuse(status: int, body: bytes = b"", content_type: str = "application/json") -> Answer:
    return _fixed(Reaction(Response(status, body, content_type=content_type)))


def _fail(status: int, message: str, *headers: tuple[str, str]) -> Answer:
    return _fixed(Reaction(error_response(status, message, *headers)))


def _send_raw(data: bytes, end: ConnectionEnd, accepts: bool = False) -> Answer:
    return _fixed(Reaction(raw=(data,), end=end), accepts)


def _retry_later(status: int, message: str) -> Answer:
    def react(settings: FaultSettings) -> Reaction:
        retry_after = ("Retry-After", str(settings.retry_after))
        return Reaction(error_response(status, message, retry_after))

    return Answer(False, react)


def _throttle_with_date(settings: FaultSettings) -> Reaction:
    # A date has whole seconds: round up, so that it is never earlier than `retry_after` says.
    until = formatdate(-(-(time.time() + settings.retry_after) // 1), usegmt=True)
    return Reaction(error_response(429, "too many requests", ("Retry-After", until)))


def _redirect(settings: FaultSettings) -> Reaction:
    return Reaction(error_response(302, "moved", ("Location", settings.redirect_to)))


def _drip(settings: FaultSettings) -> Reaction:
    single_bytes = (bytes((byte,)) for byte in _OK_BYTES)
    return Reaction(raw=single_bytes, interval=settings.drip_interval)


def _send_endless_headers(settings: FaultSettings) -> Reaction:
    def lines() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        for number in itertools.count():
            yield (b"X-Padding-%d: %b\r\n" % (number, b"x" * 1000)) * 16

    return Reaction(raw=lines(), interval=0.02)


@cache
def _make_bomb() -> Response:
    compressor = zlib.compressobj(9, wbits=31)
    blank = b" " * (1024 * 1024)
    parts = [compressor.compress(b'{"message":"')]
    parts += [compressor.compress(blank) for _ in range(BOMB_INFLATED // len(blank))]
    parts += [compressor.compress(b'"}'), compressor.flush()]
    return Response(200, b"".join(parts), ("Content-Encoding", "gzip"))


@cache
def _make_big_response() -> Response:
    return Response(200, b'{"message":"' + b"x" * (BIG_BODY - 14) + b'"}')


_RESET = Reaction(end=ConnectionEnd.RESET)
_HANG = Reaction(end=ConnectionEnd.HANG)

# An answer that a careful client could take for an acceptance must be one: hence `drip` accepts.
FAULTS: dict[str, Answer] = {
    "error_500": _fail(500, "internal error"),
    "error_503": _fail(503, "unavailable"),
    "error_503_retry_after": _retry_later(503, "unavailable"),
    "throttle_429": _retry_later(429, "too many requests"),
    "throttle_429_date": Answer(False, _throttle_with_date),
    "reject_400": _fail(400, "rejected"),
    "reject_422": _fail(422, "rejected"),
    "unauthorized_401": _fail(401, "unauthorized"),
    "declined": _refuse(200, b'{"code":1,"message":"declined"}'),
    "html_200": _refuse(200, b"<html><body>Service portal</body></html>", "text/html"),
    "list_200": _refuse(200, b"[]"),
    "string_code_200": _refuse(200, b'{"code":"0","message":"OK"}'),
    "empty_200": _refuse(200),
    "truncated_200": _send_raw(
        b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"code":0,"mess', ConnectionEnd.CLOSE
    ),
    "invalid_utf8_200": _refuse(200, b'{"code":0,"message":"\xff\xfe\xc3("}'),
    "gzip_bomb_200": Answer(False, lambda settings: Reaction(_make_bomb())),
    "big_200": Answer(False, lambda settings: Reaction(_make_big_response())),
    "drip": Answer(True, _drip),
    "endless_headers": Answer(False, _send_endless_headers),
    "no_content_204": _refuse(204),
    "redirect_302": Answer(False, _redirect),
    "status_101": _send_raw(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tea\r\nConnection: Upgrade\r\n\r\n",
        ConnectionEnd.HANG,
    ),
    "http09": _send_raw(b"\x00\x17 no status line here\n{}\n", ConnectionEnd.CLOSE),
    "reset_before": _fixed(_RESET),
    "reset_while": _fixed(_RESET),
    "reset_after": _fixed(_RESET, accepts=True),
    "hang": _fixed(_HANG),
    "accepted_hang": _fixed(_HANG, accepts=True),
    "accepted_late": Answer(True, lambda settings: Reaction(OK, delay=settings.late_after)),
    "close_keepalive": _send_raw(_OK_BYTES, ConnectionEnd.CLOSE, accepts=True),
}

# Every answer that a logged request can have; the first four are not faults.
ANSWERS: dict[str, Answer] = {
    "accepted": _fixed(ACCEPT, accepts=True),
    "unauthorized": _fail(401, "wrong or missing token", ("WWW-Authenticate", "Bearer")),
    "bad_request": _fail(400, "malformed body"),
    "rate_limited": _retry_later(429, "too many requests"),
    **FAULTS,
}


class FaultSelector:
    """Choose a fault and a latency for each request at random, repeatably for a seed."""

    def __init__(self, seed: int) -> None:
        self._faults = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._latency = random.Random(seed)  # noqa: S311
        self.set_fractions({})

    def set_fractions(self, fractions: Mapping[str, float]) -> None:
        """Set the share of requests that gets each fault."""
        positive = {kind: fraction for kind, fraction in fractions.items() if fraction > 0}
        self._edges = list(itertools.accumulate(positive.values()))
        self._kinds: list[str | None] = [*positive, None]
        if self._edges and self._edges[-1] > 1 - 1e-9:  # 0.1 ten times is less than 1 in floats
            self._edges.pop()
            self._kinds.pop()

    def choose_fault(self) -> str | None:
        return self._kinds[bisect_right(self._edges, self._faults.random())]

    def choose_latency(self, least: float, most: float) -> float:
        return least if least == most else self._latency.uniform(least, most)

"""What the provider can answer and every way it can go wrong, each as bytes, a pause and an end."""

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
from typing import TYPE_CHECKING

from dev.provider.http1 import Response

if TYPE_CHECKING:
    from dev.provider.settings import Settings

BIG_BODY = 10 * 1000 * 1000
BOMB_INFLATED = 64 * 1024 * 1024


class Then(Enum):
    """What becomes of the connection once the bytes are out."""

    KEEP = "ready for the next request, if the client wants one"
    CLOSE = "closed in order"
    RESET = "reset"
    STAY = "left open; nothing more is read or said"


@dataclass(frozen=True, slots=True)
class Reaction:
    """What is done about one request: a response, or raw bytes at an interval, then an end."""

    response: Response | None = None
    raw: Iterable[bytes] = ()
    interval: float = 0.0
    delay: float = 0.0
    then: Then = Then.KEEP


@dataclass(frozen=True, slots=True)
class Answer:
    """One entry of the vocabulary; `accepts` says whether the message counts as taken."""

    accepts: bool
    react: Callable[["Settings"], Reaction]


OK = Response(200, b'{"code":0,"message":"OK"}')
ACCEPT = Reaction(OK)
_RESET = Reaction(then=Then.RESET)
_HANG = Reaction(then=Then.STAY)
# The bytes of OK, for where the framing goes wrong and not the content.
_OK_WIRE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n"
_OK_WIRE += b'{"code":0,"message":"OK"}'


def plain(status: int, message: str, *headers: tuple[str, str]) -> Response:
    """An error answer in the provider's own form; `message` holds nothing to escape."""
    return Response(status, b'{"code":%d,"message":"%b"}' % (status, message.encode()), *headers)


def _always(response: Response) -> Callable[["Settings"], Reaction]:
    reaction = Reaction(response)
    return lambda settings: reaction


def _raw(wire: bytes, then: Then) -> Callable[["Settings"], Reaction]:
    return lambda settings: Reaction(raw=(wire,), then=then)


def _retry_later(status: int, message: str) -> Callable[["Settings"], Reaction]:
    def react(settings: "Settings") -> Reaction:
        return Reaction(plain(status, message, ("Retry-After", str(settings.retry_after))))

    return react


def _throttle_date(settings: "Settings") -> Reaction:
    # A date has whole seconds: rounded up, so that it never tells less than was asked for.
    until = formatdate(-(-(time.time() + settings.retry_after) // 1), usegmt=True)
    return Reaction(plain(429, "too many requests", ("Retry-After", until)))


def _redirect(settings: "Settings") -> Reaction:
    return Reaction(plain(302, "moved", ("Location", settings.redirect_to)))


def _drip(settings: "Settings") -> Reaction:
    bytewise = (bytes((byte,)) for byte in _OK_WIRE)
    return Reaction(raw=bytewise, interval=settings.drip_interval)


def _endless_headers(settings: "Settings") -> Reaction:
    def lines() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        for number in itertools.count():
            yield (b"X-Padding-%d: %b\r\n" % (number, b"x" * 1000)) * 16

    return Reaction(raw=lines(), interval=0.02)


@cache
def _bomb() -> Response:
    squeeze = zlib.compressobj(9, wbits=31)
    blank = b" " * (1024 * 1024)
    parts = [squeeze.compress(b'{"message":"')]
    parts += [squeeze.compress(blank) for _ in range(BOMB_INFLATED // len(blank))]
    parts += [squeeze.compress(b'"}'), squeeze.flush()]
    return Response(200, b"".join(parts), ("Content-Encoding", "gzip"))


@cache
def _big() -> Response:
    return Response(200, b'{"message":"' + b"x" * (BIG_BODY - 14) + b'"}')


# An answer that a careful reader could take for an acceptance must be one: hence `drip` accepts.
FAULTS: dict[str, Answer] = {
    "error_500": Answer(False, _always(plain(500, "internal error"))),
    "error_503": Answer(False, _always(plain(503, "unavailable"))),
    "error_503_retry_after": Answer(False, _retry_later(503, "unavailable")),
    "throttle_429": Answer(False, _retry_later(429, "too many requests")),
    "throttle_429_date": Answer(False, _throttle_date),
    "reject_400": Answer(False, _always(plain(400, "rejected"))),
    "reject_422": Answer(False, _always(plain(422, "rejected"))),
    "unauthorized_401": Answer(False, _always(plain(401, "unauthorized"))),
    "declined": Answer(False, _always(Response(200, b'{"code":1,"message":"declined"}'))),
    "html_200": Answer(
        False,
        _always(
            Response(200, b"<html><body>Service portal</body></html>", content_type="text/html")
        ),
    ),
    "list_200": Answer(False, _always(Response(200, b"[]"))),
    "string_code_200": Answer(False, _always(Response(200, b'{"code":"0","message":"OK"}'))),
    "empty_200": Answer(False, _always(Response(200))),
    "truncated_200": Answer(
        False,
        _raw(b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"code":0,"mess', Then.CLOSE),
    ),
    "invalid_utf8_200": Answer(
        False, _always(Response(200, b'{"code":0,"message":"\xff\xfe\xc3("}'))
    ),
    "gzip_bomb_200": Answer(False, lambda settings: Reaction(_bomb())),
    "big_200": Answer(False, lambda settings: Reaction(_big())),
    "drip": Answer(True, _drip),
    "endless_headers": Answer(False, _endless_headers),
    "no_content_204": Answer(False, _always(Response(204))),
    "redirect_302": Answer(False, _redirect),
    "status_101": Answer(
        False,
        _raw(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tea\r\nConnection: Upgrade\r\n\r\n",
            Then.STAY,
        ),
    ),
    "http09": Answer(False, _raw(b"\x00\x17 no status line here\n{}\n", Then.CLOSE)),
    "reset_before": Answer(False, lambda settings: _RESET),
    "reset_while": Answer(False, lambda settings: _RESET),
    "reset_after": Answer(True, lambda settings: _RESET),
    "hang": Answer(False, lambda settings: _HANG),
    "accepted_hang": Answer(True, lambda settings: _HANG),
    "accepted_late": Answer(True, lambda settings: Reaction(OK, delay=settings.late_after)),
    "close_keepalive": Answer(True, _raw(_OK_WIRE, Then.CLOSE)),
}

# Every word a witnessed request can carry as its answer; the first ones are not faults.
ANSWERS: dict[str, Answer] = {
    "accepted": Answer(True, lambda settings: ACCEPT),
    "unauthorized": Answer(
        False, _always(plain(401, "wrong or missing token", ("WWW-Authenticate", "Bearer")))
    ),
    "bad_request": Answer(False, _always(plain(400, "malformed body"))),
    "rate_limited": Answer(False, _retry_later(429, "too many requests")),
    **FAULTS,
}


class Dice:
    """Draws a fault for each request by the fractions asked for, repeatably for a seed."""

    def __init__(self, seed: int) -> None:
        self._faults = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._latency = random.Random(seed)  # noqa: S311
        self._edges: list[float] = []
        self._kinds: list[str | None] = [None]

    def set_fractions(self, fractions: Mapping[str, float]) -> None:
        given = {kind: fraction for kind, fraction in fractions.items() if fraction > 0}
        self._edges = list(itertools.accumulate(given.values()))
        self._kinds = [*given, None]
        if self._edges and self._edges[-1] > 1 - 1e-9:  # 0.1 ten times is less than 1 in floats
            self._edges.pop()
            self._kinds.pop()

    def fault(self) -> str | None:
        return self._kinds[bisect_right(self._edges, self._faults.random())]

    def latency(self, least: float, most: float) -> float:
        return least if least == most else self._latency.uniform(least, most)

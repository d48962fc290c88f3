"""HTTP/1.x as bytes: reads requests out of a stream however it is cut, and renders answers."""

import re
from collections.abc import Iterator
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 1024 * 1024

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RequestError(Exception):
    """The bytes are no request that can be answered in order: answer `status`, then close."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Head(NamedTuple):
    """What a request's head says, except for its target."""

    method: bytes
    minor: int
    keep_alive: bool
    content_length: int
    chunked: bool
    expects_continue: bool
    authorization: bytes
    request_id: str | None

    @property
    def connection_line(self) -> bytes:
        """What an answer has to say about the connection."""
        if not self.keep_alive:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self.minor == 0 else b""


# Stands in for the head of a request that could not be read: whatever is answered is the last.
UNREADABLE = Head(b"", 1, False, 0, False, False, b"", None)


# The heads of one client's requests differ in the target and little else: most come from here.
@lru_cache(maxsize=1024)
def _parse_head(method: bytes, rest: bytes) -> Head:
    """Reads a head of which the target has been taken out."""
    version, _, lines = rest.partition(b"\r\n")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if re.fullmatch(rb"HTTP/\d(\.\d)?", version):
            raise RequestError(505, "HTTP version not supported")
        raise RequestError(400, "malformed request line")
    minor = 1 if version == b"HTTP/1.1" else 0
    values = _parse_fields(lines)
    length = values.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18:
        raise RequestError(400, "malformed Content-Length")
    coding = values.get(b"transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":
        raise RequestError(501, "unsupported Transfer-Encoding")
    if coding is not None and b"content-length" in values:
        raise RequestError(400, "both Content-Length and Transfer-Encoding")
    if int(length) > BODY_LIMIT:
        raise RequestError(413, "body too long")
    options = [word.strip() for word in values.get(b"connection", b"").lower().split(b",")]
    request_id = values.get(b"x-request-id")
    return Head(
        method=method,
        minor=minor,
        keep_alive=b"close" not in options and (minor == 1 or b"keep-alive" in options),
        content_length=int(length),
        chunked=coding is not None,
        expects_continue=minor == 1 and values.get(b"expect", b"").lower() == b"100-continue",
        authorization=values.get(b"authorization", b""),
        request_id=None if request_id is None else request_id.decode("latin-1"),
    )


def _parse_fields(lines: bytes) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n") if lines else ():
        name, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name):
            raise RequestError(400, "malformed header line")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length" and values.get(name, value) != value:
            raise RequestError(400, "contradicting Content-Length")
        if name in (b"connection", b"transfer-encoding") and name in values:
            value = values[name] + b"," + value
        values[name] = value
    return values


class RequestReader:
    """Collects bytes and hands out requests: first the head, then, when it is whole, the body."""

    __slots__ = ("_at", "_body_at", "_buffer", "head", "target")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0  # everything before is dealt with
        self._body_at = 0
        self.head: Head | None = None
        self.target = b""

    def feed(self, data: bytes) -> None:
        rest = self._buffer[self._at :]
        self._buffer = rest + data if rest else data
        self._body_at -= self._at
        self._at = 0

    def next_head(self) -> Head | None:
        """The head of the next request, once it has wholly arrived."""
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\r\n\r\n", at)
        if (len(buffer) if end < 0 else end) - at > HEAD_LIMIT:
            raise RequestError(431, "header fields too long")
        if end < 0:
            return None
        words = buffer[at:end].split(b" ", 2)
        if len(words) != 3:
            raise RequestError(400, "malformed request line")
        # Blank lines before a request are to be ignored.
        self.head = _parse_head(words[0].lstrip(b"\r\n"), words[2])
        self.target = words[1]
        self._body_at = end + 4
        return self.head

    def take_body(self) -> bytes | None:
        """The body belonging to `head`, once it has wholly arrived; ends that request."""
        head, buffer = self.head, self._buffer
        if head is None:
            return None
        if head.chunked:
            decoded = _dechunk(buffer, self._body_at)
            if decoded is None:
                return None
            body, end = decoded
        else:
            end = self._body_at + head.content_length
            if len(buffer) < end:
                return None
            body = buffer[self._body_at : end]
        self._at = end
        self.head = None
        return body


def _dechunk(buffer: bytes, at: int) -> tuple[bytes, int] | None:
    """The body whose chunks begin at `at` and where it ends, or None while it is not whole."""
    if len(buffer) - at > 2 * BODY_LIMIT:
        raise RequestError(413, "body too long")
    parts: list[bytes] = []
    total = 0
    while True:
        line_end = buffer.find(b"\r\n", at)
        if line_end < 0:
            return None
        match = _CHUNK_SIZE.fullmatch(buffer, at, line_end)
        if match is None:
            raise RequestError(400, "malformed chunk")
        size = int(match[1], 16)
        at = line_end + 2
        if size == 0:
            break
        total += size
        if total > BODY_LIMIT:
            raise RequestError(413, "body too long")
        if len(buffer) < at + size + 2:
            return None
        if buffer[at + size : at + size + 2] != b"\r\n":
            raise RequestError(400, "malformed chunk")
        parts.append(buffer[at : at + size])
        at += size + 2
    while (line_end := buffer.find(b"\r\n", at)) != at:  # trailer fields, then a blank line
        if line_end < 0:
            return None
        at = line_end + 2
    return b"".join(parts), at + 2


class Response:
    """A well-formed answer; its bytes are kept, as most answers are given many times."""

    __slots__ = ("_body", "_rendered", "_start")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        *headers: tuple[str, str],
        content_type: str = "application/json",
    ) -> None:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        if status != 204:
            lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        self._start = "\r\n".join(lines).encode("latin-1") + b"\r\n"
        self._body = body
        self._rendered: dict[tuple[bool, int, bytes], bytes] = {}

    def render(self, head: Head) -> bytes:
        """The bytes that answer a request with this head."""
        key = (head.keep_alive, head.minor, head.method)
        wire = self._rendered.get(key)
        if wire is None:
            body = b"" if head.method == b"HEAD" else self._body
            wire = self._rendered[key] = self._start + head.connection_line + b"\r\n" + body
        return wire


def render_stream(parts: Iterator[bytes], head: Head, content_type: str) -> Iterator[bytes]:
    """An answer of unknown length, piece by piece; empty parts only give others their turn.

    An HTTP/1.0 client knows no chunks: for it the end of the connection ends the answer.
    """
    chunked = head.minor == 1
    coding = b"Transfer-Encoding: chunked\r\n" + head.connection_line
    yield (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n".encode()
        + (coding if chunked else b"Connection: close\r\n")
        + b"\r\n"
    )
    for part in parts:
        yield b"%x\r\n%b\r\n" % (len(part), part) if part and chunked else part
    if chunked:
        yield b"0\r\n\r\n"

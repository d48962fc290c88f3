"""Parses HTTP/1.x responses from a stream, however it is cut and whatever it contains.

The length of a response is bounded, head and body alike, and so is what chunk sizes, trailers and
informational responses may add. Bytes that are not HTTP/1.x are rejected as early as possible.
"""

import re
from typing import NamedTuple

from worker.provider.http.content_decoding import ContentTooLong, decode_body, find_codings

MAX_RESPONSE_BYTES = 64 * 1024  # of the body, and of everything before it

_CHUNKED = -1
_UNTIL_CLOSED = -2
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\n]*)?")
_HEAD_END = re.compile(rb"\n\r?\n")  # without the carriage return before it
_FOLD = re.compile(rb"\r?\n[ \t]+")
_LIST_HEADERS = (b"connection", b"transfer-encoding", b"content-length")
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_MAX_CHUNK_LINE_BYTES = 1024


class MalformedResponse(Exception):
    """The bytes are not an HTTP/1.x response."""


class ResponseTooLong(Exception):
    """The head or the trailers exceed MAX_RESPONSE_BYTES."""


class Response(NamedTuple):
    """A complete response, or the beginning of one that is `too_long`.

    `body` is decompressed and in UTF-8, as far as its codings are known.
    """

    status: int
    body: bytes
    retry_after: str | None
    too_long: bool
    reusable: bool  # the connection may carry another request


class ResponseHead(NamedTuple):
    """The parts of a response's head that matter here."""

    status: int
    length: int  # of the body in bytes, or _CHUNKED or _UNTIL_CLOSED
    keep_alive: bool
    retry_after: str | None
    codings: tuple[bytes, ...] = ()  # what to undo in the body: see content_decoding.py


# A provider's heads are identical within a second, so parsed heads are cached: those of bodies that
# need no decoding, so that a cached head tells the reader of a connection that none is needed.
head_cache: dict[bytes, ResponseHead] = {}
MAX_CACHED_HEADS = 256


def parse_head(head: bytes) -> ResponseHead:
    """Parse a head without the blank line that ends it. Raises MalformedResponse."""
    cached = head_cache.get(head)
    if cached is None:
        cached = _parse_new_head(head)
        if cached.codings:
            return cached
        if len(head_cache) >= MAX_CACHED_HEADS:
            head_cache.clear()
        head_cache[head] = cached
    return cached


def _parse_new_head(head: bytes) -> ResponseHead:
    lines = [line.rstrip(b"\r") for line in _FOLD.sub(b" ", head).split(b"\n")]
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise MalformedResponse(lines[0][:200].decode("latin-1"))
    status = int(status_line[2])
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _HEADER_NAME.fullmatch(name):
            raise MalformedResponse("a header line is malformed")
        name, value = name.lower(), value.strip(b" \t")
        if name in _LIST_HEADERS and name in headers:
            value = headers[name] + b"," + value
        headers[name] = value
    options = [word.strip() for word in headers.get(b"connection", b"").lower().split(b",")]
    length = _body_length(status, headers)
    keep_alive = b"close" not in options and (status_line[1] == b"1" or b"keep-alive" in options)
    # With two declarations of the length the next response could be misread.
    ambiguous = b"transfer-encoding" in headers and (
        b"content-length" in headers or status_line[1] == b"0"
    )
    retry_after = headers.get(b"retry-after")
    return ResponseHead(
        status,
        length,
        keep_alive and length != _UNTIL_CLOSED and status != 101 and not ambiguous,
        None if retry_after is None else retry_after.decode("latin-1"),
        find_codings(headers.get(b"content-encoding"), headers.get(b"content-type")),
    )


def _body_length(status: int, headers: dict[bytes, bytes]) -> int:
    if status < 200 or status in (204, 304):
        return 0
    coding = headers.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise MalformedResponse("Transfer-Encoding is not known")
        return _CHUNKED
    lengths = headers.get(b"content-length")
    if lengths is None:
        return _UNTIL_CLOSED
    length, *others = {each.strip(b" \t") for each in lengths.split(b",")}
    if others:
        raise MalformedResponse("Content-Length contradicts itself")
    if not length.isdigit():
        raise MalformedResponse("Content-Length is no number")
    # Compare the number of digits first: Python refuses to parse integers of thousands of digits.
    return int(length) if len(length) < 19 else 10**18


class ResponseParser:
    """Parses one response, fed piece by piece until it is complete."""

    __slots__ = ("_body", "_buffer", "_head", "_skipped")

    def __init__(self) -> None:
        self._buffer = b""
        self._skipped = 0  # bytes of informational responses
        self._body = b""  # decoded chunks
        self._head: ResponseHead | None = None

    @property
    def status(self) -> int | None:
        """The status, once it is known."""
        return self._head.status if self._head else None

    @property
    def started(self) -> bool:
        """Whether anything has arrived."""
        return bool(self._buffer or self._head or self._skipped)

    def feed(self, data: bytes) -> Response | None:
        """Add received bytes; return the response once it is complete or known to be too long.

        Raises MalformedResponse or ResponseTooLong.
        """
        self._buffer += data
        while self._head is None:
            if not self._parse_head():
                if self._skipped + len(self._buffer) > MAX_RESPONSE_BYTES:
                    raise ResponseTooLong
                return None
        length = self._head.length
        if length == _CHUNKED:
            return self._parse_chunks()
        size = len(self._buffer)
        if size > MAX_RESPONSE_BYTES or length > MAX_RESPONSE_BYTES:
            return self._finish(self._buffer, too_long=True)
        if length == _UNTIL_CLOSED or size < length:
            return None
        return self._finish(self._buffer[:length], exact=size == length)

    def feed_eof(self) -> Response | None:
        """Handle the connection's end; return the response that it completes, None if cut."""
        if self._head is None or self._head.length != _UNTIL_CLOSED:
            return None
        return self._finish(self._buffer)

    def _parse_head(self) -> bool:
        """Parse the head once it is complete, skipping informational responses before it."""
        buffer = self._buffer
        start = b"HTTP/1."
        if not buffer.startswith(start[: len(buffer)]):
            raise MalformedResponse(buffer[:200].decode("latin-1"))
        end = _HEAD_END.search(buffer)
        if end is None or self._skipped + end.start() > MAX_RESPONSE_BYTES:
            return False
        head = parse_head(buffer[: end.start()].removesuffix(b"\r"))
        self._buffer = buffer[end.end() :]
        if head.status < 200 and head.status != 101:
            self._skipped += end.end()
            return bool(self._buffer)
        self._head = head
        return True

    def _parse_chunks(self) -> Response | None:
        buffer = self._buffer
        while True:
            line_end = buffer.find(b"\n", 0, _MAX_CHUNK_LINE_BYTES)
            if line_end < 0 and len(buffer) < _MAX_CHUNK_LINE_BYTES:
                return None
            match = _CHUNK_SIZE.fullmatch(buffer[:line_end].rstrip(b"\r"))
            if line_end < 0 or match is None:
                raise MalformedResponse("a chunk's size is malformed")
            size, begin = int(match[1], 16), line_end + 1
            end = begin + size
            if size == 0:
                return self._parse_trailers(begin)
            if len(self._body) + size > MAX_RESPONSE_BYTES:
                return self._finish(self._body + buffer[begin:end], too_long=True)
            if len(buffer) < end + 2:
                return None
            if buffer[end : end + 2] != b"\r\n":
                raise MalformedResponse("a chunk does not end where it should")
            self._body += buffer[begin:end]
            self._buffer = buffer = buffer[end + 2 :]

    def _parse_trailers(self, at: int) -> Response | None:
        """Skip the headers after the last chunk and the blank line after them."""
        buffer = self._buffer
        while (line_end := buffer.find(b"\n", at)) >= 0:
            if not buffer[at:line_end].rstrip(b"\r"):
                return self._finish(self._body, exact=line_end + 1 == len(buffer))
            at = line_end + 1
        if len(buffer) > MAX_RESPONSE_BYTES:
            raise ResponseTooLong
        return None

    def _finish(self, body: bytes, *, exact: bool = False, too_long: bool = False) -> Response:
        """Return the response; `exact`: nothing follows it on the connection."""
        head = self._head
        assert head is not None  # noqa: S101
        body = body[:MAX_RESPONSE_BYTES]
        if head.codings and not too_long:
            try:
                body = decode_body(body, head.codings, MAX_RESPONSE_BYTES)
            except ContentTooLong as error:
                body, too_long = error.beginning, True
        return Response(head.status, body, head.retry_after, too_long, exact and head.keep_alive)

"""Reads HTTP/1.x answers out of a stream, however it is cut and whatever is in it.

An answer's length is bounded, head and body alike, and so is what a chunk or an informational
answer may add. What is no HTTP/1.x is told as soon as it can be known.
"""

import re
from typing import NamedTuple

MAX_ANSWER_BYTES = 64 * 1024  # of the body, and of everything before it

_CHUNKED = -1
_UNTIL_CLOSED = -2
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\n]*)?")
_HEAD_END = re.compile(rb"\n\r?\n")  # and the carriage return before it
_FOLD = re.compile(rb"\r?\n[ \t]+")
_LISTS = (b"connection", b"transfer-encoding", b"content-length")
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_MAX_CHUNK_LINE = 1024


class Malformed(Exception):
    """The bytes are no HTTP/1.x answer."""


class TooLong(Exception):
    """What comes around the body is longer than anything sensible."""


class Answer(NamedTuple):
    """A complete answer, or the beginning of one that is `too_long`."""

    status: int
    body: bytes
    retry_after: str | None
    too_long: bool
    reusable: bool  # the connection may carry another request


class Head(NamedTuple):
    """What an answer's head says: its body's length in bytes, or how its end is found."""

    status: int
    length: int
    keep_alive: bool
    retry_after: str | None


# A provider's heads are all alike within a second, so what they say is remembered.
known_heads: dict[bytes, Head] = {}
_KNOWN_HEADS_MAX = 256


def read_head(head: bytes) -> Head:
    """Read a head without the blank line that ends it."""
    known = known_heads.get(head)
    if known is None:
        known = _parse_head(head)
        if len(known_heads) >= _KNOWN_HEADS_MAX:
            known_heads.clear()
        known_heads[head] = known
    return known


def _parse_head(head: bytes) -> Head:
    lines = [line.rstrip(b"\r") for line in _FOLD.sub(b" ", head).split(b"\n")]
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise Malformed(lines[0][:200].decode("latin-1"))
    status = int(status_line[2])
    values: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name):
            raise Malformed("a header line is malformed")
        name, value = name.lower(), value.strip(b" \t")
        if name in _LISTS and name in values:
            value = values[name] + b"," + value
        values[name] = value
    options = [word.strip() for word in values.get(b"connection", b"").lower().split(b",")]
    length = _body_length(status, values)
    keep_alive = b"close" not in options and (status_line[1] == b"1" or b"keep-alive" in options)
    # Two ways to tell the length: this one is read, but the next may not be trusted.
    confused = b"transfer-encoding" in values and (
        b"content-length" in values or status_line[1] == b"0"
    )
    retry_after = values.get(b"retry-after")
    return Head(
        status,
        length,
        keep_alive and length != _UNTIL_CLOSED and status != 101 and not confused,
        None if retry_after is None else retry_after.decode("latin-1"),
    )


def _body_length(status: int, values: dict[bytes, bytes]) -> int:
    if status < 200 or status in (204, 304):
        return 0
    coding = values.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise Malformed("Transfer-Encoding is not known")
        return _CHUNKED
    lengths = values.get(b"content-length")
    if lengths is None:
        return _UNTIL_CLOSED
    length, *others = {each.strip(b" \t") for each in lengths.split(b",")}
    if others:
        raise Malformed("Content-Length contradicts itself")
    if not length.isdigit():
        raise Malformed("Content-Length is no number")
    # Measured by its digits first: Python refuses to read integers of thousands of them.
    return int(length) if len(length) < 19 else 10**18


class AnswerReader:
    """One answer, fed piece by piece until it is whole."""

    __slots__ = ("_before", "_body", "_buffer", "_head")

    def __init__(self) -> None:
        self._buffer = b""
        self._before = 0  # bytes of informational answers
        self._body = b""  # of a chunked one, as far as it is decoded
        self._head: Head | None = None

    @property
    def status(self) -> int | None:
        """The status, once it is known."""
        return self._head.status if self._head else None

    @property
    def begun(self) -> bool:
        """Something has arrived."""
        return bool(self._buffer or self._head or self._before)

    def feed(self, data: bytes) -> Answer | None:
        """Take some more in. The answer once it is whole, or known to be too long."""
        self._buffer += data
        while self._head is None:
            if not self._take_head():
                if self._before + len(self._buffer) > MAX_ANSWER_BYTES:
                    raise TooLong
                return None
        length = self._head.length
        if length == _CHUNKED:
            return self._take_chunks()
        size = len(self._buffer)
        if size > MAX_ANSWER_BYTES or length > MAX_ANSWER_BYTES:
            return self._answer(self._buffer[:MAX_ANSWER_BYTES], False, too_long=True)
        if length == _UNTIL_CLOSED or size < length:
            return None
        return self._answer(self._buffer[:length], size == length)

    def end(self) -> Answer | None:
        """The connection has ended: the answer if that was its end, None if it is cut off."""
        if self._head is None or self._head.length != _UNTIL_CLOSED:
            return None
        return self._answer(self._buffer, False)

    def _take_head(self) -> bool:
        """Read the head once it is there; informational answers before it are passed over."""
        buffer = self._buffer
        start = b"HTTP/1."
        if not buffer.startswith(start[: len(buffer)]):
            raise Malformed(buffer[:200].decode("latin-1"))
        end = _HEAD_END.search(buffer)
        if end is None or self._before + end.start() > MAX_ANSWER_BYTES:
            return False
        head = read_head(buffer[: end.start()].removesuffix(b"\r"))
        self._buffer = buffer[end.end() :]
        if head.status < 200 and head.status != 101:
            self._before += end.end()
            return bool(self._buffer)
        self._head = head
        return True

    def _take_chunks(self) -> Answer | None:
        buffer = self._buffer
        while True:
            line_end = buffer.find(b"\n", 0, _MAX_CHUNK_LINE)
            if line_end < 0:
                if len(buffer) >= _MAX_CHUNK_LINE:
                    raise Malformed("a chunk's size is malformed")
                return None
            match = _CHUNK_SIZE.fullmatch(buffer[:line_end].rstrip(b"\r"))
            if match is None:
                raise Malformed("a chunk's size is malformed")
            size = int(match[1], 16)
            if size == 0:
                return self._take_trailers(line_end + 1)
            if len(self._body) + size > MAX_ANSWER_BYTES:
                piece = buffer[line_end + 1 : line_end + 1 + size]
                return self._answer((self._body + piece)[:MAX_ANSWER_BYTES], False, too_long=True)
            end = line_end + 1 + size
            if len(buffer) < end + 2:
                return None
            if buffer[end : end + 2] != b"\r\n":
                raise Malformed("a chunk does not end where it should")
            self._body += buffer[line_end + 1 : end]
            self._buffer = buffer = buffer[end + 2 :]

    def _take_trailers(self, at: int) -> Answer | None:
        """Fields after the last chunk, which say nothing here, and the blank line after them."""
        buffer = self._buffer
        while (line_end := buffer.find(b"\n", at)) >= 0:
            if not buffer[at:line_end].rstrip(b"\r"):
                return self._answer(self._body, line_end + 1 == len(buffer))
            at = line_end + 1
        if len(buffer) > MAX_ANSWER_BYTES:
            raise TooLong
        return None

    def _answer(self, body: bytes, exact: bool, *, too_long: bool = False) -> Answer:
        head = self._head
        assert head is not None  # noqa: S101
        reusable = exact and head.keep_alive and not too_long
        return Answer(head.status, body, head.retry_after, too_long, reusable)

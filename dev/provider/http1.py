"""HTTP/1.x: parse requests with httptools and render responses as bytes."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

import httptools

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 1024 * 1024

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestError(Exception):
    """A request that cannot be parsed: answer with `status`, then close the connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True)
class Request:
    """One request; its body is complete once `complete` is set."""

    method: bytes = b""
    target: bytes = b""
    minor: int = 1
    keep_alive: bool = False
    expects_continue: bool = False
    authorization: bytes = b""
    request_id: str | None = None
    body: bytes = b""
    complete: bool = False

    @property
    def connection_header(self) -> bytes:
        """The Connection header that the response to this request needs, or nothing."""
        if not self.keep_alive:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self.minor == 0 else b""


class RequestReader:
    """Turn received bytes into `requests`, in order; only the last one may be incomplete.

    `error` is set by the first bytes that are not valid HTTP; what follows them is ignored.
    """

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.error: RequestError | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._current = Request()
        self._head_bytes = 0  # of the current request's head; 0 once that is complete

    def feed(self, data: bytes) -> None:
        if self.error is not None:
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the connection closes after this request's answer
        except httptools.HttpParserError as error:
            self._fail(400, str(error))
        if self._head_bytes > MAX_HEAD_BYTES:
            self._fail(431, "header fields too long")

    def _fail(self, status: int, message: str) -> None:
        if self.error is None:
            self.error = RequestError(status, message)
            if self.requests and not self.requests[-1].complete:
                self.requests.pop()

    # --- callbacks of httptools

    def on_message_begin(self) -> None:
        self._current = Request()

    def on_url(self, url: bytes) -> None:
        self._current.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"authorization":
            self._current.authorization = value
        elif name == b"x-request-id":
            self._current.request_id = value.decode("latin-1")
        elif name == b"expect":
            self._current.expects_continue = value.lower() == b"100-continue"
        elif name == b"content-length" and int(value) > MAX_BODY_BYTES:
            self._fail(413, "body too long")
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            self._fail(501, "unsupported Transfer-Encoding")

    def on_headers_complete(self) -> None:
        request, parser = self._current, self._parser
        self._head_bytes = 0
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._fail(505, "HTTP version not supported")
        request.method = parser.get_method()
        request.minor = 1 if version == "1.1" else 0
        request.keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        if request.minor == 0:
            request.expects_continue = False
        if self.error is None:
            self.requests.append(request)

    def on_body(self, data: bytes) -> None:
        self._current.body += data
        if len(self._current.body) > MAX_BODY_BYTES:
            self._fail(413, "body too long")

    def on_message_complete(self) -> None:
        self._current.complete = True
        self._head_bytes = 0


class Response:
    """A well-formed response. Its bytes are cached, as most responses are sent many times."""

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

    def render(self, request: Request) -> bytes:
        """Return the bytes that answer `request`."""
        key = (request.keep_alive, request.minor, request.method)
        rendered = self._rendered.get(key)
        if rendered is None:
            body = b"" if request.method == b"HEAD" else self._body
            rendered = self._start + request.connection_header + b"\r\n" + body
            self._rendered[key] = rendered
        return rendered


def render_stream(parts: Iterator[bytes], request: Request, content_type: str) -> Iterator[bytes]:
    """Render a response of unknown length; empty parts only let other connections proceed.

    HTTP/1.0 has no chunks: there the end of the connection ends the response.
    """
    chunked = request.minor == 1
    framing = b"Transfer-Encoding: chunked\r\n" + request.connection_header
    yield (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n".encode()
        + (framing if chunked else b"Connection: close\r\n")
        + b"\r\n"
    )
    for part in parts:
        yield b"%x\r\n%b\r\n" % (len(part), part) if part and chunked else part
    if chunked:
        yield b"0\r\n\r\n"

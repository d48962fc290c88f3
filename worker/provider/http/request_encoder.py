"""Encodes requests to the provider: the contract's path, headers and body."""

import re
from urllib.parse import SplitResult

from worker.provider.http.exchange import Request

MAX_CACHED_HEADERS = 256  # request ids (one per mailing) whose encoded headers are kept


class RequestEncoder:
    """Encodes requests to one provider. Raises ValueError for a token unfit for a header."""

    def __init__(self, base_url: SplitResult, token: str) -> None:
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ValueError("the provider's token must be printable ASCII without spaces")
        host = base_url.netloc.rpartition("@")[2]
        self._start = f"POST {base_url.path.rstrip('/')}/v1/send/".encode()
        self._headers = (
            f" HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            "User-Agent: notifications\r\nContent-Type: application/json\r\n"
            # Without this header any compression would be permitted.
            "Accept: application/json\r\nAccept-Encoding: identity\r\n"
        )
        self._cache: dict[str | None, bytes] = {}

    def validate(self, request: Request) -> None:
        """Raise ValueError for a request id unfit for a header."""
        if request.request_id not in self._cache:
            self._encode_headers(request.request_id)

    def encode(self, request: Request) -> bytes:
        """Return the request's bytes."""
        headers = self._cache.get(request.request_id) or self._encode_headers(request.request_id)
        body = request.body
        return b"%b%d%b%d\r\n\r\n%b" % (self._start, request.message_id, headers, len(body), body)

    def _encode_headers(self, request_id: str | None) -> bytes:
        """Return what stands between the message id and the length of the body."""
        extra = ""
        if request_id is not None:
            if not re.fullmatch(r"[\x21-\x7e]+", request_id):
                raise ValueError("a request id must be printable ASCII without spaces")
            extra = f"X-Request-ID: {request_id}\r\n"
        if len(self._cache) >= MAX_CACHED_HEADERS:
            self._cache.clear()
        headers = self._cache[request_id] = f"{self._headers}{extra}Content-Length: ".encode()
        return headers

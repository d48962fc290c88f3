"""The bytes of a request to the provider: the contract's path, headers and body."""

import re
from urllib.parse import SplitResult

from worker.provider.http.exchange import Request

_REMEMBERED = 256  # mailings' request ids, whose heads are kept


class Wire:
    """Writes requests to one provider. Raises ValueError for a token that no header can carry."""

    def __init__(self, address: SplitResult, token: str) -> None:
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ValueError("the provider's token must be printable ASCII without spaces")
        host = address.netloc.rpartition("@")[2]
        self._start = f"POST {address.path.rstrip('/')}/v1/send/".encode()
        self._head = (
            f" HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            "User-Agent: notifications\r\nContent-Type: application/json\r\n"
            "Accept: application/json\r\n"
        )
        self._heads: dict[str | None, bytes] = {}

    def check(self, request: Request) -> None:
        """Raises ValueError for a request id that no header can carry."""
        if request.request_id not in self._heads:
            self._make_head(request.request_id)

    def write(self, request: Request) -> bytes:
        head = self._heads.get(request.request_id) or self._make_head(request.request_id)
        body = request.body
        return b"%b%d%b%d\r\n\r\n%b" % (self._start, request.message_id, head, len(body), body)

    def _make_head(self, request_id: str | None) -> bytes:
        """What stands between the message's id and its body's length."""
        extra = ""
        if request_id is not None:
            if not re.fullmatch(r"[\x21-\x7e]+", request_id):
                raise ValueError("a request id must be printable ASCII without spaces")
            extra = f"X-Request-ID: {request_id}\r\n"
        if len(self._heads) >= _REMEMBERED:
            self._heads.clear()
        head = self._heads[request_id] = f"{self._head}{extra}Content-Length: ".encode()
        return head

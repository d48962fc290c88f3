"""One exchange with the provider: the request that goes out, and what became of it."""

from typing import Any, NamedTuple

from worker.provider.outcomes import Outcome


class Request:
    """One message on its way to the provider. `batch` is the caller's own, never looked at."""

    __slots__ = ("batch", "body", "message_id", "request_id")

    def __init__(
        self, message_id: int, body: bytes, request_id: str | None = None, batch: Any = None
    ) -> None:
        self.message_id = message_id
        self.body = body
        self.request_id = request_id
        self.batch = batch


class Result(NamedTuple):
    """What became of one request."""

    request: Request
    outcome: Outcome
    http_status: int | None
    latency: float  # seconds since the hand-off; 0 if there was none
    retry_after: float | None
    excerpt: str
    reason: str
    handed_off: bool
    finished_at: float

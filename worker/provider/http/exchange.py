"""One exchange with the provider: the request to send, and its result."""

from typing import Generic, NamedTuple, TypeVar

from worker.provider.outcomes import Outcome


class Request:
    """One message to send. Callers subclass it with the context they need with its result.

    `body` is the complete JSON body; `request_id` is sent as X-Request-ID if set.
    """

    __slots__ = ("body", "message_id", "request_id")

    def __init__(self, message_id: int, body: bytes, request_id: str | None = None) -> None:
        self.message_id = message_id
        self.body = body
        self.request_id = request_id


RequestT = TypeVar("RequestT", bound=Request)


class Result(NamedTuple, Generic[RequestT]):
    """The end of one request."""

    request: RequestT
    outcome: Outcome
    http_status: int | None
    latency: float  # seconds since the request was sent; 0 if it was not
    retry_after: float | None  # seconds
    excerpt: str
    reason: str
    sent_at: float  # by the monotonic clock; 0 if it was not sent
    finished_at: float  # seconds since 1970

    @property
    def sent(self) -> bool:
        """Whether the provider may have the request."""
        return self.sent_at > 0.0

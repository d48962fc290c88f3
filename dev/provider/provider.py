"""The provider's mind: judges each message by the contract and the settings, and records it."""

import time
from collections import deque
from typing import Protocol

import orjson

from dev.provider.faults import ACCEPT, ANSWERS, Dice, Reaction, plain
from dev.provider.http1 import Head
from dev.provider.request_log import Witness
from dev.provider.settings import Settings

_INT64_MAX = 2**63 - 1


class OpenConnection(Protocol):
    """What the provider needs to know of a connection."""

    @property
    def has_sent(self) -> bool: ...
    @property
    def in_flight(self) -> bool: ...
    def reset(self) -> None: ...


class Provider:
    """The state that all connections share."""

    def __init__(self, settings: Settings) -> None:
        self._initial = settings
        self.witness = Witness()
        self.connections: set[OpenConnection] = set()
        self._admitted: deque[float] = deque()
        self.settings = settings
        self.restore()

    def restore(self) -> None:
        """Back to the settings it was started with."""
        self._dice = Dice(self._initial.seed)
        self._admitted.clear()
        self._apply(self._initial)

    def change(self, settings: Settings, *, reseed: bool) -> None:
        if reseed:
            self._dice = Dice(settings.seed)
        self._apply(settings)

    def _apply(self, settings: Settings) -> None:
        self.settings = settings
        self._authorization = b"Bearer " + settings.token.encode()
        self._latency = settings.latency
        self._faulty = bool(settings.faults or settings.poison_ids)
        self._dice.set_fractions(settings.faults)
        if settings.down:
            # Going down cuts what is connected; who only ever asked the control door may stay.
            for connection in [one for one in self.connections if one.has_sent]:
                connection.reset()

    def in_flight(self) -> int:
        """Messages received whose answer is still owed to somebody who waits for it."""
        return sum(1 for connection in self.connections if connection.in_flight)

    def draw(self, message_id: int) -> str | None:
        """The fault, if any, that this arrival of the message gets."""
        if not self._faulty:
            return None
        drawn = self._dice.fault()
        return self.settings.poison_ids.get(message_id, drawn)

    def latency(self) -> float:
        """Seconds until this answer."""
        latency = self._latency
        return self._dice.latency(latency.min, latency.max) if latency.max else 0.0

    def cut_off(self, message_id: int, head: Head) -> Reaction:
        """Judges a message that is refused before its body is read."""
        self.witness.record(message_id, None, "reset_before", head.request_id)
        return ANSWERS["reset_before"].react(self.settings)

    def receive(self, message_id: int, head: Head, body: bytes, drawn: str | None) -> Reaction:
        """Judges a whole message and records it. A breach of the contract outweighs a fault."""
        content = _read(message_id, body)
        if head.authorization != self._authorization:
            answer = "unauthorized"
        elif content is None:
            answer = "bad_request"
        elif self.settings.rate_limit is not None and not self._admits(self.settings.rate_limit):
            answer = "rate_limited"
        else:
            answer = drawn or "accepted"
            phones = self.settings.phones
            if phones and message_id not in self.settings.poison_ids:
                answer = phones.get(content[0], answer)
        self.witness.record(message_id, content, answer, head.request_id)
        if answer == "accepted":
            return ACCEPT
        if answer == "bad_request":
            return Reaction(plain(400, _breach(message_id, body)))
        return ANSWERS[answer].react(self.settings)

    def _admits(self, limit: int) -> bool:
        """Whether the provider's own limit leaves room in the second that ends now."""
        now = time.monotonic()
        admitted = self._admitted
        while admitted and admitted[0] <= now - 1:
            admitted.popleft()
        if len(admitted) >= limit:
            return False
        admitted.append(now)
        return True


def read_message_id(segment: bytes) -> int | None:
    """The message id in the path, or None where there cannot be one."""
    if not segment.isdigit() or len(segment) > 19:
        return None
    number = int(segment)
    return number if number <= _INT64_MAX else None


def _read(message_id: int, body: bytes) -> tuple[int, str] | None:
    """Phone and text of a message, or None where anything breaks the contract."""
    try:
        message = orjson.loads(body)
        phone, text = message["phone"], message["text"]
        # Exact types, as bool is an int to Python; orjson reads no integer below 64 bits.
        if (
            type(message["id"]) is int
            and message["id"] == message_id
            and type(phone) is int
            and phone <= _INT64_MAX
            and type(text) is str
            and len(message) == 3
        ):
            return phone, text
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    return None


def _breach(message_id: int, body: bytes) -> str:
    """What is wrong with a body that `_read` refused."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "the body is no JSON"
    if type(message) is not dict or message.keys() != {"id", "phone", "text"}:
        return "the body must be an object of id, phone and text"
    for key in ("id", "phone"):
        if type(message[key]) is not int or message[key] > _INT64_MAX:
            return f"{key} must be a 64-bit integer"
    if type(message["text"]) is not str:
        return "text must be a string"
    return "the ids in path and body differ"

"""The provider's logic: check each message against the contract and the settings, and record it."""

import time
from collections import deque
from typing import Protocol

import orjson

from dev.provider.capacity import Capacity
from dev.provider.faults import ACCEPT, ANSWERS, FaultSelector, Reaction, error_response
from dev.provider.http1 import Request
from dev.provider.request_log import RequestLog
from dev.provider.settings import Settings

_INT64_MAX = 2**63 - 1
_FIELDS = {"id", "phone", "text"}


class OpenConnection(Protocol):
    """What the provider uses of a connection."""

    @property
    def has_sent(self) -> bool: ...
    @property
    def in_flight(self) -> bool: ...
    def reset(self) -> None: ...


class ContractError(ValueError):
    """A message's body violates the contract; the text says how."""


class Provider:
    """The state that all connections share."""

    def __init__(self, settings: Settings) -> None:
        self._initial = settings
        self.request_log = RequestLog()
        self.connections: set[OpenConnection] = set()
        self._admitted: deque[float] = deque()  # instants, for the rate limit
        self._capacity_settings = settings.capacity, settings.overload
        self.capacity = Capacity(*self._capacity_settings)
        self.restore_settings()

    def restore_settings(self) -> None:
        """Go back to the settings at start."""
        self._admitted.clear()
        self.change_settings(self._initial, reseed=True)

    def change_settings(self, settings: Settings, *, reseed: bool) -> None:
        if reseed:
            self._selector = FaultSelector(settings.seed)
        self.settings = settings
        self._authorization = b"Bearer " + settings.token.encode()
        self._latency = settings.latency
        if (settings.capacity, settings.overload) != self._capacity_settings:
            # What is being served goes on in the old one.
            self._capacity_settings = settings.capacity, settings.overload
            self.capacity = Capacity(*self._capacity_settings)
        self._faulty = bool(settings.faults or settings.poison_ids)
        self._selector.set_fractions(settings.faults)
        if settings.down:
            # Connections that have only used the control interface stay.
            for connection in [each for each in self.connections if each.has_sent]:
                connection.reset()

    def count_in_flight(self) -> int:
        """Count the received messages whose answer a client still waits for."""
        return sum(1 for connection in self.connections if connection.in_flight)

    def choose_fault(self, message_id: int) -> str | None:
        """Return the fault, if any, for this arrival of the message."""
        if not self._faulty:
            return None
        chosen = self._selector.choose_fault()
        return self.settings.poison_ids.get(message_id, chosen)

    def choose_latency(self) -> float:
        """Return the seconds until this answer."""
        latency = self._latency
        return self._selector.choose_latency(latency.min, latency.max) if latency.max else 0.0

    def reset_before_body(self, message_id: int, request: Request) -> Reaction:
        """Record a message whose connection is reset before its body is read."""
        self.request_log.record(message_id, None, "reset_before", request.request_id)
        return ANSWERS["reset_before"].react(self.settings)

    def receive(self, message_id: int, request: Request, fault: str | None) -> Reaction:
        """Check a complete message and record it. A contract violation outweighs a fault."""
        content, violation = None, ""
        try:
            content = parse_message(message_id, request.body)
        except ContractError as error:
            violation = str(error)
        if request.authorization != self._authorization:
            answer = "unauthorized"
        elif content is None:
            answer = "bad_request"
        elif self.capacity.throttles or not self._admit(self.settings.rate_limit):
            answer = "rate_limited"
        else:
            answer = fault or "accepted"
            phones = self.settings.phones
            if phones and message_id not in self.settings.poison_ids:
                answer = phones.get(content[0], answer)
        self.request_log.record(message_id, content, answer, request.request_id)
        if answer == "accepted":
            return ACCEPT
        if answer == "bad_request":
            return Reaction(error_response(400, violation))
        return ANSWERS[answer].react(self.settings)

    def _admit(self, limit: int | None) -> bool:
        """Count this message if fewer than `limit` came in the last second."""
        if limit is None:
            return True
        now = time.monotonic()
        admitted = self._admitted
        while admitted and admitted[0] <= now - 1:
            admitted.popleft()
        if len(admitted) >= limit:
            return False
        admitted.append(now)
        return True


def parse_message_id(segment: bytes) -> int | None:
    """Return the message id in the path, or None if it is not one."""
    if not segment.isdigit() or len(segment) > 19:
        return None
    number = int(segment)
    return number if number <= _INT64_MAX else None


def parse_message(message_id: int, body: bytes) -> tuple[int, str]:
    """Return a message's phone and text; raise ContractError if the body is not valid."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ContractError("the body is no JSON") from None
    if type(message) is not dict or message.keys() != _FIELDS:
        raise ContractError("the body must be an object of id, phone and text")
    phone, text = message["phone"], message["text"]
    # Exact types, as bool is a subclass of int; orjson reads no integer below 64 bits.
    for key in ("id", "phone"):
        if type(message[key]) is not int or message[key] > _INT64_MAX:
            raise ContractError(f"{key} must be a 64-bit integer")
    if type(text) is not str:
        raise ContractError("text must be a string")
    if message["id"] != message_id:
        raise ContractError("the ids in path and body differ")
    return phone, text

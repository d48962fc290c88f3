"""One client's connection: takes its requests in order, one at a time, and carries out reactions.

A request pipelined behind another is looked at once that one is answered.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import cast

from dev.provider import control
from dev.provider.faults import Reaction, Then, plain
from dev.provider.http1 import CONTINUE, UNREADABLE, Head, RequestError, RequestReader
from dev.provider.provider import Provider, read_message_id

_SEND = b"/v1/send/"
_NOT_FOUND = Reaction(plain(404, "no such path"))
_NOT_ALLOWED = Reaction(plain(405, "only POST is allowed", ("Allow", "POST")))
_LINGER_NOT = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """An asyncio protocol; all connections share the one `Provider`."""

    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._loop = loop
        self._reader = RequestReader()
        self._transport: asyncio.Transport
        self._timer: asyncio.Handle | None = None
        # While occupied, nothing is read out of the buffer: an answer is owed, or all is said.
        self._occupied = False
        self._paused = False
        self._stalled = False
        # About the request under way.
        self._message_id: int | None = None
        self._drawn: str | None = None
        self._is_control = False
        self._continued = False
        self._pieces: Iterator[bytes] = iter(())
        self._pumped: tuple[Reaction, Head]
        self.has_sent = False

    @property
    def in_flight(self) -> bool:
        return self._occupied and self._message_id is not None and not self._is_control

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._provider.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._occupied = True
        if self._timer is not None:
            self._timer.cancel()
        self._provider.connections.discard(self)

    def pause_writing(self) -> None:
        self._paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        if self._stalled:
            self._stalled = False
            self._pump()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if not self._occupied:
            self._advance()

    def reset(self) -> None:
        """Ends the connection the hard way: the client sees a reset, not an end."""
        self._occupied = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()

    def _advance(self) -> None:
        """Serves the requests that have wholly arrived, until an answer has to wait."""
        reader = self._reader
        try:
            while not self._occupied:
                head = reader.head
                if head is None:
                    head = reader.next_head()
                    if head is None:
                        return
                    if not self._begin(head):
                        return
                body = reader.take_body()
                if body is None:
                    if head.expects_continue and not self._continued:
                        self._continued = True
                        self._transport.write(CONTINUE)
                    return
                self._serve(head, body)
        except RequestError as error:
            if self._provider.settings.down:
                self.reset()
                return
            self._provider.witness.stray["malformed"] += 1
            self._occupied = True
            self._transport.write(plain(error.status, error.message).render(UNREADABLE))
            self._transport.close()

    def _begin(self, head: Head) -> bool:
        """Looks at a request whose body may still be on its way; says whether to wait for it."""
        target = self._reader.target
        self._continued = False
        self._message_id = self._drawn = None
        self._is_control = control.owns(target)
        if self._is_control:
            return True
        if self._provider.settings.down:
            self.reset()
            return False
        self.has_sent = True
        if target.startswith(_SEND):
            self._message_id = message_id = read_message_id(target[len(_SEND) :])
            if message_id is not None and head.method == b"POST":
                self._drawn = self._provider.draw(message_id)
                if self._drawn == "reset_before":
                    self._perform(self._provider.cut_off(message_id, head), head)
                    return False
        return True

    def _serve(self, head: Head, body: bytes) -> None:
        provider = self._provider
        if self._is_control:
            self._perform(control.handle(provider, head, self._reader.target, body), head)
        elif self._message_id is None:
            provider.witness.stray["not_found"] += 1
            self._perform(_NOT_FOUND, head)
        elif head.method != b"POST":
            provider.witness.stray["method_not_allowed"] += 1
            self._perform(_NOT_ALLOWED, head)
        else:
            reaction = provider.receive(self._message_id, head, body, self._drawn)
            delay = provider.latency() + reaction.delay
            if delay > 0:
                self._occupied = True
                self._timer = self._loop.call_later(delay, self._perform_late, reaction, head)
            else:
                self._perform(reaction, head)

    def _perform_late(self, reaction: Reaction, head: Head) -> None:
        self._occupied = False
        self._perform(reaction, head)
        self._advance()

    def _perform(self, reaction: Reaction, head: Head) -> None:
        if reaction.response is not None:
            self._transport.write(reaction.response.render(head))
            self._finish(reaction.then, head)
        elif reaction.raw:
            self._occupied = True
            self._pieces = iter(reaction.raw)
            self._pumped = (reaction, head)
            self._pump()
        else:
            self._finish(reaction.then, head)

    def _pump(self) -> None:
        """Writes the next piece of a long or slow answer, and comes back for the one after it."""
        if self._paused:
            self._stalled = True
            return
        reaction, head = self._pumped
        piece = next(self._pieces, None)
        if piece is None:
            self._occupied = False
            self._finish(reaction.then, head)
            self._advance()
            return
        if piece:
            self._transport.write(piece)
        if reaction.interval:
            self._timer = self._loop.call_later(reaction.interval, self._pump)
        else:
            self._timer = self._loop.call_soon(self._pump)

    def _finish(self, then: Then, head: Head) -> None:
        if then is Then.KEEP and head.keep_alive:
            return
        self._occupied = True
        if then is Then.RESET:
            self.reset()
        elif then is not Then.STAY:
            self._transport.close()

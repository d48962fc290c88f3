"""One client's connection: answer its requests in order, one at a time."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import cast

from dev.provider import control
from dev.provider.faults import ConnectionEnd, Reaction, error_response
from dev.provider.http1 import CONTINUE, Request, RequestReader
from dev.provider.provider import Provider, parse_message_id

_SEND_PATH = b"/v1/send/"
_NOT_FOUND = Reaction(error_response(404, "no such path"))
_NOT_ALLOWED = Reaction(error_response(405, "only POST is allowed", ("Allow", "POST")))
_LINGER_NOT = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class Connection(asyncio.Protocol):
    """An asyncio protocol; all connections share one `Provider`."""

    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._loop = loop
        self._reader = RequestReader()
        self._transport: asyncio.Transport
        self._timer: asyncio.Handle | None = None
        self._busy = False  # an answer is pending, or nothing more will be answered
        self._writing_paused = False
        self._pieces: Iterator[bytes] = iter(())  # of a raw reaction under way
        self._stalled: tuple[Reaction, Request] | None = None  # its next piece waits for the client
        # About the request under way.
        self._begun: Request | None = None
        self._is_control = False
        self._message_id: int | None = None
        self._fault: str | None = None
        self.has_sent = False

    @property
    def in_flight(self) -> bool:
        return self._busy and self._message_id is not None and not self._is_control

    # --- callbacks of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._provider.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._provider.connections.discard(self)

    def pause_writing(self) -> None:
        self._writing_paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        if self._stalled is not None:
            stalled, self._stalled = self._stalled, None
            self._write_pieces(*stalled)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if not self._busy:
            self._serve_requests()

    # --- requests

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self._stop()
        if not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()

    def _stop(self) -> None:
        self._busy = True
        if self._timer is not None:
            self._timer.cancel()

    def _serve_requests(self) -> None:
        """Answer the requests that have arrived completely, until an answer has to wait."""
        requests = self._reader.requests
        while requests and not self._busy:
            request = requests[0]
            if request is not self._begun and not self._begin(request):
                return
            if not request.complete:
                if request.expects_continue:
                    request.expects_continue = False
                    self._transport.write(CONTINUE)
                return
            requests.popleft()
            self._serve(request)
        if self._reader.error is not None and not self._busy:
            self._refuse_malformed()

    def _refuse_malformed(self) -> None:
        error = self._reader.error
        if error is None or self._provider.settings.down:
            self.reset()
            return
        self._provider.request_log.stray["malformed"] += 1
        self._busy = True
        self._transport.write(error_response(error.status, error.message).render(Request()))
        self._transport.close()

    def _begin(self, request: Request) -> bool:
        """Look at a request's head; return False if its body need not be read."""
        target = request.target
        self._begun = request
        self._message_id = self._fault = None
        self._is_control = control.is_control_target(target)
        if self._is_control:
            return True
        if self._provider.settings.down:
            self.reset()
            return False
        self.has_sent = True
        if target.startswith(_SEND_PATH):
            self._message_id = message_id = parse_message_id(target[len(_SEND_PATH) :])
            if message_id is not None and request.method == b"POST":
                self._fault = self._provider.choose_fault(message_id)
                if self._fault == "reset_before":
                    self._perform(self._provider.reset_before_body(message_id, request), request)
                    return False
        return True

    def _serve(self, request: Request) -> None:
        provider = self._provider
        if self._is_control:
            self._perform(control.handle_request(provider, request), request)
        elif self._message_id is None:
            provider.request_log.stray["not_found"] += 1
            self._perform(_NOT_FOUND, request)
        elif request.method != b"POST":
            provider.request_log.stray["method_not_allowed"] += 1
            self._perform(_NOT_ALLOWED, request)
        else:
            reaction = provider.receive(self._message_id, request, self._fault)
            delay = provider.choose_latency() + reaction.delay
            if delay > 0:
                self._busy = True
                self._timer = self._loop.call_later(delay, self._perform_late, reaction, request)
            else:
                self._perform(reaction, request)

    # --- reactions

    def _perform_late(self, reaction: Reaction, request: Request) -> None:
        self._busy = False
        self._perform(reaction, request)
        self._serve_requests()

    def _perform(self, reaction: Reaction, request: Request) -> None:
        if reaction.response is not None:
            self._transport.write(reaction.response.render(request))
        elif reaction.raw:
            self._busy = True
            self._pieces = iter(reaction.raw)
            self._write_pieces(reaction, request)
            return
        self._finish(reaction.end, request)

    def _write_pieces(self, reaction: Reaction, request: Request) -> None:
        """Write the next piece of a long or slow answer and schedule the one after it."""
        if self._writing_paused:
            self._stalled = (reaction, request)
            return
        piece = next(self._pieces, None)
        if piece is None:
            self._busy = False
            self._finish(reaction.end, request)
            self._serve_requests()
            return
        if piece:
            self._transport.write(piece)
        self._timer = self._loop.call_later(
            reaction.interval, self._write_pieces, reaction, request
        )

    def _finish(self, end: ConnectionEnd, request: Request) -> None:
        if end is ConnectionEnd.KEEP and request.keep_alive:
            return
        self._busy = True
        if end is ConnectionEnd.RESET:
            self.reset()
        elif end is not ConnectionEnd.HANG:
            self._transport.close()

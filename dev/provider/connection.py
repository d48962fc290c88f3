"""One client's connection: answer its requests in order, one at a time."""

import asyncio
import socket
import struct
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
    """An asyncio protocol whose task answers the requests; all share one `Provider`."""

    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._loop = loop
        self._reader = RequestReader()
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]
        self._received: asyncio.Future[None] | None = None  # awaited for more data
        self._writable = asyncio.Event()
        self._writable.set()
        self.has_sent = False
        self.in_flight = False  # a message has arrived whose answer is not sent

    # --- callbacks of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        refused = self._provider.capacity.refuses_connection(len(self._provider.connections))
        self._provider.connections.add(self)
        self._task = self._loop.create_task(self._serve())
        if refused:
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:
        self._task.cancel()
        self._provider.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._received is not None and not self._received.done():
            self._received.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable.set()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # --- requests

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        if not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()

    async def _serve(self) -> None:
        """Answer requests until the connection ends or hangs."""
        requests = self._reader.requests
        while True:
            while not requests:
                if self._reader.error is not None:
                    self._refuse_malformed()
                    return
                await self._wait_for_data()
            request = requests.popleft()
            reaction = await self._react(request)
            if reaction is None:
                continue
            await self._send(reaction, request)
            if reaction.end is ConnectionEnd.HANG:
                return
            self.in_flight = False
            if reaction.end is ConnectionEnd.RESET:
                self.reset()
                return
            if reaction.end is ConnectionEnd.CLOSE or not request.keep_alive:
                self._transport.close()
                return

    async def _react(self, request: Request) -> Reaction | None:
        """Read the rest of a request and decide what to do; None if the rest is malformed."""
        provider, target = self._provider, request.target
        if control.is_control_target(target):
            complete = await self._receive_body(request)
            return control.handle_request(provider, request) if complete else None
        if provider.settings.down:
            return Reaction(end=ConnectionEnd.RESET)
        self.has_sent = True
        message_id = fault = None
        if target.startswith(_SEND_PATH):
            message_id = parse_message_id(target[len(_SEND_PATH) :])
        if message_id is not None and request.method == b"POST":
            fault = provider.choose_fault(message_id)
            if fault == "reset_before":
                return provider.reset_before_body(message_id, request)
        if not request.complete and not await self._receive_body(request):
            return None
        if message_id is None:
            provider.request_log.stray["not_found"] += 1
            return _NOT_FOUND
        if request.method != b"POST":
            provider.request_log.stray["method_not_allowed"] += 1
            return _NOT_ALLOWED
        reaction = provider.receive(message_id, request, fault)
        self.in_flight = True
        delay = provider.choose_latency() + reaction.delay
        if delay > 0:
            await provider.capacity.serve(delay)
        return reaction

    async def _receive_body(self, request: Request) -> bool:
        """Wait until a request is complete; return False if its rest is malformed."""
        if request.expects_continue and not request.complete:
            self._transport.write(CONTINUE)
        while not request.complete and self._reader.error is None:
            await self._wait_for_data()
        return request.complete

    async def _wait_for_data(self) -> None:
        self._received = self._loop.create_future()
        await self._received

    def _refuse_malformed(self) -> None:
        error = self._reader.error
        if error is None or self._provider.settings.down:
            self.reset()
            return
        self._provider.request_log.stray["malformed"] += 1
        self._transport.write(error_response(error.status, error.message).render(Request()))
        self._transport.close()

    async def _send(self, reaction: Reaction, request: Request) -> None:
        if reaction.response is not None:
            self._transport.write(reaction.response.render(request))
        for piece in reaction.raw:
            await self._writable.wait()
            if piece:
                self._transport.write(piece)
            await asyncio.sleep(reaction.interval)

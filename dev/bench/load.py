"""A load generator for the API that uses little CPU: one thread, plain sockets, prebuilt requests.

16 threads of a common HTTP client use several times the CPU of this one, on the same cores as the
server. The generator's own CPU is part of the result.
"""

import selectors
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

CONNECTIONS = 16
END_OF_HEADERS = b"\r\n\r\n"
LENGTH = b"content-length: "


class Load(NamedTuple):
    """The result of a load."""

    rate: float  # answers per second
    times: list[float]  # milliseconds per request, from when it was due to its last byte
    own_cpu: float  # microseconds of the generator per request


class LoadError(Exception):
    """The API answered with an error or closed the connection."""


class _Connection:
    """One kept-alive connection, with at most one request under way."""

    def __init__(self, port: int, due: float) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = due
        self.answer = b""
        self.waiting = False

    def send(self, request: bytes) -> None:
        self.socket.sendall(request)
        self.waiting = True

    def receive(self) -> bool:
        """Read what has arrived; return whether the answer is complete."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise LoadError("the connection was closed")
        self.answer += chunk
        head, end, body = self.answer.partition(END_OF_HEADERS)
        if not end:
            return False
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise LoadError(self.answer.decode(errors="replace"))
        at = head.lower().index(LENGTH) + len(LENGTH)
        if len(body) < int(head[at:].partition(b"\r\n")[0]):
            return False
        self.answer, self.waiting = b"", False
        return True


def build_request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    """Return a request as bytes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def run_load(
    port: int, next_request: Callable[[], bytes], seconds: float, rate: float | None = None
) -> Load:
    """Send requests over 16 connections for some seconds, together at `rate` or at full speed.

    At a rate, requests are due at fixed instants, independent of earlier answers, and times count
    from then, so that a stalling server does not reduce the load.
    """
    every = CONNECTIONS / rate if rate else 0.0
    started, cpu = time.perf_counter(), time.thread_time()
    connections = [_Connection(port, started + n * every / CONNECTIONS) for n in range(CONNECTIONS)]
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    times: list[float] = []
    until = started + seconds
    try:
        while (now := time.perf_counter()) < until:
            idle = [each for each in connections if not each.waiting] if rate else connections
            for each in idle:
                if not each.waiting and each.due <= now:
                    each.send(next_request())
            soonest = min((each.due for each in idle if not each.waiting), default=until)
            for key, _ in selector.select(max(0.0, min(soonest, until) - time.perf_counter())):
                each = key.data
                if each.receive():
                    now = time.perf_counter()
                    times.append((now - each.due) * 1000)
                    each.due = each.due + every if rate else now
                    if not rate:
                        each.send(next_request())
    finally:
        selector.close()
        for each in connections:
            each.socket.close()
    elapsed = time.perf_counter() - started
    own_cpu = (time.thread_time() - cpu) / max(1, len(times)) * 1e6
    return Load(len(times) / elapsed, times, own_cpu)

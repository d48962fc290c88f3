"""A load on the API that costs little itself: one thread, bare sockets, ready-made requests.

16 threads of a common HTTP client take several times what a request costs here, from the same
cores as the server. What this one takes is reported beside what it measures.
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
    """What a load came to."""

    rate: float  # answers a second
    times: list[float]  # milliseconds of each, from when it was due to its last byte
    own_cpu: float  # microseconds of the generator's own per request


class BadAnswer(Exception):
    """The API answered with an error, or not at all."""


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
        """Take what has come; whether the answer is whole."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise BadAnswer("the connection was closed")
        self.answer += chunk
        head, end, body = self.answer.partition(END_OF_HEADERS)
        if not end:
            return False
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise BadAnswer(self.answer.decode(errors="replace"))
        at = head.lower().index(LENGTH) + len(LENGTH)
        if len(body) < int(head[at:].partition(b"\r\n")[0]):
            return False
        self.answer, self.waiting = b"", False
        return True


def request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def run(
    port: int, next_request: Callable[[], bytes], seconds: float, rate: float | None = None
) -> Load:
    """16 connections asking for some seconds, together at `rate` or as fast as they can.

    At a rate, requests are due at fixed instants whatever became of earlier ones, and times count
    from then: a server that stalls is not asked less for it.
    """
    every = CONNECTIONS / rate if rate else 0.0
    begun, cpu = time.perf_counter(), time.thread_time()
    connections = [_Connection(port, begun + n * every / CONNECTIONS) for n in range(CONNECTIONS)]
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    times: list[float] = []
    until = begun + seconds
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
    elapsed = time.perf_counter() - begun
    own_cpu = (time.thread_time() - cpu) / max(1, len(times)) * 1e6
    return Load(len(times) / elapsed, times, own_cpu)

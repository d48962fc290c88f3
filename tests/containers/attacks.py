"""Slow, silent and greedy clients of the published port: others are still served quickly.

tests/security has more of these, against the same configuration of nginx without containers.
"""

import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from stack import Stack, report, require

MAX_SECONDS = 2.0
POST = (
    b"POST /api/v1/clients HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000000\r\n\r\n"
)
# The name, the number of connections, and what each sends before it falls silent.
ATTACKS = (
    ("bodies that do not come", 40, POST),
    ("heads that do not end", 40, b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * 17_000),
    ("idle connections", 1_000, b""),
    (
        "clients that linger after the end of the connection",
        400,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ),
)


@contextmanager
def _connections(port: int, number: int, sent: bytes) -> Iterator[None]:
    opened = []
    try:
        for _ in range(number):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            opened.append(connection)
            connection.sendall(sent)
        yield
    finally:
        for connection in opened:
            connection.close()


def _measure_longest_answer(port: int) -> float:
    longest = 0.0
    for _ in range(5):
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            answer.read()
        longest = max(longest, time.monotonic() - began)
    return longest


def check_slow_clients(stack: Stack) -> None:
    """Check that /healthz answers within MAX_SECONDS beside each attack."""
    for name, number, sent in ATTACKS:
        with _connections(stack.port, number, sent):
            longest = _measure_longest_answer(stack.port)
        require(longest < MAX_SECONDS, f"{number} {name}: /healthz took {longest:.1f} s")
    report(f"/healthz is quick beside {', '.join(name for name, _, _ in ATTACKS)}")

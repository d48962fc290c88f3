"""Slow, silent and greedy clients behind the shipped nginx: others are still served quickly."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from psycopg2.extensions import cursor as Cursor

from tests.integration.conftest import TOKEN
from tests.support.api_server import Server
from tests.support.nginx import Nginx

HEAD = b"Host: localhost\r\n"
AUTHORIZATION = f"Authorization: Bearer {TOKEN}\r\n".encode()
CLIENTS = """
INSERT INTO clients (phone, operator_code, tag, timezone, attributes)
SELECT 79200000000 + n, 920, 'fat', 'Europe/Moscow', jsonb_build_object('note', repeat('x', 1000))
FROM generate_series(1, 10000) n
"""


@pytest.fixture(scope="module", autouse=True)
def _clients(database: Cursor) -> None:
    database.execute(CLIENTS)


@contextmanager
def connections(proxy: Nginx, number: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open connections that read slowly, and send these bytes on each."""
    host, port = proxy.address.split(":")
    opened: list[socket.socket] = []
    try:
        for _ in range(number):
            connection = socket.socket()
            opened.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(10)
            connection.connect((host, int(port)))
            connection.sendall(sent)
        yield opened
    finally:
        for connection in opened:
            connection.close()


def repeat_on(opened: list[socket.socket], act: Callable[[socket.socket], object]) -> None:
    """Do something on every connection; those that the proxy has closed are left out."""
    for connection in opened:
        try:
            act(connection)
        except OSError:
            continue


@contextmanager
def acting(opened: list[socket.socket], act: Callable[[socket.socket], object]) -> Iterator[None]:
    """Do something on every connection ten times a second, until the block ends."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(0.1):
            repeat_on(opened, act)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def assert_others_are_served_quickly(proxy: Nginx) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for path in ["/healthz", "/api/v1/clients?limit=1"] * 5:
        started = time.monotonic()
        answer = requests.get(f"{proxy.url}{path}", headers=headers, timeout=10)
        assert answer.status_code == 200
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("token", [b"", AUTHORIZATION])
@pytest.mark.parametrize("path", [b"/api/v1/clients", b"/api/v1/clients/import", b"/admin/sign-in"])
def test_bodies_at_600_bytes_per_second(proxy: Nginx, token: bytes, path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\n" + HEAD + token
    head += b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    with (
        connections(proxy, 40, head) as opened,
        acting(opened, lambda connection: connection.send(b" " * 60)),
    ):
        assert_others_are_served_quickly(proxy)


def test_chunked_bodies_that_never_end(proxy: Nginx) -> None:
    head = b"POST /api/v1/clients HTTP/1.1\r\n" + HEAD + AUTHORIZATION
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        connections(proxy, 40, head) as opened,
        acting(opened, lambda connection: connection.send(b"1\r\n \r\n")),
    ):
        assert_others_are_served_quickly(proxy)


def test_heads_over_16_kib_that_never_end(proxy: Nginx) -> None:
    head = b"GET /healthz HTTP/1.1\r\n" + HEAD + b"X-Long: " + b"x" * 17_000
    with (
        connections(proxy, 40, head) as opened,
        acting(opened, lambda connection: connection.send(b"x" * 60)),
    ):
        assert_others_are_served_quickly(proxy)
    lines = b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(2_000))
    with connections(proxy, 40, lines):
        assert_others_are_served_quickly(proxy)


def test_readers_at_800_bytes_per_second(proxy: Nginx) -> None:
    request = b"GET /api/v1/clients.csv HTTP/1.1\r\n" + HEAD + AUTHORIZATION + b"\r\n"
    with (
        connections(proxy, 40, request) as opened,
        acting(opened, lambda connection: connection.recv(80)),
    ):
        assert_others_are_served_quickly(proxy)


def test_idle_connections(proxy: Nginx) -> None:
    with connections(proxy, 2_500):
        assert_others_are_served_quickly(proxy)


def test_clients_that_linger_after_the_end_of_the_connection(proxy: Nginx) -> None:
    request = b"GET /healthz HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
    with connections(proxy, 400, request):
        assert_others_are_served_quickly(proxy)
    broken = b"GET /healthz HTTP/9.9\r\n\r\n"
    with connections(proxy, 400, broken):
        assert_others_are_served_quickly(proxy)


def test_one_address_cannot_hold_every_connection_to_the_api(proxy: Nginx) -> None:
    """Uploads beyond the limit of an address are refused before their bodies are read."""
    head = b"POST /api/v1/clients/import HTTP/1.1\r\n" + HEAD + AUTHORIZATION
    head += b"Content-Type: text/csv\r\nContent-Length: 100000000\r\n\r\nphone"
    with connections(proxy, 8, head) as opened:
        refused = []
        for connection in opened:
            connection.settimeout(0.5)
            try:
                refused.append(connection.recv(12))
            except TimeoutError:
                continue
    assert refused == [b"HTTP/1.1 429"] * 4


def test_requests_beyond_the_rate_of_an_address_are_refused_in_the_apis_shape(
    server: Server, tmp_path: Path
) -> None:
    proxy = Nginx(tmp_path, server.address)
    shipped = proxy.configuration.read_text()
    assert "rate=400r/s;" in shipped
    assert "burst=1000 nodelay;" in shipped
    slower = shipped.replace("rate=400r/s", "rate=1r/s").replace("burst=1000", "burst=5")
    proxy.configuration.write_text(slower)
    proxy.start()
    try:
        answers = [requests.get(f"{proxy.url}/healthz", timeout=10) for _ in range(20)]
    finally:
        proxy.stop()
    statuses = [answer.status_code for answer in answers]
    assert statuses[:6] == [200] * 6
    refused = answers[statuses.index(429)]
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["status"] == 429

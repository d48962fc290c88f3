"""The rest of a refused request's body is not awaited: without a proxy, and behind nginx."""

import socket
import time
from contextlib import ExitStack
from http.client import HTTPResponse

import pytest
import requests

from tests.integration.conftest import TOKEN
from tests.support.api_server import Server
from tests.support.nginx import Nginx

MEGABYTE = b" " * 1_000_000
HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: {}\r\n"


def open_connection(server: Server, sent: str) -> socket.socket:
    host, port = server.address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(sent.encode())
    return connection


@pytest.mark.parametrize("framing", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
def test_a_refusal_does_not_wait_for_the_body(server: Server, framing: str) -> None:
    """40 clients whose bodies never come: each gets its refusal, and no thread stays with it."""
    head = HEAD.format("/api/v1/clients/import", "wrong", "text/csv") + framing + "\r\n\r\n"
    started = time.monotonic()
    with ExitStack() as stack:
        slow = [stack.enter_context(open_connection(server, head)) for _ in range(40)]
        for connection in slow:
            assert connection.recv(12) == b"HTTP/1.1 401"
        assert server.http.get(f"{server.url}/healthz", timeout=5).ok
        assert time.monotonic() - started < 5
        rest = slow[0].recv(65536)
        assert b"Connection: close" in rest


def test_a_short_body_that_has_come_leaves_the_connection_open(server: Server) -> None:
    """Head and body in one segment: of a body that comes later, nothing is awaited."""
    head = HEAD.format("/api/v1/clients", "wrong", "application/json")
    request = f"{head}Content-Length: 2\r\n\r\n{{}}"
    with open_connection(server, request) as connection:
        for attempt in range(2):
            if attempt:
                connection.sendall(request.encode())
            with HTTPResponse(connection, method="POST") as answer:
                answer.begin()
                assert answer.status == 401
                assert answer.headers["Connection"] == "keep-alive"
                answer.read()


@pytest.mark.parametrize("megabytes", [2, 40])
def test_a_client_that_sends_everything_gets_the_refusal(server: Server, megabytes: int) -> None:
    answer = requests.post(
        f"{server.url}/api/v1/clients/import",
        MEGABYTE * megabytes,
        headers={"Authorization": "Bearer wrong", "Content-Type": "text/csv"},
        timeout=30,
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("path", "megabytes", "status"),
    [
        ("/api/v1/clients", 1.9, 401),
        ("/api/v1/clients/import", 40, 401),
        ("/api/v1/nothing", 1.9, 401),
    ],
)
def test_nginx_passes_the_refusal_on(
    proxy: Nginx, path: str, megabytes: float, status: int
) -> None:
    for _ in range(5):
        answer = requests.post(
            f"{proxy.url}{path}",
            b" " * int(megabytes * 1e6),
            headers={"Authorization": "Bearer wrong", "Content-Type": "text/csv"},
            timeout=30,
        )
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_nginx_passes_the_reason_on_why_a_file_is_unusable(proxy: Nginx) -> None:
    for _ in range(5):
        answer = requests.post(
            f"{proxy.url}/api/v1/clients/import",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + MEGABYTE * 40,  # an .xls file
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "text/csv"},
            timeout=30,
        )
        assert answer.status_code == 400
        assert "Excel" in answer.json()["detail"]

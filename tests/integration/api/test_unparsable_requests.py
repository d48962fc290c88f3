"""Requests that cannot be parsed: problems as answers, and nothing of the bytes in the log."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import TOKEN
from tests.support.api_server import Server, running, settings_of
from tests.support.nginx import Nginx
from tests.support.programs import require_program
from tests.support.waiting import wait_for

PHONE = "79161234567"
HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"
JSON = f"POST /api/v1/clients HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n{CHUNKED}"
CSV = f"POST /api/v1/clients/import HTTP/1.1\r\n{HEAD}Content-Type: text/csv\r\n{CHUNKED}"
FORM = (
    "POST /admin/sign-out HTTP/1.1\r\nHost: localhost\r\n"
    f"Content-Type: application/x-www-form-urlencoded\r\n{CHUNKED}"
)
REFUSED = f"POST /api/v1/nothing HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n{CHUNKED}"
# Bodies with malformed chunks, each with bytes that must not be logged.
BODIES = {
    "size": f"{PHONE} secret-text\r\n",
    "end": f"5\r\nhello {PHONE} secret-text\r\n0\r\n\r\n",
    "extension": f"5;{PHONE}@secret-text\r\nhello\r\n0\r\n\r\n",
    "trailer": f"0\r\nsecret-text {PHONE}\r\n\r\n",
}
UNPARSABLE = {
    f"secret-text {PHONE}\r\n\r\n": 400,
    f"GET /healthz HTTP/1.1\r\nsecret-text {PHONE}\r\n\r\n": 400,
    f"GET /healthz HTTP/9.9 {PHONE}\r\n\r\n": 400,
    f"GET /{'x' * 9000}secret-text HTTP/1.1\r\nHost: localhost\r\n\r\n": 414,
    f"GET /healthz HTTP/1.1\r\nX-Long: {'x' * 9000}secret-text\r\n\r\n": 431,
    "POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: secret-text\r\n\r\n": 501,
    "POST /healthz HTTP/1.1\r\nHost: x\r\nExpect: secret-text\r\nContent-Length: 1\r\n\r\n": 417,
}


@pytest.fixture(scope="module")
def server(
    database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    settings = {**settings_of(database_url, redis_url), "WEB_CONCURRENCY": "1"}
    with running(settings, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    require_program("nginx")
    proxy = Nginx(tmp_path_factory.mktemp("nginx"), server.address)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def exchange(address: str, sent: str, half_close: bool = True) -> tuple[int, dict[str, str], str]:
    """Return the status, headers and body of the last answer to these bytes."""
    host, port = address.split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent.encode())
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        try:
            while data := connection.recv(65536):
                received += data
        except ConnectionResetError:
            pass
    head, _, body = received.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[0]), headers, body.decode()


def assert_problem(answer: tuple[int, dict[str, str], str], status: int) -> None:
    found, headers, body = answer
    assert (found, headers["content-type"]) == (status, "application/problem+json"), body
    document = json.loads(body)
    assert document["status"] == status
    assert document["title"]
    assert document["code"]
    assert document["detail"]
    assert headers["x-request-id"] == document["request_id"]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("head", [JSON, CSV, REFUSED], ids=["json", "csv", "refused"])
def test_a_malformed_chunked_body_is_a_400_problem(server: Server, head: str, body: str) -> None:
    answer = exchange(server.address, head + BODIES[body])
    assert_problem(answer, 404 if head is REFUSED else 400)


@pytest.mark.parametrize("body", BODIES)
def test_a_malformed_form_is_a_400_page(server: Server, body: str) -> None:
    status, _, _ = exchange(server.address, FORM + BODIES[body])
    assert 400 <= status < 500


@pytest.mark.parametrize("sent", UNPARSABLE, ids=lambda sent: sent.strip()[:20])
def test_what_is_no_request_is_answered_with_a_problem(server: Server, sent: str) -> None:
    assert_problem(exchange(server.address, sent), UNPARSABLE[sent])


def test_bytes_are_not_logged_and_ids_of_the_request_before_neither(server: Server) -> None:
    ask = f"GET /api/v1/clients/123456 HTTP/1.1\r\n{HEAD}X-Request-ID: earlier\r\n\r\n"
    answer = exchange(server.address, ask + f"secret-text {PHONE}\r\n\r\n")
    assert_problem(answer, 400)
    request_id = json.loads(answer[2])["request_id"]

    def find_line() -> dict[str, object] | None:
        return next((line for line in server.log() if line.get("request_id") == request_id), None)

    line = wait_for(find_line, 30, "the log line")
    assert line["event"] == "api.unparsable"
    assert not {"client_id", "actor", "actor_id"} & line.keys()
    assert not [x for x in server.log() if x["event"] == "api.defect"]
    log = server.process.log.read_text()
    for part in ("secret-text", PHONE, PHONE[-4:]):
        assert part not in log


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (f"secret-text {PHONE}\r\n\r\n", 400),
        (f"GET /api/v1/clients HTTP/1.1\r\nsecret text {PHONE}\r\n\r\n", 400),
        (f"GET /{'x' * 20_000} HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (f"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {'x' * 20_000}\r\n\r\n", 431),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n", 413),
        ("GET /-/problem HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (JSON + BODIES["end"], 400),
    ],
)
def test_the_proxys_own_refusals_are_problems(proxy: Nginx, sent: str, status: int) -> None:
    assert_problem(exchange(proxy.address, sent, half_close=False), status)


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/clients", "/docs/", "/admin/"])
def test_an_unreachable_api_is_a_problem_for_programs_and_a_page_for_browsers(
    tmp_path: Path, path: str
) -> None:
    require_program("nginx")
    proxy = Nginx(tmp_path, "127.0.0.1:9")
    proxy.start()
    try:
        ask = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        answer = exchange(proxy.address, f"{ask}\r\n", half_close=False)
        status, headers, page = exchange(
            proxy.address, f"{ask}Accept: text/html,*/*\r\n\r\n", half_close=False
        )
    finally:
        proxy.stop()
    assert_problem(answer, 503)
    assert answer[1]["retry-after"] == headers["retry-after"] == "2"
    assert (status, headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert "<h1>The service cannot be reached</h1>" in page

"""The API behind the shipped nginx: slow clients do not slow others down, sizes are limited."""

import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
import requests
from psycopg2.extensions import cursor as Cursor

from tests.integration.conftest import TOKEN, value
from tests.support.api_server import Server, running, settings_of
from tests.support.nginx import Nginx
from tests.support.programs import require_program
from tests.support.waiting import wait_for

KEEPALIVE = 2
SLOW_CLIENTS = 40
THREADS = 8  # of the API's process
HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
EXPORT = f"GET /api/v1/clients.csv HTTP/1.1\r\n{HEAD}\r\n".encode()
# A CSV of some 20 MB: more than the sockets between the API and a client hold.
FAT_CLIENTS = """
INSERT INTO clients (phone, operator_code, tag, timezone, attributes)
SELECT 79200000000 + n, 920, 'fat', 'Europe/Moscow', jsonb_build_object('note', repeat('x', 1000))
FROM generate_series(1, 20000) n
"""


@pytest.fixture(scope="module")
def server(
    database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One process of gunicorn, which has fewer threads than the tests have slow clients."""
    require_program("nginx")
    settings = {**settings_of(database_url, redis_url), "WEB_CONCURRENCY": "1"}
    with running(settings, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    proxy = Nginx(
        tmp_path_factory.mktemp("nginx"),
        server.address,
        {"client_header_timeout": KEEPALIVE, "keepalive_timeout": KEEPALIVE},
    )
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """A proxy whose API does not run."""
    proxy = Nginx(tmp_path_factory.mktemp("unreachable"), "127.0.0.1:9")
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture(scope="module")
def fat_clients(database: Cursor) -> None:
    database.execute(FAT_CLIENTS)


def connect(proxy: Nginx, sent: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
    """Open a connection and send these bytes; a small `receive_buffer` makes a slow reader."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(30)
    host, port = proxy.address.split(":")
    connection.connect((host, int(port)))
    connection.sendall(sent)
    return connection


def begin_export(proxy: Nginx) -> socket.socket | None:
    """Begin an export that is read slowly; return None if too many are under way."""
    connection = connect(proxy, EXPORT, receive_buffer=4096)
    if connection.recv(12) == b"HTTP/1.1 200":
        return connection
    connection.close()
    return None


def read_all(connection: socket.socket) -> bytes:
    """Return everything up to the end of the connection, which may be a reset."""
    received = b""
    try:
        while chunk := connection.recv(1 << 20):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def assert_quick(proxy: Nginx, requests_made: int = 10) -> None:
    for path in ["/healthz", "/api/v1/clients?limit=1"] * (requests_made // 2):
        started = time.monotonic()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert requests.get(f"{proxy.url}{path}", headers=headers, timeout=5).ok
        assert time.monotonic() - started < 2


def test_slow_request_bodies_occupy_no_thread(proxy: Nginx) -> None:
    head = f"POST /api/v1/clients HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"
    slow = [
        connect(proxy, f"{head}Content-Length: 100\r\n\r\n".encode()) for _ in range(SLOW_CLIENTS)
    ]
    try:
        for _ in range(5):
            for connection in slow:
                connection.sendall(b" ")
            assert_quick(proxy, 2)
    finally:
        for connection in slow:
            connection.close()


def test_slow_readers_of_an_export_occupy_no_thread(proxy: Nginx, fat_clients: None) -> None:
    slow: list[socket.socket] = []

    def has_begun() -> bool:
        """An export is under way in the API until nginx has it, and only a few are permitted."""
        connection = begin_export(proxy)
        slow.extend([connection] if connection else [])
        return connection is not None

    try:
        for _ in range(THREADS + 4):
            wait_for(has_begun, 30, "an export")
        assert_quick(proxy)
    finally:
        for connection in slow:
            connection.close()


def test_unfinished_heads_and_silent_connections_are_closed(proxy: Nginx) -> None:
    silent = [connect(proxy) for _ in range(SLOW_CLIENTS)]
    unfinished = [connect(proxy, b"GET /healthz HTTP/1.1\r\n") for _ in range(SLOW_CLIENTS)]
    for connection in unfinished:
        connection.sendall(b"X")
    assert_quick(proxy)
    for connection in (*silent, *unfinished):
        assert not read_all(connection).startswith(b"HTTP/1.1 200")
        connection.close()


def test_an_idle_connection_is_closed_and_a_used_one_stays_open(proxy: Nginx) -> None:
    used, idle = (HTTPConnection(proxy.address, timeout=10) for _ in range(2))
    for connection in (used, idle):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status":"ok"}'
    first_socket = used.sock
    started = time.monotonic()
    while time.monotonic() - started < KEEPALIVE * 1.5:
        used.request("GET", "/healthz")
        assert used.getresponse().read() == b'{"status":"ok"}'
        time.sleep(0.2)
    assert used.sock is first_socket
    assert idle.sock.recv(1) == b""
    used.close()
    idle.close()


def test_a_broken_export_does_not_look_complete(
    server: Server, proxy: Nginx, fat_clients: None, database: Cursor
) -> None:
    with connect(proxy, EXPORT, receive_buffer=4096) as connection:
        received = connection.recv(4096)
        assert b"\r\nTransfer-Encoding: chunked\r\n" in received
        database.execute("ALTER TABLE clients RENAME TO clients_elsewhere")
        try:
            wait_for(lambda: "export.broken" in server.process.log.read_text(), 30, "the log event")
        finally:
            database.execute("ALTER TABLE clients_elsewhere RENAME TO clients")
        received += read_all(connection)
    assert received.count(b",fat,") > 1000
    assert not received.endswith(b"0\r\n\r\n")
    with connect(proxy, EXPORT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as whole:
        assert read_all(whole).endswith(b"\r\n0\r\n\r\n")


def test_an_interrupted_import_imports_nothing(proxy: Nginx, database: Cursor) -> None:
    rows = b"phone,timezone\r\n79310000001,Europe/Moscow\r\n"
    head = f"POST /api/v1/clients/import HTTP/1.1\r\n{HEAD}Content-Type: text/csv\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    with connect(proxy, head.encode() + b"%x\r\n%s\r\n" % (len(rows), rows)) as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    database.execute("SELECT count(*) FROM imports")
    assert value(database) == 0
    database.execute("SELECT count(*) FROM clients WHERE phone = 79310000001")
    assert value(database) == 0


def test_large_files_pass_and_other_large_bodies_are_refused_in_the_apis_shape(
    proxy: Nginx,
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "too-large"}
    refused = requests.post(
        f"{proxy.url}/api/v1/mailings", b" " * 3_000_000, headers=headers, timeout=30
    )
    assert refused.status_code == 413
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["status"] == 413
    assert refused.json()["request_id"] == "too-large"

    def logged() -> list[str]:
        lines = [line for line in proxy.log.read_text().splitlines() if line.startswith("{")]
        documents = map(json.loads, lines)
        return [line["status"] for line in documents if line["request_id"] == "too-large"]

    wait_for(lambda: logged() == ["413"], 30, "the log line of the refusal")
    file = b"phone,timezone\r\n" + b"79320000001,Europe/Moscow\r\n" * 120_000
    assert len(file) > 3_000_000
    accepted = requests.post(
        f"{proxy.url}/api/v1/clients/import",
        file,
        headers={**headers, "Content-Type": "text/csv"},
        timeout=60,
    )
    assert accepted.status_code == 202, accepted.text


def test_the_callers_request_id_and_host_pass_unchanged(proxy: Nginx) -> None:
    answer = requests.get(
        f"{proxy.url}/healthz", headers={"X-Request-ID": "through-nginx"}, timeout=5
    )
    assert answer.headers["X-Request-ID"] == "through-nginx"
    answer = requests.get(f"{proxy.url}/docs", allow_redirects=False, timeout=5)
    assert answer.is_redirect
    assert answer.headers["Location"].removeprefix(proxy.url) == "/docs/"


@pytest.mark.parametrize(
    ("accepted", "cookie", "language", "heading"),
    [
        ("en-GB,en;q=0.9,ru;q=0.8", "", "en", "The service cannot be reached"),
        ("ru-RU,ru;q=0.9,en;q=0.8", "", "ru", "Сервис недоступен"),
        ("en-GB,en;q=0.9", "admin_language=ru", "ru", "Сервис недоступен"),
        ("ru", "admin_language=en", "en", "The service cannot be reached"),
        ("run", "", "en", "The service cannot be reached"),
    ],
)
def test_a_refusal_is_a_page_in_the_language_of_the_browser(
    unreachable: Nginx, accepted: str, cookie: str, language: str, heading: str
) -> None:
    headers = {"Accept": "text/html,*/*;q=0.8", "Accept-Language": accepted, "Cookie": cookie}
    headers["X-Request-ID"] = "in-a-browser"
    answer = requests.get(f"{unreachable.url}/admin/mailings", headers=headers, timeout=10)
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Language"] == language
    page = answer.content.decode("utf-8")
    assert f'<html lang="{language}">' in page
    assert f"<h1>{heading}</h1>" in page
    assert "in-a-browser" in page


def test_an_unreachable_api_is_a_503_in_the_apis_shape(unreachable: Nginx) -> None:
    answer = requests.get(f"{unreachable.url}/api/v1/mailings", timeout=10)
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == "2"
    assert answer.json()["status"] == 503

"""The API's threads under gunicorn: who is slow, silent, killed or stopped harms nobody else."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests
from psycopg2.extensions import cursor as Cursor

from dev.bench.environment import children
from tests.integration.conftest import TOKEN, value
from tests.support.api_server import Server, running, settings_of
from tests.support.system import free_port
from tests.support.waiting import wait_for

KEEPALIVE = 2
HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
EXPORT = f"GET /api/v1/clients.csv HTTP/1.1\r\n{HEAD}\r\n".encode()
# Pages of several megabytes, so that a client that does not read holds an export up.
FAT_CLIENTS = """
INSERT INTO clients (phone, operator_code, tag, timezone, attributes)
SELECT 79200000000 + n, 920, 'fat', 'Europe/Moscow', jsonb_build_object('note', repeat('x', 1000))
FROM generate_series(1, 20000) n
"""


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> dict[str, str]:
    """Of one process, so that it is known which one is asked."""
    return {**settings_of(database_url, redis_url), "WEB_CONCURRENCY": "1"}


@pytest.fixture(scope="module")
def server(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--keep-alive", str(KEEPALIVE)]
    with running(settings, tmp_path_factory.mktemp("server"), options) as server:
        yield server


@pytest.fixture(scope="module")
def fat_clients(database: Cursor) -> None:
    database.execute(FAT_CLIENTS)


def connect(server: Server, sent: bytes = b"", buffer: int | None = None) -> socket.socket:
    """A connection over which this was sent; with a `buffer`, it takes no more than that."""
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(10)
    host, port = server.address.split(":")
    connection.connect((host, int(port)))
    connection.sendall(sent)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the end, also where that is a reset."""
    received = b""
    try:
        while chunk := connection.recv(1 << 20):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk
    return received


def upload(length: int) -> bytes:
    kind = f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
    return f"POST /api/v1/clients HTTP/1.1\r\n{HEAD}{kind}\r\n".encode()


def test_slow_clients_keep_nobody_waiting(server: Server, fat_clients: None) -> None:
    """Some send no body, some do not take their file: more than there are threads at a time."""
    slow = [connect(server, upload(100)) for _ in range(5)]
    slow += [connect(server, EXPORT, buffer=4096) for _ in range(5)]
    try:
        for each in slow[5:]:
            assert each.recv(12) == b"HTTP/1.1 200"
        for _ in range(20):
            asked = time.monotonic()
            assert server.ready()
            assert time.monotonic() - asked < 2
    finally:
        for each in slow:
            each.close()


def test_a_broken_export_does_not_look_complete(
    server: Server, fat_clients: None, database: Cursor
) -> None:
    with connect(server, EXPORT, buffer=4096) as connection:
        begun = connection.recv(4096)
        assert b"\r\nTransfer-Encoding: chunked\r\n" in begun
        database.execute("ALTER TABLE clients RENAME TO clients_elsewhere")
        try:
            received = begun + read_all(connection)
        finally:
            database.execute("ALTER TABLE clients_elsewhere RENAME TO clients")
    assert received.count(b",fat,") > 1000
    assert not received.endswith(b"0\r\n\r\n")
    wait_for(lambda: "export.broken" in server.process.log.read_text(), 5, "the log")
    with connect(server, EXPORT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as whole:
        assert read_all(whole).endswith(b"\r\n0\r\n\r\n")


def test_a_cut_import_is_not_taken_for_a_whole_one(server: Server, database: Cursor) -> None:
    rows = b"phone,timezone\r\n79310000001,Europe/Moscow\r\n"
    head = f"POST /api/v1/clients/import HTTP/1.1\r\n{HEAD}Content-Type: text/csv\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    with connect(server, head.encode() + b"%x\r\n%s\r\n" % (len(rows), rows)) as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")

    def is_forgotten() -> bool:
        database.execute("SELECT count(*) FROM imports")
        return bool(value(database) == 0)

    wait_for(is_forgotten, 5, "the end of the import")
    database.execute("SELECT count(*) FROM clients WHERE phone = 79310000001")
    assert value(database) == 0


def test_half_a_head_holds_no_thread_and_ends(server: Server) -> None:
    """Nor does a connection that says nothing: both are closed, however many there are."""
    silent = connect(server)
    halves = [connect(server, b"GET /healthz HTTP/1.1\r\n") for _ in range(40)]
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < KEEPALIVE * 0.75:
            for half in halves:
                half.sendall(b"X")  # a header that has no end
            assert requests.get(f"{server.url}/healthz", timeout=1).ok
        for each in (silent, *halves):
            assert read_all(each) == b""
    finally:
        for each in (silent, *halves):
            each.close()


def test_a_head_may_come_in_pieces(server: Server) -> None:
    """Also one that is sent together with the end of another request."""
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: %s\r\n\r\n"
    first, second = ask % b"first", ask % b"second"
    with connect(server, first + second[:-3]) as connection:
        assert b"X-Request-ID: first" in read_until(connection, b'{"status":"ok"}')
        connection.sendall(second[-3:-1])
        time.sleep(0.1)  # so that it is a piece of its own
        connection.sendall(second[-1:])
        assert b"X-Request-ID: second" in read_until(connection, b'{"status":"ok"}')


def test_an_idle_connection_is_closed_and_a_used_one_stays(server: Server) -> None:
    used, idle = (HTTPConnection(server.address, timeout=10) for _ in range(2))
    for each in (used, idle):
        each.request("GET", "/healthz")
        assert each.getresponse().read() == b'{"status":"ok"}'
    mine = used.sock
    begun = time.monotonic()
    while time.monotonic() - begun < KEEPALIVE * 1.5:
        used.request("GET", "/healthz")
        assert used.getresponse().read() == b'{"status":"ok"}'
        time.sleep(0.2)
    assert used.sock is mine
    assert idle.sock.recv(1) == b""
    used.close()
    idle.close()


def test_a_killed_process_is_replaced(server: Server) -> None:
    assert server.process.popen
    (killed,) = children(server.process.popen.pid)
    os.kill(killed, signal.SIGKILL)
    wait_for(server.ready, 20, "another process")
    (present,) = children(server.process.popen.pid)
    assert present != killed


def test_what_is_under_way_at_the_end_is_answered(settings: dict[str, str], tmp_path: Path) -> None:
    with running({**settings, "API_BIND": f"127.0.0.1:{free_port()}"}, tmp_path) as server:
        body = b'{"phone": "79320000001", "timezone": "Europe/Moscow"}'
        # What is answered was taken in: one that still waits for that at the end may be refused.
        idle = connect(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read_until(idle, b"}")
        announced = upload(len(body)).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        under_way = connect(server, announced)
        read_until(under_way, b"100 Continue\r\n\r\n")
        under_way.sendall(body[:10])
        assert server.process.popen
        server.process.popen.terminate()
        assert idle.recv(1) == b""  # so the process knows
        under_way.sendall(body[10:])
        head, _, answer = read_all(under_way).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201 ")
        assert json.loads(answer)["phone"] == "79320000001"
        assert server.process.popen.wait(10) == 0

"""Requests that two servers could read differently: nothing hidden in one is executed."""

import socket

import pytest
from psycopg2.extensions import cursor as Cursor

from tests.integration.conftest import TOKEN, value
from tests.support.api_server import Server
from tests.support.nginx import Nginx

SILENCE_SECONDS = 0.5
BODY = b'{"phone":"79169999999","timezone":"Europe/Moscow"}'
# What must never be executed: it would create a client.
HIDDEN = (
    b"POST /api/v1/clients HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (TOKEN.encode(), len(BODY), BODY)
)
HEAD = b"Host: a\r\nContent-Type: application/json\r\n"
CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)


def post(lengths: bytes, body: bytes, line: bytes = b"POST /healthz HTTP/1.1") -> bytes:
    return line + b"\r\n" + HEAD + lengths + b"\r\n\r\n" + body


ATTACKS = {
    "both lengths": post(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN),
    "both lengths, the other way": post(
        b"Transfer-Encoding: chunked\r\nContent-Length: %d" % len(CHUNK), CHUNK
    ),
    "two lengths": post(b"Content-Length: 0\r\nContent-Length: %d" % len(HIDDEN), HIDDEN),
    "a list of lengths": post(b"Content-Length: 0, %d" % len(HIDDEN), HIDDEN),
    "a signed length": post(b"Content-Length: +0", HIDDEN),
    "a negative length": post(b"Content-Length: -1", HIDDEN),
    "a hexadecimal length": post(b"Content-Length: 0x0", HIDDEN),
    "a length with a space": post(b"Content-Length : %d" % len(HIDDEN), HIDDEN),
    "a folded length": post(b"Content-Length:\r\n %d" % len(HIDDEN), HIDDEN),
    "an unknown coding": post(b"Transfer-Encoding: xchunked", HIDDEN),
    "a quoted coding": post(b'Transfer-Encoding: "chunked"', b"0\r\n\r\n" + HIDDEN),
    "a tabulated coding": post(b"Transfer-Encoding:\tchunked, identity", b"0\r\n\r\n" + HIDDEN),
    "a coding twice": post(
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n" + HIDDEN
    ),
    "a coding with a vertical tab": post(b"Transfer-Encoding: \x0bchunked", b"0\r\n\r\n" + HIDDEN),
    "a bare carriage return": post(b"X: y\rContent-Length: %d" % len(HIDDEN), HIDDEN),
    "a negative chunk": post(b"Transfer-Encoding: chunked", b"-1\r\n\r\n" + HIDDEN),
    "a huge chunk": post(b"Transfer-Encoding: chunked", b"FFFFFFFFFFFFFFFF0\r\n" + HIDDEN),
    "a chunk with 0x": post(b"Transfer-Encoding: chunked", b"0x0\r\n\r\n" + HIDDEN),
    "a chunk that ends early": post(
        b"Transfer-Encoding: chunked", b"1\r\nZZ\r\n0\r\n\r\n" + HIDDEN
    ),
    "a body of HTTP/1.0": post(
        b"Transfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN, b"POST /healthz HTTP/1.0"
    ),
    "an obsolete version": post(b"Content-Length: 0", HIDDEN, b"POST /healthz HTTP/0.9"),
    "a request in the path": b"GET /healthz?x=\r\n\r\n" + HIDDEN,
    "a request in the target": b"GET http://a/%b HTTP/1.1\r\nHost: a\r\n\r\n"
    % HIDDEN.replace(b"\r\n", b"%0d%0a").replace(b" ", b"%20"),
    "a header with NUL": post(b"X: a\x00b\r\nContent-Length: 0\r\n", b""),
}


def send(address: str, data: bytes) -> bytes:
    """Send bytes; return all that is answered until the server closes, or is silent."""
    host, _, port = address.rpartition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=SILENCE_SECONDS) as connection:
        connection.sendall(data)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except (TimeoutError, ConnectionError):
            pass
    return received


def clients(database: Cursor) -> int:
    database.execute("SELECT count(*) FROM clients")
    return int(value(database))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["direct", "behind nginx"])
def test_nothing_hidden_in_a_request_is_executed(
    server: Server, proxy: Nginx, database: Cursor, attack: str, place: str
) -> None:
    address = server.address if place == "direct" else proxy.address
    database.execute("DELETE FROM clients")
    received = send(address, ATTACKS[attack])
    assert clients(database) == 0, received
    assert b" 201 " not in received
    # The next caller gets the answer to its own request.
    assert server.http.get(f"http://{address}/healthz", timeout=5).status_code == 200


def test_the_hidden_request_would_work_by_itself(proxy: Nginx, database: Cursor) -> None:
    """Last: otherwise the tests above would prove nothing."""
    database.execute("DELETE FROM clients")
    assert b" 201 " in send(proxy.address, HIDDEN)
    assert clients(database) == 1

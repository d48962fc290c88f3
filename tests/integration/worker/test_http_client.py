"""The HTTP client on real sockets, against the faults of providers and networks."""

import gzip
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw_server import (
    OK,
    RawServer,
    make_response,
    reset_connection,
    respond,
    respond_once,
    write_certificate,
)
from tests.support.waiting import COMMAND_SECONDS
from worker.provider.http import client as client_module
from worker.provider.http import connection as connection_module
from worker.provider.http import dns as resolver_module
from worker.provider.http.client import HttpClient, Request, Result
from worker.provider.http.response_parser import MAX_RESPONSE_BYTES
from worker.provider.outcomes import Outcome

TOKEN = "head.payload.signature"
LAST = make_response("200 OK", b'{"code":0}', "Connection: close")
BODY = b'{"id":1,"phone":79001234567,"text":"hello"}'


@contextmanager
def make_client(
    url: str,
    *,
    may_send: Callable[[Request], bool] = lambda request: True,
    concurrency: int = 4,
    timeout: float = 5.0,
) -> Iterator[HttpClient[Request]]:
    client: HttpClient[Request] = HttpClient(
        base_url=url, token=TOKEN, concurrency=concurrency, timeout=timeout, may_send=may_send
    )
    try:
        yield client
    finally:
        client.close()


def drain(client: HttpClient[Request], seconds: float = 15.0) -> list[Result[Request]]:
    deadline = time.monotonic() + seconds
    results: list[Result[Request]] = []
    while client.in_flight:
        results += client.poll(0.2)
        assert time.monotonic() < deadline, "the requests did not end in time"
    return results


def send(client: HttpClient[Request], message_id: int = 1) -> Result[Request]:
    client.submit(Request(message_id, BODY))
    (result,) = drain(client)
    return result


def exchange(script: Callable[[socket.socket, RawServer], None], **options: Any) -> Result[Request]:
    with RawServer(script) as server, make_client(server.url, **options) as client:
        return send(client)


def summarize(result: Result[Request]) -> tuple[str, int | None, str]:
    return result.outcome.value, result.http_status, result.reason


def test_a_request_follows_the_contract() -> None:
    with RawServer(respond(OK)) as server, make_client(server.url) as client:
        before = time.time()
        request = Request(9_000_000_000, BODY, request_id="req-1")
        client.submit(request)
        (result,) = drain(client)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/send/9000000000 HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert headers.pop("Host") == f"127.0.0.1:{server.port}"
    assert headers == {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "notifications",
        "X-Request-ID": "req-1",
        "Content-Length": str(len(BODY)),
    }
    assert body == BODY
    assert summarize(result) == ("accepted", 200, "code_0")
    assert result.request is request
    assert result.sent
    assert 0 < result.latency < 5
    assert before <= result.finished_at <= time.time()


def test_a_base_path_is_kept() -> None:
    with RawServer(respond(OK)) as server, make_client(f"{server.url}/sms/") as client:
        send(client, 5)
    assert server.requests[0].startswith(b"POST /sms/v1/send/5 HTTP/1.1\r\n")


def test_each_request_carries_its_request_id() -> None:
    with RawServer(respond(OK)) as server, make_client(server.url, concurrency=1) as client:
        for request_id in ("a", "b", None, None, "c"):
            client.submit(Request(1, BODY, request_id=request_id))
            drain(client)
    ids = [r.partition(b"X-Request-ID: ")[2].partition(b"\r\n")[0] for r in server.requests]
    assert ids == [b"a", b"b", b"", b"", b"c"]


def test_a_request_id_cannot_inject_a_header() -> None:
    with RawServer(respond(OK)) as server, make_client(server.url) as client:
        with pytest.raises(ValueError, match="printable"):
            client.submit(Request(1, BODY, request_id="a\r\nX-Evil: 1"))
        assert client.in_flight == 0
        assert send(client).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (make_response("200 OK", b"<html>welcome</html>"), ("unknown", 200, "not_json")),
        (make_response("200 OK", b"[]"), ("unknown", 200, "not_object")),
        (make_response("200 OK", b'{"code": "0"}'), ("unknown", 200, "code_not_integer")),
        (make_response("200 OK", b'{"code": 1}'), ("declined", 200, "code_1")),
        (make_response("200 OK"), ("unknown", 200, "not_json")),
        (make_response("200 OK", b'{"code": 0, "mess'), ("unknown", 200, "not_json")),
        (make_response("200 OK", b'{"code": 0, "m": "\xff\xfe"}'), ("unknown", 200, "not_json")),
        (make_response("201 Created", b'{"code": 0}'), ("unknown", 201, "http_201")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ("unknown", 204, "http_204")),
        (make_response("400 Bad Request", b"no"), ("rejected", 400, "http_400")),
        (make_response("422 Unprocessable", b"no"), ("rejected", 422, "http_422")),
        (make_response("401 Unauthorized"), ("unauthorized", 401, "http_401")),
        (make_response("403 Forbidden"), ("unauthorized", 403, "http_403")),
        (make_response("408 Request Timeout"), ("unavailable", 408, "http_408")),
        (make_response("425 Too Early"), ("unavailable", 425, "http_425")),
        (make_response("500 Oops"), ("unavailable", 500, "http_500")),
        (make_response("503 Busy"), ("unavailable", 503, "http_503")),
        (
            b"HTTP/1.1 100 Continue\r\nRetry-After: 9\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK,
            ("accepted", 200, "code_0"),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'5\r\n{"cod\r\n6\r\ne": 0}\r\n0\r\n\r\n',
            ("accepted", 200, "code_0"),
        ),
    ],
)
def test_responses_are_classified(raw: bytes, expected: tuple[str, int, str]) -> None:
    with RawServer(respond(raw)) as server, make_client(server.url) as client:
        assert summarize(send(client)) == expected
        # The slot and its connection work for the next request.
        assert summarize(send(client)) == expected


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b'{"code":0}', "truncated"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", None),
        (b"lucky you, all is sent\r\n", "not_http"),
        (b"HTTP/1.1 2", None),
        (b"", "reset"),
        (b"\x00" * 1000, "not_http"),
    ],
)
def test_invalid_and_incomplete_responses_are_unknown(raw: bytes, reason: str | None) -> None:
    result = exchange(respond_once(raw))
    assert result.outcome is Outcome.UNKNOWN
    assert result.sent
    assert reason in (None, result.reason)


def test_a_compressed_response_is_decompressed_up_to_the_limit_only() -> None:
    for size, expected in (
        (MAX_RESPONSE_BYTES, ("accepted", 200, "code_0")),
        (MAX_RESPONSE_BYTES + 1, ("unknown", 200, "too_long")),
        (50_000_000, ("unknown", 200, "too_long")),
    ):
        body = gzip.compress(b'{"code": 0}'.ljust(size))
        response = make_response("200 OK", body, "Content-Encoding: gzip")
        began = time.process_time()
        assert summarize(exchange(respond(response))) == expected
        assert time.process_time() - began < 0.1


@pytest.mark.parametrize("announced", [True, False])
def test_a_ten_megabyte_response_is_not_read(announced: bool) -> None:
    sent = 0

    def script(connection: socket.socket, server: RawServer) -> None:
        nonlocal sent
        server.receive(connection)
        length = b"Content-Length: 10000000\r\n" if announced else b""
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        for _ in range(10_000):
            connection.sendall(b" " * 1000)
            sent += 1000

    with RawServer(script) as server, make_client(server.url) as client:
        assert summarize(send(client)) == ("unknown", 200, "too_long")
        assert not client._connections
    assert sent < 9_000_000  # the rest was sent to a closed connection


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("401 No", "unauthorized"), ("422 No", "rejected"), ("500 No", "unavailable")],
)
def test_a_too_long_response_is_classified_by_a_status_other_than_200(
    status: str, outcome: str
) -> None:
    result = exchange(respond(make_response(status, b"x" * (MAX_RESPONSE_BYTES + 1))))
    assert result.outcome == outcome


def test_a_response_of_the_maximum_length_is_read() -> None:
    body = b'{"code":0}'.ljust(MAX_RESPONSE_BYTES)
    assert exchange(respond(make_response("200 OK", body))).outcome is Outcome.ACCEPTED


def send_slowly(connection: socket.socket, data: bytes, server: RawServer) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        if server.stopped.wait(0.1):
            return


def receive_and_drip(connection: socket.socket, server: RawServer) -> None:
    server.receive(connection)
    send_slowly(connection, OK * 9, server)


@pytest.mark.parametrize(
    "script",
    [
        receive_and_drip,
        lambda connection, server: (server.receive(connection), server.stopped.wait(30)),
        lambda connection, server: server.stopped.wait(30),
    ],
    ids=["one byte at a time", "no response", "request never read"],
)
def test_the_whole_exchange_has_a_deadline(
    script: Callable[[socket.socket, RawServer], None],
) -> None:
    started = time.monotonic()
    result = exchange(script, timeout=0.5)
    assert result.outcome is Outcome.UNKNOWN
    assert result.reason == "timeout"
    assert 0.4 < time.monotonic() - started < 2
    assert 0.3 < result.latency < 2


def test_endless_headers_are_too_long() -> None:
    def script(connection: socket.socket, server: RawServer) -> None:
        server.receive(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not server.stopped.is_set():
            connection.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")

    started = time.monotonic()
    result = exchange(script)
    assert (result.outcome, result.reason) == (Outcome.UNKNOWN, "too_long")
    assert time.monotonic() - started < 4


def test_an_endless_header_is_unknown() -> None:
    def script(connection: socket.socket, server: RawServer) -> None:
        server.receive(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-More: ")
        while not server.stopped.is_set():
            connection.sendall(b"x" * 10_000)

    started = time.monotonic()
    assert exchange(script).outcome is Outcome.UNKNOWN
    assert time.monotonic() - started < 4


def test_a_redirect_is_not_followed() -> None:
    with RawServer(respond(OK)) as other:
        location = f"Location: {other.url}/v1/send/1"
        result = exchange(respond(make_response("302 Found", b"", location)))
        assert summarize(result) == ("unknown", 302, "redirect")
        assert other.connections == 0


def test_proxy_settings_and_cookies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(respond(OK)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        raw = make_response("200 OK", b'{"code":0}', "Set-Cookie: a=b")
        with RawServer(respond(raw)) as server, make_client(server.url) as client:
            assert send(client).outcome is Outcome.ACCEPTED
            assert send(client).outcome is Outcome.ACCEPTED
        assert b"cookie" not in server.requests[1].lower()
        assert proxy.connections == 0


@pytest.mark.parametrize("moment", ["before", "while", "after"])
def test_a_reset_is_unknown_once_the_request_was_sent(moment: str) -> None:
    def script(connection: socket.socket, server: RawServer) -> None:
        if moment == "while":
            connection.recv(20)
        elif moment == "after":
            server.receive(connection)
        reset_connection(connection)

    result = exchange(script)
    if moment == "before" and not result.sent:  # the reset came while connecting
        assert summarize(result) == ("unavailable", None, "connection_refused")
    else:
        assert result.outcome is Outcome.UNKNOWN
        assert result.reason == "reset"


def test_a_refused_connection_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with make_client(f"http://127.0.0.1:{port}") as client:
        for _ in range(2):
            result = send(client)
            assert summarize(result) == ("unavailable", None, "connection_refused")
            assert not result.sent
            assert result.latency == 0
            assert TOKEN not in result.excerpt


def test_dns_failure_neither_blocks_nor_sends() -> None:
    with make_client("http://name.invalid") as client:
        started = time.monotonic()
        client.submit(Request(1, BODY))
        at_once = client.poll(0.0)  # usually nothing, unless the look-up was very quick
        assert time.monotonic() - started < 1
        (result,) = (*at_once, *drain(client))
    assert summarize(result) == ("unavailable", None, "dns")
    assert not result.sent


def test_a_host_name_is_resolved() -> None:
    with (
        RawServer(respond(OK)) as server,
        make_client(f"http://localhost:{server.port}", concurrency=70) as client,
    ):
        for _ in range(5):
            for message_id in range(70):
                client.submit(Request(message_id, BODY))
            assert {r.outcome for r in drain(client)} == {Outcome.ACCEPTED}


def test_tls_to_a_plain_port_is_unavailable() -> None:
    def script(connection: socket.socket, server: RawServer) -> None:
        connection.recv(100)
        connection.sendall(make_response("400 Bad Request", b"plain HTTP here"))

    with RawServer(script) as server, make_client(f"https://127.0.0.1:{server.port}") as client:
        result = send(client)
    assert summarize(result) == ("unavailable", None, "tls")
    assert not result.sent


def test_a_certificate_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = write_certificate(tmp_path)
    with RawServer(respond(OK), tls=certificate) as server:
        with make_client(server.url) as client:
            result = send(client)
            assert summarize(result) == ("unavailable", None, "tls")
            assert not result.sent
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        with make_client(server.url) as client:
            assert summarize(send(client)) == ("accepted", 200, "code_0")
            assert summarize(send(client)) == ("accepted", 200, "code_0")
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "header", "outcome", "retry_after"),
    [
        ("429 Slow", "Retry-After: 3", "throttled", 3.0),
        ("429 Slow", "retry-after:   7  ", "throttled", 7.0),
        ("429 Slow", "Retry-After: soon", "throttled", None),
        ("429 Slow", "Retry-After: 999999999999999999999999", "throttled", 3600.0),
        ("429 Slow", "X-Other: 3", "throttled", None),
        ("503 Busy", "Retry-After: 0", "throttled", 0.0),
        ("503 Busy", "Retry-After: 120", "throttled", 120.0),
        ("503 Busy", "X-Other: 3", "unavailable", None),
        ("103 Hints\r\nRetry-After: 9\r\n\r\nHTTP/1.1 503 Busy", "X: 1", "unavailable", None),
    ],
)
def test_retry_after_is_returned(
    status: str, header: str, outcome: str, retry_after: float | None
) -> None:
    result = exchange(respond(make_response(status, b"slow down", header)))
    assert (result.outcome.value, result.retry_after) == (outcome, retry_after)
    assert result.excerpt == "slow down"


def test_retry_after_may_be_a_date() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    result = exchange(respond(make_response("429 Slow", b"", f"Retry-After: {date}")))
    assert result.retry_after is not None
    assert 95 < result.retry_after <= 100


# --- the check before sending ------------------------------------------------------------------


def test_a_request_that_may_not_be_sent_is_not_sent() -> None:
    checked: list[int] = []

    def may_send(request: Request) -> bool:
        checked.append(request.message_id)
        return request.message_id % 2 == 0

    with RawServer(respond(OK)) as server, make_client(server.url, may_send=may_send) as client:
        outcomes = {n: send(client, n) for n in range(1, 7)}
    assert checked == [1, 2, 3, 4, 5, 6]
    assert [summarize(outcomes[n]) for n in (1, 3, 5)] == [("not_sent", None, "not_permitted")] * 3
    assert [outcomes[n].sent for n in (1, 2)] == [False, True]
    assert [r.split(b" ")[1] for r in server.requests] == [b"/v1/send/%d" % n for n in (2, 4, 6)]


def test_the_check_is_made_when_sending_not_at_submit() -> None:
    allowed = True

    with (
        RawServer(respond(OK)) as server,
        make_client(server.url, may_send=lambda request: allowed) as client,
    ):
        client.submit(Request(1, BODY))
        allowed = False
        (result,) = drain(client)
    assert result.outcome is Outcome.NOT_SENT
    assert server.requests == []


def test_a_refused_check_on_an_idle_connection_is_reported_at_once() -> None:
    with (
        RawServer(respond(OK)) as server,
        make_client(server.url, may_send=lambda request: request.message_id == 1) as client,
    ):
        assert send(client, 1).outcome is Outcome.ACCEPTED
        started = time.monotonic()
        client.submit(Request(2, BODY))
        (result,) = client.poll(5)
        assert result.outcome is Outcome.NOT_SENT
        assert time.monotonic() - started < 1


def test_an_error_of_the_check_prevents_sending_and_is_raised() -> None:
    def may_send(request: Request) -> bool:
        raise LookupError("no lease known")

    with RawServer(respond(OK)) as server, make_client(server.url, may_send=may_send) as client:
        client.submit(Request(1, BODY))
        (result,) = client.poll(5.0)
        assert result.outcome is Outcome.NOT_SENT
        with pytest.raises(LookupError, match="no lease known"):
            client.poll(0.0)
    assert server.requests == []


def test_a_process_suspended_past_the_deadline_sends_nothing_afterwards(tmp_path: Path) -> None:
    code = """
        import os, signal, sys, time
        from worker.provider.http.client import HttpClient, Request
        end = time.clock_gettime(time.CLOCK_BOOTTIME) + 0.5
        client = HttpClient(
            base_url=sys.argv[1], token="t", concurrency=4, timeout=5,
            may_send=lambda request: time.clock_gettime(time.CLOCK_BOOTTIME) < end,
        )
        for message_id in range(4):
            client.submit(Request(message_id, b"{}"))
        print("queued", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        results = []
        while client.in_flight:
            results += client.poll(1)
        print(*(result.outcome for result in results))
    """
    with RawServer(respond(OK)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), server.url],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "queued\n"
        time.sleep(0.7)  # past the process's own deadline
        os.kill(process.pid, signal.SIGCONT)
        output, _ = process.communicate(timeout=10)
    assert output.split() == ["not_sent"] * 4
    assert server.requests == []


# --- kept-alive connections --------------------------------------------------------------------


def test_connections_are_kept() -> None:
    with RawServer(respond(OK)) as server, make_client(server.url, concurrency=3) as client:
        for _ in range(20):
            for message_id in range(3):
                client.submit(Request(message_id, BODY))
            drain(client)
    assert len(server.requests) == 60
    assert server.connections == 3


def test_a_request_is_never_sent_twice() -> None:
    def script(connection: socket.socket, server: RawServer) -> None:
        server.receive(connection)
        connection.sendall(OK)
        server.receive(connection)  # and close without a response: many clients would retry

    with RawServer(script) as server, make_client(server.url) as client:
        assert send(client, 1).outcome is Outcome.ACCEPTED
        result = send(client, 2)
    assert summarize(result) == ("unknown", None, "reset")
    assert result.sent
    assert [r.split(b" ")[1] for r in server.requests] == [b"/v1/send/1", b"/v1/send/2"]


def test_connections_closed_while_idle_lose_no_request() -> None:
    with RawServer(respond(OK)) as server, make_client(server.url, concurrency=8) as client:
        for round_ in range(5):
            for message_id in range(8):
                client.submit(Request(round_ * 8 + message_id, BODY))
            assert {r.outcome for r in drain(client)} == {Outcome.ACCEPTED}
            server.drop_connections()
            # The sockets have received the FINs once the server's threads have ended.
            server.wait_for(lambda: not server._open)
            time.sleep(0.05)  # with no poll in between
    assert len(server.requests) == 40
    assert len({r.split(b" ")[1] for r in server.requests}) == 40


def test_an_unsolicited_response_is_not_used_for_the_next_request() -> None:
    def script(connection: socket.socket, server: RawServer) -> None:
        server.receive(connection)
        connection.sendall(make_response("422 No", b"no"))
        if server.connections == 1:
            time.sleep(0.05)
            connection.sendall(OK)
        server.stopped.wait(10)

    with RawServer(script) as server, make_client(server.url, concurrency=1) as client:
        assert send(client, 1).outcome is Outcome.REJECTED
        time.sleep(0.3)  # without a poll, while the unsolicited response arrives
        assert send(client, 2).outcome is Outcome.REJECTED
        assert server.connections == 2


def test_a_connection_idle_for_too_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "IDLE_CONNECTION_SECONDS", 0.1)
    with RawServer(respond(OK)) as server, make_client(server.url) as client:
        assert send(client, 1).outcome is Outcome.ACCEPTED
        assert send(client, 2).outcome is Outcome.ACCEPTED
        assert server.connections == 1
        time.sleep(0.15)  # longer than IDLE_CONNECTION_SECONDS
        assert send(client, 3).outcome is Outcome.ACCEPTED
        assert server.connections == 2


# --- addresses ---------------------------------------------------------------------------------


def patch_dns(monkeypatch: pytest.MonkeyPatch, *answers: list[str] | OSError) -> list[str]:
    """Make names resolve to these, lookup by lookup; return the names looked up."""
    lookups: list[str] = []

    def getaddrinfo(host: str, port: int, **options: int) -> list[object]:
        if options.get("flags"):
            raise socket.gaierror("not a numeric address")
        lookups.append(host)
        answer = answers[min(len(lookups), len(answers)) - 1]
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answer]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return lookups


def test_the_next_address_is_tried_and_a_working_one_preferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups = patch_dns(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    with (
        RawServer(respond_once(LAST)) as server,
        make_client(f"http://provider.test:{server.port}") as client,
    ):
        assert [send(client, n).outcome for n in range(3)] == [Outcome.ACCEPTED] * 3
        assert client._connector._resolver.addresses() == [
            (socket.AF_INET, ("127.0.0.1", server.port)),
            (socket.AF_INET, ("127.0.0.2", server.port)),
        ]
    assert lookups == ["provider.test"]


def test_known_addresses_stay_in_use_while_the_name_server_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolver_module, "CACHE_SECONDS", 0.0)
    lookups = patch_dns(monkeypatch, ["127.0.0.1"], socket.gaierror("no name server"))
    with (
        RawServer(respond_once(LAST)) as server,
        make_client(f"http://provider.test:{server.port}") as client,
    ):
        for n in range(5):
            assert send(client, n).outcome is Outcome.ACCEPTED
    assert len(lookups) > 1


def test_a_change_of_addresses_is_followed_under_steady_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Connections have a bounded age, and the name is looked up at its age, used or not."""
    monkeypatch.setattr(resolver_module, "CACHE_SECONDS", 0.3)
    monkeypatch.setattr(connection_module, "MAX_AGE_SECONDS", (0.5, 0.7))
    moved = threading.Event()

    def getaddrinfo(host: str, port: int, **options: int) -> list[object]:
        if options.get("flags"):
            raise socket.gaierror("not a numeric address")
        ip = "127.0.0.2" if moved.is_set() else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with (
        RawServer(respond(OK)) as old,
        RawServer(respond(OK), host="127.0.0.2", port=old.port) as new,
        make_client(f"http://provider.test:{old.port}", concurrency=8) as client,
    ):
        message_id, moved_at, last_to_old = 0, 0.0, 0.0
        until = time.monotonic() + 8.0
        while time.monotonic() < until:
            received = len(old.requests)
            while client.free_slots:
                message_id += 1
                client.submit(Request(message_id, BODY))
            assert {r.outcome for r in client.poll(0.01)} <= {Outcome.ACCEPTED}
            if len(old.requests) > received:
                last_to_old = time.monotonic()
            if not moved_at and len(old.requests) > 50:
                moved.set()
                moved_at = time.monotonic()
            if moved_at and time.monotonic() - moved_at > 2.0:
                break
        drain(client)
        assert moved_at
        assert 0 < last_to_old - moved_at < 1.5
        assert len(new.requests) > 50
        ids = [int(r.split(b" ")[1].rpartition(b"/")[2]) for r in old.requests + new.requests]
        assert len(ids) == len(set(ids)) == message_id


def test_a_connection_that_is_never_idle_is_replaced_at_its_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "MAX_AGE_SECONDS", (0.2, 0.2))
    monkeypatch.setattr(client_module, "DEADLINE_CHECK_SECONDS", 60.0)
    with RawServer(respond(OK)) as server, make_client(server.url, concurrency=1) as client:
        deadline = time.monotonic() + 5
        while server.connections < 3:
            assert send(client).outcome is Outcome.ACCEPTED
            assert time.monotonic() < deadline


def test_a_name_is_looked_up_while_no_connection_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolver_module, "CACHE_SECONDS", 0.1)
    lookups = patch_dns(monkeypatch, ["127.0.0.1"])
    with (
        RawServer(respond(OK)) as server,
        make_client(f"http://provider.test:{server.port}", concurrency=1) as client,
    ):
        deadline = time.monotonic() + 5
        while len(lookups) < 4:
            assert send(client).outcome is Outcome.ACCEPTED
            assert time.monotonic() < deadline
        assert server.connections == 1


def test_addresses_are_followed_within_a_minute() -> None:
    assert resolver_module.CACHE_SECONDS + connection_module.MAX_AGE_SECONDS[1] < 60


def test_a_connection_that_is_idle_is_replaced_at_its_age_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "MAX_AGE_SECONDS", (0.2, 0.2))
    with RawServer(respond(OK)) as server, make_client(server.url) as client:
        send(client, 1)
        deadline = time.monotonic() + 5
        while client._connections:
            client.poll(0.05)
            assert time.monotonic() < deadline
        send(client, 2)
        assert server.connections == 2


# --- file descriptors --------------------------------------------------------------------------


def test_missing_file_descriptors_are_not_the_fault_of_the_provider() -> None:
    code = """
        import os, resource, sys
        from worker.provider.http.client import HttpClient, Request
        client = HttpClient(
            base_url=sys.argv[1], token="t", concurrency=20, timeout=10,
            may_send=lambda request: True,
        )
        next_fd = os.dup(0)
        os.close(next_fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_fd + 10, next_fd + 10))
        for message_id in range(20):
            client.submit(Request(message_id, b"{}"))
        results = client.poll(5)
        while client.in_flight:
            print(*sorted(f"{r.outcome}:{r.reason}" for r in results), flush=True)
            results = client.poll(5)
            while client.in_flight:
                results += client.poll(5)
        print(*sorted(f"{r.outcome}:{r.reason}" for r in results))
    """
    may_respond = threading.Event()

    def script(connection: socket.socket, server: RawServer) -> None:
        while server.receive(connection) is not None:
            may_respond.wait(10)
            connection.sendall(OK)

    with RawServer(script) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), server.url],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        may_respond.set()
        rest, _ = process.communicate(timeout=COMMAND_SECONDS)
    assert first.split() == ["not_sent:open_files"] * 10
    assert rest.split() == ["accepted:code_0"] * 10


@contextmanager
def no_free_files() -> Iterator[None]:
    """Leave this process no file descriptor that it could open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_fd = os.dup(0)
    os.close(next_fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_fd, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_lookup_without_file_descriptors_is_not_the_fault_of_the_name_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patch_dns(monkeypatch, socket.gaierror("Temporary failure in name resolution"))
    with make_client("http://provider.test:1") as client, no_free_files():
        result = send(client)
    assert summarize(result) == ("not_sent", None, "open_files")


# --- large requests ----------------------------------------------------------------------------


def test_a_request_longer_than_the_socket_buffers_arrives_complete() -> None:
    body = b"x" * 8_000_000
    with RawServer(respond(OK)) as server, make_client(server.url) as client:
        client.submit(Request(1, body))
        (result,) = drain(client)
        assert result.outcome is Outcome.ACCEPTED
        assert send(client, 2).outcome is Outcome.ACCEPTED
        assert server.connections == 1
    assert server.requests[0].endswith(b"\r\n\r\n" + body)


def test_a_response_before_the_request_was_read_closes_the_connection() -> None:
    def script(connection: socket.socket, server: RawServer) -> None:
        connection.recv(1000)
        connection.sendall(make_response("413 Too Large", b"no"))
        if server.connections % 2:
            server.stopped.wait(10)  # else it closes: the response has arrived, and sending fails

    with RawServer(script) as server, make_client(server.url) as client:
        for n in (1, 2, 3, 4):
            client.submit(Request(n, b"x" * 8_000_000))
            (result,) = drain(client)
            assert summarize(result) == ("rejected", 413, "http_413")
        assert server.connections == 4


# --- the interface -----------------------------------------------------------------------------


def test_submit_takes_a_slot_and_a_result_frees_it() -> None:
    with RawServer(respond(OK)) as server, make_client(server.url, concurrency=2) as client:
        assert (client.in_flight, client.free_slots) == (0, 2)
        client.submit(Request(1, BODY))
        client.submit(Request(2, BODY))
        assert (client.in_flight, client.free_slots) == (2, 0)
        with pytest.raises(RuntimeError, match="no free slot"):
            client.submit(Request(3, BODY))
        assert len(drain(client)) == 2
        assert (client.in_flight, client.free_slots) == (0, 2)


def test_poll_returns_after_its_timeout() -> None:
    def script(connection: socket.socket, server: RawServer) -> None:
        server.stopped.wait(10)

    with RawServer(script) as server, make_client(server.url) as client:
        client.submit(Request(1, BODY))
        started = time.monotonic()
        assert client.poll(0.2) == []
        assert 0.15 < time.monotonic() - started < 1


def test_wake_ends_a_poll_from_another_thread() -> None:
    with make_client("http://127.0.0.1:1") as client:
        timer = threading.Timer(0.1, client.wake)
        timer.start()
        started = time.monotonic()
        assert client.poll(10) == []
        assert time.monotonic() - started < 2
        timer.join()
        started = time.monotonic()
        client.poll(0.1)  # woken once only
        assert time.monotonic() - started > 0.05


def test_a_thousand_requests_can_be_in_flight() -> None:
    may_respond = threading.Event()

    def script(connection: socket.socket, server: RawServer) -> None:
        while server.receive(connection) is not None:
            may_respond.wait(10)
            connection.sendall(OK)

    with (
        RawServer(script) as server,
        make_client(server.url, concurrency=1000, timeout=20) as client,
    ):
        for message_id in range(1000):
            client.submit(Request(message_id, BODY))
        deadline = time.monotonic() + 15
        while len(server.requests) < 1000:
            assert client.poll(0.05) == []
            assert time.monotonic() < deadline
        may_respond.set()
        results = drain(client)
        assert {r.outcome for r in results} == {Outcome.ACCEPTED}
        assert len({r.request.message_id for r in results}) == 1000


def test_no_slot_or_result_is_lost_under_faults_of_all_kinds() -> None:
    def script(connection: socket.socket, server: RawServer) -> None:
        kind = 0
        while server.receive(connection) is not None:
            kind = len(server.requests) % 7
            if kind == 0:
                return reset_connection(connection)
            if kind == 1:
                return None
            if kind == 2:
                connection.sendall(b"garbage\r\n\r\n")
                return None
            if kind == 3:
                server.stopped.wait(0.3)
                return None
            connection.sendall(OK if kind < 6 else make_response("500 Oops"))
        return None

    with RawServer(script) as server:
        may_send = lambda request: request.message_id % 5 > 0  # noqa: E731
        with make_client(server.url, concurrency=20, timeout=0.2, may_send=may_send) as client:
            results: list[Result[Request]] = []
            for message_id in range(600):
                while not client.free_slots:
                    results += client.poll(0.2)
                client.submit(Request(message_id, BODY))
            results += drain(client)
            assert sorted(r.request.message_id for r in results) == list(range(600))
            assert client.free_slots == 20
            results_by_id = {r.request.message_id: r for r in results}
            assert all(
                (results_by_id[n].outcome is Outcome.NOT_SENT) == (n % 5 == 0) for n in range(600)
            )
    ids = [int(r.split(b" ")[1].rpartition(b"/")[2]) for r in server.requests]
    assert len(ids) == len(set(ids)), "a message was sent twice"


def list_open_files() -> set[tuple[str, str]]:
    """Return number and target of each open file.

    Compared as sets, since garbage of earlier tests may close its own files at any moment.
    """
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


def test_close_closes_every_file_descriptor() -> None:
    with make_client("http://127.0.0.1:1") as client:
        send(client)
    before = list_open_files()
    with make_client("http://127.0.0.1:1", concurrency=200) as client:
        send(client)
        assert list_open_files() - before
    client.close()  # a second close has no effect
    assert not list_open_files() - before


def test_responses_that_arrived_during_a_long_stall_are_not_lost() -> None:
    with (
        RawServer(respond(OK)) as server,
        make_client(server.url, concurrency=1100, timeout=30) as client,
    ):
        for message_id in range(1100):
            client.submit(Request(message_id, BODY))
        results: list[Result[Request]] = []
        while len(server.requests) < 1100 and client.in_flight:
            results += client.poll(0.0)
        time.sleep(0.5)  # as if the process was suspended while every response arrived
        for connection in client._connections.values():
            connection.deadline = 0.0
        results += drain(client)
    assert {r.outcome for r in results} == {Outcome.ACCEPTED}


def test_a_failed_constructor_leaves_no_file_open() -> None:
    before = list_open_files()
    for _ in range(3):
        with pytest.raises(ValueError, match="ort"):
            HttpClient(
                base_url="http://x:99999", token=TOKEN, concurrency=1, timeout=1,
                may_send=lambda request: True,
            )  # fmt: skip
    assert not list_open_files() - before


@pytest.mark.parametrize("url", ["ftp://x", "x", "http://", "file:///etc/passwd", "http://x?a=b"])
def test_invalid_addresses_are_rejected(url: str) -> None:
    with pytest.raises(ValueError, match="provider's address"), make_client(url):
        pass


@pytest.mark.parametrize("token", ["", "two words", "line\r\nX-Evil: 1", "пароль"])
def test_invalid_tokens_are_rejected(token: str) -> None:
    with pytest.raises(ValueError, match="token") as caught:
        HttpClient(
            base_url="http://x",
            token=token,
            concurrency=1,
            timeout=1,
            may_send=lambda request: True,
        )
    assert not token or token not in str(caught.value)

"""The simulated provider implements the contract, fails as configured, and logs every request."""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests

from dev.provider.client import ProviderControl, ids_sha
from dev.provider.faults import BIG_BODY, BOMB_INFLATED, FAULTS
from tests.support.waiting import COMMAND_SECONDS

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "a-token"
OK = b'{"code":0,"message":"OK"}'
PHONE = 79161234567


@contextmanager
def running(*flags: str) -> Iterator[tuple[subprocess.Popen[bytes], ProviderControl]]:
    command = [sys.executable, "-m", "dev.provider", "--port", "0", "--token", TOKEN, *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["event"] == "provider.listening"
        with ProviderControl(f"http://127.0.0.1:{first['port']}") as control:
            yield process, control
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def shared() -> Iterator[ProviderControl]:
    with running() as (_, control):
        yield control


@pytest.fixture
def provider(shared: ProviderControl) -> ProviderControl:
    shared.reset()
    return shared


def message_body(message_id: int, phone: int = PHONE, text: str = "Привет") -> bytes:
    return json.dumps({"id": message_id, "phone": phone, "text": text}).encode()


def raw_request(
    message_id: int, body: bytes | None = None, version: str = "1.1", extra: str = ""
) -> bytes:
    body = message_body(message_id) if body is None else body
    return (
        f"POST /v1/send/{message_id} HTTP/{version}\r\nHost: provider\r\n"
        f"Authorization: Bearer {TOKEN}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def send(provider: ProviderControl, message_id: int, **kwargs: Any) -> requests.Response:
    kwargs.setdefault("headers", {"Authorization": f"Bearer {TOKEN}"})
    kwargs.setdefault("data", message_body(message_id))
    url = f"{provider.base_url}/v1/send/{message_id}"
    return requests.post(url, timeout=10, allow_redirects=False, **kwargs)


def connect(provider: ProviderControl) -> socket.socket:
    host, port = provider.base_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_answers(sock: socket.socket, count: int, body: bytes = OK) -> bytes:
    data = b""
    while data.count(body) < count:
        part = sock.recv(1 << 16)
        assert part, f"closed after {data!r}"
        data += part
    return data


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.01)


def logged_answers(provider: ProviderControl) -> list[tuple[int, str, bool]]:
    return [(row["id"], row["answer"], row["accepted"]) for row in provider.requests()]


# --- the contract


def test_logs_every_field_of_an_accepted_message(provider: ProviderControl) -> None:
    before = time.time()
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "r-7"}
    response = send(provider, 7, headers=headers)
    assert (response.status_code, response.content) == (200, OK)
    (row,) = provider.requests()
    assert before <= row.pop("at") <= time.time()
    assert row == {
        "n": 1,
        "id": 7,
        "phone": PHONE,
        "text": "Привет",
        "answer": "accepted",
        "accepted": True,
        "request_id": "r-7",
    }


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer b"}, {"Authorization": TOKEN}])
def test_refuses_wrong_or_missing_token(provider: ProviderControl, headers: dict[str, str]) -> None:
    assert send(provider, 1, headers=headers).status_code == 401
    assert logged_answers(provider) == [(1, "unauthorized", False)]
    assert provider.stats()["refused"] == {"unauthorized": 1}


@pytest.mark.parametrize(
    ("body", "expected_message"),
    [
        (b"", "no JSON"),
        (b'{"id": 1', "no JSON"),
        (b'{"id":1,"phone":1,"text":"\xff"}', "no JSON"),
        (b"[]", "object"),
        (b'"id"', "object"),
        (b'{"id":1,"phone":1}', "object"),
        (b'{"id":1,"phone":1,"text":"x","more":1}', "object"),
        (b'{"id":"1","phone":1,"text":"x"}', "id must"),
        (b'{"id":true,"phone":1,"text":"x"}', "id must"),
        (b'{"id":1.0,"phone":1,"text":"x"}', "id must"),
        (b'{"id":1,"phone":"79161234567","text":"x"}', "phone must"),
        (b'{"id":1,"phone":9223372036854775808,"text":"x"}', "phone must"),
        (b'{"id":1,"phone":1,"text":null}', "text must"),
        (b'{"id":2,"phone":1,"text":"x"}', "differ"),
    ],
)
def test_refuses_body_that_violates_the_contract(
    provider: ProviderControl, body: Any, expected_message: str
) -> None:
    response = send(provider, 1, data=body)
    assert response.status_code == 400
    assert expected_message in response.json()["message"]
    assert logged_answers(provider) == [(1, "bad_request", False)]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 404),
        ("POST", "/v1/send/", 404),
        ("POST", "/v1/send/x", 404),
        ("POST", "/v1/send/-1", 404),
        ("POST", "/v1/send/9223372036854775808", 404),
        ("GET", "/controls", 404),
        ("GET", "/control/nothing", 404),
        ("GET", "/v1/send/1", 405),
        ("HEAD", "/v1/send/1", 405),
        ("POST", "/control", 405),
        ("DELETE", "/control/summary", 405),
    ],
)
def test_refuses_other_paths_and_methods(
    provider: ProviderControl, method: str, path: str, status: int
) -> None:
    response = requests.request(method, provider.base_url + path, timeout=10)
    assert response.status_code == status
    assert provider.stats()["received"] == 0


# --- HTTP parsing


def test_parses_requests_split_at_every_byte_and_pipelined(provider: ProviderControl) -> None:
    one = raw_request(1) + raw_request(2)
    with connect(provider) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in one:
            sock.send(bytes((byte,)))
        read_answers(sock, 2)
        sock.sendall(b"".join(raw_request(number) for number in range(3, 203)))
        read_answers(sock, 200)
    assert [row["id"] for row in provider.requests()] == list(range(1, 203))


def test_pipelined_requests_are_answered_in_order(provider: ProviderControl) -> None:
    provider.set(poison_ids={1: "accepted_late", 2: "error_500"}, late_after=0.1)
    with connect(provider) as sock:
        sock.sendall(raw_request(1) + raw_request(2))
        data = read_answers(sock, 1, b'"internal error"}')
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"500"]


def test_pipelined_request_may_arrive_in_parts(provider: ProviderControl) -> None:
    with connect(provider) as sock:
        sock.sendall(raw_request(1) + raw_request(2)[:-5])
        read_answers(sock, 1)
        sock.sendall(raw_request(2)[-5:] + raw_request(3))
        read_answers(sock, 2)
    assert [row["id"] for row in provider.requests()] == [1, 2, 3]


def test_parses_chunked_bodies_and_trailers(provider: ProviderControl) -> None:
    body = message_body(5)
    head = raw_request(5, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunks = b"3;note=x\r\n" + body[:3] + b"\r\n%X\r\n" % len(body[3:]) + body[3:] + b"\r\n"
    with connect(provider) as sock:
        for part in (head + chunks[:7], chunks[7:20], chunks[20:] + b"0\r\nA: b\r", b"\n\r\n"):
            sock.sendall(part)
            time.sleep(0.01)  # so that the parts arrive separately; nothing depends on it
        sock.sendall(raw_request(6))
        read_answers(sock, 2)
    assert [row["id"] for row in provider.requests()] == [5, 6]


def test_answers_expect_100_continue(provider: ProviderControl) -> None:
    whole = raw_request(3, extra="Expect: 100-continue\r\n")
    head, body = whole.split(b"\r\n\r\n")
    with connect(provider) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert provider.stats()["received"] == 0
        sock.sendall(body)
        assert read_answers(sock, 1).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("version", "extra", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: Keep-Alive\r\n", True),
    ],
)
def test_keeps_or_closes_the_connection_as_requested(
    provider: ProviderControl, version: str, extra: Any, kept: Any
) -> None:
    with connect(provider) as sock:
        sock.sendall(raw_request(1, version=version, extra=extra))
        data = read_answers(sock, 1)
        if kept:
            sock.sendall(raw_request(2, version=version, extra=extra))
            read_answers(sock, 1)
            assert b"close" not in data
        else:
            assert sock.recv(1) == b""
            assert b"Connection: close" in data


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 70000, b"431"),
    ],
)
def test_malformed_request_is_answered_once_and_the_connection_closed(
    provider: ProviderControl, data: bytes, status: bytes
) -> None:
    with connect(provider) as sock:
        sock.sendall(data)
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert provider.stats()["stray"] == {"malformed": 1}


# --- faults


@pytest.mark.parametrize(
    ("kind", "status", "headers", "body"),
    [
        ("error_500", 500, {}, None),
        ("error_503", 503, {}, None),
        ("error_503_retry_after", 503, {"Retry-After": "3"}, None),
        ("throttle_429", 429, {"Retry-After": "3"}, None),
        ("reject_400", 400, {}, None),
        ("reject_422", 422, {}, None),
        ("unauthorized_401", 401, {}, None),
        ("declined", 200, {}, b'{"code":1,"message":"declined"}'),
        ("html_200", 200, {"Content-Type": "text/html"}, None),
        ("list_200", 200, {}, b"[]"),
        ("string_code_200", 200, {}, b'{"code":"0","message":"OK"}'),
        ("empty_200", 200, {"Content-Length": "0"}, b""),
        ("invalid_utf8_200", 200, {}, b'{"code":0,"message":"\xff\xfe\xc3("}'),
        ("no_content_204", 204, {}, b""),
        ("redirect_302", 302, {"Location": "http://elsewhere.invalid/"}, None),
        ("close_keepalive", 200, {}, OK),
    ],
)
def test_faults_that_are_well_formed_responses(
    provider: ProviderControl, kind: str, status: int, headers: dict[str, str], body: Any
) -> None:
    provider.set(faults={kind: 1})
    response = send(provider, 1)
    assert response.status_code == status
    assert headers.items() <= dict(response.headers).items()
    assert body is None or response.content == body
    assert logged_answers(provider) == [(1, kind, FAULTS[kind].accepts)]


def test_throttle_429_date_sends_a_date(provider: ProviderControl) -> None:
    provider.set(faults={"throttle_429_date": 1}, retry_after=5)
    before = time.time()
    response = send(provider, 1)
    until_date = parsedate_to_datetime(response.headers["Retry-After"]).timestamp()
    assert response.status_code == 429
    assert before + 5 <= until_date <= time.time() + 6


def test_oversized_responses_have_the_configured_size(provider: ProviderControl) -> None:
    provider.set(poison_ids={1: "big_200", 2: "gzip_bomb_200"})
    assert len(send(provider, 1).content) == BIG_BODY
    bomb = send(provider, 2, stream=True).raw.read(decode_content=False)
    assert len(bomb) < 100_000
    assert len(gzip.decompress(bomb)) > BOMB_INFLATED


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("truncated_200", b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"code":0,"mess'),
        ("http09", b"\x00\x17 no status line here\n{}\n"),
    ],
)
def test_framing_faults_end_with_the_connection(
    provider: ProviderControl, kind: str, expected: Any
) -> None:
    provider.set(faults={kind: 1})
    with connect(provider) as sock:
        sock.sendall(raw_request(1))
        assert read_all(sock) == expected
    assert logged_answers(provider) == [(1, kind, False)]


@pytest.mark.parametrize("kind", ["reset_before", "reset_while", "reset_after"])
def test_reset_faults_reset_the_connection_and_are_logged(
    provider: ProviderControl, kind: str
) -> None:
    provider.set(faults={kind: 1})
    with connect(provider) as sock:
        sock.sendall(raw_request(1))
        with pytest.raises(ConnectionResetError):
            read_all(sock)
    assert logged_answers(provider) == [(1, kind, kind == "reset_after")]


def test_reset_before_does_not_wait_for_the_body(provider: ProviderControl) -> None:
    provider.set(poison_ids={1: "reset_before"})
    with connect(provider) as sock:
        sock.sendall(raw_request(1).split(b"\r\n\r\n")[0] + b"\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            read_all(sock)
    (row,) = provider.requests()
    assert (row["id"], row["phone"], row["text"]) == (1, None, None)


@pytest.mark.parametrize("kind", ["hang", "accepted_hang", "status_101"])
def test_hanging_request_is_in_flight_until_the_client_disconnects(
    provider: ProviderControl, kind: str
) -> None:
    provider.set(faults={kind: 1})
    with connect(provider) as sock:
        sock.sendall(raw_request(1))
        wait_until(lambda: provider.stats()["in_flight"] == 1)
        if kind == "status_101":
            assert sock.recv(1 << 16).startswith(b"HTTP/1.1 101 ")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    wait_until(lambda: provider.stats()["in_flight"] == 0)
    assert logged_answers(provider) == [(1, kind, kind == "accepted_hang")]


def test_accepted_late_is_accepted_immediately_and_answered_later(
    provider: ProviderControl,
) -> None:
    provider.set(faults={"accepted_late": 1}, late_after=0.4)
    with connect(provider) as sock:
        started = time.monotonic()
        sock.sendall(raw_request(1))
        wait_until(lambda: provider.stats()["accepted"] == 1)
        assert time.monotonic() - started < 0.4
        read_answers(sock, 1)
        assert time.monotonic() - started >= 0.39


def test_drip_sends_an_acceptance_byte_by_byte(provider: ProviderControl) -> None:
    provider.set(faults={"drip": 1}, drip_interval=0.01)
    with connect(provider) as sock:
        sock.sendall(raw_request(1))
        assert sock.recv(1 << 16) == b"H"
        read_answers(sock, 1)
    assert provider.accepted_ids() == {1}


def test_endless_headers_never_end(provider: ProviderControl) -> None:
    provider.set(faults={"endless_headers": 1})
    with connect(provider) as sock:
        sock.sendall(raw_request(1))
        data = b""
        while len(data) < 200_000:
            data += sock.recv(1 << 16)
        assert b"\r\n\r\n" not in data
    wait_until(lambda: provider.stats()["connections"] == 1)


def test_close_keepalive_closes_without_announcing_it(provider: ProviderControl) -> None:
    provider.set(faults={"close_keepalive": 1})
    with connect(provider) as sock:
        sock.sendall(raw_request(1))
        data = read_all(sock)
    assert data.endswith(OK)
    assert b"close" not in data


def test_fault_fractions_hold_and_a_seed_repeats_them(provider: ProviderControl) -> None:
    def has_received(number: int) -> bool:
        return bool(provider.stats()["received"] == number)

    def draw_faults() -> list[str]:
        provider.clear_requests()
        with connect(provider) as sock:
            for first in range(0, 2000, 200):
                sock.sendall(b"".join(raw_request(number) for number in range(first, first + 200)))
                wait_until(partial(has_received, first + 200))
        return [row["answer"] for row in provider.requests()]

    faults = {"error_500": 0.2, "declined": 0.1}
    provider.set(seed=5, faults=faults)
    one = draw_faults()
    other = draw_faults()
    provider.set(seed=5)
    again = draw_faults()
    assert one == again != other
    counts = Counter(one)
    assert 300 < counts["error_500"] < 500
    assert 140 < counts["declined"] < 260
    assert sum(counts.values()) == 2000 == counts["accepted"] + count_refused(provider)


def count_refused(provider: ProviderControl) -> int:
    return sum(provider.stats()["refused"].values())


def test_poison_ids_and_phones_always_get_the_same_fault(provider: ProviderControl) -> None:
    provider.set(poison_ids={5: "reject_422"}, phones={PHONE: "declined"})
    assert [send(provider, 5).status_code for _ in range(3)] == [422, 422, 422]
    assert send(provider, 6).json()["code"] == 1
    assert send(provider, 6, data=message_body(6, phone=79990000000)).json()["code"] == 0


def send_at_once(provider: ProviderControl, count: int) -> list[tuple[float, int]]:
    """Send messages on as many connections; return the seconds and statuses of the answers."""

    def send_one(message_id: int) -> tuple[float, int]:
        started = time.monotonic()
        try:
            status = send(provider, message_id).status_code
        except requests.ConnectionError:
            status = 0
        return time.monotonic() - started, status

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(send_one, range(1, count + 1)))


def test_messages_above_the_capacity_wait_for_their_turn(provider: ProviderControl) -> None:
    provider.set(capacity=2, latency=0.3)
    answers = send_at_once(provider, 6)
    assert {status for _, status in answers} == {200}
    assert max(seconds for seconds, _ in answers) >= 0.7  # three times the latency


def test_messages_above_the_capacity_get_a_429(provider: ProviderControl) -> None:
    provider.set(capacity=2, latency=1.0, overload="throttle")
    answers = send_at_once(provider, 6)
    assert sorted(status for _, status in answers) == [200, 200, 429, 429, 429, 429]
    assert provider.stats()["refused"] == {"rate_limited": 4}


def test_connections_above_the_capacity_are_refused(provider: ProviderControl) -> None:
    provider.set(capacity=1 + provider.stats()["connections"], latency=0.5, overload="refuse")
    statuses = [status for _, status in send_at_once(provider, 6)]
    assert {0, 200} == set(statuses)
    assert provider.stats()["received"] == statuses.count(200)


def test_answers_take_longer_with_the_square_of_the_load(provider: ProviderControl) -> None:
    provider.set(capacity=2, latency=0.1, overload="slow_down")
    assert send_at_once(provider, 1)[0][0] >= 0.1
    assert max(seconds for seconds, _ in send_at_once(provider, 6)) >= 0.1 * (1 + 3**2)


def test_rate_limit_answers_429_with_retry_after(provider: ProviderControl) -> None:
    provider.set(rate_limit=5, retry_after=2)
    responses = [send(provider, number) for number in range(8)]
    assert [response.status_code for response in responses] == [200] * 5 + [429] * 3
    assert responses[-1].headers["Retry-After"] == "2"
    wait_until(lambda: send(provider, 9).status_code == 200, seconds=3)


def test_latency_delays_responses(provider: ProviderControl) -> None:
    provider.set(latency={"min": 0.1, "max": 0.2})
    started = time.monotonic()
    send(provider, 1)
    assert 0.09 <= time.monotonic() - started < 2


def test_down_resets_all_but_control_connections(provider: ProviderControl) -> None:
    with connect(provider) as kept, connect(provider) as fresh:
        kept.sendall(raw_request(1))
        read_answers(kept, 1)
        provider.set(down=True)
        with pytest.raises(ConnectionResetError):
            read_all(kept)
        fresh.sendall(raw_request(2))
        with pytest.raises(ConnectionResetError):
            read_all(fresh)
    assert provider.stats()["received"] == 1
    provider.set(down=False)
    assert send(provider, 2).status_code == 200


# --- the control interface


def test_settings_change_individually_and_reset(provider: ProviderControl) -> None:
    provider.set(latency=0.5, faults={"hang": 0.5})
    provider.set(latency=0)
    settings = provider.stats()["settings"]
    assert settings["faults"] == {"hang": 0.5}
    assert settings["latency"] == {"min": 0, "max": 0}
    provider.set(token="another")
    assert send(provider, 1).status_code == 401
    provider.reset()
    assert send(provider, 1).status_code == 200
    assert provider.stats()["received"] == 1


@pytest.mark.parametrize(
    ("settings", "expected_message"),
    [
        ({"latencies": 1}, "latencies"),
        ({"latency": -1}, "latency"),
        ({"latency": {"min": 2, "max": 1}}, "latency"),
        ({"faults": {"error_418": 1}}, "error_418"),
        ({"faults": {"hang": 0.6, "drip": 0.6}}, "more than 1"),
        ({"faults": {"hang": -0.1}}, "hang"),
        ({"down": "yes"}, "down"),
        ({"rate_limit": 0}, "rate_limit"),
        ({"capacity": 0}, "capacity"),
        ({"overload": "explode"}, "overload"),
        ({"token": ""}, "token"),
        ({"redirect_to": "http://a/\r\nSet-Cookie: b"}, "redirect_to"),
        ({"poison_ids": {"x": "hang"}}, "poison_ids"),
    ],
)
def test_invalid_setting_is_named_and_changes_nothing(
    provider: ProviderControl, settings: dict[str, Any], expected_message: str
) -> None:
    before = provider.stats()["settings"]
    with pytest.raises(ValueError, match=expected_message):
        provider.set(**settings)
    assert provider.stats()["settings"] == before


def test_summary_counts_duplicates_and_digests_accepted_ids(provider: ProviderControl) -> None:
    with connect(provider) as sock:
        for number in (3, 900_000, 3, 4, 3):
            sock.sendall(raw_request(number))
        read_answers(sock, 5)
    provider.set(faults={"error_500": 1})
    send(provider, 4)
    summary = provider.summary()
    expected = {"received": 6, "accepted": 5, "distinct": 3, "duplicates": 2}
    assert expected.items() <= summary.items()
    assert expected.items() <= provider.stats().items()
    assert summary["answers"] == {"accepted": 5, "error_500": 1}
    assert summary["accepted_ids_sha"] == ids_sha([900_000, 3, 4])
    assert provider.accepted_ids() == {3, 4, 900_000}
    assert provider.duplicates() == {3: 3}
    assert [row["n"] for row in provider.requests(after=2, limit=3)] == [3, 4, 5]
    assert list(provider.requests(after=6)) == []
    with pytest.raises(ValueError, match="after"):
        list(provider.requests(after=-1))


def test_receives_and_lists_many_messages_quickly(provider: ProviderControl) -> None:
    total = 50_000
    started = time.monotonic()
    with connect(provider) as sock:
        for first in range(0, total, 500):
            sock.sendall(b"".join(raw_request(number) for number in range(first, first + 500)))
            read_answers(sock, 500)
    sent = time.monotonic()
    rows = list(provider.requests())
    listed = time.monotonic()
    assert [row["id"] for row in rows] == list(range(total))
    assert all(one["at"] <= other["at"] for one, other in pairwise(rows))
    assert provider.accepted_ids() == set(range(total))
    # Far below its capacity, so that this passes on a loaded machine.
    assert sent - started < 15
    assert listed - sent < 5


# --- the process


def test_starts_with_given_faults_and_stops_on_sigterm() -> None:
    with running("--fault", "declined=1", "--latency", "0.01-0.02") as (process, control):
        assert send(control, 1).json()["code"] == 1
        assert control.stats()["settings"]["latency"] == {"min": 0.01, "max": 0.02}
        control.set(faults={"hang": 1})
        with connect(control) as sock:
            sock.sendall(raw_request(2))
            wait_until(lambda: control.stats()["in_flight"] == 1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=3) == 0


@pytest.mark.parametrize(
    ("flags", "expected_message"),
    [
        ([], "token"),
        (["--token", "t", "--fault", "unheard=1"], "unheard"),
        (["--token", "t", "--fault", "hang"], "hang"),
        (["--token", "t", "--latency", "slow"], "latency"),
    ],
)
def test_invalid_argument_prints_one_line(flags: Any, expected_message: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PROVIDER_TOKEN"}
    command = [sys.executable, "-m", "dev.provider", "--port", "0", *flags]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS
    )
    assert done.returncode == 1
    assert expected_message in done.stderr
    assert done.stderr.count("\n") == 1


def test_taken_port_is_named(provider: ProviderControl) -> None:
    port = provider.base_url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "dev.provider", "--port", port, "--token", "t"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS
    )
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert done.stderr.count("\n") == 1

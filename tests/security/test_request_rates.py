"""Too many requests: per token, per address for sign-ins and unknown tokens, and without Redis."""

import re
import time
from pathlib import Path

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from tests.integration.conftest import ADMIN_URL, TOKEN, make_admin_app, make_app
from tests.support.api_server import running, settings_of
from tests.support.waiting import wait_for

CLIENTS = "/api/v1/clients?limit=1"


@pytest.fixture(autouse=True)
def _full_buckets(redis_url: str) -> None:
    Redis.from_url(redis_url).flushdb()


def call(app: Flask, token: str, **environ: str) -> tuple[int, str, str]:
    """Return the status and the fields of the limit of one request."""
    answer = app.test_client().get(
        CLIENTS, headers={"Authorization": f"Bearer {token}"}, environ_overrides=environ
    )
    return (
        answer.status_code,
        answer.headers.get("RateLimit", ""),
        answer.headers.get("Retry-After", ""),
    )


def test_a_burst_is_permitted_and_what_exceeds_it_is_refused(
    database_url: str, redis_url: str
) -> None:
    app = make_app(database_url, redis_url, REQUESTS_PER_SECOND="0.5", REQUEST_BURST="5")
    answers = [call(app, TOKEN) for _ in range(7)]
    assert [status for status, _, _ in answers] == [200] * 5 + [429] * 2
    assert [field for _, field, _ in answers] == [
        f'"token";r={left};t=2' for left in (4, 3, 2, 1, 0, 0, 0)
    ]
    assert answers[-1][2] == "2"
    refused = app.test_client().get(CLIENTS, headers={"Authorization": f"Bearer {TOKEN}"})
    assert refused.content_type == "application/problem+json"
    assert refused.headers["RateLimit-Policy"] == '"token";q=5;w=10'


def test_a_bucket_fills_at_its_rate(database_url: str, redis_url: str) -> None:
    app = make_app(database_url, redis_url, REQUESTS_PER_SECOND="20", REQUEST_BURST="2")
    while call(app, TOKEN)[0] == 200:
        pass
    started, permitted = time.monotonic(), 0
    while permitted < 10:
        permitted += call(app, TOKEN)[0] == 200
    assert 0.35 < time.monotonic() - started < 2


def test_each_token_has_its_own_bucket(database_url: str, redis_url: str) -> None:
    generous = make_app(database_url, redis_url)
    made = generous.test_client().post(
        "/api/v1/tokens",
        json={"name": "other", "scope": "read"},
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    app = make_app(database_url, redis_url, REQUESTS_PER_SECOND="0.5", REQUEST_BURST="2")
    assert [call(app, TOKEN)[0] for _ in range(3)] == [200, 200, 429]
    assert [call(app, made.get_json()["token"])[0] for _ in range(3)] == [200, 200, 429]


def test_the_processes_of_the_api_share_a_bucket(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    settings = settings_of(database_url, redis_url)
    settings |= {"REQUESTS_PER_SECOND": "1", "REQUEST_BURST": "40"}
    with running(settings, tmp_path) as server:
        # A connection each, so that both processes are asked.
        headers = {"Authorization": f"Bearer {TOKEN}"}
        started = time.monotonic()
        answers = [
            requests.get(f"{server.url}{CLIENTS}", headers=headers, timeout=5).status_code
            for _ in range(60)
        ]
        gained = time.monotonic() - started
    assert 40 <= answers.count(200) <= 41 + gained
    assert set(answers) == {200, 429}


def test_the_default_permits_a_burst_of_1000_requests(database_url: str, redis_url: str) -> None:
    app = make_app(database_url, redis_url, REQUESTS_PER_SECOND="", SIGN_INS_PER_MINUTE="")
    answer = app.test_client().get(CLIENTS, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.headers["RateLimit-Policy"] == '"token";q=1000;w=5'
    assert answer.headers["RateLimit"] == '"token";r=999;t=1'


def test_unknown_tokens_are_limited_by_address_and_valid_ones_are_not(
    database_url: str, redis_url: str
) -> None:
    app = make_app(database_url, redis_url, SIGN_INS_PER_MINUTE="")
    guesses = [call(app, f"nt_{n:043}") for n in range(22)]
    assert [status for status, _, _ in guesses] == [401] * 20 + [429] * 2
    assert guesses[-1][2] == "3"
    assert call(app, TOKEN)[0] == 200
    assert call(app, "guess", REMOTE_ADDR="192.0.2.7")[0] == 401
    metrics = make_app(
        database_url, redis_url, SIGN_INS_PER_MINUTE="", METRICS_TOKEN="m" * 16
    ).test_client()
    assert metrics.get("/metrics", headers={"Authorization": "Bearer guess"}).status_code == 429


def forwarded(app: Flask, entries: str, *, guesses: int) -> list[int]:
    client = app.test_client()
    headers = {"Authorization": "Bearer guess", "X-Forwarded-For": entries}
    return [client.get(CLIENTS, headers=headers).status_code for _ in range(guesses)]


@pytest.mark.parametrize(
    ("hops", "first", "second", "same"),
    [
        ("0", "192.0.2.1", "192.0.2.2", True),  # sent by the client itself
        ("1", "192.0.2.1", "192.0.2.2", False),
        ("1", "192.0.2.1, 198.51.100.1", "192.0.2.2, 198.51.100.1", True),
        ("2", "192.0.2.1, 198.51.100.1", "192.0.2.2, 198.51.100.1", False),
        ("1", "2001:db8::1", "[2001:db8::ffff]:4711", True),
        ("1", "2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("1", "::ffff:192.0.2.1", "192.0.2.1:4711", True),
    ],
)
def test_the_address_is_the_one_that_the_last_trusted_proxy_reports(
    database_url: str, redis_url: str, hops: str, first: str, second: str, same: bool
) -> None:
    app = make_app(database_url, redis_url, SIGN_INS_PER_MINUTE="2", TRUSTED_PROXY_HOPS=hops)
    assert forwarded(app, first, guesses=3) == [401, 401, 429]
    assert forwarded(app, second, guesses=1) == [429 if same else 401]


def start_sign_in(client: FlaskClient) -> TestResponse:
    page = client.get("/admin/sign-in", base_url=ADMIN_URL)
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert token
    return client.post("/admin/sign-in", data={"csrf_token": token[1]}, base_url=ADMIN_URL)


def test_sign_ins_are_limited_by_address(database_url: str, redis_url: str) -> None:
    app = make_admin_app(database_url, redis_url, SIGN_INS_PER_MINUTE="3")
    client = app.test_client()
    callback = "/admin/sign-in/callback?state=x&code=y"
    finished = [client.get(callback, base_url=ADMIN_URL).status_code for _ in range(4)]
    assert finished == [400] * 3 + [429]
    started = [start_sign_in(client) for _ in range(4)]
    assert [page.status_code for page in started] == [503] * 3 + [429]  # no provider is there
    assert started[-1].headers["Retry-After"] == "20"
    assert "Too many requests" in started[-1].text


def test_without_redis_every_request_is_permitted(database_url: str, tmp_path: Path) -> None:
    settings = settings_of(database_url, "redis://127.0.0.1:1/0")
    settings |= {"REQUESTS_PER_SECOND": "1", "REQUEST_BURST": "1", "WEB_CONCURRENCY": "1"}
    with running(settings, tmp_path) as server:
        for _ in range(20):
            started = time.monotonic()
            answer = server.http.get(f"{server.url}{CLIENTS}", timeout=5)
            assert answer.status_code == 200
            assert "RateLimit" not in answer.headers
            assert time.monotonic() - started < 2
        wait_for(lambda: "redis.away" in server.process.log.read_text(), 30, "the log event")

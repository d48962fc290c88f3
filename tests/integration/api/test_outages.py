"""The API during outages of PostgreSQL and Redis: quick errors, and recovery without a restart."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from werkzeug.test import TestResponse

from dev.stack.ports import free_port
from dev.stack.services import Postgres
from tests.integration.conftest import (
    TOKEN,
    mailing_body,
    make_app,
    make_client,
    make_pool_read_only,
    value,
)
from tests.support.api_server import running, settings_of
from tests.support.fleet import Fleet
from tests.support.migrated_postgres import MigratedPostgres
from tests.support.waiting import wait_for

MAILINGS = "/api/v1/mailings"


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_api_works_without_redis(database_url: str) -> None:
    client = make_client(make_app(database_url, f"redis://127.0.0.1:{free_port()}/0"))
    with within(2):
        made = client.post(MAILINGS, json=mailing_body())
    assert made.status_code == 201
    url = f"{MAILINGS}/{made.get_json()['id']}"
    for method, path in (
        ("PATCH", url),
        ("POST", f"{url}/start"),
        ("POST", f"{url}/pause"),
        ("POST", f"{url}/resume"),
        ("POST", f"{url}/cancel"),
        ("DELETE", url),
    ):
        with within(2):
            assert client.open(path, method=method, json={}).status_code in (200, 204), path
    assert client.get("/readyz").get_json()["redis"] == "unreachable"


def test_unresponsive_redis_costs_little_time(database_url: str, deaf_port: int) -> None:
    client = make_client(make_app(database_url, f"redis://127.0.0.1:{deaf_port}/0"))
    with within(3):
        assert client.post(MAILINGS, json=mailing_body()).status_code == 201


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port whose server accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def assert_unavailable(client: FlaskClient) -> None:
    calls: list[Callable[[], TestResponse]] = [
        lambda: client.get("/api/v1/clients"),
        lambda: client.post(MAILINGS, json=mailing_body()),
        lambda: client.get("/api/v1/statistics"),
        lambda: client.get("/readyz"),
    ]
    for call in calls:
        with within(4):
            answer = call()
        assert answer.status_code == 503
        assert answer.mimetype == "application/problem+json"
        assert int(answer.headers["Retry-After"]) > 0
    assert client.get("/healthz").status_code == 200


def test_missing_database_is_reported_quickly(redis_url: str, deaf_port: int) -> None:
    for port in (free_port(), deaf_port):
        url = f"postgresql://nouser:secret@127.0.0.1:{port}/nothing"
        assert_unavailable(make_client(make_app(url, redis_url)))


def test_restarted_database_is_used_again(tmp_path: Path, redis_url: str) -> None:
    postgres = Postgres(tmp_path / "postgres")
    postgres.start()
    try:
        client = make_client(make_app(postgres.url, redis_url))
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "migrations" in answer.get_json()["detail"]
        assert client.get("/healthz").status_code == 200
        postgres.stop("immediate")
        assert_unavailable(client)
        postgres.start()
        answer = client.get("/readyz")
        assert "migrations" in answer.get_json()["detail"]
    finally:
        postgres.remove()


def test_closed_connections_are_replaced(client: FlaskClient, database: Cursor) -> None:
    for _ in range(3):
        assert client.get("/api/v1/clients").status_code == 200
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        wait_for(lambda: _others(database) == 0, 30, "the connections to be gone")
        assert client.post(MAILINGS, json=mailing_body()).status_code == 201


def _others(database: Cursor) -> int:
    database.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    return int(value(database))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", MAILINGS, mailing_body()),  # the ORM
        ("POST", "/api/v1/clients", {"phone": "79169876543", "timezone": "Europe/Moscow"}),
        ("POST", "/api/v1/opt-outs", {"phones": ["79169876543"]}),  # SQL shared with workers
        ("GET", "/readyz", None),
    ],
)
def test_connection_to_a_read_only_server_is_replaced(
    app: Flask, client: FlaskClient, method: str, path: str, body: dict[str, object] | None
) -> None:
    """A connection that was opened before a failover may lead to a standby."""
    make_pool_read_only(app)
    answer = client.open(path, method=method, json=body)
    assert answer.status_code == 503, answer.text
    assert answer.mimetype == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert client.open(path, method=method, json=body).status_code in (200, 201)


REQUESTS: list[tuple[str, str, dict[str, object] | None]] = [
    ("GET", "/clients", None),
    ("POST", "/clients", {"phone": "79169876543", "timezone": "Europe/Moscow"}),
    ("PATCH", "/clients/1", {"timezone": "Asia/Omsk"}),
    ("DELETE", "/clients/2", None),
    ("POST", "/mailings", mailing_body()),
    ("POST", "/mailings/preview", mailing_body()),
    ("PATCH", "/mailings/1", {"window": {"from": "09:00", "to": "21:00"}}),
    ("POST", "/mailings/1/cancel", {}),
    ("GET", "/mailings/1/statistics", None),
    ("GET", "/statistics", None),
    ("POST", "/opt-outs", {"phones": ["79169876543"]}),
]
BLOCKED = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'api' AND wait_event_type = 'Lock'
"""


@pytest.mark.parametrize("tables", ["clients, mailings", "messages, opt_outs, audit_log"])
def test_requests_in_flight_when_postgresql_stops_get_503(
    tmp_path: Path, redis_url: str, tables: str
) -> None:
    postgres = MigratedPostgres(tmp_path / "postgres")
    postgres.start()
    try:
        with running(settings_of(postgres.url, redis_url), tmp_path) as server:
            fleet = Fleet(postgres.url)
            fleet.add_launched_mailing(3, window_from="09:00", window_to="20:00")
            lock, killed = psycopg2.connect(postgres.url), threading.Event()
            with lock.cursor() as cursor, ThreadPoolExecutor(len(REQUESTS)) as pool:
                cursor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")

                def call(request: tuple[str, str, dict[str, object] | None]) -> requests.Response:
                    method, path, body = request
                    url = f"{server.url}/api/v1{path}"
                    with requests.Session() as session:
                        session.trust_env = False
                        session.headers["Authorization"] = f"Bearer {TOKEN}"
                        while True:
                            answer = session.request(method, url, json=body, timeout=20)
                            # One that waits for long gets 503, too: it is to wait when it is cut.
                            if answer.status_code != 503 or killed.is_set():
                                return answer

                answers = [pool.submit(call, each) for each in REQUESTS]

                # Some need none of the tables, and some may wait for a thread.
                try:
                    wait_for(lambda: fleet.query_value(BLOCKED) >= 4, 60, "requests to wait")
                finally:
                    killed.set()
                postgres.kill()
                fleet.close()
                unavailable = 0
                for request, answer in zip(REQUESTS, answers, strict=True):
                    response = answer.result(20)
                    if response.ok:
                        continue  # it had needed none of the tables
                    unavailable += 1
                    assert response.status_code == 503, (request, response.text)
                    assert response.headers["Content-Type"] == "application/problem+json"
                    assert int(response.headers["Retry-After"]) > 0
                assert unavailable >= 4
            assert not [line for line in server.log() if line["event"] == "api.defect"]
    finally:
        postgres.remove()

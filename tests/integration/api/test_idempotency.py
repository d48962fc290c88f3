"""Idempotency-Key: a repeated request creates nothing, even if sent concurrently."""

import threading
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from werkzeug.test import TestResponse

from shared.queues import Queues
from tests.integration.api.test_problems import problem
from tests.integration.conftest import ahead, mailing_body, make_client, value
from tests.support.fleet import Fleet
from worker.maintenance.sweep import sweep_mailings

MAILINGS, TOKENS = "/api/v1/mailings", "/api/v1/tokens"


def post(client: FlaskClient, key: str, body: dict[str, Any], **headers: str) -> TestResponse:
    return client.post(MAILINGS, json=body, headers={"Idempotency-Key": key, **headers})


def count(database: Cursor) -> int:
    database.execute("SELECT count(*) FROM mailings")
    found: int = value(database)
    return found


def test_repeated_request_gets_the_first_response(client: FlaskClient, database: Cursor) -> None:
    body = {**mailing_body(), "window": {"from": "09:00", "to": "21:00"}}
    first = post(client, "again", body)
    assert first.status_code == 201
    assert "Idempotent-Replayed" not in first.headers
    made = count(database)
    # Later changes do not change what was answered, and the order of fields means nothing.
    url = first.headers["Location"]
    assert client.patch(url, json={"name": "Renamed"}).status_code == 200
    second = post(client, "again", dict(reversed(body.items())))
    assert second.status_code == 201
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.get_json() == first.get_json()
    assert second.headers["Location"] == url
    assert second.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert count(database) == made


def test_requests_without_a_key_each_create_a_mailing(client: FlaskClient) -> None:
    body = mailing_body()
    answers = [client.post(MAILINGS, json=body) for _ in range(2)]
    assert len({answer.get_json()["id"] for answer in answers}) == 2


def test_same_key_with_another_body_is_rejected(client: FlaskClient, database: Cursor) -> None:
    body = mailing_body()
    post(client, "other-body", body)
    made = count(database)
    answer = post(client, "other-body", {**body, "text": "Another"})
    (fault,) = problem(answer, 422)["errors"]
    assert (fault["parameter"], fault["code"]) == ("Idempotency-Key", "idempotency_key_reused")
    assert count(database) == made


def test_concurrent_requests_with_one_key_create_one_mailing(app: Flask, database: Cursor) -> None:
    made = count(database)
    body = mailing_body()
    barrier = threading.Barrier(6)
    answers: list[TestResponse] = []

    def call() -> None:
        client = make_client(app)
        barrier.wait()
        answers.append(post(client, "at-once", body))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201] * 6
    assert len({answer.get_json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 5
    assert count(database) == made + 1


def test_rejected_request_leaves_its_key_unused(client: FlaskClient) -> None:
    past = {"start_at": ahead(hours=-2), "end_at": ahead(hours=-1)}
    problem(post(client, "mended", {**mailing_body(), **past}), 422)
    assert "Idempotent-Replayed" not in post(client, "mended", mailing_body()).headers


def test_keys_belong_to_a_token(app: Flask, client: FlaskClient) -> None:
    made = client.post(TOKENS, json={"name": "other caller", "scope": "write"}).get_json()
    body = mailing_body()
    mine = post(client, "shared", body)
    other = post(client, "shared", body, Authorization=f"Bearer {made['token']}")
    assert other.get_json()["id"] != mine.get_json()["id"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "ключ", "a\x7f"])
def test_malformed_keys_are_rejected(client: FlaskClient, database: Cursor, key: str) -> None:
    made = count(database)
    answer = post(client, key.encode().decode("latin-1"), mailing_body())
    (fault,) = problem(answer, 422)["errors"]
    assert (fault["parameter"], fault["code"]) == ("Idempotency-Key", "idempotency_key_format")
    assert count(database) == made


def test_key_may_be_any_visible_ascii(client: FlaskClient) -> None:
    assert post(client, "x" * 255, mailing_body()).status_code == 201
    assert post(client, '"\'!~%s:key"', mailing_body()).status_code == 201


def test_key_expires_after_a_day_and_the_sweep_deletes_it(
    client: FlaskClient, database: Cursor, fleet: Fleet, redis_url: str
) -> None:
    body = mailing_body()
    first = post(client, "old", body).get_json()
    age = "UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'"
    database.execute(age)
    second = post(client, "old", body)
    assert "Idempotent-Replayed" not in second.headers
    assert second.get_json()["id"] != first["id"]
    assert post(client, "old", body).get_json() == second.get_json()
    database.execute(f"{age} WHERE key = 'old'")
    post(client, "fresh", mailing_body())
    sweep_mailings(fleet.db, Queues.connect(redis_url), 10.0)
    database.execute("SELECT key FROM idempotency_keys")
    assert database.fetchall() == [("fresh",)]

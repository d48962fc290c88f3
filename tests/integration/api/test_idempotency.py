"""Idempotency-Key: a repeated request creates nothing, even if sent concurrently."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from werkzeug.test import TestResponse

from api.mailings.preview_schemas import TEST_RESULT
from shared.queues import Queues
from tests.integration.api.test_problems import problem
from tests.integration.conftest import ahead, mailing_body, make_client, value
from tests.support.fleet import Fleet
from tests.support.waiting import wait_for
from worker.maintenance.erasure import sweep_erasures
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


def test_a_client_is_created_once(client: FlaskClient, database: Cursor, fleet: Fleet) -> None:
    body = {"phone": "79460000001", "timezone": "Europe/Moscow", "attributes": {"name": "Anna"}}
    again: dict[str, Any] = {"json": body, "headers": {"Idempotency-Key": "client"}}
    first = client.post("/api/v1/clients", **again)
    assert first.status_code == 201
    url = first.headers["Location"]
    assert client.patch(url, json={"tag": "changed"}).status_code == 200
    second = client.post("/api/v1/clients", **again)
    assert second.get_json() == first.get_json()
    for name in ("Location", "ETag"):
        assert second.headers[name] == first.headers[name]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert client.delete(url).status_code == 204
    sweep_erasures(fleet.db)
    gone = problem(client.post("/api/v1/clients", **again), 409)
    assert gone["code"] == "answer_not_stored"
    database.execute("SELECT answer FROM idempotency_keys WHERE key = 'client'")
    assert json.loads(value(database)) == {"id": first.get_json()["id"]}


def test_a_taken_phone_leaves_the_key_unused(client: FlaskClient) -> None:
    body = {"phone": "79460000002", "timezone": "Europe/Moscow"}
    again: dict[str, Any] = {"json": body, "headers": {"Idempotency-Key": "taken"}}
    url = client.post("/api/v1/clients", json=body).headers["Location"]
    assert problem(client.post("/api/v1/clients", **again), 409)["code"] == "phone_taken"
    assert client.delete(url).status_code == 204
    assert client.post("/api/v1/clients", **again).status_code == 201


def test_a_token_is_created_once_and_its_secret_is_not_stored(
    client: FlaskClient, database: Cursor
) -> None:
    body = {"name": "created once", "scope": "read"}
    again: dict[str, Any] = {"json": body, "headers": {"Idempotency-Key": "token"}}
    first = client.post(TOKENS, **again)
    assert first.status_code == 201
    gone = problem(client.post(TOKENS, **again), 409)
    assert gone["code"] == "answer_not_stored"
    assert f"token {first.get_json()['id']};" in gone["detail"]
    database.execute("SELECT answer FROM idempotency_keys WHERE key = 'token'")
    assert json.loads(value(database)) == {"id": first.get_json()["id"]}


def test_opt_outs_are_added_once(client: FlaskClient) -> None:
    body = {"phones": ["79460000003"]}
    again: dict[str, Any] = {"json": body, "headers": {"Idempotency-Key": "opt-out"}}
    first = client.post("/api/v1/opt-outs", **again)
    assert client.delete("/api/v1/opt-outs/79460000003").status_code == 204
    second = client.post("/api/v1/opt-outs", **again)
    assert second.get_json() == first.get_json() == {**first.get_json(), "added": 1}
    assert second.headers["Idempotent-Replayed"] == "true"
    assert client.delete("/api/v1/opt-outs/79460000003").status_code == 404


SENT = [TEST_RESULT]


def test_a_test_is_sent_once(app: Flask, database: Cursor) -> None:
    """Five requests at once store one test, and all return the results that a worker reports."""
    body = {"text": "Hello", "phones": ["79460000004"]}
    again: dict[str, Any] = {"json": body, "headers": {"Idempotency-Key": "test-send"}}

    def call(_: int) -> TestResponse:
        return make_client(app).post(f"{MAILINGS}/test-send", **again)

    def report() -> bool:
        database.execute(
            "UPDATE test_sends SET claimed_at = now(), results = %s WHERE results IS NULL",
            (json.dumps(SENT),),
        )
        return database.rowcount > 0

    with ThreadPoolExecutor(5) as pool:
        answers = pool.map(call, range(5))
        wait_for(report)
        found = list(answers)
    assert [answer.status_code for answer in found] == [200] * 5
    assert len({answer.text for answer in found}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in found) == 4
    database.execute("SELECT count(*) FROM test_sends")
    assert value(database) == 1
    database.execute("DELETE FROM test_sends")
    assert problem(call(0), 409)["code"] == "answer_not_stored"


def test_a_test_that_was_not_sent_is_sent_by_the_repetition(
    client: FlaskClient, database: Cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.mailings.test_sends.CLAIM_SECONDS", 0)
    body = {"text": "Hello", "phones": ["79460000005"]}
    again: dict[str, Any] = {"json": body, "headers": {"Idempotency-Key": "not-sent"}}
    for count in (1, 2):
        answer = client.post(f"{MAILINGS}/test-send", **again)
        assert problem(answer, 503)["code"] == "workers_unavailable"
        database.execute("SELECT count(*) FROM test_sends WHERE phones = '{79460000005}'")
        assert value(database) == count

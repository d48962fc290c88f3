"""PUT /clients/by-phone/{phone}: create or replace the client of a phone."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from werkzeug.test import TestResponse

from tests.integration.api.test_problems import problem
from tests.integration.conftest import make_app, make_client, value
from tests.support.waiting import wait_for

URL = "/api/v1/clients"
ZONE = {"timezone": "Europe/Moscow"}
PHONES = (str(number) for number in itertools.count(79430000000))


def put_client(
    client: FlaskClient, phone: str, body: dict[str, Any], **headers: str
) -> TestResponse:
    return client.put(f"{URL}/by-phone/{phone}", json=body, headers=headers)


def test_a_client_is_created_then_replaced(client: FlaskClient) -> None:
    phone = next(PHONES)
    full = {"tag": "vip", "operator_code": "916", "attributes": {"name": "Anna"}}
    first = put_client(client, phone, {**full, **ZONE})
    assert (first.status_code, first.headers["ETag"]) == (201, '"1"')
    created = first.get_json()
    assert created.items() >= {"phone": phone, **full, **ZONE}.items()
    assert client.get(first.headers["Location"]).get_json() == created
    second = put_client(client, phone, {"timezone": "Asia/Omsk", "phone": phone})
    assert (second.status_code, second.headers["ETag"]) == (200, '"2"')
    replaced = {"operator_code": "943", "tag": "", "timezone": "Asia/Omsk", "attributes": {}}
    assert second.get_json() == {
        **created,
        **replaced,
        "updated_at": second.get_json()["updated_at"],
    }
    again = put_client(client, phone, {"timezone": "Asia/Omsk"})
    assert (again.status_code, again.headers["ETag"]) == (200, '"2"')


def test_the_phone_of_a_deleted_client_makes_a_new_one(client: FlaskClient) -> None:
    phone = next(PHONES)
    first = put_client(client, phone, ZONE).get_json()
    assert client.delete(f"{URL}/{first['id']}").status_code == 204
    second = put_client(client, phone, ZONE)
    assert second.status_code == 201
    assert second.get_json()["id"] != first["id"]


def test_the_timezone_falls_back_to_the_setting(
    client: FlaskClient, database_url: str, redis_url: str
) -> None:
    (error,) = problem(put_client(client, next(PHONES), {}), 422)["errors"]
    assert (error["pointer"], error["code"]) == ("/timezone", "missing")
    tomsk = make_client(make_app(database_url, redis_url, DEFAULT_TIMEZONE="Asia/Tomsk"))
    assert put_client(tomsk, next(PHONES), {}).get_json()["timezone"] == "Asia/Tomsk"
    document = tomsk.get("/apidoc/openapi.json").get_json()
    assert "required" not in document["components"]["schemas"]["ClientOfPhone"]


@pytest.mark.parametrize(
    "phone",
    ["9161234567", "+79161234567", "89161234567", "791612345678", "7 9161234567", "٧ 9161234567"],
)
def test_the_path_takes_the_same_phones_as_a_body(client: FlaskClient, phone: str) -> None:
    (error,) = problem(put_client(client, phone, ZONE), 422)["errors"]
    assert (error["parameter"], error["code"]) == ("phone", "phone_format")
    answer = client.post(URL, json={"phone": phone, **ZONE})
    (same,) = problem(answer, 422)["errors"]
    assert (same["pointer"], same["code"]) == ("/phone", error["code"])
    assert same["detail"] == error["detail"]
    assert problem(client.delete(f"/api/v1/opt-outs/{phone}"), 422)["errors"] == [error]


def test_another_phone_in_the_body_is_rejected(client: FlaskClient) -> None:
    (error,) = problem(put_client(client, next(PHONES), {**ZONE, "phone": next(PHONES)}), 422)[
        "errors"
    ]
    assert (error["pointer"], error["code"]) == ("/phone", "phone_differs")


def test_if_match_changes_only_that_version_and_creates_nothing(client: FlaskClient) -> None:
    phone = next(PHONES)
    for etag in ('"1"', "*"):
        refused = put_client(client, phone, ZONE, **{"If-Match": etag})
        assert problem(refused, 412)["code"] == "nothing_to_match"
    assert put_client(client, phone, ZONE).status_code == 201
    change = {**ZONE, "tag": "a"}
    assert put_client(client, phone, change, **{"If-Match": '"1"'}).headers["ETag"] == '"2"'
    stale = put_client(client, phone, {**ZONE, "tag": "b"}, **{"If-Match": '"1"'})
    assert stale.status_code == 412
    assert stale.get_json()["current_version"] == 2
    assert put_client(client, phone, change, **{"If-Match": "*"}).status_code == 200


def test_concurrent_requests_create_one_client(app: Flask, database: Cursor) -> None:
    barrier = threading.Barrier(6)

    def call(n: int, phone: str) -> int:
        client = make_client(app)
        barrier.wait(timeout=10)
        return put_client(client, phone, {**ZONE, "tag": f"tag {n}"}).status_code

    with ThreadPoolExecutor(6) as pool:
        for phone in itertools.islice(PHONES, 5):
            statuses = sorted(pool.map(call, range(6), [phone] * 6))
            assert statuses == [200] * 5 + [201]
            database.execute("SELECT version FROM clients WHERE phone = %s", (phone,))
            assert value(database) == 6


def test_a_phone_that_changes_hands_meanwhile_is_handled(app: Flask, database: Cursor) -> None:
    """A client is deleted while the request waits for its row; the request makes a new client."""
    phone = next(PHONES)
    first = put_client(make_client(app), phone, ZONE).get_json()
    database.execute("BEGIN")
    database.execute(
        "UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL, timezone = NULL,"
        " deleted_at = now() WHERE id = %s",
        (first["id"],),
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: put_client(make_client(app), phone, ZONE))
        wait_for(lambda: _is_anything_waiting(database))
        database.execute("COMMIT")
        answer = waiting.result(timeout=10)
    assert answer.status_code == 201
    assert answer.get_json()["id"] != first["id"]


def _is_anything_waiting(database: Cursor) -> bool:
    database.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    return bool(value(database))

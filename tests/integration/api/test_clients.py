"""Clients over the API: kept right, found by page and filter, erased when deleted."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.clients.schemas import ClientAnswer, ClientPage
from tests.integration.conftest import make_app, make_client

URL = "/api/v1/clients"
Make = Callable[..., dict[str, Any]]


def test_a_client_comes_back_as_it_was_made(client: FlaskClient) -> None:
    body = {"phone": "79990000001", "tag": "vip", "timezone": "Asia/Omsk"}
    answer = client.post(URL, json=body)
    assert answer.status_code == 201
    made = answer.get_json()
    ClientAnswer.model_validate(made)
    assert made == {**made, **body, "operator_code": "999"}
    assert made["created_at"].endswith("Z")
    assert answer.headers["Location"] == f"{URL}/{made['id']}"
    assert client.get(answer.headers["Location"]).get_json() == made


def test_the_default_timezone_fills_in(
    client: FlaskClient, database_url: str, redis_url: str
) -> None:
    def required(client: FlaskClient) -> list[str]:
        document = client.get("/apidoc/openapi.json").get_json()
        assert "Filter" in document["components"]["schemas"]
        return list(document["components"]["schemas"]["NewClient"]["required"])

    tomsk = make_client(make_app(database_url, redis_url, DEFAULT_TIMEZONE="Asia/Tomsk"))
    assert tomsk.post(URL, json={"phone": "79990000002"}).get_json()["timezone"] == "Asia/Tomsk"
    # Each application in a process has a document of its own.
    assert required(tomsk) == ["phone"]
    assert required(client) == ["phone", "timezone"]
    assert required(make_client(make_app(database_url, redis_url))) == ["phone", "timezone"]


def test_a_phone_belongs_to_one_client(client: FlaskClient, new_client: Make) -> None:
    first, second = new_client(), new_client()
    taken = {"phone": first["phone"], "timezone": "Europe/Moscow"}
    for answer in (
        client.post(URL, json=taken),
        client.put(f"{URL}/{second['id']}", json=taken),
        client.patch(f"{URL}/{second['id']}", json={"phone": first["phone"]}),
    ):
        assert answer.status_code == 409
        assert answer.get_json()["detail"] == f"phone already belongs to client {first['id']}"
    assert client.get(f"{URL}/{second['id']}").get_json() == second


def test_an_operator_code_follows_the_phone_unless_it_was_given(
    client: FlaskClient, new_client: Make
) -> None:
    url = f"{URL}/{new_client(phone='79030000001')['id']}"

    def code(method: str, **body: Any) -> str:
        answer = client.open(url, method=method, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.get_json()["operator_code"])

    assert code("PATCH", phone="79040000001") == "904"
    assert code("PATCH", operator_code="777") == "777"
    assert code("PATCH", phone="79050000001") == "777"
    assert code("PATCH", operator_code=None) == "905"
    assert code("PATCH", phone="79060000001") == "906"
    assert code("PATCH", phone="79070000001", operator_code="555") == "555"
    assert code("PUT", phone="79080000001", timezone="Europe/Moscow") == "908"
    assert code("PATCH", phone="79090000001") == "909"


def test_put_replaces_and_patch_changes(client: FlaskClient, new_client: Make) -> None:
    made = new_client(tag="vip", timezone="Asia/Omsk")
    url = f"{URL}/{made['id']}"
    patched = client.patch(url, json={"tag": "regular"}).get_json()
    assert patched == {**made, "tag": "regular", "updated_at": patched["updated_at"]}
    assert patched["updated_at"] > made["updated_at"]
    put = client.put(url, json={"phone": made["phone"], "timezone": "Asia/Omsk"}).get_json()
    assert put["tag"] == ""
    assert client.get(url).get_json() == put


def test_a_change_that_changes_nothing_is_no_change(client: FlaskClient, new_client: Make) -> None:
    made = new_client(tag="same")
    url = f"{URL}/{made['id']}"
    for body in ({}, {"tag": "same"}, {"operator_code": None}):
        assert client.patch(url, json=body).get_json() == made


def test_a_deleted_client_is_gone_and_erased(
    client: FlaskClient, new_client: Make, database: Cursor
) -> None:
    made = new_client(tag="secret")
    url = f"{URL}/{made['id']}"
    assert client.delete(url).status_code == 204
    for method in ("GET", "PATCH", "DELETE"):
        assert client.open(url, method=method, json={}).status_code == 404
    database.execute(
        "SELECT phone, operator_code, tag, timezone, deleted_at IS NULL FROM clients WHERE id = %s",
        (made["id"],),
    )
    assert database.fetchone() == (None, None, None, None, False)
    assert new_client(phone=made["phone"])["id"] != made["id"]


def test_filters_find_clients_and_values_stay_strings(
    client: FlaskClient, new_client: Make
) -> None:
    wanted = new_client(phone="79120000900", tag="900", timezone="Asia/Kathmandu")
    new_client(phone="79120000901", tag="901", timezone="Asia/Kathmandu")

    def found(**query: str) -> list[dict[str, Any]]:
        answer = client.get(URL, query_string=query)
        assert answer.status_code == 200, answer.text
        ClientPage.model_validate(answer.get_json())
        items: list[dict[str, Any]] = answer.get_json()["items"]
        return items

    assert found(tag="900") == [wanted]
    assert found(phone="79120000900") == [wanted]
    assert found(operator_code="912", tag="900") == [wanted]
    assert len(found(timezone="Asia/Kathmandu")) == 2
    assert found(tag="901", phone="79120000900") == []
    assert all(item["tag"] == "" for item in found(tag=""))


def test_pages_are_stable_while_clients_come_and_go(client: FlaskClient, new_client: Make) -> None:
    made = [new_client(tag="paged")["id"] for _ in range(7)]
    seen: list[int] = []
    query = {"tag": "paged", "limit": "3"}
    while True:
        answer = client.get(URL, query_string=query).get_json()
        seen += [item["id"] for item in answer["items"]]
        assert len(answer["items"]) <= 3
        if answer["next_cursor"] is None:
            break
        query["cursor"] = answer["next_cursor"]
        if len(seen) == 3:
            client.delete(f"{URL}/{made[1]}")  # seen already
            client.delete(f"{URL}/{made[4]}")  # not seen yet
            made.append(new_client(tag="paged")["id"])
    assert seen == [id_ for id_ in made if id_ != made[4]]


def test_a_full_last_page_has_no_next(client: FlaskClient, new_client: Make) -> None:
    for _ in range(2):
        new_client(tag="exactly")
    answer = client.get(f"{URL}?tag=exactly&limit=2").get_json()
    assert len(answer["items"]) == 2
    assert answer["next_cursor"] is None


@pytest.mark.parametrize("id_", ["0", "-1", "x", "1.0", "9223372036854775808", "9" * 40, "٣", "01"])
def test_ids_that_cannot_be_are_not_found(client: FlaskClient, id_: str) -> None:
    body = {"phone": "79161234567", "timezone": "Europe/Moscow"}
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = client.open(f"{URL}/{id_}", method=method, json=body)
        assert answer.status_code == 404, method
        assert answer.mimetype == "application/problem+json"

"""Clients over the API: create, change, filter, page, and erase when deleted."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.clients.schemas import ClientAnswer, ClientPage
from tests.integration.conftest import make_app, make_client

URL = "/api/v1/clients"
NewObject = Callable[..., dict[str, Any]]


def test_a_created_client_is_returned_unchanged(client: FlaskClient) -> None:
    body = {"phone": "79990000001", "tag": "vip", "timezone": "Asia/Omsk"}
    response = client.post(URL, json=body)
    assert response.status_code == 201
    created = response.get_json()
    ClientAnswer.model_validate(created)
    assert created == {**created, **body, "operator_code": "999"}
    assert created["created_at"].endswith("Z")
    assert response.headers["Location"] == f"{URL}/{created['id']}"
    assert client.get(response.headers["Location"]).get_json() == created


def test_the_default_timezone_fills_a_missing_one(
    client: FlaskClient, database_url: str, redis_url: str
) -> None:
    def required(client: FlaskClient) -> list[str]:
        document = client.get("/apidoc/openapi.json").get_json()
        assert "Filter" in document["components"]["schemas"]
        return list(document["components"]["schemas"]["NewClient"]["required"])

    tomsk = make_client(make_app(database_url, redis_url, DEFAULT_TIMEZONE="Asia/Tomsk"))
    assert tomsk.post(URL, json={"phone": "79990000002"}).get_json()["timezone"] == "Asia/Tomsk"
    # Each application in a process has its own OpenAPI document.
    assert required(tomsk) == ["phone"]
    assert required(client) == ["phone", "timezone"]
    assert required(make_client(make_app(database_url, redis_url))) == ["phone", "timezone"]


def test_a_phone_belongs_to_one_client(client: FlaskClient, new_client: NewObject) -> None:
    first, second = new_client(), new_client()
    taken = {"phone": first["phone"], "timezone": "Europe/Moscow"}
    for response in (
        client.post(URL, json=taken),
        client.put(f"{URL}/{second['id']}", json=taken),
        client.patch(f"{URL}/{second['id']}", json={"phone": first["phone"]}),
    ):
        assert response.status_code == 409
        assert response.get_json()["detail"] == f"phone already belongs to client {first['id']}"
    assert client.get(f"{URL}/{second['id']}").get_json() == second


def test_an_operator_code_follows_the_phone_unless_given(
    client: FlaskClient, new_client: NewObject
) -> None:
    url = f"{URL}/{new_client(phone='79030000001')['id']}"

    def code(method: str, **body: Any) -> str:
        response = client.open(url, method=method, json=body)
        assert response.status_code == 200, response.text
        return str(response.get_json()["operator_code"])

    assert code("PATCH", phone="79040000001") == "904"
    assert code("PATCH", operator_code="777") == "777"
    assert code("PATCH", phone="79050000001") == "777"
    assert code("PATCH", operator_code=None) == "905"
    assert code("PATCH", phone="79060000001") == "906"
    assert code("PATCH", phone="79070000001", operator_code="555") == "555"
    assert code("PUT", phone="79080000001", timezone="Europe/Moscow") == "908"
    assert code("PATCH", phone="79090000001") == "909"


def test_put_replaces_all_fields_and_patch_changes_some(
    client: FlaskClient, new_client: NewObject
) -> None:
    created = new_client(tag="vip", timezone="Asia/Omsk")
    url = f"{URL}/{created['id']}"
    patched = client.patch(url, json={"tag": "regular"}).get_json()
    assert patched == {**created, "tag": "regular", "updated_at": patched["updated_at"]}
    assert patched["updated_at"] > created["updated_at"]
    put = client.put(url, json={"phone": created["phone"], "timezone": "Asia/Omsk"}).get_json()
    assert put["tag"] == ""
    assert client.get(url).get_json() == put


def test_a_patch_with_equal_values_leaves_updated_at(
    client: FlaskClient, new_client: NewObject
) -> None:
    created = new_client(tag="same")
    url = f"{URL}/{created['id']}"
    for body in ({}, {"tag": "same"}, {"operator_code": None}):
        assert client.patch(url, json=body).get_json() == created


def test_a_deleted_client_is_not_found_and_its_data_is_erased(
    client: FlaskClient, new_client: NewObject, database: Cursor
) -> None:
    created = new_client(tag="secret")
    url = f"{URL}/{created['id']}"
    assert client.delete(url).status_code == 204
    for method in ("GET", "PATCH", "DELETE"):
        assert client.open(url, method=method, json={}).status_code == 404
    database.execute(
        "SELECT phone, operator_code, tag, timezone, deleted_at IS NULL FROM clients WHERE id = %s",
        (created["id"],),
    )
    assert database.fetchone() == (None, None, None, None, False)
    assert new_client(phone=created["phone"])["id"] != created["id"]


def test_filters_combine_and_values_are_compared_as_strings(
    client: FlaskClient, new_client: NewObject
) -> None:
    wanted = new_client(phone="79120000900", tag="900", timezone="Asia/Kathmandu")
    new_client(phone="79120000901", tag="901", timezone="Asia/Kathmandu")

    def found(**query: str) -> list[dict[str, Any]]:
        response = client.get(URL, query_string=query)
        assert response.status_code == 200, response.text
        ClientPage.model_validate(response.get_json())
        items: list[dict[str, Any]] = response.get_json()["items"]
        return items

    assert found(tag="900") == [wanted]
    assert found(phone="79120000900") == [wanted]
    assert found(operator_code="912", tag="900") == [wanted]
    assert len(found(timezone="Asia/Kathmandu")) == 2
    assert found(tag="901", phone="79120000900") == []
    assert all(item["tag"] == "" for item in found(tag=""))


def test_pages_are_stable_while_clients_are_created_and_deleted(
    client: FlaskClient, new_client: NewObject
) -> None:
    created = [new_client(tag="paged")["id"] for _ in range(7)]
    seen: list[int] = []
    query = {"tag": "paged", "limit": "3"}
    while True:
        response = client.get(URL, query_string=query).get_json()
        seen += [item["id"] for item in response["items"]]
        assert len(response["items"]) <= 3
        if response["next_cursor"] is None:
            break
        query["cursor"] = response["next_cursor"]
        if len(seen) == 3:
            client.delete(f"{URL}/{created[1]}")  # seen already
            client.delete(f"{URL}/{created[4]}")  # not seen yet
            created.append(new_client(tag="paged")["id"])
    assert seen == [id_ for id_ in created if id_ != created[4]]


def test_a_full_last_page_has_no_next_cursor(client: FlaskClient, new_client: NewObject) -> None:
    for _ in range(2):
        new_client(tag="exactly")
    response = client.get(f"{URL}?tag=exactly&limit=2").get_json()
    assert len(response["items"]) == 2
    assert response["next_cursor"] is None


@pytest.mark.parametrize("id_", ["0", "-1", "x", "1.0", "9223372036854775808", "9" * 40, "٣", "01"])
def test_impossible_ids_are_not_found(client: FlaskClient, id_: str) -> None:
    body = {"phone": "79161234567", "timezone": "Europe/Moscow"}
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        response = client.open(f"{URL}/{id_}", method=method, json=body)
        assert response.status_code == 404, method
        assert response.mimetype == "application/problem+json"

"""Edit versions: of two changes to what one person has read, the second is refused."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from werkzeug.test import TestResponse

from tests.integration.conftest import mailing_body, make_client

NEW_CLIENT = {"timezone": "Europe/Moscow"}


@pytest.fixture(params=["clients", "mailings"])
def made(request: pytest.FixtureRequest, client: FlaskClient) -> tuple[str, dict[str, Any]]:
    """The path of a new object, and a change of it."""
    phone = {"phone": f"7942{abs(hash(request.node.name)) % 10**7:07}"}
    if request.param == "clients":
        answer = client.post("/api/v1/clients", json=NEW_CLIENT | phone)
        change: dict[str, Any] = {"tag": "changed"}
    else:
        answer = client.post("/api/v1/mailings", json=mailing_body())
        change = {"name": "changed"}
    assert answer.status_code == 201, answer.text
    assert answer.headers["ETag"] == '"1"'
    return answer.headers["Location"], change


def patch(client: FlaskClient, path: str, change: object, etag: str) -> TestResponse:
    return client.patch(path, json=change, headers={"If-Match": etag})


def test_the_second_of_two_edits_is_refused(
    client: FlaskClient, made: tuple[str, dict[str, Any]]
) -> None:
    path, change = made
    etag = client.get(path).headers["ETag"]
    first = patch(client, path, change, etag)
    assert (first.status_code, first.headers["ETag"]) == (200, '"2"')
    second = patch(client, path, dict.fromkeys(change, "overwritten"), etag)
    assert second.status_code == 412
    assert second.headers["ETag"] == '"2"'
    problem = second.get_json()
    assert problem["code"] == "version_mismatch"
    assert problem["current_version"] == 2
    assert problem["changed_by"] == "bootstrap"
    assert problem["changed_at"] in problem["detail"]
    assert client.get(path).get_json().items() >= change.items()


def test_of_concurrent_edits_one_succeeds(app: Flask, made: tuple[str, dict[str, Any]]) -> None:
    path, change = made

    def edit(n: int) -> int:
        return patch(make_client(app), path, dict.fromkeys(change, f"edit {n}"), '"1"').status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(edit, range(4)))
    assert statuses == [200, 412, 412, 412]


@pytest.mark.parametrize("etag", ['W/"1"', '"1"', '"7", "1"', "*", '"x", "1"'])
def test_these_etags_permit_the_edit(
    client: FlaskClient, made: tuple[str, dict[str, Any]], etag: str
) -> None:
    path, change = made
    assert patch(client, path, change, etag).status_code == 200


@pytest.mark.parametrize(
    ("etag", "status"), [('"2"', 412), ('"x"', 412), ("1", 400), ("", 400), ('"1', 400)]
)
def test_these_etags_refuse_the_edit(
    client: FlaskClient, made: tuple[str, dict[str, Any]], etag: str, status: int
) -> None:
    path, change = made
    assert patch(client, path, change, etag).status_code == status
    assert client.get(path).headers["ETag"] == '"1"'


def test_deletion_can_be_bound_to_a_version(
    client: FlaskClient, made: tuple[str, dict[str, Any]]
) -> None:
    path, change = made
    assert client.patch(path, json=change).headers["ETag"] == '"2"'
    assert client.delete(path, headers={"If-Match": '"1"'}).status_code == 412
    assert client.delete(path, headers={"If-Match": '"2"'}).status_code == 204


def test_an_edit_that_changes_nothing_keeps_the_version(
    client: FlaskClient, made: tuple[str, dict[str, Any]]
) -> None:
    path, change = made
    assert client.patch(path, json=change).headers["ETag"] == '"2"'
    assert client.patch(path, json=change).headers["ETag"] == '"2"'


def test_a_status_keeps_the_version(client: FlaskClient) -> None:
    made = client.post("/api/v1/mailings", json=mailing_body())
    path = made.headers["Location"]
    for action in ("pause", "resume", "cancel"):
        assert client.post(f"{path}/{action}").headers["ETag"] == '"1"'


def test_a_change_by_an_import_is_an_edit_without_an_author(
    client: FlaskClient, database: Cursor
) -> None:
    made = client.post("/api/v1/clients", json=NEW_CLIENT | {"phone": "79429999999"})
    path = made.headers["Location"]
    database.execute(
        "UPDATE clients SET version = version + 1, updated_at = now() + interval '1 hour'"
        " WHERE phone = 79429999999"
    )
    refused = patch(client, path, {"tag": "x"}, '"1"')
    assert refused.status_code == 412
    assert refused.get_json()["changed_by"] is None

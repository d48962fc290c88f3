"""Lists of the API: both orders, several statuses, and ranges of instants."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from tests.integration.conftest import mailing_body

INSTANT = "timestamptz '2030-12-01 00:00Z' + id * interval '1 hour'"


def list_keys(client: FlaskClient, path: str, key: str = "id", **query: object) -> list[Any]:
    """Return a key of each item of a list, fetched page by page."""
    seen: list[Any] = []
    for _ in range(100):
        answer = client.get(f"/api/v1/{path}", query_string=query)
        assert answer.status_code == 200, answer.text
        seen += [item[key] for item in answer.get_json()["items"]]
        query["cursor"] = answer.get_json()["next_cursor"]
        if query["cursor"] is None:
            return seen
    raise AssertionError("the list has no end")


@pytest.fixture(scope="module")
def objects(client: FlaskClient, database: Cursor) -> None:
    """Five of each kind of object, with instants an hour apart."""
    for n in range(5):
        body = {"phone": f"7945000000{n}", "timezone": "Europe/Moscow"}
        assert client.post("/api/v1/clients", json=body).status_code == 201
        assert client.post("/api/v1/mailings", json=mailing_body()).status_code == 201
        body = {"name": f"token {n}", "scope": "read"}
        assert client.post("/api/v1/tokens", json=body).status_code == 201
        file = {"data": f"phone\n7945000000{n}\n", "content_type": "text/csv"}
        assert client.post("/api/v1/clients/import", **file).status_code == 202
    phones = [f"7945000000{n}" for n in range(5)]
    assert client.post("/api/v1/opt-outs", json={"phones": phones}).status_code == 200
    database.execute("UPDATE mailings SET end_at = '2031-01-01 00:00Z'")
    for table, columns in {
        "clients": ("updated_at",),
        "imports": ("created_at",),
        "mailings": ("created_at", "start_at"),
    }.items():
        for column in columns:
            database.execute(f"UPDATE {table} SET {column} = {INSTANT}")


@pytest.mark.usefixtures("objects")
@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("clients", "id"),
        ("mailings", "id"),
        ("statistics", "mailing_id"),
        ("tokens", "id"),
        ("imports", "id"),
        ("opt-outs", "phone"),
    ],
)
def test_lists_have_two_orders(client: FlaskClient, path: str, key: str) -> None:
    ascending = list_keys(client, path, key, limit=2)
    assert len(ascending) == 5
    assert ascending == sorted(ascending)
    assert list_keys(client, path, key, limit=2, order="asc") == ascending
    assert list_keys(client, path, key, limit=2, order="desc") == ascending[::-1]
    refused = client.get(f"/api/v1/{path}?order=down")
    assert [each["code"] for each in refused.get_json()["errors"]] == ["literal_error"]


@pytest.mark.usefixtures("objects")
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("clients", "updated"),
        ("mailings", "created"),
        ("mailings", "start"),
        ("imports", "created"),
    ],
)
def test_lists_are_filtered_by_instants(client: FlaskClient, path: str, field: str) -> None:
    ids = list_keys(client, path)
    since = f"2030-12-01T{ids[1]:02}:00:00Z"
    until = f"2030-12-01T{ids[3]:02}:00:00Z"
    after: dict[str, Any] = {f"{field}_since": since}
    before: dict[str, Any] = {f"{field}_until": until}
    assert list_keys(client, path, limit=1, **after, **before) == ids[1:3]
    assert list_keys(client, path, **after) == ids[1:]
    assert list_keys(client, path, **before) == ids[:3]


@pytest.mark.usefixtures("objects")
def test_mailings_are_filtered_by_several_statuses(client: FlaskClient) -> None:
    ids = list_keys(client, "mailings")
    for mailing_id, action in ((ids[1], "pause"), (ids[3], "cancel")):
        assert client.post(f"/api/v1/mailings/{mailing_id}/{action}").status_code == 200
    assert list_keys(client, "mailings", status="paused") == [ids[1]]
    both: dict[str, Any] = {"status": "cancelled,paused", "limit": 1}
    assert list_keys(client, "mailings", **both) == [ids[1], ids[3]]
    assert list_keys(client, "statistics", "mailing_id", **both) == [ids[1], ids[3]]


@pytest.mark.usefixtures("objects")
def test_imports_are_filtered_by_several_statuses(client: FlaskClient, database: Cursor) -> None:
    ids = list_keys(client, "imports")
    database.execute(
        "UPDATE imports SET status = 'failed', failure = 'unreadable' WHERE id = %s", (ids[0],)
    )
    assert list_keys(client, "imports", status="failed") == [ids[0]]
    assert list_keys(client, "imports", status="failed,running") == ids


@pytest.mark.parametrize("path", ["mailings", "statistics", "imports", "mailings/1/messages"])
@pytest.mark.parametrize("status", ["", "lost", "lost,running", "running,"])
def test_unknown_statuses_are_rejected(client: FlaskClient, path: str, status: str) -> None:
    answer = client.get(f"/api/v1/{path}", query_string={"status": status})
    assert answer.status_code == 422
    assert {each["parameter"] for each in answer.get_json()["errors"]} == {"status"}

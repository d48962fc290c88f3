"""The audit log: one entry for every change, none without a change, no personal data."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.audit_log.schemas import AuditPage
from tests.integration.conftest import ahead, mailing_body

URL = "/api/v1/audit"
Make = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def nothing_done(database: Cursor) -> None:
    database.execute("DELETE FROM audit_log")


def entries(client: FlaskClient, **query: object) -> list[dict[str, Any]]:
    answer = client.get(URL, query_string=query)
    assert answer.status_code == 200, answer.text
    AuditPage.model_validate(answer.get_json())
    found: list[dict[str, Any]] = answer.get_json()["items"]
    return found


def done(client: FlaskClient, **query: object) -> list[str]:
    """Return the recorded actions, the oldest first."""
    return [entry["action"] for entry in reversed(entries(client, **query))]


def test_changes_of_a_mailing_are_recorded(client: FlaskClient, new_mailing: Make) -> None:
    made = new_mailing(text="Secret words")
    url = f"/api/v1/mailings/{made['id']}"
    end_at = ahead(hours=3)
    client.patch(url, json={"text": "Other words!", "end_at": end_at})
    client.patch(url, json={"end_at": end_at})  # changes nothing
    client.post(f"{url}/pause")
    client.post(f"{url}/pause")  # nor does this
    client.post(f"{url}/resume")
    client.post(f"{url}/cancel")
    assert client.patch(url, json={"name": "late"}).status_code == 409
    client.delete(url)
    about = entries(client, entity="mailing", entity_id=made["id"])
    assert [entry["action"] for entry in reversed(about)] == [
        *("created", "updated", "paused", "resumed", "cancelled", "deleted")
    ]
    assert {entry["actor"] for entry in about} == {"bootstrap"}
    assert about[4]["changes"] == {
        "text": {"old": {"version": 1, "length": 12}, "new": {"version": 2, "length": 12}},
        "end_at": {"old": made["end_at"], "new": end_at},
    }
    assert "words" not in json.dumps(about)


def test_personal_data_of_clients_is_not_recorded(client: FlaskClient, new_client: Make) -> None:
    made = new_client(tag="gold")
    url = f"/api/v1/clients/{made['id']}"
    client.patch(url, json={"phone": "79168887766", "tag": "silver", "timezone": "Asia/Omsk"})
    client.patch(url, json={"tag": "silver"})
    client.delete(url)
    about = entries(client, entity="client", entity_id=made["id"])
    assert [entry["action"] for entry in reversed(about)] == ["created", "updated", "deleted"]
    assert {"phone", "tag", "timezone"} <= set(about[1]["changes"])
    assert set(about[1]["changes"].values()) == {None}
    text = json.dumps(about)
    assert not [word for word in ("79168887766", "silver", "gold", "Omsk") if word in text]


def test_opt_outs_are_recorded_one_by_one_with_masked_phones(client: FlaskClient) -> None:
    phones = ["79990000001", "79990000002"]
    client.post("/api/v1/opt-outs", json={"phones": phones, "source": "call"})
    client.post("/api/v1/opt-outs", json={"phones": phones[:1]})  # is there already
    client.delete("/api/v1/opt-outs/79990000001")
    about = entries(client, entity="opt_out")
    assert [(entry["action"], entry["changes"]) for entry in reversed(about)] == [
        ("added", {"phone": "7999***0001", "source": "call"}),
        ("added", {"phone": "7999***0002", "source": "call"}),
        ("removed", {"phone": "7999***0001", "source": "call"}),
    ]


def test_tokens_and_their_users_are_recorded(client: FlaskClient, phones: Any) -> None:
    made = client.post("/api/v1/tokens", json={"name": "auditor", "scope": "write"}).get_json()
    header = {"Authorization": f"Bearer {made['token']}", "X-Request-ID": "req-7"}
    body = {"phone": next(phones), "timezone": "Europe/Moscow"}
    assert client.post("/api/v1/clients", json=body, headers=header).status_code == 201
    assert client.get(URL, headers=header).status_code == 403
    client.delete(f"/api/v1/tokens/{made['id']}")
    assert done(client, entity="token", entity_id=made["id"]) == ["created", "revoked"]
    (entry,) = entries(client, actor="token:auditor")
    assert (entry["entity"], entry["action"], entry["request_id"]) == ("client", "created", "req-7")
    assert made["token"] not in json.dumps(entries(client))


def test_rejected_and_rolled_back_changes_are_not_recorded(
    client: FlaskClient, new_client: Make
) -> None:
    taken = new_client()["phone"]
    before = len(entries(client))
    body = {"phone": taken, "timezone": "Europe/Moscow"}
    assert client.post("/api/v1/clients", json=body).status_code == 409
    past = mailing_body() | {"start_at": "2020-01-01T00:00:00Z", "end_at": "2020-01-02T00:00:00Z"}
    assert client.post("/api/v1/mailings", json=past).status_code == 422
    token = {"name": "twice", "scope": "read"}
    assert [client.post("/api/v1/tokens", json=token).status_code for _ in "ab"] == [201, 409]
    assert len(entries(client)) == before + 1


def test_entries_are_paged_and_filtered_by_time(client: FlaskClient, new_client: Make) -> None:
    for _ in range(5):
        new_client()
    everything = entries(client, limit=500)
    assert [e["id"] for e in everything] == sorted((e["id"] for e in everything), reverse=True)
    first = client.get(URL, query_string={"limit": 3}).get_json()
    rest = entries(client, limit=3, cursor=first["next_cursor"])
    assert first["items"] + rest == everything
    middle = everything[2]["at"]
    assert entries(client, since=middle) == everything[:3]
    assert entries(client, until=middle) == everything[3:]
    for wrong in ({"entity_id": "x"}, {"since": "yesterday"}, {"unknown": "1"}):
        assert client.get(URL, query_string=wrong).status_code == 422

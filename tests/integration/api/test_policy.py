"""The policy over the API: versions, history, who may change it, and the emergency stop."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from redis import Redis
from werkzeug.test import TestResponse

from api.policy.schemas import RULES, PolicyAnswer, PolicyVersionPage, StopAnswer
from shared.fleet_status import RULES_FIELD, RULES_LEVEL
from tests.integration.conftest import mailing_body

URL = "/api/v1/policy"
OFF: dict[str, Any] = {
    "max_audience": None,
    "stop_when": None,
    "budget": None,
    "launch_delay": 0,
    "notify": [],
}


@pytest.fixture(autouse=True)
def no_rules(database: Cursor) -> Iterator[None]:
    """Begin and end with a policy whose rules are off, and without the emergency stop."""
    clear = """
    DELETE FROM policies WHERE version > 1;
    UPDATE emergency_stop SET stopped_at = NULL, stopped_by = NULL;
    """
    database.execute(clear)
    yield
    database.execute(clear)


def put_policy(client: FlaskClient, rules: dict[str, Any], etag: str) -> TestResponse:
    return client.put(URL, json=rules, headers={"If-Match": etag})


def test_a_fresh_installation_has_no_rules(client: FlaskClient) -> None:
    answer = client.get(URL)
    PolicyAnswer.model_validate_json(answer.data)
    assert answer.headers["ETag"] == '"1"'
    expected = OFF | {"version": 1, "updated_by": None, "stopped_at": None, "stopped_by": None}
    assert answer.get_json().items() >= expected.items()


def test_the_policy_is_replaced_and_its_versions_stay(client: FlaskClient) -> None:
    changed = put_policy(client, RULES, '"1"')
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"'), changed.text
    assert changed.get_json().items() >= (RULES | {"updated_by": "bootstrap"}).items()
    # What GET gave can be sent back; the same rules make no version.
    assert put_policy(client, client.get(URL).get_json(), 'W/"2"').headers["ETag"] == '"2"'
    # What is left out is off.
    only_delay = put_policy(client, {"launch_delay": 5}, '"2"').get_json()
    assert only_delay.items() >= (OFF | {"launch_delay": 5, "version": 3}).items()
    page = client.get(f"{URL}/versions?order=desc&limit=2")
    PolicyVersionPage.model_validate_json(page.data)
    assert [item["version"] for item in page.get_json()["items"]] == [3, 2]
    rest = client.get(f"{URL}/versions?order=desc&cursor={page.get_json()['next_cursor']}")
    assert [item["version"] for item in rest.get_json()["items"]] == [1]
    entries = client.get("/api/v1/audit?entity=policy").get_json()["items"][:2]
    assert [entry["entity_id"] for entry in entries] == [3, 2]
    assert entries[1]["changes"]["launch_delay"] == {"old": 0, "new": 30}
    assert entries[1]["changes"]["notify"] == {"old": 0, "new": 1}


def test_a_change_needs_the_version_that_was_read(client: FlaskClient) -> None:
    assert client.put(URL, json=RULES).get_json()["code"] == "if_match_missing"
    assert client.put(URL, json=RULES).status_code == 428
    assert put_policy(client, RULES, '"1"').status_code == 200
    second = put_policy(client, OFF, '"1"')
    assert second.status_code == 412
    problem = second.get_json()
    assert (problem["current_version"], problem["changed_by"]) == (2, "bootstrap")
    assert client.get(URL).get_json()["launch_delay"] == 30


@pytest.mark.parametrize(
    ("rules", "pointer", "code"),
    [
        ({"launch_delay": -1}, "/launch_delay", "greater_than_equal"),
        ({"launch_delay": 86_401}, "/launch_delay", "less_than_equal"),
        ({"notify": ["Ann"]}, "/notify/0", "mail_address_format"),
        ({"budget": {"month": {"amount": "9"}}}, "/budget/month/amount", "segment_price_missing"),
        ({"max_audience": 10, "colour": 1}, "/colour", "extra_forbidden"),
    ],
    ids=str,
)
def test_rules_of_the_wrong_shape_are_refused(
    client: FlaskClient, rules: dict[str, Any], pointer: str, code: str
) -> None:
    answer = put_policy(client, rules, '"1"')
    assert answer.status_code == 422
    (error,) = answer.get_json()["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)


def test_only_an_administrator_changes_the_policy(app: Flask, client: FlaskClient) -> None:
    body = {"name": "policy test", "scope": "write"}
    token = client.post("/api/v1/tokens", json=body).get_json()
    writer = app.test_client()
    writer.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token['token']}"
    assert writer.get(URL).status_code == 200
    for method, path in (("PUT", URL), ("POST", f"{URL}/stop"), ("POST", f"{URL}/resume")):
        refused = writer.open(path, method=method, json=RULES, headers={"If-Match": '"1"'})
        assert refused.get_json()["code"] == "scope_insufficient", (method, path)
    client.delete(f"/api/v1/tokens/{token['id']}")


def test_sending_is_stopped_and_resumed(client: FlaskClient) -> None:
    stopped = client.post(f"{URL}/stop")
    StopAnswer.model_validate_json(stopped.data)
    since = stopped.get_json()["stopped_at"]
    expected = {"stopped_at": since, "stopped_by": "bootstrap", "outdated_workers": 0}
    assert since is not None
    assert stopped.get_json() == client.post(f"{URL}/stop").get_json() == expected
    answer = client.get(URL)
    assert (answer.get_json()["stopped_at"], answer.headers["ETag"]) == (since, '"1"')
    # The stop does not belong to a version: a change of the policy does not end it.
    assert put_policy(client, RULES, '"1"').get_json()["stopped_at"] == since
    assert client.post(f"{URL}/resume").get_json()["stopped_at"] is None
    assert client.post(f"{URL}/resume").get_json()["stopped_at"] is None
    entries = client.get("/api/v1/audit?entity=sending").get_json()["items"]
    assert [entry["action"] for entry in entries][:2] == ["resumed", "stopped"]


def test_rules_need_workers_that_follow_them(client: FlaskClient, redis_url: str) -> None:
    """An older version reports no level; a worker that ended stays in the set of its queue."""
    redis = Redis.from_url(redis_url)
    names = [f"rq:worker:{name}" for name in ("older", "newer", "ended")]
    redis.sadd("rq:workers:dispatch", *names)
    redis.hset(names[0], "state", "busy")
    redis.hset(names[1], mapping={"state": "idle", RULES_FIELD: RULES_LEVEL})
    try:
        answers = [
            put_policy(client, {"launch_delay": 1}, '"1"'),
            client.post("/api/v1/mailings", json=mailing_body() | {"max_audience": 1}),
        ]
        for answer in answers:
            assert answer.status_code == 409
            assert answer.get_json()["code"] == "workers_outdated"
            assert answer.get_json()["detail"].startswith("1 of the running workers")
        assert client.post(f"{URL}/stop").get_json()["outdated_workers"] == 1
        assert put_policy(client, {"notify": ["a@example.com"]}, '"1"').status_code == 200
        redis.delete(names[0])
        assert put_policy(client, {"launch_delay": 1}, '"2"').status_code == 200
    finally:
        redis.srem("rq:workers:dispatch", *names)
        redis.delete(*names)

"""The policy over the API: versions, history, who may change it, and the emergency stop."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from redis import Redis
from werkzeug.test import TestResponse

from api.policy.schemas import RULES, PolicyAnswer, PolicyVersionPage, StopAnswer
from shared.fleet_status import RULES_FIELD, RULES_LEVEL
from tests.integration.api.test_mailings import find_jobs
from tests.integration.conftest import ahead, mailing_body, make_client, value

URL = "/api/v1/policy"
MAILINGS = "/api/v1/mailings"
Create = Callable[..., dict[str, Any]]
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
    DELETE FROM policies WHERE version > 1; DELETE FROM budgets; DELETE FROM budget_days;
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
    # What is left out is off. Whatever is given as a version or an author is ignored.
    ignored = {"version": "seven", "updated_at": 0, "updated_by": ["Ann"], "stopped_at": False}
    only_delay = put_policy(client, {"launch_delay": 5, **ignored}, '"2"').get_json()
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


def test_of_changes_at_once_one_is_made(app: Flask, client: FlaskClient) -> None:
    etag = client.get(URL).headers["ETag"]

    def change(n: int) -> int:
        rules = {"max_audience": n, "budget": {"day": {"segments": n}}}
        return put_policy(make_client(app), rules, etag).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(change, range(1, 7))) == [200, *[412] * 5]
    assert client.get(URL).headers["ETag"] == '"2"'
    stored = client.get(URL).get_json()
    assert stored["budget"] == {"day": {"segments": stored["max_audience"]}}


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
    assert client.get("/readyz").get_json()["sending"] == "stopped"
    assert "notification_sending_stopped 1.0" in client.get("/metrics").text
    assert client.post(f"{URL}/resume").get_json()["stopped_at"] is None
    assert client.get("/readyz").get_json()["sending"] == "on"
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


# --- what the rules do to mailings ----------------------------------------------------------------


def set_rules(client: FlaskClient, **rules: Any) -> None:
    answer = put_policy(client, rules, client.get(URL).headers["ETag"])
    assert answer.status_code == 200, answer.text


def pause_over_limit(database: Cursor, mailing_id: int, audience: int, limit: int) -> None:
    """Pause a mailing as its launch does when the audience exceeds the limit."""
    database.execute(
        """
        UPDATE mailings SET status = 'paused', pause_reason = 'audience_limit', started_at = now(),
            audience = %s, audience_limit = %s, policy_version = 1 WHERE id = %s
        """,
        (audience, limit, mailing_id),
    )


def test_a_mailing_over_its_limit_resumes_when_the_limit_is_raised(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    mailing_id = new_mailing(max_audience=10)["id"]
    address = f"{MAILINGS}/{mailing_id}"
    pause_over_limit(database, mailing_id, audience=14, limit=10)
    shown = client.get(address).get_json()
    assert (shown["pause_reason"], shown["audience"]) == ("audience_limit", 14)
    assert not shown["audience_complete"]
    # A pause by a person changes nothing, and a resume is refused while the cause persists.
    assert client.post(f"{address}/pause").get_json()["pause_reason"] == "audience_limit"
    refused = client.post(f"{address}/resume")
    assert (refused.status_code, refused.get_json()["code"]) == (409, "audience_limit_exceeded")
    set_rules(client, max_audience=13)
    assert client.patch(address, json={"max_audience": 14}).status_code == 200
    assert client.post(f"{address}/resume").get_json()["code"] == "audience_limit_exceeded"
    set_rules(client, max_audience=20)
    resumed = client.post(f"{address}/resume").get_json()
    assert (resumed["status"], resumed["pause_reason"]) == ("running", None)
    database.execute(
        "SELECT audience_limit, policy_version FROM mailings WHERE id = %s", (mailing_id,)
    )
    assert database.fetchone() == (14, 3)


def test_the_audience_limit_is_fixed_once_the_audience_is_counted(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    mailing_id = new_mailing()["id"]
    launched = "status = 'running', started_at = now(), policy_version = 1"
    database.execute(f"UPDATE mailings SET {launched} WHERE id = {mailing_id}")
    answer = client.patch(f"{MAILINGS}/{mailing_id}", json={"max_audience": 5})
    assert answer.status_code == 200
    limit = f"SELECT audience_limit FROM mailings WHERE id = {mailing_id}"
    database.execute(limit)
    assert value(database) == 5
    database.execute(f"UPDATE mailings SET audience_complete = true WHERE id = {mailing_id}")
    answer = client.patch(f"{MAILINGS}/{mailing_id}", json={"max_audience": 6})
    assert (answer.status_code, answer.get_json()["code"]) == (409, "fixed_by_launch")


def test_a_mailing_waits_for_the_launch_delay(
    client: FlaskClient, new_mailing: Create, database: Cursor, redis_url: str
) -> None:
    set_rules(client, launch_delay=600)
    start = ahead(seconds=-5)
    mailing = new_mailing(start_at=start, end_at=ahead(hours=2))
    created = datetime.fromisoformat(mailing["created_at"])
    waits = datetime.fromisoformat(mailing["launch_at"]) - created
    assert timedelta(seconds=595) < waits < timedelta(seconds=605)
    assert datetime.fromisoformat(mailing["start_at"]) < created
    now, later = find_jobs(redis_url, mailing["id"])
    assert now == []
    assert len(later) <= 1
    # Cancelled meanwhile, it leaves no trace.
    cancelled = client.post(f"{MAILINGS}/{mailing['id']}/cancel").get_json()
    assert (cancelled["status"], cancelled["audience"]) == ("cancelled", 0)
    # One that starts later than the delay starts at its time; starting it now waits again.
    planned = new_mailing(start_at=ahead(hours=1), end_at=ahead(hours=2))
    assert planned["launch_at"] == planned["start_at"]
    started = client.post(f"{MAILINGS}/{planned['id']}/start").get_json()
    assert started["launch_at"] > started["start_at"]
    assert started["status"] == "scheduled"
    # A repeated request does not wait anew, and one while the policy has no delay waits no more.
    again = client.post(f"{MAILINGS}/{planned['id']}/start").get_json()
    assert again["launch_at"] == started["launch_at"]
    set_rules(client, launch_delay=0)
    again = client.post(f"{MAILINGS}/{planned['id']}/start").get_json()
    assert again["launch_at"] < started["launch_at"]


def test_an_end_before_the_launch_is_refused(client: FlaskClient, new_mailing: Create) -> None:
    late = new_mailing(start_at=ahead(hours=1), end_at=ahead(hours=2))
    soon = new_mailing(start_at=ahead(seconds=200), end_at=ahead(seconds=400))
    set_rules(client, launch_delay=3600)
    body = {"text": "Hello", "start_at": ahead(seconds=-5), "end_at": ahead(minutes=50)}
    for path in (MAILINGS, f"{MAILINGS}/preview"):
        answer = client.post(path, json=body)
        (error,) = answer.get_json()["errors"]
        assert (error["pointer"], error["code"]) == ("/end_at", "end_before_launch")
    started = client.post(f"{MAILINGS}/{soon['id']}/start")
    assert (started.status_code, started.get_json()["code"]) == (409, "end_before_launch")
    delayed = client.post(f"{MAILINGS}/{late['id']}/start").get_json()
    changed = client.patch(f"{MAILINGS}/{late['id']}", json={"end_at": ahead(minutes=30)})
    assert changed.get_json()["errors"][0]["code"] == "end_before_launch", delayed


def test_test_sends_are_refused_during_an_emergency_stop(client: FlaskClient) -> None:
    client.post(f"{URL}/stop")
    body = {"text": "Hello", "phones": ["79161234567"]}
    answer = client.post(f"{MAILINGS}/test-send", json=body)
    assert (answer.status_code, answer.get_json()["code"]) == (409, "sending_stopped")

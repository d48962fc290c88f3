"""Mailings over the API: creating, changing, listing and deleting them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from redis import Redis
from rq_scheduler import Scheduler

from api.mailings.schemas import MailingAnswer, MailingPage
from shared.queues import CONTROL_QUEUE, NotificationJob, make_queue
from tests.integration.conftest import ahead, mailing_body

URL = "/api/v1/mailings"
EMPTY_FILTER: dict[str, Any] = {
    "operator_codes": [],
    "tags": [],
    "timezones": [],
    "attributes": {},
    "exclude_mailing_ids": [],
    "phones": [],
}
Create = Callable[..., dict[str, Any]]


def set_status(database: Cursor, mailing_id: int, status: str) -> None:
    """Set a mailing's status as a worker would, as far as the API can see."""
    database.execute(
        """
        UPDATE mailings SET status = %(status)s,
            started_at = CASE WHEN %(status)s <> 'scheduled' THEN now() END,
            finished_at = CASE WHEN %(status)s IN ('finished', 'cancelled') THEN now() END,
            settled = %(status)s IN ('finished', 'cancelled')
        WHERE id = %(id)s
        """,
        {"status": status, "id": mailing_id},
    )


def find_jobs(redis_url: str, mailing_id: int) -> tuple[list[str], list[datetime]]:
    """Return the names of a mailing's queued jobs, and the times of its scheduled ones."""
    connection = Redis.from_url(redis_url)
    now = [
        str(job.func_name).rsplit(".")[-1]
        for job in make_queue(CONTROL_QUEUE, connection).jobs
        if job.kwargs["mailing_id"] == mailing_id
    ]
    later = [
        at.replace(tzinfo=UTC)
        for job, at in Scheduler(connection=connection, job_class=NotificationJob).get_jobs(
            with_times=True
        )
        if job.kwargs.get("mailing_id") == mailing_id
    ]
    return now, later


def test_a_created_mailing_is_returned_unchanged(client: FlaskClient) -> None:
    body = {
        **mailing_body(),
        "name": "Sale",
        "filter": {**EMPTY_FILTER, "operator_codes": ["916"], "tags": ["vip", ""]},
        "window": {"from": "21:30", "to": "09:00"},
        "rate_limit": 5,
    }
    answer = client.post(URL, json=body)
    assert answer.status_code == 201, answer.text
    made = answer.get_json()
    MailingAnswer.model_validate(made)
    untouched = {"status": "scheduled", "audience": 0, "started_at": None, "finished_at": None}
    assert made == {**made, **body, **untouched}
    assert answer.headers["Location"] == f"{URL}/{made['id']}"
    assert client.get(answer.headers["Location"]).get_json() == made


def test_instants_are_returned_in_utc(new_mailing: Create) -> None:
    made = new_mailing(start_at="2190-12-01T09:00:00+03:00", end_at="2190-12-01T21:00:00.5-03:30")
    assert made["start_at"] == "2190-12-01T06:00:00.000000Z"
    assert made["end_at"] == "2190-12-02T00:30:00.500000Z"


def test_every_version_of_a_text_is_stored(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    made = new_mailing(text="first")
    for text in ("second", "second", "third"):
        assert client.patch(f"{URL}/{made['id']}", json={"text": text}).status_code == 200
    database.execute(
        "SELECT version, text FROM mailing_texts WHERE mailing_id = %s ORDER BY 1", (made["id"],)
    )
    assert database.fetchall() == [(1, "first"), (2, "second"), (3, "third")]
    database.execute("SELECT text_version, text FROM mailings WHERE id = %s", (made["id"],))
    assert database.fetchone() == (3, "third")


def test_a_mailing_with_a_past_start_is_launched_at_once(
    new_mailing: Create, redis_url: str
) -> None:
    made = new_mailing(start_at="2020-01-01T00:00:00Z")
    now, later = find_jobs(redis_url, made["id"])
    assert now == ["launch"]
    assert later == []


def test_a_mailing_with_a_future_start_is_scheduled(
    client: FlaskClient, new_mailing: Create, redis_url: str
) -> None:
    made = new_mailing()
    start = datetime.fromisoformat(made["start_at"])
    now, later = find_jobs(redis_url, made["id"])
    assert now == []
    assert [0 <= (at - start).total_seconds() <= 1 for at in later] == [True]
    Redis.from_url(redis_url).flushdb()  # a launch that waits would launch this mailing too
    client.patch(f"{URL}/{made['id']}", json={"start_at": "2020-01-01T00:00:00Z"})
    assert find_jobs(redis_url, made["id"])[0] == ["launch"]


@pytest.mark.parametrize(
    ("change", "pointer", "reason"),
    [
        ({"end_at": "2020-01-02T00:00:00Z", "start_at": "2020-01-01T00:00:00Z"}, "/end_at", "pass"),
        ({"start_at": ahead(hours=3)}, "/end_at", "later than start_at"),
        (
            {"start_at": "2100-01-01T00:00:00Z", "end_at": "2100-01-01T00:00:00Z"},
            "/end_at",
            "later",
        ),
        ({"start_at": "2026-12-01T09:00:00"}, "/start_at", "offset"),
        ({"window": {"from": "09:00", "to": "09:00"}}, "/window", "differ"),
        ({"filter": {"tag": ["a"]}}, "/filter/tag", "not known"),
        ({"text": "a\x00b"}, "/text", "NUL"),
        ({"filter": {"tags": ["\ud800"]}}, "/filter/tags/0", "surrogate"),
    ],
)
def test_an_invalid_mailing_is_rejected_and_creates_nothing(
    client: FlaskClient, database: Cursor, change: dict[str, Any], pointer: str, reason: str
) -> None:
    database.execute("SELECT count(*) FROM mailings")
    before = database.fetchone()
    body = json.dumps({**mailing_body(), **change})
    answer = client.post(URL, data=body, content_type="application/json")
    assert answer.status_code == 422
    (error,) = answer.get_json()["errors"]
    assert error["pointer"] == pointer
    assert reason in error["detail"]
    database.execute("SELECT count(*) FROM mailings")
    assert database.fetchone() == before


CHANGES = {
    "name": "new",
    "text": "new",
    "start_at": ahead(minutes=30),
    "end_at": ahead(hours=5),
    "filter": {**EMPTY_FILTER, "operator_codes": ["901"]},
    "window": {"from": "10:00", "to": "11:00"},
    "rate_limit": 7,
}


@pytest.mark.parametrize("paused", [False, True])
def test_every_field_can_change_before_the_launch(
    client: FlaskClient, new_mailing: Create, paused: bool
) -> None:
    url = f"{URL}/{new_mailing()['id']}"
    if paused:
        assert client.post(f"{url}/pause").get_json()["status"] == "paused"
    answer = client.patch(url, json=CHANGES)
    assert answer.status_code == 200, answer.text
    changed = answer.get_json()
    assert changed == {**changed, **CHANGES}
    emptied = {"name": None, "window": None, "rate_limit": None}
    changed = client.patch(url, json=emptied).get_json()
    assert changed == {**changed, **emptied}
    assert client.get(url).get_json() == changed


@pytest.mark.parametrize("status", ["running", "paused"])
def test_filter_and_start_are_fixed_after_the_launch(
    client: FlaskClient, new_mailing: Create, database: Cursor, status: str
) -> None:
    made = new_mailing(filter={"tags": ["a"]})
    url = f"{URL}/{made['id']}"
    set_status(database, made["id"], status)
    for name in ("start_at", "filter"):
        answer = client.patch(url, json={name: CHANGES[name], "name": "never"})
        assert answer.status_code == 409
        assert name in answer.get_json()["detail"]
    # Repeating the present values is not a change.
    same = {"start_at": made["start_at"], "filter": made["filter"]}
    may = {n: v for n, v in CHANGES.items() if n not in ("start_at", "filter")}
    answer = client.patch(url, json={**same, **may})
    assert answer.status_code == 200, answer.text
    assert answer.get_json() == {**answer.get_json(), **same, **may}


@pytest.mark.parametrize("status", ["finished", "cancelled"])
def test_an_ended_mailing_cannot_change(
    client: FlaskClient, new_mailing: Create, database: Cursor, status: str
) -> None:
    made = new_mailing()
    set_status(database, made["id"], status)
    for body in ({"name": "new"}, {"text": made["text"]}):
        answer = client.patch(f"{URL}/{made['id']}", json=body)
        assert answer.status_code == 409
        assert status in answer.get_json()["detail"]


def test_an_end_can_move_but_not_closer_than_three_seconds(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    made = new_mailing(start_at="2020-01-01T00:00:00Z")
    url = f"{URL}/{made['id']}"
    set_status(database, made["id"], "running")
    for end_at in (ahead(seconds=2.5), ahead(seconds=-5), "2019-01-01T00:00:00Z"):
        answer = client.patch(url, json={"end_at": end_at})
        assert answer.status_code == 422
        assert answer.get_json()["errors"][0]["pointer"] == "/end_at"
    assert client.patch(url, json={"end_at": ahead(seconds=30)}).status_code == 200


def test_lists_are_filtered_by_status_and_paged(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    made = [new_mailing()["id"] for _ in range(3)]
    for mailing_id in made:
        set_status(database, mailing_id, "finished")
    first = client.get(f"{URL}?status=finished&limit=500").get_json()
    MailingPage.model_validate(first)
    assert set(made) <= {item["id"] for item in first["items"]}
    assert {item["status"] for item in first["items"]} == {"finished"}
    page = client.get(f"{URL}?limit=1").get_json()
    rest = client.get(f"{URL}?limit=500&cursor={page['next_cursor']}").get_json()
    ids = [item["id"] for item in page["items"] + rest["items"]]
    assert ids == sorted(set(ids))
    assert set(made) <= set(ids)


@pytest.mark.parametrize("status", ["scheduled", "running", "paused", "finished"])
def test_a_deleted_mailing_is_not_found_anywhere(
    client: FlaskClient, new_mailing: Create, database: Cursor, status: str
) -> None:
    made = new_mailing()
    url = f"{URL}/{made['id']}"

    def body(method: str) -> dict[str, str] | None:
        return {"name": "x"} if method == "PATCH" else None

    set_status(database, made["id"], status)
    assert client.delete(url).status_code == 204
    for method, path in (
        ("GET", url),
        ("DELETE", url),
        ("GET", f"{url}/statistics"),
        ("PATCH", url),
        *(
            ("POST", f"{url}/{action}")
            for action in ("start", "pause", "resume", "cancel", "retry-failed")
        ),
    ):
        assert client.open(path, method=method, json=body(method)).status_code == 404
    listed = client.get(f"{URL}?limit=500").get_json()["items"]
    assert made["id"] not in [item["id"] for item in listed]
    database.execute(
        "SELECT status, settled, finished_at IS NOT NULL FROM mailings WHERE id = %s", (made["id"],)
    )
    ended = "finished" if status == "finished" else "cancelled"
    # Workers settle a launched mailing batch by batch.
    assert database.fetchone() == (ended, status in ("scheduled", "finished"), True)

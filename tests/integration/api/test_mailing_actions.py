"""Actions on a mailing: permitted by its state, without effect when repeated, or refused."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from redis import Redis

from shared.db.partitions import ensure_partition
from tests.integration.api.test_mailings import find_jobs, set_status
from tests.integration.conftest import value

URL = "/api/v1/mailings"
Create = Callable[..., dict[str, Any]]

# The status after each action, by the status before; None if the action is refused.
ACTIONS: dict[str, dict[str, str | None]] = {
    "start": {
        "scheduled": "scheduled",
        "running": "running",
        "paused": None,
        "finished": None,
        "cancelled": None,
    },
    "pause": {
        "scheduled": "paused",
        "running": "paused",
        "paused": "paused",
        "finished": None,
        "cancelled": None,
    },
    "resume": {
        "scheduled": "scheduled",
        "running": "running",
        "paused": "running",
        "finished": None,
        "cancelled": None,
    },
    "cancel": {
        "scheduled": "cancelled",
        "running": "cancelled",
        "paused": "cancelled",
        "finished": None,
        "cancelled": "cancelled",
    },
    "retry-failed": {
        "scheduled": None,
        "running": None,
        "paused": None,
        "finished": None,
        "cancelled": None,
    },
}


@pytest.mark.parametrize(
    ("action", "status", "result"),
    [(action, status, result) for action, row in ACTIONS.items() for status, result in row.items()],
)
def test_actions_in_every_status(
    client: FlaskClient,
    new_mailing: Create,
    database: Cursor,
    action: str,
    status: str,
    result: str | None,
) -> None:
    made = new_mailing()
    set_status(database, made["id"], status)
    url = f"{URL}/{made['id']}"
    answer = client.post(f"{url}/{action}")
    if result is None:
        assert answer.status_code == 409, answer.text
        assert answer.get_json()["detail"]
        assert client.get(url).get_json()["status"] == status
        return
    assert answer.status_code == 200, answer.text
    assert answer.get_json()["status"] == result
    assert client.get(url).get_json() == answer.get_json()
    again = client.post(f"{url}/{action}")
    assert (again.status_code, again.get_json()["status"]) == (200, result)


def test_start_sets_the_start_to_now(
    client: FlaskClient, new_mailing: Create, redis_url: str
) -> None:
    made = new_mailing()
    Redis.from_url(redis_url).flushdb()  # a launch that waits would launch this mailing too
    started = client.post(f"{URL}/{made['id']}/start").get_json()
    assert made["created_at"] <= started["start_at"] < made["start_at"]
    assert find_jobs(redis_url, made["id"])[0] == ["launch"]


def test_resuming_a_mailing_that_never_started_schedules_it(
    client: FlaskClient, new_mailing: Create, redis_url: str
) -> None:
    made = new_mailing()
    url = f"{URL}/{made['id']}"
    client.post(f"{url}/pause")
    Redis.from_url(redis_url).flushdb()
    assert client.post(f"{url}/resume").get_json()["status"] == "scheduled"
    assert len(find_jobs(redis_url, made["id"])[1]) == 1


def test_cancelling_a_mailing_that_never_started_settles_it(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    launched, unlaunched = new_mailing(), new_mailing()
    set_status(database, launched["id"], "running")
    settled = {}
    for made in (launched, unlaunched):
        answer = client.post(f"{URL}/{made['id']}/cancel").get_json()
        assert answer["finished_at"] is not None
        database.execute("SELECT settled FROM mailings WHERE id = %s", (made["id"],))
        settled[made["id"]] = value(database)
    assert settled == {launched["id"]: False, unlaunched["id"]: True}


@pytest.mark.parametrize("action", ["start", "resume"])
def test_no_mailing_starts_after_its_end(
    client: FlaskClient, new_mailing: Create, database: Cursor, action: str
) -> None:
    made = new_mailing()
    if action == "resume":
        client.post(f"{URL}/{made['id']}/pause")
    database.execute(
        "UPDATE mailings SET start_at = now() - interval '2 s', end_at = now() - interval '1 s'"
        " WHERE id = %s",
        (made["id"],),
    )
    answer = client.post(f"{URL}/{made['id']}/{action}")
    assert answer.status_code == 409
    assert "end has passed" in answer.get_json()["detail"]


def add_failed_batch(database: Cursor, mailing_id: int) -> None:
    """Add a batch of two messages, one sent and one failed."""
    ensure_partition(database, mailing_id)
    database.execute(
        """
        INSERT INTO batches
            (mailing_id, id, first_id, last_id, size, pending, sent, failed, timezone)
        VALUES (%s, nextval('batch_ids'), 1, 2, 2, 0, 1, 1, 'UTC')
        """,
        (mailing_id,),
    )
    database.execute(
        "UPDATE mailings SET audience = 2, sent = 1, failed = 1, audience_complete = true"
        " WHERE id = %s",
        (mailing_id,),
    )


@pytest.mark.parametrize("status", ["finished", "running", "paused"])
def test_failed_messages_are_retried(
    client: FlaskClient, new_mailing: Create, database: Cursor, status: str
) -> None:
    made = new_mailing(start_at="2020-01-01T00:00:00Z")
    add_failed_batch(database, made["id"])
    database.execute("UPDATE mailings SET settled = false WHERE id = %s", (made["id"],))
    set_status(database, made["id"], status)
    url = f"{URL}/{made['id']}"
    answer = client.post(f"{url}/retry-failed")
    assert answer.status_code == 200, answer.text
    assert answer.get_json()["status"] == ("paused" if status == "paused" else "running")
    assert answer.get_json()["finished_at"] is None
    assert client.post(f"{url}/retry-failed").status_code == 200
    database.execute("SELECT retry_version > 0, settled FROM mailings WHERE id = %s", (made["id"],))
    assert database.fetchone() == (True, False)


def test_no_message_is_retried_after_the_end(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    made = new_mailing(start_at="2020-01-01T00:00:00Z")
    add_failed_batch(database, made["id"])
    set_status(database, made["id"], "finished")
    database.execute(
        "UPDATE mailings SET end_at = now() - interval '1 s' WHERE id = %s", (made["id"],)
    )
    answer = client.post(f"{URL}/{made['id']}/retry-failed")
    assert answer.status_code == 409
    assert "end has passed" in answer.get_json()["detail"]


def test_a_braked_mailing_keeps_its_reason_until_it_is_resumed_with_new_counts(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    mailing_id = new_mailing()["id"]
    set_status(database, mailing_id, "paused")
    database.execute(
        "UPDATE mailings SET pause_reason = 'refusals' WHERE id = %s RETURNING answer_round",
        (mailing_id,),
    )
    answer_round = value(database)
    assert client.post(f"{URL}/{mailing_id}/pause").get_json()["pause_reason"] == "refusals"
    assert client.post(f"{URL}/{mailing_id}/resume").get_json()["pause_reason"] is None
    database.execute("SELECT answer_round FROM mailings WHERE id = %s", (mailing_id,))
    assert value(database) == answer_round + 1

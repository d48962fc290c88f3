"""The steps of a mailing's life: allowed, harmless when repeated, or refused with a reason."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from shared.db.partitions import ensure_partition
from tests.integration.api.test_mailings import jobs_for, put_in_state
from tests.integration.conftest import value

URL = "/api/v1/mailings"
Make = Callable[..., dict[str, Any]]

# What each step makes of each state; None: it is refused.
STEPS: dict[str, dict[str, str | None]] = {
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
    ("step", "state", "result"),
    [(step, state, result) for step, row in STEPS.items() for state, result in row.items()],
)
def test_steps(
    client: FlaskClient,
    new_mailing: Make,
    database: Cursor,
    step: str,
    state: str,
    result: str | None,
) -> None:
    made = new_mailing()
    put_in_state(database, made["id"], state)
    url = f"{URL}/{made['id']}"
    answer = client.post(f"{url}/{step}")
    if result is None:
        assert answer.status_code == 409, answer.text
        assert answer.get_json()["detail"]
        assert client.get(url).get_json()["status"] == state
        return
    assert answer.status_code == 200, answer.text
    assert answer.get_json()["status"] == result
    assert client.get(url).get_json() == answer.get_json()
    again = client.post(f"{url}/{step}")
    assert (again.status_code, again.get_json()["status"]) == (200, result)


def test_start_means_now(client: FlaskClient, new_mailing: Make, redis_url: str) -> None:
    made = new_mailing()
    started = client.post(f"{URL}/{made['id']}/start").get_json()
    assert made["created_at"] <= started["start_at"] < made["start_at"]
    assert jobs_for(redis_url, made["id"])[0] == ["launch"]


def test_a_paused_mailing_that_never_started_is_scheduled_again(
    client: FlaskClient, new_mailing: Make, redis_url: str
) -> None:
    made = new_mailing()
    url = f"{URL}/{made['id']}"
    client.post(f"{url}/pause")
    assert client.post(f"{url}/resume").get_json()["status"] == "scheduled"
    assert len(jobs_for(redis_url, made["id"])[1]) == 2  # a hint more than needed does no harm


def test_cancelling_what_never_started_settles_it(
    client: FlaskClient, new_mailing: Make, database: Cursor
) -> None:
    launched, unlaunched = new_mailing(), new_mailing()
    put_in_state(database, launched["id"], "running")
    settled = {}
    for made in (launched, unlaunched):
        answer = client.post(f"{URL}/{made['id']}/cancel").get_json()
        assert answer["finished_at"] is not None
        database.execute("SELECT settled FROM mailings WHERE id = %s", (made["id"],))
        settled[made["id"]] = value(database)
    assert settled == {launched["id"]: False, unlaunched["id"]: True}


@pytest.mark.parametrize("step", ["start", "resume"])
def test_nothing_starts_after_its_end(
    client: FlaskClient, new_mailing: Make, database: Cursor, step: str
) -> None:
    made = new_mailing()
    if step == "resume":
        client.post(f"{URL}/{made['id']}/pause")
    database.execute(
        "UPDATE mailings SET start_at = now() - interval '2 s', end_at = now() - interval '1 s'"
        " WHERE id = %s",
        (made["id"],),
    )
    answer = client.post(f"{URL}/{made['id']}/{step}")
    assert answer.status_code == 409
    assert "end has passed" in answer.get_json()["detail"]


def with_failures(database: Cursor, mailing_id: int) -> None:
    """A batch of two messages: one was sent, one failed."""
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


@pytest.mark.parametrize("state", ["finished", "running", "paused"])
def test_what_failed_is_tried_again(
    client: FlaskClient, new_mailing: Make, database: Cursor, state: str
) -> None:
    made = new_mailing(start_at="2020-01-01T00:00:00Z")
    with_failures(database, made["id"])
    database.execute("UPDATE mailings SET settled = false WHERE id = %s", (made["id"],))
    put_in_state(database, made["id"], state)
    url = f"{URL}/{made['id']}"
    answer = client.post(f"{url}/retry-failed")
    assert answer.status_code == 200, answer.text
    assert answer.get_json()["status"] == ("paused" if state == "paused" else "running")
    assert answer.get_json()["finished_at"] is None
    assert client.post(f"{url}/retry-failed").status_code == 200
    database.execute("SELECT retry_version > 0, settled FROM mailings WHERE id = %s", (made["id"],))
    assert database.fetchone() == (True, False)


def test_nothing_is_tried_again_after_the_end(
    client: FlaskClient, new_mailing: Make, database: Cursor
) -> None:
    made = new_mailing(start_at="2020-01-01T00:00:00Z")
    with_failures(database, made["id"])
    put_in_state(database, made["id"], "finished")
    database.execute(
        "UPDATE mailings SET end_at = now() - interval '1 s' WHERE id = %s", (made["id"],)
    )
    answer = client.post(f"{URL}/{made['id']}/retry-failed")
    assert answer.status_code == 409
    assert "end has passed" in answer.get_json()["detail"]

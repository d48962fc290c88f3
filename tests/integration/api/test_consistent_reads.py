"""The numbers of one response come from one snapshot, so they add up during changes."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from shared.db.partitions import ensure_partition

GROW = (
    "UPDATE mailings SET audience = audience + 1 WHERE id = %s",
    "UPDATE batches SET size = size + 1, pending = pending + 1 WHERE mailing_id = %s",
)


@pytest.fixture
def growing(
    database: Cursor, database_url: str, new_mailing: Callable[..., dict[str, Any]]
) -> Iterator[int]:
    """A mailing whose audience grows all the time, as a launch makes it grow."""
    mailing_id = new_mailing()["id"]
    ensure_partition(database, mailing_id)
    database.execute(
        "INSERT INTO batches (mailing_id, id, first_id, last_id, size, pending, due_at, timezone)"
        " VALUES (%s, 1, 1, 1, 1, 1, now() + interval '1 day', 'UTC')",
        (mailing_id,),
    )
    database.execute("UPDATE mailings SET audience = 1 WHERE id = %s", (mailing_id,))
    stop = threading.Event()

    def grow() -> None:
        connection = psycopg2.connect(database_url)
        while not stop.is_set():
            with connection, connection.cursor() as cursor:
                for statement in GROW:
                    cursor.execute(statement, (mailing_id,))
        connection.close()

    thread = threading.Thread(target=grow)
    thread.start()
    yield mailing_id
    stop.set()
    thread.join()


def test_statistics_add_up_while_an_audience_grows(client: FlaskClient, growing: int) -> None:
    seen = set()
    for _ in range(150):
        one = client.get(f"/api/v1/mailings/{growing}/statistics").get_json()
        assert one["audience"] == sum(one["counts"].values())
        seen.add(one["audience"])
        every = client.get("/api/v1/statistics").get_json()
        assert every["totals"]["audience"] == sum(every["totals"]["counts"].values())
        listed = [item["audience"] for item in every["items"] if item["mailing_id"] == growing]
        others = sum(i["audience"] for i in every["items"] if i["mailing_id"] != growing)
        if every["next_cursor"] is None:
            assert every["totals"]["audience"] == sum(listed) + others
    assert len(seen) > 10, "nothing moved"

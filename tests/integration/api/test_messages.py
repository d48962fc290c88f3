"""Messages and statistics over the API: lists are complete and ordered, counts add up."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.cursors import MAX_ID, encode_cursor
from api.mailings.message_schemas import MailingStatistics, MessageDetails, MessagePage, Statistics
from shared.db.partitions import ensure_partition
from tests.integration.api.test_mailings import set_status
from tests.integration.conftest import value

URL = "/api/v1/mailings"
Create = Callable[..., dict[str, Any]]
STATUSES = ("pending", "sent", "failed", "expired", "cancelled")


class LaunchedMailing:
    """A mailing with batches and messages in the database, as workers would have stored them."""

    def __init__(self, database: Cursor, mailing_id: int) -> None:
        self.database, self.id = database, mailing_id
        self.url = f"{URL}/{mailing_id}"
        self.messages: dict[int, str] = {}
        ensure_partition(database, mailing_id)
        set_status(database, mailing_id, "running")

    def add_batch(self, *statuses: str, gap: int = 0) -> list[int]:
        """Add a batch of messages with these statuses, and `gap` unused ids after each."""
        step = gap + 1
        self.database.execute("SELECT take_ids('message_ids', %s)", (len(statuses) * step,))
        first = value(self.database)
        ids = [first + n * step for n in range(len(statuses))]
        self.database.execute(
            "INSERT INTO id_blocks (first_id, last_id, mailing_id) VALUES (%s, %s, %s)",
            (first, first + len(statuses) * step - 1, self.id),
        )
        self._insert(ids, statuses)
        return ids

    def add_moved_batch(self, ids: list[int], statuses: tuple[str, ...]) -> None:
        """Add a batch whose message ids lie between the ids of another batch."""
        self._insert(ids, statuses)

    def _insert(self, ids: list[int], statuses: tuple[str, ...]) -> None:
        counts = {status: statuses.count(status) for status in STATUSES}
        self.database.execute(
            """
            INSERT INTO batches (mailing_id, id, first_id, last_id, size, pending, sent, failed,
                expired, cancelled, in_doubt, due_at, timezone)
            VALUES (%(mailing)s, nextval('batch_ids'), %(first)s, %(last)s, %(size)s, %(pending)s,
                %(sent)s, %(failed)s, %(expired)s, %(cancelled)s, %(failed)s,
                CASE WHEN %(pending)s > 0 THEN now() END, 'UTC') RETURNING id
            """,
            {"mailing": self.id, "first": ids[0], "last": ids[-1], "size": len(ids), **counts},
        )
        batch_id = value(self.database)
        for message_id, status in zip(ids, statuses, strict=True):
            self.database.execute(
                """
                INSERT INTO messages
                    (mailing_id, id, client_id, batch_id, status, sent_at, in_doubt)
                VALUES (%s, %s, %s, %s, %s, CASE WHEN %s = 'sent' THEN now() END, %s = 'failed')
                """,
                (self.id, message_id, message_id, batch_id, status, status, status),
            )
            self.messages[message_id] = status
        self.database.execute(
            "UPDATE mailings SET audience = audience + %s WHERE id = %s", (len(ids), self.id)
        )


@pytest.fixture
def launched(new_mailing: Create, database: Cursor) -> LaunchedMailing:
    return LaunchedMailing(database, new_mailing()["id"])


def list_ids(client: FlaskClient, url: str, **query: object) -> list[int]:
    """Return every id of a list, fetched page by page."""
    seen: list[int] = []
    for _ in range(1000):
        answer = client.get(url, query_string=query)
        assert answer.status_code == 200, answer.text
        MessagePage.model_validate(answer.get_json())
        page = answer.get_json()
        seen += [item["id"] for item in page["items"]]
        assert len(page["items"]) <= int(str(query["limit"]))
        if page["next_cursor"] is None:
            return seen
        query["cursor"] = page["next_cursor"]
    raise AssertionError("the list has no end")


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("status", [None, *STATUSES, "failed,pending"])
def test_every_message_is_listed_once_and_in_order(
    client: FlaskClient, launched: LaunchedMailing, limit: int, status: str | None, order: str
) -> None:
    launched.add_batch("sent", "sent", "failed")
    among = launched.add_batch("sent", "failed", "pending", "failed", gap=2)
    launched.add_batch(*["sent"] * 5)
    launched.add_batch("pending", "pending", "failed")
    # Messages whose clients changed their time zone: their ids lie in the second batch's range.
    launched.add_moved_batch([among[0] + 1, among[3] + 1], ("failed", "pending"))
    launched.add_batch("failed", "cancelled")
    query: dict[str, object] = {"limit": limit, "order": order}
    query |= {"status": status} if status else {}
    wanted = status.split(",") if status else STATUSES
    expected = [m for m, stored in launched.messages.items() if stored in wanted]
    expected.sort(reverse=order == "desc")
    assert list_ids(client, f"{launched.url}/messages", **query) == expected


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("status", ["sent,failed", None])
def test_messages_are_listed_by_the_instant_of_sending(
    client: FlaskClient,
    launched: LaunchedMailing,
    database: Cursor,
    monkeypatch: pytest.MonkeyPatch,
    order: str,
    status: str | None,
) -> None:
    monkeypatch.setattr("api.mailings.messages.DATED_PAGE_ROWS", 3)
    ids = [*launched.add_batch(*["sent"] * 5, "failed"), *launched.add_batch(*["sent"] * 3)]
    for n, message_id in enumerate(ids):
        database.execute(
            "UPDATE messages SET sent_at = timestamptz '2030-12-01 00:00Z' + %s * interval '1 hour'"
            " WHERE mailing_id = %s AND id = %s AND status = 'sent'",
            (n, launched.id, message_id),
        )
    query: dict[str, object] = {"limit": 2, "order": order} | ({"status": status} if status else {})
    query |= {"sent_since": "2030-12-01T03:00:00Z", "sent_until": "2030-12-01T08:00:00Z"}
    expected = [message_id for n, message_id in enumerate(ids) if 3 <= n < 8 and n != 5]
    expected.sort(reverse=order == "desc")
    assert list_ids(client, f"{launched.url}/messages", **query) == expected


def test_the_latest_attempts_of_a_message_are_listed(
    client: FlaskClient, launched: LaunchedMailing, database: Cursor
) -> None:
    (message_id,) = launched.add_batch("failed")
    database.execute(
        """
        INSERT INTO attempts
            (mailing_id, message_id, at, outcome, reason, latency_ms, excerpt, phone, text)
        SELECT %s, %s, now() - n * interval '1 second', 'declined', n::text, 1, '', 7916, 'x'
        FROM generate_series(1, 600) n
        """,
        (launched.id, message_id),
    )
    log = client.get(f"/api/v1/messages/{message_id}").get_json()["attempt_log"]
    assert [each["reason"] for each in log] == [str(n) for n in range(500, 0, -1)]


def test_a_message_is_found_by_its_id(
    client: FlaskClient, launched: LaunchedMailing, database: Cursor
) -> None:
    first, second = launched.add_batch("failed", "sent", gap=1)
    at = datetime(2026, 11, 23, 12, tzinfo=UTC)
    database.execute(
        """
        INSERT INTO attempts (mailing_id, message_id, at, outcome, reason, http_status, latency_ms,
            excerpt, phone, text)
        VALUES (%s, %s, %s, 'rejected', 'rejected: 400', 400, 12, 'no such number',
            79161234567, 'x')
        """,
        (launched.id, first, at),
    )
    answer = client.get(f"/api/v1/messages/{first}")
    assert answer.status_code == 200
    MessageDetails.model_validate(answer.get_json())
    assert answer.get_json()["attempt_log"] == [
        {
            "at": "2026-11-23T12:00:00.000000Z",
            "outcome": "rejected",
            "reason": "rejected: 400",
            "http_status": 400,
            "latency_ms": 12,
            "excerpt": "no such number",
        }
    ]
    sent = client.get(f"/api/v1/messages/{second}").get_json()
    assert (sent["status"], sent["mailing_id"]) == ("sent", launched.id)
    assert sent["attempt_log"] == [
        {
            "at": sent["sent_at"],
            "outcome": "accepted",
            "reason": "accepted",
            "http_status": 200,
            "latency_ms": None,
            "excerpt": "",
        }
    ]
    for unknown in (first + 1, second + 1000, 10**18):
        assert client.get(f"/api/v1/messages/{unknown}").status_code == 404


def test_messages_of_a_deleted_mailing_stay_provable(
    client: FlaskClient, launched: LaunchedMailing, new_client: Create, database: Cursor
) -> None:
    sent, failed = launched.add_batch("sent", "failed")
    owner = new_client()["id"]
    database.execute(
        "UPDATE messages SET client_id = %s WHERE mailing_id = %s AND id = %s",
        (owner, launched.id, sent),
    )
    before = client.get("/api/v1/statistics").get_json()["totals"]
    assert client.delete(launched.url).status_code == 204
    after = client.get("/api/v1/statistics").get_json()["totals"]
    assert sum(after.pop("mailings").values()) == sum(before.pop("mailings").values()) - 1
    assert after == before
    assert client.get(launched.url).status_code == 404
    assert client.get(f"{launched.url}/statistics").status_code == 404
    items = client.get("/api/v1/statistics?limit=500").get_json()["items"]
    assert launched.id not in [item["mailing_id"] for item in items]
    assert list_ids(client, f"{launched.url}/messages", limit=10) == [sent, failed]
    assert list_ids(client, f"{launched.url}/messages", limit=10, status="sent") == [sent]
    assert client.get(f"{launched.url}/messages.csv").text.count("\n") == 3
    assert client.get(f"/api/v1/messages/{sent}").get_json()["mailing_id"] == launched.id
    assert list_ids(client, f"/api/v1/clients/{owner}/messages", limit=10) == [sent]


def test_deleting_a_client_erases_attempts_and_cancels_pending_messages(
    client: FlaskClient, launched: LaunchedMailing, new_client: Create, database: Cursor
) -> None:
    waiting, other = launched.add_batch("pending", "pending")
    person = new_client()["id"]
    database.execute(
        "UPDATE messages SET client_id = %s WHERE mailing_id = %s AND id = %s",
        (person, launched.id, waiting),
    )
    for message_id in (waiting, other):
        database.execute(
            "INSERT INTO attempts VALUES (%s, %s, now(), 'declined', '', 200, 1, '', 7900, 'x')",
            (launched.id, message_id),
        )
    assert client.delete(f"/api/v1/clients/{person}").status_code == 204
    ended = client.get(f"/api/v1/messages/{waiting}").get_json()
    assert (ended["status"], ended["reason"]) == ("cancelled", "client deleted")
    assert client.get(f"/api/v1/messages/{other}").get_json()["status"] == "pending"
    database.execute(
        "SELECT message_id, phone, text FROM attempts WHERE mailing_id = %s ORDER BY 1",
        (launched.id,),
    )
    assert database.fetchall() == [(waiting, None, None), (other, 7900, "x")]


def test_a_new_time_zone_moves_pending_messages(
    client: FlaskClient, launched: LaunchedMailing, new_client: Create, database: Cursor
) -> None:
    (waiting,) = launched.add_batch("pending")
    person = new_client(timezone="Europe/Moscow")["id"]
    database.execute(
        "UPDATE messages SET client_id = %s WHERE mailing_id = %s AND id = %s",
        (person, launched.id, waiting),
    )
    client.patch(f"/api/v1/clients/{person}", json={"timezone": "Asia/Omsk"})
    database.execute(
        "SELECT b.timezone FROM messages m JOIN batches b ON b.mailing_id = m.mailing_id"
        " AND b.id = m.batch_id WHERE m.mailing_id = %s AND m.id = %s",
        (launched.id, waiting),
    )
    assert database.fetchall() == [("Asia/Omsk",)]


def test_a_new_window_reschedules_batches(
    client: FlaskClient, launched: LaunchedMailing, database: Cursor
) -> None:
    launched.add_batch("pending")
    shut = datetime.now(UTC).hour + 6
    window = {"from": f"{shut % 24:02}:00", "to": f"{(shut + 1) % 24:02}:00"}
    assert client.patch(launched.url, json={"window": window}).status_code == 200
    due = "SELECT due_at > now() + interval '4 hours' FROM batches WHERE mailing_id = %s"
    database.execute(due, (launched.id,))
    assert database.fetchall() == [(True,)]
    assert client.patch(launched.url, json={"window": None}).status_code == 200
    database.execute(due, (launched.id,))
    assert database.fetchall() == [(False,)]


def test_statistics_add_up_to_the_audience(
    client: FlaskClient, launched: LaunchedMailing, database: Cursor
) -> None:
    launched.add_batch("pending", "sent", "sent", "failed")
    launched.add_batch("expired", "cancelled", "sent")
    counts = {"pending": 1, "sent": 3, "failed": 1, "expired": 1, "cancelled": 1}
    answer = client.get(f"{launched.url}/statistics").get_json()
    MailingStatistics.model_validate(answer)
    assert (answer["audience"], answer["counts"], answer["in_doubt"]) == (7, counts, 1)
    split = ("in_progress", "due", "retrying", "waiting")
    assert [answer[name] for name in split] == [0, 1, 0, 0]

    overall = client.get("/api/v1/statistics?limit=500").get_json()
    Statistics.model_validate(overall)
    (mine,) = [item for item in overall["items"] if item["mailing_id"] == launched.id]
    assert (mine["audience"], mine["counts"], mine["status"]) == (7, counts, "running")
    totals = overall["totals"]
    assert totals["audience"] == sum(totals["counts"].values())
    assert sum(totals["mailings"].values()) == len(overall["items"])
    database.execute(
        "SELECT coalesce(sum(b.sent), 0) FROM batches b JOIN mailings m ON m.id = b.mailing_id"
        " WHERE m.deleted_at IS NOT NULL"
    )
    of_deleted = value(database)
    listed = sum(item["counts"]["sent"] for item in overall["items"])
    assert totals["counts"]["sent"] == listed + of_deleted


def test_statistics_of_a_settled_mailing_come_from_its_row(
    client: FlaskClient, launched: LaunchedMailing, database: Cursor
) -> None:
    launched.add_batch("sent", "failed")
    database.execute(
        "UPDATE mailings SET status = 'finished', finished_at = now(), settled = true, sent = 1,"
        " failed = 1, in_doubt = 1 WHERE id = %s",
        (launched.id,),
    )
    # Reading the batches would give other counts.
    database.execute("DELETE FROM batches WHERE mailing_id = %s", (launched.id,))
    counts = {"pending": 0, "sent": 1, "failed": 1, "expired": 0, "cancelled": 0}
    answer = client.get(f"{launched.url}/statistics").get_json()
    assert (answer["counts"], answer["in_doubt"]) == (counts, 1)
    page = client.get("/api/v1/statistics?status=finished&limit=500").get_json()
    (mine,) = [item for item in page["items"] if item["mailing_id"] == launched.id]
    assert (mine["counts"], mine["in_doubt"]) == (counts, 1)


@pytest.mark.parametrize("query", ["", "status=sent&"])
def test_the_largest_cursor_gives_an_empty_page(
    client: FlaskClient, new_mailing: Callable[..., dict[str, Any]], query: str
) -> None:
    mailing_id = new_mailing()["id"]
    answer = client.get(
        f"/api/v1/mailings/{mailing_id}/messages?{query}cursor={encode_cursor(MAX_ID)}"
    )
    assert answer.status_code == 200
    assert answer.get_json() == {"items": [], "next_cursor": None}

"""Retention drops whole partitions whose mailings ended long ago; statistics stay."""

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from shared.db.partitions import ensure_partition
from tests.support.fleet import Fleet
from worker.maintenance.retention import drop_old_data
from worker.runtime.database import Database

DAYS = 30
TABLES = ("messages", "batches", "attempts")


@pytest.fixture(autouse=True)
def ignore_dropped_mailings(fleet: Fleet) -> Iterator[None]:
    """The messages of dropped mailings cannot be counted any more."""
    yield
    fleet.ignore_earlier_mailings()


def read_partitions(fleet: Fleet) -> set[str]:
    return {
        name
        for (name,) in fleet.query(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '_p[0-9]+$'"
        )
    }


def read_ranges(fleet: Fleet) -> list[tuple[int, int]]:
    return [
        (first, until)
        for first, until in fleet.query(
            "SELECT first_mailing_id, until_mailing_id FROM partition_ranges ORDER BY 1"
        )
    ]


def add_finished_mailing(fleet: Fleet) -> int:
    mailing_id = fleet.add_launched_mailing(3)
    worker = fleet.claim_batch(mailing_id)
    worker.finish(accepted=worker.ids)
    assert fleet.settle_mailing(mailing_id) == "finished"
    return mailing_id


def fill_range(fleet: Fleet) -> tuple[int, list[int]]:
    """Fill a range; return its first id and its three finished mailings (others are cancelled)."""
    fleet.query("UPDATE mailings SET created_at = now() - interval '8 days'")  # ranges stay small
    mailings = [add_finished_mailing(fleet) for _ in range(3)]
    first, until = next(r for r in read_ranges(fleet) if r[0] <= mailings[0] < r[1])
    while fleet.add_mailing() < until:
        pass
    fleet.query(
        """
        UPDATE mailings SET status = 'cancelled', finished_at = now(), settled = true
        WHERE NOT settled AND id BETWEEN %s AND %s
        """,
        first,
        until - 1,
    )
    with fleet.db.transaction() as cursor:
        ensure_partition(cursor, until)
    return first, mailings


def move_into_past(fleet: Fleet, first: int, days: float) -> None:
    """Move all times of the range that begins with `first` into the past."""
    (until,) = (u for f, u in read_ranges(fleet) if f == first)
    fleet.query(
        """
        UPDATE mailings SET created_at = created_at - %(by)s, start_at = start_at - %(by)s,
            end_at = least(end_at, now()) - %(by)s, finished_at = finished_at - %(by)s
        WHERE id >= %(first)s AND id < %(until)s
        """.replace("%(by)s", f"interval '{days} days'")
        .replace("%(first)s", str(first))
        .replace("%(until)s", str(until))
    )
    fleet.query(
        f"UPDATE partition_ranges SET created_at = now() - interval '{days} days'"
        " WHERE first_mailing_id = %s",
        first,
    )


def test_old_partitions_are_dropped_and_statistics_stay(fleet: Fleet, client: FlaskClient) -> None:
    first, (mailing_id, deleted, *_) = fill_range(fleet)
    (message_id,) = fleet.query("SELECT min(id) FROM messages WHERE mailing_id = %s", mailing_id)[0]
    client.delete(f"/api/v1/mailings/{deleted}")
    for each in (mailing_id, deleted):
        fleet.query("INSERT INTO answer_counts VALUES (%s, 0, 0, -1, 0, 3, 2)", each)
        fleet.query(
            "INSERT INTO refusal_counts VALUES (%s, 0, 422, 'http_422', 2, '', now())", each
        )
    url = f"/api/v1/mailings/{mailing_id}"
    statistics = client.get(f"{url}/statistics").get_json()
    totals = client.get("/api/v1/statistics").get_json()["totals"]
    assert drop_old_data(fleet.db, DAYS) == 0
    move_into_past(fleet, first, DAYS + 1)
    assert drop_old_data(fleet.db, DAYS) == 1
    assert not {f"{table}_p{first}" for table in TABLES} & read_partitions(fleet)
    assert first not in [begins for begins, _ in read_ranges(fleet)]
    assert client.get(f"{url}/statistics").get_json() == statistics
    assert statistics["counts"]["sent"] == 3
    assert statistics["refusals"][0]["count"] == 2
    kept = client.get("/api/v1/statistics").get_json()["totals"]
    assert kept["mailings"] == totals["mailings"]
    # What the deleted mailing sent was in the totals until now.
    assert totals["counts"]["sent"] - kept["counts"]["sent"] == statistics["counts"]["sent"]
    assert kept["audience"] == sum(kept["counts"].values())
    assert client.get(f"{url}/messages").get_json()["items"] == []
    assert client.get(f"{url}/messages?status=sent").get_json()["items"] == []
    assert client.get(f"/api/v1/messages/{message_id}").status_code == 404
    for table in ("minutes", "id_blocks", "mailing_texts", "answer_counts"):
        assert not fleet.query(f"SELECT 1 FROM {table} WHERE mailing_id = %s", mailing_id)
    for table, key in (("mailings", "id"), ("refusal_counts", "mailing_id")):
        assert not fleet.query(f"SELECT 1 FROM {table} WHERE {key} = %s", deleted)
    # New mailings have their partitions as before.
    assert fleet.count_statuses(add_finished_mailing(fleet)) == {"sent": 3}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE mailings SET finished_at = now() WHERE id = %s",
        "UPDATE mailings SET end_at = now() + interval '1 day' WHERE id = %s",
        "UPDATE mailings SET settled = false, status = 'running', finished_at = NULL WHERE id = %s",
    ],
    ids=["ended recently", "can be retried", "running"],
)
def test_range_with_one_recent_mailing_is_kept(fleet: Fleet, change: str) -> None:
    first, (_, kept, *_) = fill_range(fleet)
    move_into_past(fleet, first, DAYS + 1)
    fleet.query(change, kept)
    assert drop_old_data(fleet.db, DAYS) == 0
    assert {f"{table}_p{first}" for table in TABLES} <= read_partitions(fleet)
    assert fleet.count_statuses(kept) == {"sent": 3}
    fleet.query("DELETE FROM partition_ranges WHERE first_mailing_id = %s", first)


def test_newest_range_is_kept_whatever_its_age(fleet: Fleet) -> None:
    add_finished_mailing(fleet)
    first, _ = read_ranges(fleet)[-1]
    move_into_past(fleet, first, DAYS + 1)
    drop_old_data(fleet.db, DAYS)
    assert first in [begins for begins, _ in read_ranges(fleet)]


@pytest.mark.parametrize("done", [1, 2, 3], ids=["detached", "one dropped", "two dropped"])
def test_interrupted_drop_is_completed(fleet: Fleet, done: int) -> None:
    first, _ = fill_range(fleet)
    move_into_past(fleet, first, DAYS + 1)
    with fleet.db.autocommit() as cursor:
        for table in TABLES[: max(done - 1, 1)]:
            cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_p{first} CONCURRENTLY")
            if done > 1:
                cursor.execute(f"DROP TABLE {table}_p{first}")
    assert drop_old_data(fleet.db, DAYS) == 1
    assert not {f"{table}_p{first}" for table in TABLES} & read_partitions(fleet)


def test_drop_is_postponed_while_a_transaction_reads(fleet: Fleet, database_url: str) -> None:
    """For example a backup: the detachment stays pending, and the next run finalizes it."""
    first, (mailing_id, *_) = fill_range(fleet)
    move_into_past(fleet, first, DAYS + 1)
    reader = Database(database_url, "reader")
    with reader.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM messages WHERE mailing_id = %s", (mailing_id,))
        assert drop_old_data(fleet.db, DAYS) == 0
    assert f"messages_p{first}" in read_partitions(fleet)
    reader.close()
    assert drop_old_data(fleet.db, DAYS) == 1
    assert not {f"{table}_p{first}" for table in TABLES} & read_partitions(fleet)

"""The sweep's cost does not grow with mailings that merely wait."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg2.extensions import cursor as Cursor
from redis import Redis

from shared.db.partitions import ensure_partition
from shared.db.rows import fetch_one_row
from shared.fleet_status import read_fleet_status
from shared.queues import Queues
from tests.support.fleet import TAKEOVER_SECONDS, Fleet
from worker.dispatch import claim_queries
from worker.maintenance import sweep
from worker.recording.batch_report import BatchRelease
from worker.runtime.database import Database

# Mailings that wait for their window, with three batches each, as a launch leaves them.
ADD_MAILINGS = """
INSERT INTO mailings (text, start_at, end_at, status, started_at, audience, audience_complete)
SELECT 'Waits', now() - interval '1 hour', now() + interval '1 day', 'running',
    now() - interval '1 hour', 60, true
FROM generate_series(1, %s) RETURNING id
"""
ADD_BATCHES = """
INSERT INTO batches (mailing_id, id, first_id, last_id, due_at, size, pending, timezone)
SELECT mailing_id, n, 1, 20, now() + interval '6 hours', 20, 20, 'Europe/Moscow'
FROM unnest(%s::bigint[]) AS mailing_id CROSS JOIN generate_series(1, 3) AS n
"""


class CountingDatabase(Database):
    """Counts transactions and statements that commit by themselves."""

    commits = 0

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        self.commits += 1
        with super().transaction() as cursor:
            yield cursor

    @contextmanager
    def autocommit(self) -> Iterator[Cursor]:
        self.commits += 1
        with super().autocommit() as cursor:
            yield cursor


@pytest.fixture
def queues(redis_url: str) -> Iterator[Queues]:
    with Redis.from_url(redis_url) as connection:
        yield Queues(connection)


def count_commits(fleet: Fleet, queues: Queues) -> int:
    db = CountingDatabase(fleet.url, "test")
    sweep.sweep_mailings(db, queues, TAKEOVER_SECONDS)
    db.close()
    return db.commits


def add_waiting(fleet: Fleet, reason: str) -> None:
    """Add a running mailing with a pending message that waits for this reason."""
    if reason == "start":
        fleet.query(
            "INSERT INTO mailings (text, start_at, end_at) VALUES ('x', '2100-01-01', '2100-01-02')"
        )
        return
    mailing_id = fleet.add_launched_mailing(2)
    if reason == "window":
        fleet.query(
            "UPDATE batches SET due_at = now() + interval '1 hour' WHERE mailing_id = %s",
            mailing_id,
        )
    elif reason == "person":
        fleet.query("UPDATE mailings SET status = 'paused' WHERE id = %s", mailing_id)
    elif reason == "worker":
        fleet.claim_batch(mailing_id)
    elif reason == "retry":
        fleet.claim_batch(mailing_id).record(release=BatchRelease(delay=60.0, backoff=True))
    elif reason == "retried":
        fleet.query("UPDATE mailings SET retry_version = 1 WHERE id = %s", mailing_id)
        fleet.query(
            "UPDATE batches SET due_at = now() + interval '1 hour' WHERE mailing_id = %s",
            mailing_id,
        )


@pytest.mark.parametrize("reason", ["start", "window", "person", "worker", "retry", "retried"])
def test_waiting_mailings_cost_no_transactions(fleet: Fleet, queues: Queues, reason: str) -> None:
    count_commits(fleet, queues)  # creates the partitions, and settles what is left
    before = count_commits(fleet, queues)
    for _ in range(3):
        add_waiting(fleet, reason)
    assert count_commits(fleet, queues) == before


def test_waiting_mailings_cost_index_entries_only(fleet: Fleet) -> None:
    """Reading three batches of each would take three pages for each mailing."""
    count = 1_000
    ids = [mailing_id for (mailing_id,) in fleet.query(ADD_MAILINGS, count)]
    with fleet.db.transaction() as cursor:
        ensure_partition(cursor, max(ids))
    fleet.query(ADD_BATCHES, ids)
    fleet.query("VACUUM ANALYZE mailings, batches")
    lease = {"lease": TAKEOVER_SECONDS, "end_margin": 0.0}
    pages = []
    with fleet.db.transaction() as cursor:
        for statement in (sweep.FIND_WORK, claim_queries.DUE_MAILINGS):
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", lease)
            (plan,) = fetch_one_row(cursor)[0]
            pages.append(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
    fleet.query("DELETE FROM batches WHERE mailing_id = ANY (%s)", ids)
    fleet.query("DELETE FROM mailings WHERE id = ANY (%s)", ids)
    assert max(pages) < count / 2


def test_dispatchers_are_woken_once_for_all_mailings(
    fleet: Fleet, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever mailing wakes it, a dispatcher serves all that are due."""
    woken: list[int] = []
    monkeypatch.setattr(Queues, "wake_dispatchers", lambda _, mailing_id: woken.append(mailing_id))
    mailings = [fleet.add_launched_mailing(2) for _ in range(3)]
    sweep.sweep_mailings(fleet.db, queues, TAKEOVER_SECONDS)
    assert len(woken) == 1
    assert woken[0] in mailings


def test_the_duration_of_the_last_sweep_is_known(queues: Queues) -> None:
    assert read_fleet_status(queues.connection).sweep_seconds is None
    queues.record_sweep(0.25)
    status = read_fleet_status(queues.connection)
    assert status.sweep_seconds == 0.25
    assert status.sweep_age_seconds is not None
    assert status.sweep_age_seconds < 5


def test_ended_and_cancelled_mailings_are_settled_by_one_sweep(
    fleet: Fleet, queues: Queues
) -> None:
    fleet.set_pulse()
    mailings = [fleet.add_launched_mailing(2) for _ in range(3)]
    fleet.end_mailing(mailings[0])
    fleet.cancel_mailing(mailings[1])
    worker = fleet.claim_batch(mailings[2])
    worker.finish(accepted=worker.ids)
    sweep.sweep_mailings(fleet.db, queues, TAKEOVER_SECONDS)
    found = [fleet.read_mailing(mailing_id) for mailing_id in mailings]
    assert [(row["status"], row["settled"]) for row in found] == [
        ("finished", True),
        ("cancelled", True),
        ("finished", True),
    ]

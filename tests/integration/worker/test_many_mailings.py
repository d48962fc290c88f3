"""Small mailings share transactions when they are claimed and settled."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg2.extensions import cursor as Cursor

from shared.domain.templates import Template, compile_stored_template
from tests.support.counting_database import CountingDatabase
from tests.support.fleet import LEASE_SECONDS, TAKEOVER_SECONDS, FakeWorker, Fleet, rejected
from tests.support.interleaving import threads, wait_until_blocked
from worker.dispatch import claim_queries
from worker.recording.batch_report import BatchRelease, RecordedBatch
from worker.recording.record import record_reports
from worker.runtime.database import Database

ZONES = ("Europe/Moscow", "Asia/Omsk", "Asia/Kamchatka")


def claim(fleet: Fleet, mailing_ids: list[int], db: Database | None = None) -> list[FakeWorker]:
    fleet.set_pulse()
    claims = claim_queries.claim_batches(db or fleet.db, fleet.clock, mailing_ids, TAKEOVER_SECONDS)
    return [FakeWorker(fleet, claimed) for claimed in claims]


def finish(fleet: Fleet, *workers: FakeWorker) -> list[RecordedBatch]:
    """Record that all messages were accepted, and that no other batch is known to be due."""
    reports = [worker.make_report(worker.ids, (), BatchRelease(), last=True) for worker in workers]
    return list(fleet.record_reports(*reports).values())


# --- claiming ------------------------------------------------------------------------------------


def test_batches_of_several_mailings_are_claimed_in_one_transaction(fleet: Fleet) -> None:
    mailings = [fleet.add_launched_mailing(3) for _ in range(4)]
    db = CountingDatabase(fleet.url)
    workers = claim(fleet, [*mailings, mailings[0]], db)
    assert [worker.mailing_id for worker in workers] == mailings
    assert all(len(worker.ids) == 3 and worker.claim.token == 1 for worker in workers)
    assert db.transactions == 1
    assert claim(fleet, mailings) == []


def test_several_batches_of_one_mailing_are_claimed_together(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(6, batch_size=2)
    workers = claim(fleet, [mailing_id] * 4)
    assert sorted(id_ for worker in workers for id_ in worker.ids) == [
        id_
        for (id_,) in fleet.query(
            "SELECT id FROM messages WHERE mailing_id = %s ORDER BY id", mailing_id
        )
    ]


def test_a_mailing_that_cannot_be_claimed_does_not_stop_the_others(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = fleet.add_launched_mailing(2), fleet.add_launched_mailing(2, text="bad")
    other = fleet.add_launched_mailing(2)

    def refuse(text: str) -> Template:
        if text == "bad":
            raise ValueError(text)
        return compile_stored_template(text)

    monkeypatch.setattr(claim_queries, "compile_stored_template", refuse)
    workers = claim(fleet, [good, bad, other])
    assert [worker.mailing_id for worker in workers] == [good, other]
    (row,) = fleet.query("SELECT leased_until, token FROM batches WHERE mailing_id = %s", bad)
    assert row == (None, 0)


def test_due_mailings_tell_how_much_there_is_to_claim(fleet: Fleet) -> None:
    small, large = fleet.add_launched_mailing(3), fleet.add_launched_mailing(25, batch_size=2)
    fleet.set_pulse()
    due = claim_queries.fetch_due_mailings(fleet.db, TAKEOVER_SECONDS)
    assert due[small] == (None, 3, 1)
    assert due[large] == (None, 2, claim_queries.MAX_COUNTED_BATCHES)


# --- settling ------------------------------------------------------------------------------------


def test_last_outcomes_settle_their_mailings(fleet: Fleet) -> None:
    mailings = [fleet.add_launched_mailing(3) for _ in range(3)]
    workers = claim(fleet, mailings)
    statements = CountingDatabase(fleet.url)
    reports = [worker.make_report(worker.ids, (), BatchRelease(), last=True) for worker in workers]
    recorded = record_reports(statements, reports, LEASE_SECONDS, 3)
    assert all(each.settled for each in recorded.values())
    assert statements.transactions == 1
    settling = [each for each in statements.statements if "finished_mailings" in each]
    assert len(settling) == 2
    for mailing_id in mailings:
        mailing = fleet.read_mailing(mailing_id)
        assert (mailing["settled"], mailing["status"], mailing["sent"]) == (True, "finished", 3)
        assert mailing["finished_at"] is not None
    fleet.check_totals()


def test_a_mailing_with_another_open_batch_is_not_settled(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(4, batch_size=2)
    first, second = claim(fleet, [mailing_id] * 2)
    assert [each.settled for each in finish(fleet, first)] == [False]
    assert not fleet.read_mailing(mailing_id)["settled"]
    assert [each.settled for each in finish(fleet, second)] == [True]


@pytest.mark.parametrize(
    "change",
    [
        "audience_complete = false",
        "retry_version = retry_version + 1",
        "audience = audience + 1",
    ],
    ids=["being launched", "retry requested", "wrong total"],
)
def test_a_mailing_with_something_left_is_not_settled(fleet: Fleet, change: str) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    (worker,) = claim(fleet, [mailing_id])
    fleet.query(f"UPDATE mailings SET {change} WHERE id = %s", mailing_id)
    report = worker.make_report(
        worker.ids[:1], [rejected(worker.ids[1])], BatchRelease(), last=True
    )
    (recorded,) = fleet.record_reports(report).values()
    assert (recorded.pending, recorded.settled) == (0, False)
    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["settled"], mailing["status"]) == (False, "running")
    fleet.query(
        "UPDATE mailings SET audience_complete = true, audience = 2, retry_version = 0"
        " WHERE id = %s",
        mailing_id,
    )


def test_recording_does_not_wait_for_a_locked_mailing(fleet: Fleet) -> None:
    """A transaction that holds the mailing's row may wait for the batches that are recorded."""
    mailing_id = fleet.add_launched_mailing(2)
    (worker,) = claim(fleet, [mailing_id])
    with _locked(fleet, mailing_id), threads() as run:
        recording = run(finish, fleet, worker)
        wait_until_blocked(fleet.url, [recording])
        assert [each.settled for each in recording.result(10)] == [False]
    assert fleet.settle_mailing(mailing_id) == "finished"


def test_cancelled_mailing_stays_cancelled_when_it_is_settled(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    (worker,) = claim(fleet, [mailing_id])
    fleet.cancel_mailing(mailing_id)
    assert [each.settled for each in finish(fleet, worker)] == [True]
    assert fleet.read_mailing(mailing_id)["status"] == "cancelled"


# --- minutes -------------------------------------------------------------------------------------


def test_workers_add_to_rows_of_their_own_in_the_same_minute(fleet: Fleet) -> None:
    """Otherwise each flush waits for the commit of the other worker's."""
    mailing_id = fleet.add_launched_mailing(40, batch_size=1)
    workers = claim(fleet, [mailing_id] * 40)
    shards: list[int] = []
    for part in (workers[:20], workers[20:]):
        db = Database(fleet.url, "worker")
        with db.transaction() as cursor:
            cursor.execute("SELECT pg_backend_pid() % 16")
            shards += cursor.fetchone() or ()
        reports = [worker.make_report(worker.ids, (), BatchRelease()) for worker in part]
        record_reports(db, reports, LEASE_SECONDS, 3)
        db.close()
    rows = fleet.query(
        "SELECT shard, sum(count) FROM minutes WHERE mailing_id = %s GROUP BY 1", mailing_id
    )
    assert {shard for shard, _ in rows} == set(shards)
    assert sum(count for _, count in rows) == 40


@contextmanager
def _locked(fleet: Fleet, mailing_id: int) -> Iterator[Cursor]:
    db = Database(fleet.url, "locking")
    with db.transaction() as cursor:
        cursor.execute("SELECT 1 FROM mailings WHERE id = %s FOR NO KEY UPDATE", (mailing_id,))
        yield cursor
    db.close()

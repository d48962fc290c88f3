"""Acceptances in the journals of dead workers are recorded, and only those of this database."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.fleet import LEASE_SECONDS, Fleet
from tests.support.journals import leave_journal, make_results, overwrite_record
from tests.support.waiting import wait_for
from worker.dispatch.journal import DatabaseIdentity, read_identity
from worker.dispatch.journal_recovery import MAX_FOREIGN_AGE_SECONDS, JournalRecovery
from worker.runtime.database import Database


@pytest.fixture
def recovery(fleet: Fleet, tmp_path: Path) -> Iterator[JournalRecovery]:
    journals = JournalRecovery(
        tmp_path,
        Database(fleet.url, "test"),
        reserve=64,
        lease_seconds=LEASE_SECONDS,
        max_attempts=fleet.max_attempts,
    )
    yield journals
    journals.close()


def identity_of(fleet: Fleet) -> DatabaseIdentity:
    return read_identity(fleet.cursor)


def test_unrecorded_acceptances_of_a_dead_worker_are_recorded(
    fleet: Fleet, recovery: JournalRecovery, tmp_path: Path
) -> None:
    mailing_id = fleet.add_launched_mailing(10)
    worker = fleet.claim_batch(mailing_id)
    worker.record(worker.ids[:2])
    accepted = {worker.claim_key: worker.ids[:6]}
    leave_journal(tmp_path, identity_of(fleet), accepted)
    before = fleet.read_batch(mailing_id, worker.batch_id)

    with capture_logs() as logs:
        recovery.recover()

    assert [e["messages"] for e in logs if e["event"] == "journal.recovered"] == [4]
    assert fleet.count_statuses(mailing_id) == {"sent": 6, "pending": 4}
    assert not list(tmp_path.iterdir())
    # The dead worker's lease runs on: what it had in flight may still arrive.
    after = fleet.read_batch(mailing_id, worker.batch_id)
    assert (after["leased_until"], after["token"]) == (before["leased_until"], before["token"])
    fleet.expire_lease(mailing_id)
    successor = fleet.claim_batch(mailing_id)
    assert sorted(successor.ids) == sorted(worker.ids[6:])
    successor.finish(successor.ids)


def test_acceptances_count_after_a_takeover_and_after_the_end(
    fleet: Fleet, recovery: JournalRecovery, tmp_path: Path
) -> None:
    mailing_id = fleet.add_launched_mailing(4)
    worker = fleet.claim_batch(mailing_id)
    fleet.expire_lease(mailing_id)
    successor = fleet.claim_batch(mailing_id)
    fleet.end_mailing(mailing_id)
    successor.finish()
    fleet.apply_mailing_state(mailing_id)
    assert fleet.settle_mailing(mailing_id)
    assert fleet.read_mailing(mailing_id)["in_doubt"] == 4
    leave_journal(tmp_path, identity_of(fleet), {worker.claim_key: worker.ids[:3]})

    recovery.recover()

    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["sent"], mailing["expired"], mailing["in_doubt"]) == (3, 1, 1)


def test_messages_and_batches_that_are_gone_are_ignored(
    fleet: Fleet, recovery: JournalRecovery, tmp_path: Path
) -> None:
    mailing_id = fleet.add_launched_mailing(3)
    worker = fleet.claim_batch(mailing_id)
    accepted = {
        (999_999, 1, 1): [12, 13],
        (mailing_id, 999_999, 1): worker.ids[:1],
        worker.claim_key: [*worker.ids[1:2], 987_654_321],
    }
    leave_journal(tmp_path, identity_of(fleet), accepted)
    recovery.recover()
    assert fleet.count_statuses(mailing_id) == {"sent": 2, "pending": 1}
    assert not list(tmp_path.iterdir())


def test_half_written_record_stops_no_other(
    fleet: Fleet, recovery: JournalRecovery, tmp_path: Path
) -> None:
    mailing_id = fleet.add_launched_mailing(3)
    worker = fleet.claim_batch(mailing_id)
    path = leave_journal(tmp_path, identity_of(fleet), {worker.claim_key: worker.ids})
    overwrite_record(path, 2, 20, b"\xff")
    with capture_logs() as logs:
        recovery.recover()
    (line,) = [e for e in logs if e["event"] == "journal.recovered"]
    assert (line["messages"], line["damaged"]) == (2, 1)
    assert fleet.count_statuses(mailing_id) == {"sent": 2, "pending": 1}


@pytest.mark.parametrize("part", ["system", "database"])
def test_journal_of_another_database_is_left_alone(
    fleet: Fleet, recovery: JournalRecovery, tmp_path: Path, part: str
) -> None:
    mailing_id = fleet.add_launched_mailing(3)
    worker = fleet.claim_batch(mailing_id)
    own = identity_of(fleet)
    foreign = own._replace(**{part: getattr(own, part) + 1})
    path = leave_journal(tmp_path, foreign, {worker.claim_key: worker.ids})
    ours = leave_journal(tmp_path, own, {worker.claim_key: worker.ids[:1]})
    with capture_logs() as logs:
        recovery.recover()
        recovery.recover()
    assert [e["file"] for e in logs if e["event"] == "journal.foreign"] == [path.name]
    assert fleet.count_statuses(mailing_id) == {"sent": 1, "pending": 2}
    assert path.exists()
    assert not ours.exists()


def test_old_journal_of_another_database_is_deleted(
    recovery: JournalRecovery, tmp_path: Path
) -> None:
    path = leave_journal(tmp_path, DatabaseIdentity(1, 2), {(1, 1, 1): [5]})
    created = time.time() - MAX_FOREIGN_AGE_SECONDS - 60
    os.utime(path, (created, created))
    recovery.recover()
    assert not path.exists()


def test_living_worker_keeps_its_journal(
    fleet: Fleet, recovery: JournalRecovery, tmp_path: Path
) -> None:
    mailing_id = fleet.add_launched_mailing(3)
    worker = fleet.claim_batch(mailing_id)
    journal = recovery.open_journal(fleet.db)
    assert journal is not None
    journal.append(make_results(worker.ids, worker.claim_key))
    recovery.recover()
    assert fleet.count_statuses(mailing_id) == {"pending": 3}
    # A job that failed leaves its journal to the thread; the next job gets a new one.
    recovery.close_journal(only_unrecorded=True)
    assert recovery.open_journal(fleet.db) is not journal
    recovery.recover()
    assert fleet.count_statuses(mailing_id) == {"sent": 3}
    (left,) = tmp_path.iterdir()
    recovery.close_journal(only_unrecorded=True)
    assert left.exists()  # empty, it is used again
    recovery.close()
    assert not left.exists()


def test_journal_waits_for_postgresql(fleet: Fleet, tmp_path: Path) -> None:
    mailing_id = fleet.add_launched_mailing(3)
    worker = fleet.claim_batch(mailing_id)
    leave_journal(tmp_path, identity_of(fleet), {worker.claim_key: worker.ids})
    # A row lock stands for an outage: the first attempts fail.
    blocker = Database(fleet.url, "test")
    journals = JournalRecovery(
        tmp_path,
        Database(fleet.url, "test", statement_timeout=0.2),
        reserve=64,
        lease_seconds=LEASE_SECONDS,
        max_attempts=fleet.max_attempts,
    )
    with capture_logs() as logs:
        with blocker.transaction() as cursor:
            cursor.execute("SELECT 1 FROM batches WHERE mailing_id = %s FOR UPDATE", (mailing_id,))
            journals.start()
            wait_for(
                lambda: any(e["event"] == "database.unavailable" for e in logs), 10, "an error"
            )
            assert list(tmp_path.iterdir())
        wait_for(lambda: not list(tmp_path.iterdir()), 10, "the journal to be recorded")
    journals.close()
    blocker.close()
    assert fleet.count_statuses(mailing_id) == {"sent": 3}


def test_folder_that_cannot_be_written_stops_no_job(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journals = JournalRecovery(
        tmp_path / "file" / "journals",
        Database(fleet.url, "test"),
        reserve=64,
        lease_seconds=LEASE_SECONDS,
        max_attempts=1,
    )
    with capture_logs() as logs:
        assert journals.open_journal(fleet.db) is None
        journals.recover()
    assert [e["event"] for e in logs] == ["journal.unavailable"]

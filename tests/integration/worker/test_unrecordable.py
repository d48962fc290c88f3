"""Outcomes that cannot be recorded do not keep the others from being recorded."""

import psycopg2
import pytest

from tests.support.fleet import LEASE_SECONDS, Fleet, make_attempt, unavailable
from worker.recording.batch_report import BatchRelease, BatchReport, RecordedBatch
from worker.recording.isolation import record_or_isolate
from worker.recording.state_machine import MessageReport


def record(fleet: Fleet, *reports: BatchReport) -> dict[tuple[int, int], RecordedBatch]:
    return record_or_isolate(fleet.db, reports, LEASE_SECONDS, fleet.max_attempts)


def refused(message_id: int) -> MessageReport:
    """PostgreSQL stores no text with a NUL."""
    attempt = make_attempt("unavailable")._replace(excerpt="a\0b")
    return MessageReport(message_id, counts_attempt=True, attempt=attempt)


def test_one_outcome_that_is_refused_is_in_doubt_and_the_others_are_recorded(fleet: Fleet) -> None:
    workers = [fleet.claim_batch(fleet.add_launched_mailing(40)) for _ in range(3)]
    bad = workers[1].ids[17]
    reports = [
        worker.make_report(
            accepted=[id_ for id_ in worker.ids[:-1] if id_ != bad],
            reports=[
                unavailable(worker.ids[-1]),
                *([refused(bad)] if worker is workers[1] else []),
            ],
            release=BatchRelease(),
        )
        for worker in workers
    ]
    results = record(fleet, *reports)
    for worker in workers:
        key = worker.mailing_id, worker.batch_id
        pending = 2 if worker is workers[1] else 1
        assert results[key].pending == pending
        assert fleet.count_statuses(worker.mailing_id) == {"sent": 40 - pending, "pending": pending}
        assert fleet.read_batch(*key)["leased_until"] is None
    message = fleet.read_message(workers[1].mailing_id, bad)
    assert (message["status"], message["in_doubt"], message["attempts"]) == ("pending", True, 1)
    # A repetition of what was recorded changes nothing.
    assert record(fleet, reports[0])[workers[0].mailing_id, workers[0].batch_id].pending == 1


def test_outcomes_of_messages_that_do_not_exist_are_left_out(fleet: Fleet) -> None:
    worker = fleet.claim_batch(fleet.add_launched_mailing(5))
    absent = [worker.ids[-1] + 1_000_000 + n for n in range(3)]
    worker_report = worker.make_report(accepted=[*worker.ids, *absent], release=BatchRelease())
    results = record(fleet, worker_report)
    assert results[worker.mailing_id, worker.batch_id].pending == 0
    assert fleet.count_statuses(worker.mailing_id) == {"sent": 5}


def test_a_batch_of_which_nothing_can_be_recorded_is_left_out(fleet: Fleet) -> None:
    refused_batch, worker = (fleet.claim_batch(fleet.add_launched_mailing(5)) for _ in range(2))
    # No instant is so far ahead.
    release = BatchRelease(delay=1e300, backoff=True)
    results = record(
        fleet,
        refused_batch.make_report(accepted=refused_batch.ids[:1], release=release),
        worker.make_report(accepted=worker.ids),
    )
    assert list(results) == [(worker.mailing_id, worker.batch_id)]
    assert fleet.count_statuses(worker.mailing_id) == {"sent": 5}
    # Its lease is left to run out; then its messages are in doubt.
    batch = fleet.read_batch(refused_batch.mailing_id, refused_batch.batch_id)
    assert batch["leased_until"] is not None
    assert fleet.count_statuses(refused_batch.mailing_id) == {"pending": 5}


def test_an_outage_is_not_isolated(fleet: Fleet) -> None:
    worker = fleet.claim_batch(fleet.add_launched_mailing(1))
    fleet.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'test' AND datname = current_database()"
    )
    report = worker.make_report(accepted=worker.ids)
    with pytest.raises((psycopg2.OperationalError, psycopg2.InterfaceError)):
        record(fleet, report)
    record(fleet, report)
    assert fleet.count_statuses(worker.mailing_id) == {"sent": 1}

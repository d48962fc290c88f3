"""The rules of recording: fence, attempts, leases, doubt, changed clients, retries, lock order."""

import time as clock
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import psycopg2
import pytest

from shared.db import minute_counts, status_changes
from shared.domain.send_windows import Window, next_opening
from shared.domain.statuses import MessageStatus, Reason
from tests.support.fleet import (
    LEASE_SECONDS,
    Fleet,
    make_attempt,
    rejected,
    throttled,
    unavailable,
    unknown,
)
from tests.support.interleaving import PausingDatabase, threads, wait_until_blocked
from worker.dispatch import claim_queries
from worker.recording import mailing_state, record, transaction
from worker.recording.batch_report import BatchRelease, BatchReport, RecordedBatch
from worker.recording.state_machine import MessageReport
from worker.runtime.database import Database

MOSCOW = ZoneInfo("Europe/Moscow")


# --- the fence ------------------------------------------------------------------------------------


def test_only_acceptances_of_a_stale_worker_count(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(5)
    stale = fleet.claim_batch(mailing_id)
    sent, failed, retried, *others = stale.ids
    fleet.expire_lease(mailing_id)
    present = fleet.claim_batch(mailing_id)
    present.finish(accepted=others)
    fleet.query("UPDATE batches SET due_at = now() WHERE mailing_id = %s", mailing_id)
    again = fleet.claim_batch(mailing_id)

    recorded = stale.record(
        [sent, *others], [rejected(failed), unknown(retried)], BatchRelease(1e6, True)
    )

    assert recorded == RecordedBatch(False, 2)
    assert fleet.read_message(mailing_id, sent)["status"] == "sent"
    assert fleet.read_message(mailing_id, failed)["status"] == "pending"
    assert fleet.read_message(mailing_id, retried)["attempts"] == 0
    batch = fleet.read_batch(mailing_id, stale.batch_id)
    assert batch["leased_until"] > datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS / 2)
    assert batch["retry_at"] is None
    assert batch["sent"] == 3
    assert not fleet.query("SELECT 1 FROM attempts WHERE mailing_id = %s", mailing_id)
    # The reports of the present holder are unaffected.
    assert again.finish([sent, failed, retried]) == RecordedBatch(True, 0)
    assert fleet.count_statuses(mailing_id) == {"sent": 5}


def test_stale_worker_reports_after_the_mailing_was_settled(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(4)
    stale = fleet.claim_batch(mailing_id)
    fleet.expire_lease(mailing_id)
    present = fleet.claim_batch(mailing_id)
    present.finish(present.ids[:2], map(rejected, present.ids[2:]))
    assert fleet.settle_mailing(mailing_id) == "finished"

    stale.record(stale.ids[:3], [unknown(stale.ids[3])], BatchRelease())

    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["sent"], mailing["failed"], mailing["status"]) == (3, 1, "finished")
    # The message sent is not in doubt any more; the other was marked by the takeover.
    assert mailing["in_doubt"] == 1


@pytest.mark.parametrize("settled", [False, True])
def test_acceptance_after_cancel_counts_as_sent(fleet: Fleet, settled: bool) -> None:
    mailing_id = fleet.add_launched_mailing(3)
    worker = fleet.claim_batch(mailing_id)
    fleet.cancel_mailing(mailing_id)
    assert fleet.apply_mailing_state(mailing_id) == 0, "a live lease is left to its worker"
    fleet.expire_lease(mailing_id)
    assert fleet.apply_mailing_state(mailing_id) == 3
    if settled:
        assert fleet.settle_mailing(mailing_id) == "cancelled"
        assert fleet.read_mailing(mailing_id)["in_doubt"] == 3

    worker.record(worker.ids[:1])

    assert fleet.count_statuses(mailing_id) == {"sent": 1, "cancelled": 2}
    if settled:
        mailing = fleet.read_mailing(mailing_id)
        assert (mailing["sent"], mailing["cancelled"], mailing["in_doubt"]) == (1, 2, 2)
        assert mailing["status"] == "cancelled"


def test_doubt_about_an_ended_message_changes_a_settled_mailing(fleet: Fleet) -> None:
    """The client of the last message is deleted during its request, so nothing is pending."""
    mailing_id = fleet.add_launched_mailing(1)
    worker = fleet.claim_batch(mailing_id)
    delete_client(fleet, client_id_of(fleet, mailing_id, worker.ids[0]))
    assert fleet.settle_mailing(mailing_id) == "finished"

    worker.finish(reports=[unknown(worker.ids[0])])

    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["cancelled"], mailing["in_doubt"]) == (1, 1)


@pytest.mark.parametrize("release", [None, BatchRelease(), BatchRelease(60, True)])
def test_repeated_report_is_applied_once(fleet: Fleet, release: BatchRelease | None) -> None:
    mailing_id = fleet.add_launched_mailing(5)
    worker = fleet.claim_batch(mailing_id)
    others = [rejected(worker.ids[2]), unknown(worker.ids[3])]
    report = worker.make_report(worker.ids[:2], others, release)
    key = mailing_id, worker.batch_id

    first = fleet.record_reports(report)[key]
    before = fleet.read_batch(*key)
    again = [fleet.record_reports(report)[key] for _ in range(3)]

    assert [(r.held, r.pending) for r in (first, *again)] == [(True, 2)] * 4
    after = fleet.read_batch(*key)
    for moving in ("due_in", "retry_in"):
        before.pop(moving), after.pop(moving)
    assert after == before
    assert fleet.read_message(mailing_id, worker.ids[3])["attempts"] == 1
    assert len(fleet.query("SELECT 1 FROM attempts WHERE mailing_id = %s", mailing_id)) == 2


def test_reports_of_a_later_claim_are_numbered_from_one(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    first = fleet.claim_batch(mailing_id)
    for _ in range(3):
        first.record()
    first.record(release=BatchRelease())
    second = fleet.claim_batch(mailing_id)
    assert second.finish(second.ids) == RecordedBatch(True, 0)


def test_one_transaction_records_several_mailings_and_batches(fleet: Fleet) -> None:
    mailings = [fleet.add_launched_mailing(4, batch_size=2) for _ in range(3)]
    workers = [fleet.claim_batch(mailing_id) for mailing_id in mailings for _ in range(2)]
    reports = [w.make_report(w.ids[:1], [rejected(w.ids[1])], BatchRelease()) for w in workers]
    recorded = fleet.record_reports(*reversed(reports))
    assert recorded == {(w.mailing_id, w.batch_id): RecordedBatch(True, 0) for w in workers}
    for mailing_id in mailings:
        assert fleet.count_statuses(mailing_id) == {"sent": 2, "failed": 2}


def test_message_accepted_twice_in_one_report_counts_once(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    assert worker.finish([worker.ids[0], worker.ids[0], worker.ids[1]]) == RecordedBatch(True, 0)
    assert fleet.read_message(mailing_id, worker.ids[0])["attempts"] == 1


# --- attempts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("between", "read_reports"), [(2, 0), (transaction.MAX_MISSING_IDS + 5, 1)]
)
def test_accepted_ids_with_gaps_are_applied_by_range_or_read_first(
    fleet: Fleet, between: int, read_reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has gaps if clients moved to it, or if other messages are still in flight."""
    apply_rules = transaction.MailingRecorder._apply_rules
    counts = []

    def count_reports(
        recorder: transaction.MailingRecorder, reports: list[BatchReport], max_attempts: int
    ) -> None:
        counts.append(len(reports))
        apply_rules(recorder, reports, max_attempts)

    monkeypatch.setattr(transaction.MailingRecorder, "_apply_rules", count_reports)
    count = between + 2
    mailing_id = fleet.add_launched_mailing(count, batch_size=count)
    worker = fleet.claim_batch(mailing_id)
    first, *others, last = worker.ids
    before = clock.time()
    recorded = worker.record([first, last])
    assert counts == [read_reports]
    assert recorded.pending == len(others)
    rows = "SELECT id, status, attempts, extract(epoch FROM sent_at)::float8 FROM messages"
    found = fleet.query(f"{rows} WHERE mailing_id = %s ORDER BY id", mailing_id)
    assert [row[0] for row in found if row[1:3] == ("sent", 1)] == [first, last]
    assert all(abs(row[3] - before) < 60 for row in found if row[1] == "sent")
    assert {row[1:] for row in found if row[1] != "sent"} == {("pending", 0, None)}
    assert worker.finish(others).pending == 0


def test_message_fails_after_max_attempts(database_url: str, fleet: Fleet) -> None:
    fleet.max_attempts = 2
    mailing_id = fleet.add_launched_mailing(2)
    for _ in range(2):
        worker = fleet.claim_batch(mailing_id)
        a, b = worker.ids
        assert worker.finish(reports=[unavailable(a), throttled(b)]).held
    assert fleet.read_message(mailing_id, a)["status"] == "failed"
    assert fleet.read_message(mailing_id, a)["reason"] == "attempts exhausted"
    assert fleet.read_message(mailing_id, b)["status"] == "pending"
    assert fleet.read_message(mailing_id, b)["attempts"] == 0


def test_retry_repeats_phone_and_text_of_the_first_attempt(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    assert all((row.first_phone, row.first_text) == (None, None) for row in worker.claim.rows)
    tried, untried = worker.ids
    first = make_attempt("unavailable", 79991112233, "The first text")
    worker.finish(reports=[MessageReport(tried, counts_attempt=True, attempt=first)])
    fleet.query(
        "UPDATE clients SET phone = phone + 500000 WHERE id = %s",
        client_id_of(fleet, mailing_id, tried),
    )
    worker = fleet.claim_batch(mailing_id)
    second = make_attempt("unavailable", 79990000000, "Another text")
    worker.finish(reports=[MessageReport(tried, counts_attempt=True, attempt=second)])

    rows = {row.message_id: row for row in fleet.claim_batch(mailing_id).claim.rows}

    assert (rows[tried].first_phone, rows[tried].first_text) == (79991112233, "The first text")
    assert rows[tried].attempts == 2
    assert (rows[untried].first_phone, rows[untried].first_text) == (None, None)


def test_batch_keeps_the_text_of_its_first_claim(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(4, batch_size=2)
    first = fleet.claim_batch(mailing_id)
    first.record(release=BatchRelease(delay=-1))
    fleet.query("UPDATE mailings SET text = 'New', text_version = 2 WHERE id = %s", mailing_id)
    fleet.query("INSERT INTO mailing_texts VALUES (%s, 2, 'New')", mailing_id)
    texts = {(w := fleet.claim_batch(mailing_id)).batch_id: w.claim.text for _ in range(2)}
    assert texts.pop(first.batch_id) == "Hello"
    assert list(texts.values()) == ["New"]


# --- giving a batch back --------------------------------------------------------------------------


def test_backoff_sets_retry_at_and_a_plain_delay_does_not(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(1)
    worker = fleet.claim_batch(mailing_id)
    worker.record(release=BatchRelease(40, backoff=True))
    batch = fleet.read_batch(mailing_id, worker.batch_id)
    assert batch["due_in"] == pytest.approx(40, abs=3)
    assert batch["retry_at"] == batch["due_at"]
    assert (batch["attempt"], batch["leased_until"]) == (1, None)
    assert fleet.try_claim_batch(mailing_id) is None

    fleet.query("UPDATE batches SET due_at = now() WHERE mailing_id = %s", mailing_id)
    worker = fleet.claim_batch(mailing_id)
    assert worker.claim.attempt == 1
    worker.record(release=BatchRelease(20))
    batch = fleet.read_batch(mailing_id, worker.batch_id)
    assert batch["due_in"] == pytest.approx(20, abs=3)
    assert (batch["retry_at"], batch["attempt"]) == (None, 1)


def test_finished_batch_is_not_due(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(1)
    worker = fleet.claim_batch(mailing_id)
    worker.record(worker.ids, release=BatchRelease(40, backoff=True))
    batch = fleet.read_batch(mailing_id, worker.batch_id)
    assert (batch["due_at"], batch["retry_at"], batch["leased_until"]) == (None, None, None)


def test_released_batch_waits_for_the_window_of_its_zone(fleet: Fleet) -> None:
    """The window at the release applies, not the one at the claim."""
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    window = closed_window()
    fleet.query(
        "UPDATE mailings SET window_from = %s, window_to = %s WHERE id = %s", *window, mailing_id
    )
    worker.record(release=BatchRelease(0, wait_for_window=True))
    batch = fleet.read_batch(mailing_id, worker.batch_id)
    assert batch["due_at"] == next_opening(window, "Europe/Moscow", datetime.now(UTC))
    assert (batch["retry_at"], batch["attempt"]) == (None, 0)


def test_changed_window_keeps_a_longer_backoff(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(4, batch_size=2)
    backing_off = fleet.claim_batch(mailing_id)
    backing_off.record(release=BatchRelease(3 * 24 * 3600, backoff=True))
    (other,) = set(batch_ids(fleet, mailing_id)) - {backing_off.batch_id}
    window = closed_window()
    fleet.query(
        "UPDATE mailings SET window_from = %s, window_to = %s WHERE id = %s", *window, mailing_id
    )
    with fleet.db.transaction() as cursor:
        cursor.execute("SELECT 1 FROM mailings WHERE id = %s FOR NO KEY UPDATE", (mailing_id,))
        status_changes.reschedule_batches(cursor, mailing_id)
    opening = next_opening(window, "Europe/Moscow", datetime.now(UTC))
    assert fleet.read_batch(mailing_id, other)["due_at"] == opening
    late = fleet.read_batch(mailing_id, backing_off.batch_id)
    assert late["due_at"] == late["retry_at"] > opening


# --- leases and doubt -----------------------------------------------------------------------------


def test_leased_batch_cannot_be_claimed(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    assert fleet.try_claim_batch(mailing_id) is None
    assert mailing_id not in claim_queries.fetch_due_mailings(fleet.db, 0.5)
    assert worker.record() == RecordedBatch(True, 2)


@pytest.mark.parametrize("plan", ["nestloop", "hashjoin", "mergejoin"])
def test_claim_leases_one_batch_whatever_the_plan(fleet: Fleet, plan: str) -> None:
    """PostgreSQL may run a subquery with LIMIT 1 … SKIP LOCKED once for each row it joins."""
    mailing_id = fleet.add_launched_mailing(8, batch_size=1)
    others = {"nestloop", "hashjoin", "mergejoin"} - {plan}
    with fleet.db.transaction() as cursor:
        for setting in (*others, "indexscan", "bitmapscan", "material"):
            cursor.execute(f"SET enable_{setting} = off")
    for claimed in range(1, 9):
        fleet.claim_batch(mailing_id)
        leased = "SELECT count(*) FROM batches WHERE leased_until IS NOT NULL AND mailing_id = %s"
        assert fleet.query_value(leased, mailing_id) == claimed


def test_empty_report_renews_the_lease(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    fleet.expire_lease(mailing_id)
    assert worker.record().held
    assert fleet.try_claim_batch(mailing_id) is None


def test_takeover_marks_pending_messages_in_doubt(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(4)
    first = fleet.claim_batch(mailing_id)
    first.record(first.ids[:1])
    fleet.expire_lease(mailing_id)
    second = fleet.claim_batch(mailing_id)
    assert second.claim.token == first.claim.token + 1
    assert second.ids == first.ids[1:]
    doubts = "SELECT id FROM messages WHERE mailing_id = %s AND in_doubt ORDER BY id"
    assert [id_ for (id_,) in fleet.query(doubts, mailing_id)] == first.ids[1:]
    second.record(second.ids[:1], release=BatchRelease())
    assert [id_ for (id_,) in fleet.query(doubts, mailing_id)] == first.ids[2:]


def test_released_batch_is_not_in_doubt(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    fleet.claim_batch(mailing_id).record(release=BatchRelease())
    fleet.claim_batch(mailing_id)
    assert (
        fleet.query_value("SELECT sum(in_doubt) FROM batches WHERE mailing_id = %s", mailing_id)
        == 0
    )


@pytest.mark.parametrize("state", ["ended", "cancelled", "deleted"])
def test_batch_with_expired_lease_ends_in_doubt_and_leased_one_is_left(
    fleet: Fleet, state: str
) -> None:
    mailing_id = fleet.add_launched_mailing(6, batch_size=2)
    expired, leased = fleet.claim_batch(mailing_id), fleet.claim_batch(mailing_id)
    fleet.expire_lease(mailing_id, expired.batch_id)
    if state == "ended":
        fleet.end_mailing(mailing_id)
    else:
        fleet.cancel_mailing(mailing_id, deleted=state == "deleted")

    assert fleet.apply_mailing_state(mailing_id) == 4
    assert fleet.settle_mailing(mailing_id) is None

    status = "expired" if state == "ended" else "cancelled"
    assert fleet.count_statuses(mailing_id) == {status: 4, "pending": 2}
    for id_ in expired.ids:
        assert fleet.read_message(mailing_id, id_)["in_doubt"]
    assert (
        fleet.query_value(
            "SELECT count(*) FROM messages WHERE in_doubt AND mailing_id = %s", mailing_id
        )
        == 2
    )
    reasons = {"ended": "the mailing ended first", "cancelled": "mailing cancelled"}
    reason = reasons.get(state, "mailing deleted")
    ended = "SELECT DISTINCT reason FROM messages WHERE status <> 'pending' AND mailing_id = %s"
    assert fleet.query(ended, mailing_id) == [(reason,)]
    # Its lease was dropped: a worker that reports later is stale.
    assert not expired.record(reports=[rejected(expired.ids[0])]).held
    leased.record(leased.ids[:1], release=BatchRelease())
    assert fleet.apply_mailing_state(mailing_id) == 1
    assert fleet.settle_mailing(mailing_id) == ("finished" if state == "ended" else "cancelled")


def test_message_without_an_open_window_expires_with_that_reason(fleet: Fleet) -> None:
    window = closed_window()
    mailing_id = fleet.add_launched_mailing(2, window_from=window.start, window_to=window.end)
    assert fleet.try_claim_batch(mailing_id) is None
    fleet.end_mailing(mailing_id)
    assert fleet.apply_mailing_state(mailing_id) == 2
    reasons = fleet.query("SELECT DISTINCT reason FROM messages WHERE mailing_id = %s", mailing_id)
    assert reasons == [("the window never opened before the end",)]


@pytest.mark.parametrize(("seen", "back"), [(6.0, 3600.0), (0.0, 19.0)], ids=["during", "after"])
def test_no_takeover_within_one_lease_of_an_outage(fleet: Fleet, seen: float, back: float) -> None:
    """Holders could not renew their leases meanwhile: they get the time to report."""
    lease = 20.0
    claimed, ended = fleet.add_launched_mailing(2), fleet.add_launched_mailing(2)
    for mailing_id in (claimed, ended):
        fleet.claim_batch(mailing_id)
        fleet.expire_lease(mailing_id)
    fleet.end_mailing(ended)

    fleet.set_pulse(seen, back)
    assert not claim_queries.claim_batches(fleet.db, fleet.clock, [claimed], lease)
    assert mailing_state.apply_mailing_state(fleet.db, ended, lease, 5) == 0
    assert claimed not in claim_queries.fetch_due_mailings(fleet.db, lease)

    fleet.set_pulse(back=21.0)
    assert claimed in claim_queries.fetch_due_mailings(fleet.db, lease)
    assert claim_queries.claim_batches(fleet.db, fleet.clock, [claimed], lease)
    assert mailing_state.apply_mailing_state(fleet.db, ended, lease, 5) == 2


def test_moved_message_is_not_claimed_within_one_lease_of_an_outage(fleet: Fleet) -> None:
    """The holder of its former batch may have sent it, and could not report that yet."""
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    fleet.expire_lease(mailing_id)
    client_id = fleet.read_message(mailing_id, worker.ids[0])["client_id"]
    fleet.set_pulse(seen=30.0)
    with fleet.db.transaction() as cursor:
        assert status_changes.move_client_messages(cursor, {client_id: "Asia/Omsk"}) == 1
    assert not claim_queries.claim_batches(fleet.db, fleet.clock, [mailing_id], 20.0)
    worker.record(worker.ids[:1])
    assert fleet.read_message(mailing_id, worker.ids[0])["status"] == "sent"


@pytest.mark.parametrize("status", ["paused", "cancelled", "finished", "scheduled"])
def test_nothing_is_claimed_unless_the_mailing_is_running(fleet: Fleet, status: str) -> None:
    mailing_id = fleet.add_launched_mailing(1)
    fleet.query(
        "UPDATE mailings SET status = %s, finished_at = CASE WHEN %s THEN now() END WHERE id = %s",
        status,
        status in ("cancelled", "finished"),
        mailing_id,
    )
    assert fleet.try_claim_batch(mailing_id) is None
    assert mailing_id not in claim_queries.fetch_due_mailings(fleet.db, 0.5)


def test_nothing_is_claimed_after_the_end(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(1)
    fleet.end_mailing(mailing_id)
    assert fleet.try_claim_batch(mailing_id) is None


# --- clients that change during a request ---------------------------------------------------------


def test_client_moves_to_another_zone_during_its_request(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(4)
    worker = fleet.claim_batch(mailing_id)
    accepted, refused, unsure, stays = worker.ids
    for id_ in (accepted, refused, unsure):
        assert move_client(fleet, client_id_of(fleet, mailing_id, id_), "Asia/Omsk") == 1
    old = fleet.read_batch(mailing_id, worker.batch_id)
    for id_ in (accepted, refused, unsure):
        home = fleet.read_batch(mailing_id, fleet.read_message(mailing_id, id_)["batch_id"])
        assert (home["timezone"], home["size"], home["pending"]) == ("Asia/Omsk", 1, 1)
        assert home["in_doubt"] == 1, "the old batch's worker may have sent it"
        assert home["due_at"] >= old["leased_until"]
        assert home["text_version"] == old["text_version"]
    assert (old["size"], old["pending"]) == (1, 1)
    fleet.check_totals()

    worker.finish([accepted, stays], [rejected(refused), unknown(unsure)])

    assert fleet.read_message(mailing_id, accepted)["status"] == "sent"
    assert fleet.read_message(mailing_id, refused)["status"] == "pending", (
        "the message is in another batch now"
    )
    assert fleet.read_batch(mailing_id, worker.batch_id)["due_at"] is None
    # The new batch repeats exactly what the provider has already received.
    fleet.query(
        "UPDATE batches SET due_at = now() WHERE due_at > now() AND mailing_id = %s", mailing_id
    )
    fleet.expire_lease(mailing_id)
    rows = [row for _ in range(2) for row in fleet.claim_batch(mailing_id).claim.rows]
    assert {row.message_id for row in rows} == {refused, unsure}
    assert {row.first_phone for row in rows} == {79990000000}


def test_client_moves_twice_and_back(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    client_id = client_id_of(fleet, mailing_id, first_message_id(fleet, mailing_id))
    for zone in ("Asia/Omsk", "Europe/Samara", "Europe/Moscow"):
        assert move_client(fleet, client_id, zone) == 1
    zones = fleet.query(
        "SELECT timezone, sum(size) FROM batches WHERE mailing_id = %s AND size > 0 GROUP BY 1",
        mailing_id,
    )
    assert zones == [("Europe/Moscow", 2)]


def test_moved_message_waits_for_the_window_of_its_new_zone(fleet: Fleet) -> None:
    here = datetime.now(MOSCOW)
    window = Window(time((here.hour - 1) % 24), time((here.hour + 1) % 24))
    mailing_id = fleet.add_launched_mailing(1, window_from=window.start, window_to=window.end)
    id_ = first_message_id(fleet, mailing_id)
    move_client(fleet, client_id_of(fleet, mailing_id, id_), "Pacific/Honolulu")
    home = fleet.read_batch(mailing_id, fleet.read_message(mailing_id, id_)["batch_id"])
    assert home["due_at"] == next_opening(window, "Pacific/Honolulu", datetime.now(UTC))
    assert home["in_doubt"] == 0


def test_move_waits_for_a_launch_that_takes_batch_ids(fleet: Fleet) -> None:
    """A launch takes a block of ids, of which a move must take none."""
    mailing_id = fleet.add_launched_mailing(1)
    client_id = client_id_of(fleet, mailing_id, first_message_id(fleet, mailing_id))
    lock = "'batch_ids'::regclass::oid::bigint"
    with threads() as run:
        fleet.query(f"SELECT pg_advisory_lock({lock})")
        moving = run(move_client, fleet, client_id, "Asia/Omsk")
        wait_until_blocked(fleet.url, [moving])
        waited = not moving.done()
        fleet.query(f"SELECT pg_advisory_unlock({lock})")
        assert moving.result() == 1
    assert waited


def test_client_moves_while_the_window_is_changed(fleet: Fleet) -> None:
    """The move waits for the change, so that its new batch follows the new window."""
    mailing_id = fleet.add_launched_mailing(1)
    id_ = first_message_id(fleet, mailing_id)
    client_id = client_id_of(fleet, mailing_id, id_)
    window = closed_window("Asia/Omsk")
    with threads() as run, fleet.db.transaction() as cursor:
        cursor.execute(
            "UPDATE mailings SET window_from = %s, window_to = %s WHERE id = %s",
            (*window, mailing_id),
        )
        moving = run(move_client, fleet, client_id, "Asia/Omsk")
        wait_until_blocked(fleet.url, [moving])
        status_changes.reschedule_batches(cursor, mailing_id)
        cursor.connection.commit()
        assert moving.result() == 1
    home = fleet.read_batch(mailing_id, fleet.read_message(mailing_id, id_)["batch_id"])
    assert home["due_at"] == next_opening(window, "Asia/Omsk", datetime.now(UTC)), window


def test_client_is_deleted_during_its_request(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(4)
    worker = fleet.claim_batch(mailing_id)
    accepted, refused, unsure, stays = worker.ids
    for id_ in (accepted, refused, unsure):
        assert delete_client(fleet, client_id_of(fleet, mailing_id, id_)) == 1
    assert fleet.count_statuses(mailing_id) == {"cancelled": 3, "pending": 1}

    worker.finish([accepted, stays], [rejected(refused), unknown(unsure)])

    assert fleet.count_statuses(mailing_id) == {"cancelled": 2, "sent": 2}
    assert fleet.read_message(mailing_id, unsure)["in_doubt"]
    assert not fleet.read_message(mailing_id, refused)["in_doubt"]
    kept = fleet.query(
        "SELECT message_id, outcome, phone, text FROM attempts WHERE mailing_id = %s ORDER BY 1",
        mailing_id,
    )
    assert kept == [(refused, "rejected", None, None), (unsure, "unknown", None, None)]


def test_late_attempt_stores_no_data_of_an_erased_client(fleet: Fleet) -> None:
    """It is moved, expires in its new batch and is erased during the old batch's request."""
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    moved = worker.ids[0]
    client_id = client_id_of(fleet, mailing_id, moved)
    move_client(fleet, client_id, "Asia/Omsk")
    fleet.end_mailing(mailing_id)
    fleet.expire_lease(mailing_id, fleet.read_message(mailing_id, moved)["batch_id"])
    assert fleet.apply_mailing_state(mailing_id) == 1
    assert delete_client(fleet, client_id) == 0

    worker.finish(reports=[unknown(moved)])

    assert fleet.query("SELECT phone, text FROM attempts WHERE message_id = %s", moved) == [
        (None, None)
    ]


def test_deleted_client_of_an_expired_lease_is_in_doubt(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    fleet.expire_lease(mailing_id)
    delete_client(fleet, client_id_of(fleet, mailing_id, worker.ids[0]))
    message = fleet.read_message(mailing_id, worker.ids[0])
    assert (message["status"], message["reason"]) == ("cancelled", "client deleted")
    assert message["in_doubt"]


def test_retry_has_no_phone_of_a_deleted_client(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(1)
    worker = fleet.claim_batch(mailing_id)
    worker.finish(reports=map(rejected, worker.ids))
    delete_client(fleet, client_id_of(fleet, mailing_id, worker.ids[0]))
    fleet.retry_failed(mailing_id)
    assert fleet.apply_mailing_state(mailing_id) == 1
    (row,) = fleet.claim_batch(mailing_id).claim.rows
    assert row.phone is None


# --- retry-failed, settling, and their races ------------------------------------------------------


def test_retry_failed_resets_attempts(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(6, batch_size=3)
    for _ in range(2):
        worker = fleet.claim_batch(mailing_id)
        worker.finish(worker.ids[:2], [rejected(worker.ids[2])])
    assert fleet.settle_mailing(mailing_id) == "finished"
    fleet.retry_failed(mailing_id)
    assert fleet.settle_mailing(mailing_id) is None, "the retry has not been applied yet"
    assert fleet.apply_mailing_state(mailing_id) == 2
    assert fleet.apply_mailing_state(mailing_id) == 0
    assert fleet.settle_mailing(mailing_id) is None
    for _ in range(2):
        worker = fleet.claim_batch(mailing_id)
        assert [row.attempts for row in worker.claim.rows] == [0]
        worker.finish(worker.ids)
    assert fleet.settle_mailing(mailing_id) == "finished"
    assert fleet.count_statuses(mailing_id) == {"sent": 6}


def test_failures_after_the_retry_request_are_not_retried(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2, batch_size=1)
    worker = fleet.claim_batch(mailing_id)
    worker.finish(reports=map(rejected, worker.ids))
    fleet.retry_failed(mailing_id)
    assert fleet.apply_mailing_state(mailing_id) == 1
    while retried := fleet.try_claim_batch(mailing_id):
        retried.finish(reports=map(rejected, retried.ids))
    assert fleet.apply_mailing_state(mailing_id) == 0
    assert fleet.settle_mailing(mailing_id) == "finished"
    assert fleet.count_statuses(mailing_id) == {"failed": 2}


def test_retry_failed_waits_for_settling(fleet: Fleet) -> None:
    mailing_id = add_failed_mailing(fleet)
    finishing = PausingDatabase(fleet.url, before=mailing_state.HAS_OPEN_BATCHES)
    with threads() as run:
        finish = run(mailing_state.settle_mailing, finishing, mailing_id)
        finishing.wait_until_reached()
        retry = run(fleet.retry_failed, mailing_id)
        wait_until_blocked(fleet.url, [retry])
        assert not retry.done()
        finishing.resume.set()
        assert finish.result() == "finished"
        retry.result()
    check_retried(fleet, mailing_id)


def test_settling_reads_the_retry_it_waited_for(fleet: Fleet) -> None:
    """A subquery beside the lock would keep the snapshot from before the wait."""
    mailing_id = add_failed_mailing(fleet)
    with threads() as run, fleet.db.transaction() as cursor:
        cursor.execute("SELECT 1 FROM mailings WHERE id = %s FOR NO KEY UPDATE", (mailing_id,))
        finish = run(mailing_state.settle_mailing, Database(fleet.url, "finishing"), mailing_id)
        wait_until_blocked(fleet.url, [finish])
        assert not finish.done()
        cursor.execute(
            "UPDATE mailings SET retry_version = retry_version + 1 WHERE id = %s", (mailing_id,)
        )
        cursor.connection.commit()
        assert finish.result() is None
    check_retried(fleet, mailing_id)


def test_settling_waits_for_a_retry_in_progress(fleet: Fleet) -> None:
    mailing_id = add_failed_mailing(fleet)
    fleet.retry_failed(mailing_id)
    applying = PausingDatabase(fleet.url, before=minute_counts.ADD_MINUTE_COUNTS)
    with threads() as run:
        applied = run(mailing_state.apply_mailing_state, applying, mailing_id, 0.5, 5)
        applying.wait_until_reached()
        finish = run(mailing_state.settle_mailing, Database(fleet.url, "finishing"), mailing_id)
        wait_until_blocked(fleet.url, [finish])
        applying.resume.set()
        assert applied.result() == 1
        assert finish.result() is None
    check_retried(fleet, mailing_id, applied=True)


@pytest.mark.parametrize("event", ["cancel", "end"])
def test_retry_after_cancel_or_end_changes_nothing(fleet: Fleet, event: str) -> None:
    """The mailing is cancelled or ends, and is settled, between the retry's read and its write."""
    mailing_id = add_failed_mailing(fleet)
    fleet.retry_failed(mailing_id)
    applying = PausingDatabase(fleet.url, before=mailing_state.LOCK_FAILED_BATCHES)

    def end_and_settle() -> str | None:
        with Database(fleet.url, "closing").transaction() as cursor:
            cursor.execute("SELECT 1 FROM mailings WHERE id = %s FOR NO KEY UPDATE", (mailing_id,))
            if event == "cancel":
                cursor.execute(
                    "UPDATE mailings SET status = 'cancelled', finished_at = now() WHERE id = %s",
                    (mailing_id,),
                )
            else:
                cursor.execute(
                    "UPDATE mailings SET start_at = now() - interval '1 h', end_at = now()"
                    " WHERE id = %s",
                    (mailing_id,),
                )
        return mailing_state.settle_mailing(Database(fleet.url, "closing"), mailing_id)

    with threads() as run:
        applied = run(mailing_state.apply_mailing_state, applying, mailing_id, 0.5, 5)
        applying.wait_until_reached()
        closed = run(end_and_settle)
        wait_until_blocked(fleet.url, [closed])
        applying.resume.set()
        applied.result()
        closed.result()
    fleet.apply_mailing_state(mailing_id)
    fleet.settle_mailing(mailing_id)
    assert fleet.read_mailing(mailing_id)["settled"]
    assert "pending" not in fleet.count_statuses(mailing_id)


# --- lock order -----------------------------------------------------------------------------------


def test_concurrent_expiry_of_a_mailing_does_not_deadlock(fleet: Fleet) -> None:
    """Minutes are locked last and in order."""
    mailing_id = fleet.add_launched_mailing(40, batch_size=1)
    fleet.end_mailing(mailing_id)
    both = [
        PausingDatabase(fleet.url, before=status_changes.END_PENDING_MESSAGES, nth=5)
        for _ in range(2)
    ]
    with threads() as run:
        applied = []
        for db in both:
            applied.append(run(mailing_state.apply_mailing_state, db, mailing_id, 0.5, 0))
            db.wait_until_reached()
        for db in both:
            db.resume.set()
        assert [future.result() for future in applied] == [20, 20]


def test_deleted_client_and_late_report_do_not_deadlock(fleet: Fleet) -> None:
    """Both change two mailings: all batches are locked before any minutes."""
    tag = "in two mailings"
    (client_id,) = fleet.add_clients(1, tag=tag)
    fleet.add_clients(1, tag=tag)
    mailings = [fleet.add_mailing(tags=[tag]) for _ in range(2)]
    workers = []
    for mailing_id in mailings:
        fleet.launch_mailing(mailing_id)
        workers.append(fleet.claim_batch(mailing_id))
    erased = MessageReport(0, final_status=MessageStatus.CANCELLED, reason="client deleted")
    reports = [w.make_report(reports=[erased._replace(message_id=w.ids[1])]) for w in workers]
    deleting = PausingDatabase(fleet.url, before=status_changes.END_PENDING_MESSAGES, nth=2)
    recording = PausingDatabase(fleet.url, before=minute_counts.ADD_MINUTE_COUNTS)

    def delete() -> int:
        with deleting.transaction() as cursor:
            return status_changes.cancel_client_messages(cursor, [client_id], Reason.CLIENT_DELETED)

    with threads() as run:
        deleted = run(delete)
        deleting.wait_until_reached()
        recorded = run(record.record_reports, recording, reports, LEASE_SECONDS, 50)
        wait_until_blocked(fleet.url, [recorded])
        deleting.resume.set()
        assert deleted.result() == 2
        recording.resume.set()
        assert len(recorded.result()) == 2


def test_failed_recording_changes_nothing(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    report = worker.make_report(worker.ids)
    fleet.query("ALTER TABLE minutes ADD CONSTRAINT broken CHECK (mailing_id <> %s)", mailing_id)
    with pytest.raises(psycopg2.Error):
        fleet.record_reports(report)
    fleet.query("ALTER TABLE minutes DROP CONSTRAINT broken")
    assert fleet.count_statuses(mailing_id) == {"pending": 2}
    assert fleet.record_reports(report)[mailing_id, worker.batch_id] == RecordedBatch(True, 0)


@pytest.mark.parametrize(
    "wrong",
    ["pending = pending - 1", "sent = sent + 1", "due_at = NULL", "in_doubt = size + 1"],
)
def test_the_tables_refuse_find_wrong_totals(fleet: Fleet, wrong: str) -> None:
    mailing_id = fleet.add_launched_mailing(1)
    with pytest.raises(psycopg2.errors.CheckViolation):
        fleet.query(f"UPDATE batches SET {wrong} WHERE mailing_id = %s", mailing_id)


# --- helpers --------------------------------------------------------------------------------------


def closed_window(zone: str = "Europe/Moscow") -> Window:
    """Return a window that opens two or three hours from now in this zone."""
    hour = datetime.now(ZoneInfo(zone)).hour
    return Window(time((hour + 3) % 24), time((hour + 4) % 24))


def batch_ids(fleet: Fleet, mailing_id: int) -> list[int]:
    return [
        id_ for (id_,) in fleet.query("SELECT id FROM batches WHERE mailing_id = %s", mailing_id)
    ]


def first_message_id(fleet: Fleet, mailing_id: int) -> int:
    id_: int = fleet.query_value("SELECT min(id) FROM messages WHERE mailing_id = %s", mailing_id)
    return id_


def client_id_of(fleet: Fleet, mailing_id: int, message_id: int) -> int:
    client_id: int = fleet.read_message(mailing_id, message_id)["client_id"]
    return client_id


def move_client(fleet: Fleet, client_id: int, zone: str) -> int:
    with Database(fleet.url, "api").transaction() as cursor:
        cursor.execute("UPDATE clients SET timezone = %s WHERE id = %s", (zone, client_id))
        return status_changes.move_client_messages(cursor, {client_id: zone})


def delete_client(fleet: Fleet, client_id: int) -> int:
    with Database(fleet.url, "api").transaction() as cursor:
        cursor.execute(
            "UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL, timezone = NULL,"
            " deleted_at = now() WHERE id = %s",
            (client_id,),
        )
        return status_changes.cancel_client_messages(cursor, [client_id], Reason.CLIENT_DELETED)


def add_failed_mailing(fleet: Fleet) -> int:
    """Add a running mailing with one message, which has failed."""
    mailing_id = fleet.add_launched_mailing(1)
    worker = fleet.claim_batch(mailing_id)
    worker.finish(reports=map(rejected, worker.ids))
    return mailing_id


def check_retried(fleet: Fleet, mailing_id: int, applied: bool = False) -> None:
    """Assert that the requested retry happens and the mailing finishes only after it."""
    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["status"], mailing["settled"]) == ("running", False)
    assert fleet.apply_mailing_state(mailing_id) == (0 if applied else 1)
    assert fleet.settle_mailing(mailing_id) is None
    worker = fleet.claim_batch(mailing_id)
    worker.finish(worker.ids)
    assert fleet.settle_mailing(mailing_id) == "finished"
    assert fleet.count_statuses(mailing_id) == {"sent": 1}


def test_report_about_what_was_lost_changes_nothing(fleet: Fleet) -> None:
    """After a failover to a standby that was behind, a worker may hold what does not exist."""
    mailing_id = fleet.add_launched_mailing(1)
    worker = fleet.claim_batch(mailing_id)
    lost = mailing_id + 1000
    release = BatchRelease(wait_for_window=True)
    for mailing, batch_id in ((lost, 7), (mailing_id, worker.batch_id + 1000)):
        report = BatchReport(mailing, batch_id, 1, 1, [(5, 0.0)], [rejected(6)], release)
        results = fleet.record_reports(report, worker.make_report(worker.ids))
        assert results[mailing, batch_id] == RecordedBatch(False, 0)
        worker.ids = []
    assert fleet.read_batch(mailing_id, worker.batch_id)["sent"] == 1
    assert fleet.settle_mailing(lost) is None
    assert fleet.apply_mailing_state(lost) == 0


def test_report_about_a_lost_message_changes_nothing(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    worker = fleet.claim_batch(mailing_id)
    recorded = worker.record([worker.ids[0], 5], [unknown(6), unknown(worker.ids[1])])
    assert recorded.pending == 1
    assert fleet.count_statuses(mailing_id) == {"sent": 1, "pending": 1}

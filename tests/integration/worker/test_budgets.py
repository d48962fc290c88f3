"""Budgets: what claims reserve, what is charged, and what happens when a budget is used up."""

import random
from collections.abc import Iterator
from datetime import time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from shared.db.budgets import POLICY_BUDGET, BudgetUse, read_budgets, store_budget
from shared.report.days import local_instant
from tests.support.fleet import FakeWorker, Fleet, make_attempt, rejected, unknown
from worker.dispatch.leased_batch import LeasedBatch, ReservationTooSmall
from worker.recording.batch_report import BatchRelease
from worker.recording.state_machine import MessageReport

ZONE = "Europe/Moscow"
TWO_SEGMENTS = "x" * 161


@pytest.fixture
def budgets(fleet: Fleet) -> Iterator["Budgets"]:
    fleet.query("UPDATE batches SET reserved = 0 WHERE reserved > 0")
    fleet.query("DELETE FROM minutes")  # of earlier tests: the policy's budget counts all mailings
    fleet.ignore_earlier_mailings()
    yield Budgets(fleet)
    fleet.check_totals()
    fleet.query("DELETE FROM budgets")
    fleet.query("DELETE FROM budget_days")


class Budgets:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def set(self, mailing_id: int = POLICY_BUDGET, **periods: int | None) -> None:
        """Set a budget by its segments a day and a month."""
        budget: dict[str, Any] = {name: {"segments": n} for name, n in periods.items() if n}
        with self.fleet.db.transaction() as cursor:
            store_budget(cursor, mailing_id, budget or None, price=None, timezone=ZONE)

    def use(self, mailing_id: int = POLICY_BUDGET) -> BudgetUse:
        with self.fleet.db.transaction() as cursor:
            (found,) = read_budgets(cursor, mailing_id)
        return found

    def spent_and_reserved(self, mailing_id: int = POLICY_BUDGET) -> tuple[int, int]:
        use = self.use(mailing_id)
        assert (use.day.spent, use.day.reserved) == (use.month.spent, use.month.reserved)
        return use.day.spent, use.day.reserved

    def pause_reason(self, mailing_id: int) -> str | None:
        reason: str | None = self.fleet.read_mailing(mailing_id)["pause_reason"]
        return reason

    def make_due(self, mailing_id: int) -> None:
        self.fleet.query(
            "UPDATE batches SET due_at = now() WHERE mailing_id = %s AND pending > 0", mailing_id
        )


def test_a_claim_reserves_and_acceptances_are_charged(fleet: Fleet, budgets: Budgets) -> None:
    mailing_id = fleet.add_launched_mailing(5, text=TWO_SEGMENTS)
    budgets.set(day=100)
    budgets.set(mailing_id, month=50)
    worker = fleet.claim_batch(mailing_id)
    for key in (POLICY_BUDGET, mailing_id):
        assert budgets.spent_and_reserved(key) == (0, 10)
    worker.record(worker.ids[:2])
    assert budgets.spent_and_reserved() == (4, 6)
    # Refused messages cost nothing; one in doubt may have been delivered.
    worker.finish(reports=[rejected(worker.ids[2]), unknown(worker.ids[3])])
    assert budgets.spent_and_reserved() == (6, 0)
    # What was charged is not reserved again, and not charged again.
    budgets.make_due(mailing_id)
    again = fleet.claim_batch(mailing_id)
    assert budgets.spent_and_reserved() == (6, 2)
    again.finish(again.ids)
    for key in (POLICY_BUDGET, mailing_id):
        assert budgets.spent_and_reserved(key) == (8, 0)


def make_due(fleet: Fleet) -> None:
    """Skip the second for which a claim that a budget has prevented is put behind others."""
    fleet.query("UPDATE batches SET due_at = now() WHERE pending > 0 AND leased_until IS NULL")


def test_the_first_messages_that_fit_are_sent_and_the_mailing_pauses(
    fleet: Fleet, budgets: Budgets
) -> None:
    mailing_id = fleet.add_launched_mailing(10, text=TWO_SEGMENTS)
    budgets.set(day=7)
    ids = [row[0] for row in fleet.query("SELECT id FROM messages ORDER BY id")][-10:]
    worker = fleet.claim_batch(mailing_id)
    assert worker.ids == ids[:3]
    assert budgets.spent_and_reserved() == (0, 6)
    # While its own messages are on their way it is not paused.
    assert fleet.try_claim_batch(mailing_id) is None
    assert budgets.pause_reason(mailing_id) is None
    worker.finish(worker.ids)
    make_due(fleet)
    assert fleet.try_claim_batch(mailing_id) is None
    assert budgets.pause_reason(mailing_id) == "budget"
    assert budgets.spent_and_reserved() == (6, 0)
    assert fleet.count_statuses(mailing_id) == {"sent": 3, "pending": 7}
    # A text that was not sent yet can still be changed.
    assert not fleet.query_value(
        "SELECT count(*) FROM batches WHERE mailing_id = %s AND pending > 0"
        " AND text_version IS NOT NULL",
        mailing_id,
    )
    budgets.set(day=100)
    fleet.query("UPDATE mailings SET status = 'running' WHERE id = %s", mailing_id)
    make_due(fleet)
    last = fleet.claim_batch(mailing_id)
    assert last.ids == ids[3:]
    last.finish(last.ids)
    assert fleet.settle_mailing(mailing_id) == "finished"
    assert budgets.spent_and_reserved() == (20, 0)


def test_released_reservations_are_used_by_others(fleet: Fleet, budgets: Budgets) -> None:
    first, second = (fleet.add_launched_mailing(3) for _ in range(2))
    budgets.set(day=3)
    worker = fleet.claim_batch(first)
    # The other waits: what is reserved may be released.
    assert fleet.try_claim_batch(second) is None
    assert budgets.pause_reason(second) is None
    worker.finish(worker.ids[:1], map(rejected, worker.ids[1:]))
    make_due(fleet)
    other = fleet.claim_batch(second)
    assert len(other.ids) == 2
    other.finish(other.ids)
    assert fleet.try_claim_batch(second) is None
    assert (budgets.pause_reason(first), budgets.pause_reason(second)) == (None, "budget")
    assert budgets.spent_and_reserved() == (3, 0)


@pytest.mark.parametrize("status", ["paused", "running"])
def test_a_dead_workers_reservation_of_a_paused_mailing_is_not_waited_for(
    fleet: Fleet, budgets: Budgets, status: str
) -> None:
    """No worker claims its batch, so nothing would end the reservation."""
    first, second = (fleet.add_launched_mailing(3) for _ in range(2))
    budgets.set(day=3)
    fleet.claim_batch(first)
    fleet.expire_lease(first)
    fleet.query("UPDATE mailings SET status = %s, pause_reason = %s WHERE id = %s", status,
        "manual" if status == "paused" else None, first)  # fmt: skip
    assert fleet.try_claim_batch(second) is None
    assert budgets.pause_reason(second) == ("budget" if status == "paused" else None)
    if status == "running":
        fleet.claim_batch(first)  # marks what may have been sent in doubt
        make_due(fleet)
        assert fleet.try_claim_batch(second) is None
        assert budgets.pause_reason(second) == "budget"


def test_a_claim_without_room_is_put_behind_a_dead_workers_batch(
    fleet: Fleet, budgets: Budgets
) -> None:
    mailing_id = fleet.add_launched_mailing(6, batch_size=3)
    budgets.set(day=3)
    dead = fleet.claim_batch(mailing_id)
    fleet.expire_lease(mailing_id, dead.batch_id)
    fleet.query(
        "UPDATE batches SET due_at = due_at - interval '1 minute'"
        " WHERE mailing_id = %s AND id <> %s",
        mailing_id,
        dead.batch_id,
    )
    # The first batch finds no room, again and again: the one that holds the room comes first then.
    assert fleet.try_claim_batch(mailing_id) is None
    taken_over = fleet.try_claim_batch(mailing_id)
    assert taken_over is not None
    assert taken_over.batch_id == dead.batch_id
    taken_over.finish(taken_over.ids)
    make_due(fleet)
    assert fleet.try_claim_batch(mailing_id) is None
    assert budgets.pause_reason(mailing_id) == "budget"


@pytest.mark.parametrize("seed", [1, 2])
def test_mailings_that_share_a_tight_budget_all_go_on_until_it_is_used_up(
    fleet: Fleet, budgets: Budgets, seed: int
) -> None:
    """Workers claim, report, and die in any order: no mailing waits for ever."""
    chance, limit = random.Random(seed), 40
    mailings = [
        fleet.add_launched_mailing(12, batch_size=4, text="x" * n) for n in (10, 161, 400)
    ]  # of 1, 2 and 3 segments: 72 in all
    budgets.set(day=limit)
    held: list[FakeWorker] = []

    def is_done(mailing_id: int) -> bool:
        stopped = budgets.pause_reason(mailing_id) == "budget"
        return stopped or "pending" not in fleet.count_statuses(mailing_id)

    for _ in range(400):
        # Time passes, without a change of the order.
        fleet.query("UPDATE batches SET due_at = due_at - interval '1 second' WHERE pending > 0")
        if held and chance.random() < 0.5:
            worker = held.pop(chance.randrange(len(held)))
            if chance.random() < 0.2:
                fleet.expire_lease(worker.mailing_id, worker.batch_id)
            else:
                refused, *others = worker.ids
                worker.finish(others[:-1], [rejected(refused), *map(unknown, others[-1:])])
        elif (claimed := fleet.try_claim_batch(chance.choice(mailings))) is not None:
            held.append(claimed)
        spent, reserved = budgets.spent_and_reserved()
        assert spent + reserved <= limit
        if not held and all(map(is_done, mailings)):
            break
    assert all(map(is_done, mailings)), budgets.use()
    assert budgets.spent_and_reserved()[0] > limit - 3, "less than a message of each was left"


def test_a_takeover_charges_what_the_dead_worker_may_have_sent(
    fleet: Fleet, budgets: Budgets
) -> None:
    mailing_id = fleet.add_launched_mailing(6, text="{name|Dear client}" + "x" * 150)
    fleet.query('UPDATE clients SET attributes = \'{"name": "Анна"}\' WHERE id % 2 = 0')
    budgets.set(day=9)
    worker = fleet.claim_batch(mailing_id)
    reserved = budgets.spent_and_reserved()[1]
    assert 0 < reserved <= 9
    fleet.expire_lease(mailing_id)
    again = fleet.claim_batch(mailing_id)
    assert budgets.spent_and_reserved() == (reserved, 0)
    assert again.ids == worker.ids  # a repeat is charged no more
    again.finish(again.ids)
    assert budgets.spent_and_reserved() == (reserved, 0)


def test_a_text_that_has_become_longer_waits_for_the_next_claim(
    fleet: Fleet, budgets: Budgets
) -> None:
    mailing_id = fleet.add_launched_mailing(2, text="{name|Dear client}" + "x" * 70)
    budgets.set(day=10)
    claimed = fleet.claim_batch(mailing_id).claim
    with fleet.db.transaction() as cursor:
        fleet.clock.read(cursor)
    batch = LeasedBatch(claimed, fleet.clock, 40.0, 11.0)
    first, second = claimed.rows
    batch.render_text(first)
    with pytest.raises(ReservationTooSmall):
        batch.render_text(second._replace(values={"name": "Анна"}))
    # Messages that became pending after the claim have no reservation.
    batch.replace_rows([second, second._replace(message_id=second.message_id + 1)], 0.0)
    assert list(batch.rows) == [second]


def test_a_cancelled_message_in_flight_stays_reserved(fleet: Fleet, budgets: Budgets) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    budgets.set(month=2)
    worker = fleet.claim_batch(mailing_id)
    fleet.cancel_mailing(mailing_id)
    fleet.apply_mailing_state(mailing_id)
    assert budgets.spent_and_reserved() == (0, 2)
    worker.record(worker.ids[:1], release=BatchRelease())
    assert budgets.spent_and_reserved() == (1, 0)


def test_days_and_months_are_those_of_the_time_zone(fleet: Fleet, budgets: Budgets) -> None:
    today = fleet.query_value("SELECT (now() AT TIME ZONE %s)::date", ZONE)
    instants = {
        start - timedelta(minutes=minutes): 10**n
        for n, (start, minutes) in enumerate(
            (local_instant(day, time(), ZONE), minutes)
            for day in {today, today.replace(day=1)}
            for minutes in (0, 1)
        )
    }
    for instant, segments in instants.items():
        fleet.query("INSERT INTO minutes VALUES (999999, %s, 0, 'sent', 0, %s)", instant, segments)
    budgets.set(day=10**6, month=10**6)
    use = budgets.use()
    days = {instant.astimezone(ZoneInfo(ZONE)).date(): 0 for instant in instants}
    for instant, segments in instants.items():
        days[instant.astimezone(ZoneInfo(ZONE)).date()] += segments
    assert use.day.spent == days[today]
    month = (today.year, today.month)
    assert use.month.spent == sum(n for day, n in days.items() if (day.year, day.month) == month)


def test_a_new_budget_counts_what_was_sent_before(fleet: Fleet, budgets: Budgets) -> None:
    mailing_id = fleet.add_launched_mailing(6)
    worker = fleet.claim_batch(mailing_id)
    worker.record(worker.ids[:2])
    before = fleet.query_value("SELECT sum(sent_segments + in_doubt_segments) FROM minutes")
    budgets.set(day=before + 1)
    assert budgets.spent_and_reserved() == (before, 0)
    worker.finish(worker.ids[2:3])  # claimed before the budget was set
    assert budgets.spent_and_reserved() == (before + 1, 0)
    assert fleet.try_claim_batch(mailing_id) is None
    assert budgets.pause_reason(mailing_id) == "budget"


def test_a_new_budget_counts_what_older_versions_sent_as_a_segment_each(
    fleet: Fleet, budgets: Budgets
) -> None:
    """They counted messages and no segments. A message has one at least."""
    mailing_id = fleet.add_launched_mailing(3, text=TWO_SEGMENTS)
    worker = fleet.claim_batch(mailing_id)
    worker.finish(worker.ids)
    forget = "UPDATE minutes SET sent_segments = %s WHERE mailing_id = %s AND status = 'sent'"
    fleet.query(forget, 0, mailing_id)
    budgets.set(day=100)
    assert budgets.spent_and_reserved() == (3, 0)
    fleet.query(forget, 6, mailing_id)
    budgets.set(day=100)
    assert budgets.spent_and_reserved() == (6, 0)


def test_attempts_repeat_a_text_with_its_segments(fleet: Fleet, budgets: Budgets) -> None:
    mailing_id = fleet.add_launched_mailing(1, text="{name|x}")
    budgets.set(day=10)
    worker = fleet.claim_batch(mailing_id)
    attempt = make_attempt("unavailable", text=TWO_SEGMENTS)
    worker.finish(reports=[MessageReport(worker.ids[0], counts_attempt=True, attempt=attempt)])
    budgets.make_due(mailing_id)
    again = fleet.claim_batch(mailing_id)
    assert budgets.spent_and_reserved() == (0, 2)
    again.finish(again.ids)
    assert budgets.spent_and_reserved() == (2, 0)

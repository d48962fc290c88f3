"""A dispatcher holds a mailing as soon as its own answers break the rule, and asks the others."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from shared.domain.statuses import MessageStatus
from shared.domain.stop_rule import AnswerCounts, StopRule
from shared.domain.templates import compile_template
from worker.dispatch.brake import Brake
from worker.dispatch.claimed_batch import ClaimedBatch
from worker.dispatch.db_thread import DatabaseThread
from worker.dispatch.leased_batch import LeasedBatch
from worker.dispatch.state import DispatchState
from worker.recording.braking import Judgement
from worker.recording.state_machine import AttemptRecord, MessageReport
from worker.runtime.clock import DatabaseClock, boottime

RULE = StopRule(0.5, 10)
NONE = AnswerCounts()


class Judges:
    """In place of the database thread: keeps each question until the test answers it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Callable[..., None], list[int]]] = []

    def submit(self, callback: Callable[..., None], function: Any, ids: list[int]) -> None:
        self.asked.append((callback, ids))

    def answer(self, status: str, total: AnswerCounts = NONE) -> None:
        callback, ids = self.asked.pop(0)
        callback({id_: Judgement(status, RULE, total, total) for id_ in ids}, None)

    def fail(self) -> None:
        callback, _ = self.asked.pop(0)
        callback(None, ValueError("a defect"))


class Worker:
    """A brake with one batch of a mailing with RULE, or with none."""

    def __init__(self, rule: StopRule | None = RULE) -> None:
        self.judges, self.state, self.rule = Judges(), DispatchState(), rule
        self.brake = Brake(cast(DatabaseThread, self.judges), self.state)
        self.batch = self.add_batch(1)

    def add_batch(self, batch_id: int) -> LeasedBatch:
        claim = ClaimedBatch(
            mailing_id=1,
            batch_id=batch_id,
            token=1,
            attempt=0,
            first_id=1,
            last_id=1,
            timezone="UTC",
            has_attempts=False,
            taken_over=False,
            end_at=datetime.now(UTC) + timedelta(hours=1),
            rate_limit=None,
            request_id=None,
            text="Hello",
            window=None,
            template=compile_template("Hello"),
            lease_start=boottime(),
            stop_when=None if self.rule is None else dict(self.rule._asdict()),
        )
        batch = LeasedBatch(claim, DatabaseClock(), 20.0, 11.0)
        self.brake.add_batch(batch)
        self.state.add_batch(batch)
        return batch

    def answer(self, accepted: int, refused: int, outcome: str = "rejected") -> None:
        for id_ in range(accepted):
            self.batch.add_accepted(id_, 0.0)
        attempt = AttemptRecord(0.0, outcome, "http_422", 422, 1, "", 7, "Hello")
        for id_ in range(refused):
            failed = MessageStatus.FAILED
            report = MessageReport(id_, final_status=failed, attempt=attempt)
            self.batch.add_report(report)
        self.brake.check()

    def flush(self) -> None:
        self.brake.start_flush([self.batch.make_report(0.0, last=False)])
        self.brake.end_flush()

    def flushes_now(self) -> bool:
        return self.brake.flush_now

    def hurries(self) -> bool:
        return self.brake.hurry

    def holds(self) -> bool:
        return self.batch.deadline == 0.0


def test_a_broken_rule_holds_all_batches_until_the_mailing_is_judged() -> None:
    worker = Worker()
    worker.answer(5, 4)
    assert not worker.holds()
    worker.answer(0, 1)
    assert worker.holds()
    assert worker.flushes_now()
    claimed_meanwhile = worker.add_batch(2)
    assert claimed_meanwhile.deadline == 0.0
    worker.flush()
    assert not worker.flushes_now()
    worker.judges.answer("running", AnswerCounts(100, 5))
    assert not worker.holds()
    assert claimed_meanwhile.deadline > 0.0


def test_a_paused_mailing_is_drained() -> None:
    worker = Worker()
    worker.answer(0, 10)
    worker.flush()
    worker.judges.answer("paused", AnswerCounts(0, 10))
    assert worker.batch.drain_reason == "paused"


def test_answers_of_all_workers_and_those_not_read_yet_are_added() -> None:
    worker = Worker()
    worker.answer(0, 2)
    worker.flush()
    worker.judges.answer("running", AnswerCounts(4, 4))
    worker.answer(0, 1)
    assert not worker.holds(), "5 of 9"
    worker.flush()  # not judged yet
    worker.answer(0, 1)
    assert worker.holds(), "6 of 10"


def test_a_failed_judgement_keeps_the_mailing_held_until_the_next() -> None:
    worker = Worker()
    worker.answer(0, 10)
    worker.flush()
    worker.judges.fail()
    assert worker.holds()
    assert not worker.flushes_now(), "the usual flush asks again"
    worker.flush()
    worker.judges.answer("running", AnswerCounts(100, 10))
    assert not worker.holds()


def test_many_refusals_hurry_the_next_flush() -> None:
    worker = Worker(StopRule(0.5, 1_000))
    worker.answer(100, 20)
    assert not worker.hurries()
    worker.answer(0, 20)
    assert worker.hurries()
    worker.flush()
    assert not worker.hurries()


def test_without_a_rule_nothing_is_held_nor_asked() -> None:
    worker = Worker(None)
    worker.answer(0, 1_000)
    worker.flush()
    assert not worker.holds()
    assert not worker.judges.asked


def test_other_failures_are_no_refusals() -> None:
    worker = Worker()
    worker.answer(0, 50, "throttled")
    worker.answer(0, 50, "unavailable")
    assert not worker.holds()
    assert not worker.hurries()

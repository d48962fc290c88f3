"""When a dispatcher records outcomes: at least twice a second, whatever else it records."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from shared.domain.templates import compile_template
from tests.support.journals import make_results
from worker.dispatch.brake import Brake
from worker.dispatch.claimed_batch import ClaimedBatch
from worker.dispatch.db_thread import DatabaseThread
from worker.dispatch.flusher import GATHER_SECONDS, Flusher
from worker.dispatch.journal import DatabaseIdentity, Journal
from worker.dispatch.leased_batch import LeasedBatch
from worker.dispatch.state import DispatchState
from worker.provider.circuit_breaker import CircuitBreaker
from worker.recording.batch_report import BatchReport, RecordedBatch
from worker.recording.isolation import record_or_isolate
from worker.runtime.clock import DatabaseClock


class SlowDatabaseThread:
    """Records reports 30 ms after they were submitted, by the test's clock."""

    def __init__(self) -> None:
        self.flushes: list[tuple[float, list[BatchReport]]] = []
        self.now = 1000.0
        self._calls: list[tuple[float, Callable[..., None], list[BatchReport]]] = []

    def submit(self, callback: Callable[..., None], function: Any, *arguments: Any) -> None:
        if function is record_or_isolate:
            self.flushes.append((self.now, list(arguments[0])))
            self._calls.append((self.now + 0.03, callback, arguments[0]))

    def deliver_results(self) -> None:
        while self._calls and self._calls[0][0] <= self.now:
            _, callback, reports = self._calls.pop(0)
            callback({(r.mailing_id, r.batch_id): RecordedBatch(True, 1) for r in reports}, None)


class ClosedBreaker:
    """A circuit breaker that allows everything."""

    retry_at = 0.0

    def allowance(self, now: float) -> None:
        return None


def make_flusher(
    journal: Journal | None = None,
) -> tuple[SlowDatabaseThread, DispatchState, Flusher]:
    thread, state = SlowDatabaseThread(), DispatchState()
    breaker = cast(CircuitBreaker, ClosedBreaker())
    brake = Brake(cast(DatabaseThread, thread), state)
    flusher = Flusher(cast(DatabaseThread, thread), state, breaker, brake, 20.0, 5, journal)
    return thread, state, flusher


def add_batch(state: DispatchState, mailing_id: int, batch_id: int, now: float) -> LeasedBatch:
    """Add a batch that has no messages left, so that it is done."""
    claim = ClaimedBatch(
        mailing_id=mailing_id,
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
        lease_start=now,
    )
    batch = LeasedBatch(claim, DatabaseClock(), 20.0, 11.0)
    state.add_batch(batch)
    return batch


@pytest.mark.parametrize("done_every", [0.02, 0.1, 0.3, 0.39, 2.0])
def test_a_batch_in_flight_is_recorded_while_other_batches_finish(done_every: float) -> None:
    thread, state, flusher = make_flusher()
    slow = add_batch(state, 1, 1, thread.now)
    slow.in_flight = 1  # it never finishes
    next_done, batch_id, ends = thread.now, 100, thread.now + 10
    while thread.now < ends:
        thread.deliver_results()
        if thread.now >= next_done:
            next_done, batch_id = thread.now + done_every, batch_id + 1
            add_batch(state, 2, batch_id, thread.now)
        slow.add_accepted(1, thread.now)
        flusher.flush(thread.now)
        thread.now += 0.005
    times = [at for at, reports in thread.flushes if any(r.batch_id == 1 for r in reports)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) >= 20
    assert max(gaps) < 0.5


def test_finished_batches_are_released_together_and_the_last_one_at_once() -> None:
    thread, state, flusher = make_flusher()
    slow = add_batch(state, 1, 1, thread.now)
    slow.in_flight = 1
    flusher.flush(thread.now)
    thread.now += 0.04
    thread.deliver_results()
    for batch_id in (2, 3):
        add_batch(state, 1, batch_id, thread.now)
        flusher.flush(thread.now)
    assert len(thread.flushes) == 1
    thread.now += GATHER_SECONDS
    flusher.flush(thread.now)
    assert {r.batch_id for r in thread.flushes[1][1]} == {2, 3}
    thread.now += 0.04
    thread.deliver_results()
    slow.in_flight = 0
    flusher.flush(thread.now)
    assert {r.batch_id for r in thread.flushes[2][1]} == {1}


def test_journal_is_emptied_by_a_flush_that_leaves_nothing_unrecorded(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, DatabaseIdentity(1, 2), reserve=5, capacity=10)
    thread, state, flusher = make_flusher(journal)
    slow = add_batch(state, 1, 1, thread.now)
    slow.in_flight = 1
    flusher.flush(thread.now)
    thread.now += 0.04
    thread.deliver_results()

    def accept(batch: LeasedBatch, count: int) -> None:
        journal.append(make_results(range(count), batch.key))
        for id_ in range(count):
            batch.add_accepted(id_, thread.now)

    accept(slow, 3)
    done = add_batch(state, 1, 3, thread.now)
    accept(done, 3)
    assert not flusher.can_record(thread.now), "a full journal lets nothing be sent"
    thread.now += GATHER_SECONDS
    flusher.flush(thread.now)
    assert {r.batch_id for r in thread.flushes[-1][1]} == {3}
    thread.now += 0.04
    thread.deliver_results()
    assert not journal.is_empty, "the other batch has unrecorded acceptances"
    thread.now += 0.4
    flusher.flush(thread.now)
    journal.append(make_results([99], slow.key))  # accepted while the flush is running
    thread.now += 0.04
    thread.deliver_results()
    assert flusher.can_record(thread.now)
    assert not journal.is_empty
    journal.mark_recorded(journal.position)
    journal.close()

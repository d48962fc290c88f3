"""When what is known is written down: at least twice a second, whatever else there is to record."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from shared.domain.templates import compile_template
from worker.dispatch.claim_queries import Claim
from worker.dispatch.db_thread import Clerk
from worker.dispatch.flusher import GATHER_SECONDS, Recorder
from worker.dispatch.leased_batch import Hand, HeldBatch
from worker.provider.circuit_breaker import CircuitBreaker
from worker.recording.batch_report import BatchReport, RecordedBatch
from worker.recording.record import record_reports
from worker.runtime.clock import DatabaseClock


class SlowClerk:
    """Records what it is asked to 30 ms later, by the test's clock."""

    def __init__(self) -> None:
        self.flushes: list[tuple[float, list[BatchReport]]] = []
        self.now = 1000.0
        self._asked: list[tuple[float, Callable[..., None], list[BatchReport]]] = []

    def ask(self, then: Callable[..., None], what: Any, *arguments: Any) -> None:
        if what is record_reports:
            self.flushes.append((self.now, list(arguments[0])))
            self._asked.append((self.now + 0.03, then, arguments[0]))

    def deliver(self) -> None:
        while self._asked and self._asked[0][0] <= self.now:
            _, then, flushes = self._asked.pop(0)
            then({(f.mailing_id, f.batch_id): RecordedBatch(True, 1) for f in flushes}, None)


class OpenDoor:
    """A breaker that lets everything pass."""

    retry_at = 0.0

    def allowance(self, now: float) -> None:
        return None


def hold(hand: Hand, mailing_id: int, batch_id: int, now: float) -> HeldBatch:
    end = datetime.now(UTC) + timedelta(hours=1)
    claim = Claim(
        mailing_id, batch_id, 1, 0, 1, 1, "UTC", False, 1, "Hello", compile_template("Hello"),
        end, None, None, None, now, [],
    )  # fmt: skip
    batch = hand.held[mailing_id, batch_id, 1] = HeldBatch(claim, DatabaseClock(), 20.0, 11.0)
    return batch


@pytest.mark.parametrize("done_every", [0.02, 0.1, 0.3, 0.39, 2.0])
def test_a_batch_at_work_is_recorded_while_others_get_done(done_every: float) -> None:
    clerk, hand = SlowClerk(), Hand()
    recorder = Recorder(cast(Clerk, clerk), hand, cast(CircuitBreaker, OpenDoor()), 20.0, 5)
    slow = hold(hand, 1, 1, clerk.now)
    slow.in_flight = 1  # something of it is out all the time
    next_done, others, ends = clerk.now, 100, clerk.now + 10
    while clerk.now < ends:
        clerk.deliver()
        if clerk.now >= next_done:
            next_done, others = clerk.now + done_every, others + 1
            hold(hand, 2, others, clerk.now)  # with nothing left: done
        slow.accept(1, clerk.now)
        recorder.flush(clerk.now)
        clerk.now += 0.005
    times = [at for at, flushes in clerk.flushes if any(f.batch_id == 1 for f in flushes)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) >= 20
    assert max(gaps) < 0.5


def test_batches_that_are_done_are_given_back_together_but_the_last_one_at_once() -> None:
    clerk, hand = SlowClerk(), Hand()
    recorder = Recorder(cast(Clerk, clerk), hand, cast(CircuitBreaker, OpenDoor()), 20.0, 5)
    hold(hand, 1, 1, clerk.now).in_flight = 1
    recorder.flush(clerk.now)
    clerk.now += 0.04
    clerk.deliver()
    for batch_id in (2, 3):
        hold(hand, 1, batch_id, clerk.now)
        recorder.flush(clerk.now)
    assert len(clerk.flushes) == 1
    clerk.now += GATHER_SECONDS
    recorder.flush(clerk.now)
    assert {f.batch_id for f in clerk.flushes[1][1]} == {2, 3}
    clerk.now += 0.04
    clerk.deliver()
    hand.held[1, 1, 1].in_flight = 0
    recorder.flush(clerk.now)
    assert {f.batch_id for f in clerk.flushes[2][1]} == {1}

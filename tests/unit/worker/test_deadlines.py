"""Until when a leased batch may send: the lease, the window or the end, whichever is soonest."""

from datetime import UTC, datetime, time, timedelta

import pytest

from shared.domain.send_windows import Window
from shared.domain.templates import compile_template
from worker.dispatch.claimed_batch import ClaimedBatch
from worker.dispatch.leased_batch import LeasedBatch
from worker.dispatch.watch import MailingSnapshot
from worker.runtime.clock import DatabaseClock, boottime

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LEASE, MARGIN = 20.0, 11.0
HOUR = timedelta(hours=1)


@pytest.fixture
def read_at() -> float:
    """The end of the tenth of a second in which the database's clock was read."""
    return boottime()


@pytest.fixture
def clock(read_at: float) -> DatabaseClock:
    """A database clock that shows NOW."""
    clock = DatabaseClock()
    clock.observe(NOW, read_at - 0.1, read_at)
    return clock


def lease(
    clock: DatabaseClock,
    end_at: datetime = NOW + HOUR,
    window: Window | None = None,
    end_margin: float = 0.0,
) -> LeasedBatch:
    claim = ClaimedBatch(
        mailing_id=1,
        batch_id=1,
        token=1,
        attempt=0,
        first_id=1,
        last_id=1,
        timezone="UTC",
        has_attempts=False,
        taken_over=False,
        end_at=end_at,
        rate_limit=None,
        request_id=None,
        text="Hello",
        window=window,
        template=compile_template("Hello"),
        lease_start=boottime(),
    )
    return LeasedBatch(claim, clock, LEASE, MARGIN, end_margin)


def test_nothing_is_sent_in_the_margin_before_the_lease_ends(clock: DatabaseClock) -> None:
    batch = lease(clock)
    ends = batch.claim.lease_start + LEASE - MARGIN
    assert batch.deadline == pytest.approx(ends, abs=0.01)
    assert batch.check_deadline(ends - 0.1)
    assert not batch.check_deadline(ends + 0.1)
    assert batch.drain_reason is None, "the lease may yet be renewed"


def test_a_renewal_counts_from_the_start_of_its_transaction(clock: DatabaseClock) -> None:
    batch = lease(clock)
    started_at = batch.claim.lease_start + 5
    batch.renew_lease(started_at)
    assert batch.deadline == pytest.approx(started_at + LEASE - MARGIN, abs=0.01)


def test_the_deadline_is_when_the_end_may_have_come_at_the_earliest(
    clock: DatabaseClock, read_at: float
) -> None:
    batch = lease(clock, end_at=NOW + timedelta(seconds=3))
    # The reading is up to a tenth of a second old, so the end may come that much sooner.
    assert batch.deadline == pytest.approx(read_at + 2.9, abs=0.01)
    assert not batch.check_deadline(batch.deadline)
    assert batch.drain_reason == "ended"


def test_nothing_is_sent_in_the_margin_before_the_end(clock: DatabaseClock, read_at: float) -> None:
    batch = lease(clock, end_at=NOW + timedelta(seconds=8), end_margin=5.0)
    assert batch.deadline == pytest.approx(read_at + 2.9, abs=0.01)
    assert not batch.check_deadline(batch.deadline)
    assert batch.drain_reason == "ended"
    assert batch.late_after > read_at + 7.8, "late means after the end, not after the margin"


def test_a_closing_window_drains_the_batch(clock: DatabaseClock, read_at: float) -> None:
    batch = lease(clock, window=Window(time(9), time(12, 0, 4)))
    assert batch.deadline == pytest.approx(read_at + 3.9, abs=0.01)
    assert not batch.check_deadline(batch.deadline)
    assert batch.drain_reason == "window"


def test_nothing_is_sent_outside_the_window(clock: DatabaseClock) -> None:
    batch = lease(clock, window=Window(time(13), time(14)))
    assert not batch.check_deadline(boottime())
    assert batch.drain_reason == "window"


def test_changes_of_the_mailing_are_applied(clock: DatabaseClock, read_at: float) -> None:
    batch = lease(clock)
    batch.update_mailing(MailingSnapshot("running", NOW + timedelta(seconds=2), 5, None), clock)
    assert batch.deadline < read_at + 2
    assert batch.rate_limit == 5
    batch.update_mailing(MailingSnapshot("paused", NOW + HOUR, None, None), clock)
    assert batch.drain_reason == "paused"

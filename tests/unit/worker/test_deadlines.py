"""Until when something of a held batch may leave: the lease, the window, the end, the soonest."""

from datetime import UTC, datetime, time, timedelta

import pytest

from shared.domain.send_windows import Window
from shared.domain.templates import compile_template
from worker.dispatch.claim_queries import Claim, Watched
from worker.dispatch.leased_batch import HeldBatch
from worker.runtime.clock import DatabaseClock, boottime

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LEASE, MARGIN = 20.0, 11.0
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> DatabaseClock:
    """A database whose clock shows NOW, read within a tenth of a second of ours."""
    clock = DatabaseClock()
    clock.observe(NOW, boottime() - 0.1, boottime())
    return clock


def hold(
    clock: DatabaseClock, end_at: datetime = NOW + HOUR, window: Window | None = None
) -> HeldBatch:
    claim = Claim(
        mailing_id=1,
        batch_id=1,
        token=1,
        attempt=0,
        first_id=1,
        last_id=1,
        timezone="UTC",
        has_attempts=False,
        text_version=1,
        text="Hello",
        template=compile_template("Hello"),
        end_at=end_at,
        window=window,
        rate_limit=None,
        request_id=None,
        lease_start=boottime(),
        rows=[],
    )
    return HeldBatch(claim, clock, LEASE, MARGIN)


def test_nothing_leaves_in_the_margin_before_the_lease_ends(clock: DatabaseClock) -> None:
    batch = hold(clock)
    ends = batch.claim.lease_start + LEASE - MARGIN
    assert batch.deadline == pytest.approx(ends, abs=0.01)
    assert batch.check_deadline(ends - 0.1)
    assert not batch.check_deadline(ends + 0.1)
    assert batch.draining is None, "the lease may yet be renewed"


def test_a_renewal_counts_from_before_it_was_asked_for(clock: DatabaseClock) -> None:
    batch = hold(clock)
    asked_at = batch.claim.lease_start + 5
    batch.renew(asked_at)
    assert batch.deadline == pytest.approx(asked_at + LEASE - MARGIN, abs=0.01)


def test_the_end_is_judged_by_the_latest_it_can_be(clock: DatabaseClock) -> None:
    batch = hold(clock, end_at=NOW + timedelta(seconds=3))
    # The reading is up to a tenth of a second old: the end may have come that much sooner.
    assert boottime() + 2.8 < batch.deadline < boottime() + 2.95
    assert not batch.check_deadline(batch.deadline)
    assert batch.draining == "ended"


def test_a_window_that_closes_stops_the_batch(clock: DatabaseClock) -> None:
    batch = hold(clock, window=Window(time(9), time(12, 0, 4)))
    assert boottime() + 3.8 < batch.deadline < boottime() + 3.95
    assert not batch.check_deadline(batch.deadline)
    assert batch.draining == "window"


def test_a_window_that_is_shut_lets_nothing_leave(clock: DatabaseClock) -> None:
    batch = hold(clock, window=Window(time(13), time(14)))
    assert not batch.check_deadline(boottime())
    assert batch.draining == "window"


def test_what_changes_about_the_mailing_is_taken_in(clock: DatabaseClock) -> None:
    batch = hold(clock)
    batch.watch(Watched("running", NOW + timedelta(seconds=2), None, 5), clock)
    assert batch.deadline < boottime() + 2
    assert batch.rate_limit == 5
    batch.watch(Watched("paused", NOW + HOUR, None, None), clock)
    assert batch.draining == "paused"

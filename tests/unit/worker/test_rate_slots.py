"""How a worker uses its slots, and converts the server's clock to its own."""

import math

import pytest

from worker.provider.rate_slots import (
    MAX_CLOCK_DRIFT,
    PACE,
    SLOT_SECONDS,
    ServerClock,
    SlotBucket,
    slot_interval,
)


def exact_clock(offset: float = 0.0) -> ServerClock:
    clock = ServerClock()
    clock.observe(0.0, offset, offset)
    return clock


def make_bucket(count: int, first: float = 1.0, interval: float = 0.01) -> SlotBucket:
    bucket = SlotBucket()
    bucket.add_slots(count, (first, interval), (first, interval), exact_clock())
    return bucket


def test_a_slot_is_usable_from_its_time_until_it_dies() -> None:
    bucket = make_bucket(1)
    assert bucket.acquire(0.999) == 0.0
    assert bucket.usable_from(0.999) == 1.0
    assert bucket.acquire(1.0) == 1.0 + SLOT_SECONDS
    assert bucket.acquire(1.0) == 0.0
    assert make_bucket(1).acquire(1.0 + SLOT_SECONDS) == 0.0


def test_dead_slots_are_skipped_and_counted() -> None:
    bucket = make_bucket(10)
    assert bucket.acquire(1.075) == pytest.approx(1.03 + SLOT_SECONDS)
    assert bucket.expired == 3


def test_a_message_under_two_limits_needs_both_slots_alive() -> None:
    bucket = SlotBucket()
    bucket.add_slots(2, (1.0, 0.001), (1.02, 0.01), exact_clock())
    assert list(bucket.slots) == [
        (1.02, 1.0 + SLOT_SECONDS),
        (pytest.approx(1.03), pytest.approx(1.001 + SLOT_SECONDS)),
    ]


def test_uncertainty_about_the_servers_clock_shortens_a_slot() -> None:
    clock = ServerClock()
    clock.observe(100.0, 5.000, 5.010)
    bucket = SlotBucket()
    bucket.add_slots(1, (101.0, 1.0), (101.0, 1.0), clock)
    ((begins, ends),) = bucket.slots
    assert begins == pytest.approx(6.010)
    assert ends == pytest.approx(6.000 + SLOT_SECONDS)


def test_a_slow_round_trip_keeps_earlier_bounds() -> None:
    clock = ServerClock()
    clock.observe(100.0, 5.0000, 5.0002)
    clock.observe(101.0, 5.9500, 6.0400)
    assert clock.earliest == pytest.approx(-95.0 - MAX_CLOCK_DRIFT, abs=1e-3)
    assert clock.latest == pytest.approx(-94.9998 + MAX_CLOCK_DRIFT, abs=1e-3)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_the_clock_of_another_server_is_adopted_at_once(step: float) -> None:
    clock = ServerClock()
    clock.observe(100.0, 5.0, 5.001)
    clock.observe(101.0 + step, 6.0, 6.001)
    assert clock.earliest == pytest.approx(-95.0 - step)


def test_a_worker_requests_fewer_slots_after_some_died_and_then_more_again() -> None:
    bucket = make_bucket(100)
    assert bucket.shortfall(1000, 0.9) == 900
    for _ in range(20):
        bucket.acquire(1.0 + bucket.used * 0.01)
    bucket.usable_from(9.0)
    assert (bucket.used, bucket.expired) == (20, 80)
    requested = []
    for _ in range(20):
        requested.append(bucket.shortfall(1000, 9.0))
        bucket.start_period()
    assert requested[0] == 50
    assert requested == sorted(requested)
    assert requested[-1] == 1000


def test_a_worker_that_used_no_slot_still_requests_one() -> None:
    bucket = make_bucket(1)
    bucket.usable_from(9.0)
    assert bucket.shortfall(1000, 9.0) == 1


def test_no_limit_has_no_interval() -> None:
    assert slot_interval(None) == 0.0
    assert slot_interval(100) == pytest.approx(10_000 / PACE)
    assert math.isfinite(slot_interval(0.001))

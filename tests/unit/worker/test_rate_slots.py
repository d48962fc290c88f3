"""What a worker does with the slots it was given, and with a clock that is not its own."""

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


def exact(offset: float = 0.0) -> ServerClock:
    clock = ServerClock()
    clock.observe(0.0, offset, offset)
    return clock


def bucket_with(count: int, first: float = 1.0, interval: float = 0.01) -> SlotBucket:
    bucket = SlotBucket()
    bucket.add_slots(count, (first, interval), (first, interval), exact())
    return bucket


def test_a_slot_is_used_from_its_time_until_its_life_is_over() -> None:
    bucket = bucket_with(1)
    assert bucket.acquire(0.999) == 0.0
    assert bucket.usable_from(0.999) == 1.0
    assert bucket.acquire(1.0) == 1.0 + SLOT_SECONDS
    assert bucket.acquire(1.0) == 0.0
    assert bucket_with(1).acquire(1.0 + SLOT_SECONDS) == 0.0


def test_dead_slots_are_passed_over_and_counted() -> None:
    bucket = bucket_with(10)
    assert bucket.acquire(1.075) == pytest.approx(1.03 + SLOT_SECONDS)
    assert bucket.expired == 3


def test_two_limits_admit_while_both_slots_are_alive() -> None:
    bucket = SlotBucket()
    bucket.add_slots(2, (1.0, 0.001), (1.02, 0.01), exact())
    assert list(bucket.slots) == [
        (1.02, 1.0 + SLOT_SECONDS),
        (pytest.approx(1.03), pytest.approx(1.001 + SLOT_SECONDS)),
    ]


def test_uncertainty_about_the_servers_clock_only_shortens_a_slot() -> None:
    clock = ServerClock()
    clock.observe(100.0, 5.000, 5.010)
    bucket = SlotBucket()
    bucket.add_slots(1, (101.0, 1.0), (101.0, 1.0), clock)
    ((begins, ends),) = bucket.slots
    assert begins == pytest.approx(6.010)
    assert ends == pytest.approx(6.000 + SLOT_SECONDS)


def test_a_slow_round_trip_spoils_nothing_that_was_known() -> None:
    clock = ServerClock()
    clock.observe(100.0, 5.0000, 5.0002)
    clock.observe(101.0, 5.9500, 6.0400)
    assert clock.earliest == pytest.approx(-95.0 - MAX_CLOCK_DRIFT, abs=1e-3)
    assert clock.latest == pytest.approx(-94.9998 + MAX_CLOCK_DRIFT, abs=1e-3)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_another_servers_clock_is_believed_at_once(step: float) -> None:
    clock = ServerClock()
    clock.observe(100.0, 5.0, 5.001)
    clock.observe(101.0 + step, 6.0, 6.001)
    assert clock.earliest == pytest.approx(-95.0 - step)


def test_who_lets_slots_die_asks_for_fewer_and_then_for_more_again() -> None:
    bucket = bucket_with(100)
    assert bucket.shortfall(1000, 0.9) == 900
    for _ in range(20):
        bucket.acquire(1.0 + bucket.used * 0.01)
    bucket.usable_from(9.0)
    assert (bucket.used, bucket.expired) == (20, 80)
    asked = []
    for _ in range(20):
        asked.append(bucket.shortfall(1000, 9.0))
        bucket.start_period()
    assert asked[0] == 50
    assert asked == sorted(asked)
    assert asked[-1] == 1000


def test_who_uses_nothing_still_asks_for_one() -> None:
    bucket = bucket_with(1)
    bucket.usable_from(9.0)
    assert bucket.shortfall(1000, 9.0) == 1


def test_no_limit_has_no_interval() -> None:
    assert slot_interval(None) == 0.0
    assert slot_interval(100) == pytest.approx(10_000 / PACE)
    assert math.isfinite(slot_interval(0.001))

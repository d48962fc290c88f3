"""What a worker does with the slots it was given, and with a clock that is not its own."""

import math

import pytest

from worker.provider.rate_slots import DRIFT, LIFE, PACE, Bucket, ServerClock, interval_of


def exact(offset: float = 0.0) -> ServerClock:
    clock = ServerClock()
    clock.observe(0.0, offset, offset)
    return clock


def bucket_with(count: int, first: float = 1.0, interval: float = 0.01) -> Bucket:
    bucket = Bucket()
    bucket.add(count, (first, interval), (first, interval), exact())
    return bucket


def test_a_slot_is_used_from_its_time_until_its_life_is_over() -> None:
    bucket = bucket_with(1)
    assert bucket.take(0.999) == 0.0
    assert bucket.head(0.999) == 1.0
    assert bucket.take(1.0) == 1.0 + LIFE
    assert bucket.take(1.0) == 0.0
    assert bucket_with(1).take(1.0 + LIFE) == 0.0


def test_dead_slots_are_passed_over_and_counted() -> None:
    bucket = bucket_with(10)
    assert bucket.take(1.075) == pytest.approx(1.03 + LIFE)
    assert bucket.expired == 3


def test_two_limits_admit_while_both_slots_are_alive() -> None:
    bucket = Bucket()
    bucket.add(2, (1.0, 0.001), (1.02, 0.01), exact())
    assert list(bucket.slots) == [
        (1.02, 1.0 + LIFE),
        (pytest.approx(1.03), pytest.approx(1.001 + LIFE)),
    ]


def test_uncertainty_about_the_servers_clock_only_shortens_a_slot() -> None:
    clock = ServerClock()
    clock.observe(100.0, 5.000, 5.010)
    bucket = Bucket()
    bucket.add(1, (101.0, 1.0), (101.0, 1.0), clock)
    ((begins, ends),) = bucket.slots
    assert begins == pytest.approx(6.010)
    assert ends == pytest.approx(6.000 + LIFE)


def test_a_slow_round_trip_spoils_nothing_that_was_known() -> None:
    clock = ServerClock()
    clock.observe(100.0, 5.0000, 5.0002)
    clock.observe(101.0, 5.9500, 6.0400)
    assert clock.earliest == pytest.approx(-95.0 - DRIFT, abs=1e-3)
    assert clock.latest == pytest.approx(-94.9998 + DRIFT, abs=1e-3)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_another_servers_clock_is_believed_at_once(step: float) -> None:
    clock = ServerClock()
    clock.observe(100.0, 5.0, 5.001)
    clock.observe(101.0 + step, 6.0, 6.001)
    assert clock.earliest == pytest.approx(-95.0 - step)


def test_who_lets_slots_die_asks_for_fewer_and_then_for_more_again() -> None:
    bucket = bucket_with(100)
    assert bucket.missing(1000, 0.9) == 900
    for _ in range(20):
        bucket.take(1.0 + bucket.used * 0.01)
    bucket.head(9.0)
    assert (bucket.used, bucket.expired) == (20, 80)
    asked = []
    for _ in range(20):
        asked.append(bucket.missing(1000, 9.0))
        bucket.settle()
    assert asked[0] == 50
    assert asked == sorted(asked)
    assert asked[-1] == 1000


def test_who_uses_nothing_still_asks_for_one() -> None:
    bucket = bucket_with(1)
    bucket.head(9.0)
    assert bucket.missing(1000, 9.0) == 1


def test_no_limit_has_no_interval() -> None:
    assert interval_of(None) == 0.0
    assert interval_of(100) == pytest.approx(10_000 / PACE)
    assert math.isfinite(interval_of(0.001))

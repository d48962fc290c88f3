"""The number of requests in flight adapts to simulated providers, in simulated time."""

import heapq
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import pytest

from worker.provider.concurrency_limit import CAP_SECONDS, FLOOR, PROBE_SECONDS, START
from worker.provider.concurrency_limit import ConcurrencyLimit as Limit

# The instant and the requests in flight → latency, and why the request failed (empty: it did not).
Provider = Callable[[float, int], tuple[float, str]]

LATENCY = 0.05
HOLD_SECONDS = 3.0  # how long nothing is sent after a 429


class Run(NamedTuple):
    """What came of a simulated run."""

    rate: float  # messages processed per second, in its last third
    limits: list[int]  # of each worker at the end
    reductions: list[tuple[float, str]]  # instants and reasons
    most_in_flight: int


def simulate(
    provider: Provider,
    seconds: float = 30.0,
    *,
    most: int = 1000,
    workers: int = 1,
    max_rate: float | None = None,
) -> Run:
    """Let workers with endless work send to a provider."""
    clock, in_flight, held_until, processed, max_in_flight = 0.0, 0, 0.0, 0, 0
    reductions: list[tuple[float, str]] = []
    limits = [
        Limit(most, lambda old, new, reason: reductions.append((clock, reason)))
        for _ in range(workers)
    ]
    for limit in limits:
        limit.resume(0.0)
    own = [0] * workers
    latencies: list[list[float]] = [[] for _ in limits]
    cycles, unfilled = [0] * workers, [0] * workers
    answers: list[tuple[float, int, int, float, str]] = []
    next_slot, number = 0.0, 0
    while clock < seconds:
        for worker, limit in enumerate(limits):
            while own[worker] < limit.limit and clock >= held_until and clock >= next_slot:
                latency, failure = provider(clock, in_flight)
                number += 1
                heapq.heappush(answers, (clock + latency, number, worker, latency, failure))
                own[worker] += 1
                in_flight += 1
                max_in_flight = max(max_in_flight, in_flight)
                if max_rate is not None:
                    next_slot = max(next_slot, clock - 0.05) + 1 / max_rate
            cycles[worker] += 1
            unfilled[worker] += own[worker] < limit.limit
        wait_until = max(held_until, next_slot)
        if not answers or clock < wait_until < answers[0][0]:
            clock = wait_until
            continue
        at, _, worker, latency, failure = heapq.heappop(answers)
        clock = max(clock, at)
        own[worker] -= 1
        in_flight -= 1
        sent = failure != "connection_refused"
        if sent:
            latencies[worker].append(latency)
        if failure:
            limits[worker].record_failure(failure, clock, clock - latency, sent=sent)
            if failure == "throttled":
                held_until = clock + HOLD_SECONDS
        elif clock > seconds * 2 / 3:
            processed += 1
        for n, limit in enumerate(limits):
            if clock >= limit.judge_at:
                measured = latencies[n]
                limit.judge(clock, len(measured), sum(measured), unfilled[n] / max(cycles[n], 1))
                latencies[n] = []
                cycles[n] = unfilled[n] = 0
    return Run(
        processed / (seconds / 3), [each.limit for each in limits], reductions, max_in_flight
    )


def vary(latency: float, random: Random) -> float:
    return latency * random.uniform(0.9, 1.1)


def make_waiting(capacity: int, latency: float = LATENCY) -> Provider:
    """Above the capacity, requests wait for their turn."""
    random, places = Random(1), [0.0] * capacity

    def provider(now: float, in_flight: int) -> tuple[float, str]:
        end = max(now, heapq.heappop(places)) + vary(latency, random)
        heapq.heappush(places, end)
        return end - now, ""

    return provider


def make_failing(capacity: int, failure: str) -> Provider:
    """Above the capacity, requests fail at once."""
    random, ends = Random(1), list[float]()

    def provider(now: float, in_flight: int) -> tuple[float, str]:
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        if len(ends) >= capacity:
            return 0.001, failure
        latency = vary(LATENCY, random)
        heapq.heappush(ends, now + latency)
        return latency, ""

    return provider


def make_slowing(capacity: int) -> Provider:
    """The rate is highest with as many in flight as the capacity, and falls above."""
    random = Random(1)
    return lambda now, in_flight: (vary(LATENCY, random) * (1 + (in_flight / capacity) ** 2), "")


def make_unreliable(share: float, failure: str) -> Provider:
    random = Random(1)
    return lambda now, in_flight: (
        vary(LATENCY, random),
        failure if random.random() < share else "",
    )


@pytest.mark.parametrize("capacity", [50, 500])
@pytest.mark.parametrize("latency", [LATENCY, 0.5])
def test_a_queue_at_the_provider_stays_short(capacity: int, latency: float) -> None:
    run = simulate(make_waiting(capacity, latency), 15 + 60 * latency)
    assert run.rate > 0.9 * capacity / latency
    assert run.limits[0] < 1.4 * capacity


def test_a_provider_of_great_capacity_gets_as_many_requests_as_permitted() -> None:
    run = simulate(make_waiting(5_000), 9.0)
    assert run.limits[0] in (800, 1000)  # now and then fewer are tried
    assert run.rate > 0.9 * 1000 / LATENCY
    assert run.most_in_flight <= 1000


def test_a_thousand_are_in_flight_within_three_seconds() -> None:
    assert simulate(make_waiting(5_000), 3.0).limits == [1000]


def test_a_limit_of_ten_thousand_is_followed() -> None:
    run = simulate(make_waiting(3_000, 0.5), 18.0, most=10_000)
    assert run.rate > 0.9 * 3_000 / 0.5
    assert run.limits[0] < 1.4 * 3_000


@pytest.mark.parametrize("capacity", [10, 50, 150])
def test_a_provider_that_throttles_is_seldom_asked_for_more(capacity: int) -> None:
    run = simulate(make_failing(capacity, "throttled"), 58.0)
    assert run.rate > 0.7 * capacity / LATENCY
    assert run.limits[0] <= capacity
    assert len(run.reductions) <= 5
    assert {reason for _, reason in run.reductions} == {"throttled"}
    assert not [at for at, _ in run.reductions if at > 30]


@pytest.mark.parametrize("capacity", [50, 500])
@pytest.mark.parametrize("failure", ["connection_refused", "timeout"])
def test_refused_connections_and_timeouts_halve_the_limit(capacity: int, failure: str) -> None:
    run = simulate(make_failing(capacity, failure))
    assert run.rate > 0.7 * capacity / LATENCY
    assert run.limits[0] <= capacity
    assert {reason for _, reason in run.reductions} == {failure}


def test_errors_above_the_capacity_are_no_throughput() -> None:
    run = simulate(make_failing(50, "http_503"), 12.0)
    assert run.rate > 0.9 * 50 / LATENCY
    assert run.limits[0] <= 1.5 * 50


@pytest.mark.parametrize("capacity", [50, 300])
def test_a_provider_that_slows_down_under_load_keeps_its_best_rate(capacity: int) -> None:
    best = capacity / (2 * LATENCY)
    run = simulate(make_slowing(capacity))
    assert run.rate > 0.8 * best
    assert run.limits[0] <= capacity


@pytest.mark.parametrize(("share", "failure"), [(0.02, "timeout"), (0.1, "http_500")])
def test_failures_of_a_few_requests_do_not_lower_the_limit(share: float, failure: str) -> None:
    run = simulate(make_unreliable(share, failure), 9.0)
    assert run.limits[0] in (800, 1000)


def test_a_higher_latency_that_is_not_due_to_load_keeps_the_limit() -> None:
    random = Random(1)
    run = simulate(lambda now, _: (vary(LATENCY if now < 4 else 0.2, random), ""), 9.0)
    assert [reason for _, reason in run.reductions] == ["latency", "latency"]
    assert run.limits[0] in (800, 1000)


def test_a_lower_capacity_is_followed_down_and_up() -> None:
    high, low = make_waiting(300), make_waiting(50)
    during: list[int] = []

    def provider(now: float, in_flight: int) -> tuple[float, str]:
        if 8 < now < 12:
            during.append(in_flight)
        return (low if 4 < now < 12 else high)(now, in_flight)

    run = simulate(provider, 30.0)
    assert max(during) < 2 * 50
    assert run.rate > 0.8 * 300 / LATENCY


@pytest.mark.parametrize("workers", [2, 6])
def test_workers_share_a_provider(workers: int) -> None:
    """Each gets a larger share of the provider if it sends more, and none does so for long."""
    capacity = 60 * workers
    run = simulate(make_waiting(capacity), 40.0, workers=workers)
    assert run.rate > 0.9 * capacity / LATENCY
    assert sum(run.limits) < 1.8 * capacity
    assert min(run.limits) > 0.2 * capacity / workers


def test_a_rate_limit_does_not_raise_the_number_in_flight() -> None:
    run = simulate(make_waiting(5_000), max_rate=300.0)
    assert run.rate == pytest.approx(300, rel=0.05)
    assert run.limits == [START]
    assert run.most_in_flight <= START


@pytest.mark.parametrize("most", [1, 3, 64])
def test_the_setting_is_never_exceeded(most: int) -> None:
    run = simulate(make_waiting(5_000), 10.0, most=most)
    assert run.most_in_flight == most
    assert run.limits[0] >= min(FLOOR, most)


def test_little_work_leaves_the_limit_as_it_is() -> None:
    limit = Limit(1000)
    limit.resume(0.0)
    now = 0.0
    for _ in range(50):
        now = limit.judge_at
        limit.judge(now, 5, 5 * LATENCY, 1.0)
    assert limit.limit == START


def test_one_burst_of_throttled_requests_halves_once() -> None:
    limit = Limit(1000)
    limit.resume(0.0)
    for n in range(40):
        limit.record_failure("throttled", 1.0 + n / 1000, 0.9, sent=True)
    assert limit.limit == START // 2


def test_the_floor_is_kept() -> None:
    limit = Limit(1000)
    limit.resume(0.0)
    for n in range(20):
        limit.record_failure("throttled", n * 10.0, n * 10.0, sent=True)
    assert limit.limit == FLOOR


def test_missing_descriptors_restrict_the_limit_for_a_while() -> None:
    reductions: list[tuple[int, int, str]] = []
    limit = Limit(1000, lambda *reduction: reductions.append(reduction))
    limit.resume(0.0)
    limit.restrict(20, 0.0)
    assert (limit.limit, reductions) == (20, [(START, 20, "open_files")])
    now = 0.0
    while now < CAP_SECONDS - PROBE_SECONDS:
        now = limit.judge_at
        limit.judge(now, 400, 400 * LATENCY, 0.0)
        assert limit.limit <= 20
    while now < 2 * CAP_SECONDS:
        now = limit.judge_at
        limit.judge(now, 400, 400 * LATENCY, 0.0)
    assert limit.limit > 20


def test_a_job_continues_with_the_limit_of_the_last_one_within_a_minute() -> None:
    limit = Limit(1000)
    limit.resume(0.0)
    limit.judge(limit.judge_at, 0, 0.0, 0.0)
    limit.record_failure("throttled", 1.0, 1.0, sent=True)
    limit.resume(30.0)
    assert limit.limit == START // 2
    limit.resume(100.0)
    assert limit.limit == START

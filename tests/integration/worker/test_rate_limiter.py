"""The rate limiter across real processes with one Valkey: when each message is sent."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from redis import Redis

from dev.stack.services import Valkey
from worker.provider.rate_limiter import FLEET_KEY, RateLimiter
from worker.provider.redis_client import FailFastRedis, sending_loop_client
from worker.runtime.clock import boottime

ROOT = pathlib.Path(__file__).parents[3]

# The share of a rate that must be reached here. On a machine that is busy with other tests a worker
# may miss some slots; over ten seconds in the long form of the chaos suite it must be 95 %.
REACH = 0.8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.remove()


@pytest.fixture
def valkey(server: Valkey) -> Valkey:
    """Empty and running."""
    clear(server)
    return server


def clear(valkey: Valkey) -> None:
    """Start it if it is down, and empty it."""
    if valkey.pid is None:
        valkey.start()
    Redis.from_url(valkey.url).flushall()


class TooSlow(AssertionError):
    """Less was done in a time than could have been."""


def assert_reached(count: int, least: float) -> None:
    if count < least:
        raise TooSlow(f"{count} were sent, at least {least:.0f} expected")


def up_to_three_runs(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test again that was too slow: the machine may have stood still, the limiter may not.

    What must never be exceeded is asserted in each run.
    """

    @functools.wraps(test)
    def runs(valkey: Valkey, **parameters: Any) -> None:
        for run in (1, 2, 3):
            try:
                return test(valkey, **parameters)
            except TooSlow:
                if run == 3:
                    raise
                clear(valkey)

    return runs


class Fleet:
    """Worker processes that send as fast as they may, and the messages they sent."""

    def __init__(self, valkey: Valkey, seconds: float, rate: float | None,
                 *mailings: Mapping[int, float | None], max_rate: float = 0) -> None:  # fmt: skip
        """`mailings`: those of each worker; `max_rate`: messages/s that the first one can send."""
        self.seconds = seconds
        self.workers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.rate_worker", valkey.url,
                 str(seconds), str(rate), repr(demand), str(max_rate if i == 0 else 0)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            )
            for i, demand in enumerate(mailings)
        ]  # fmt: skip
        for worker in self.workers:
            assert worker.stdout
            assert worker.stdout.readline() == "ready\n"
        self.began = boottime() + 0.05
        for worker in self.workers:
            assert worker.stdin
            worker.stdin.write(f"{self.began}\n")
            worker.stdin.flush()

    def wait_until(self, second: float) -> None:
        time.sleep(max(0.0, self.began + second - boottime()))

    def arrivals(self) -> list[tuple[float, int, int]]:
        """Return (second, mailing, worker) of every message sent, in order."""
        seen = []
        for number, worker in enumerate(self.workers):
            out, _ = worker.communicate(timeout=self.seconds + 20)
            assert worker.returncode == 0
            for line in out.splitlines():
                at, mailing = line.split()
                seen.append((float(at) - self.began, int(mailing), number))
        return sorted(seen)


def max_in_window(times: list[float], length: float = 1.0) -> int:
    """Return the most arrivals in any window [t, t + length)."""
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - length:
            first += 1
        most = max(most, last - first + 1)
    return most


def assert_never_above(times: list[float], rate: float) -> None:
    assert max_in_window(times) <= 1.05 * rate + 1


def count_between(times: list[float], begin: float, end: float) -> int:
    return sum(begin <= at < end for at in times)


@pytest.mark.parametrize(("rate", "workers"), [(20, 3), (1000, 1), (1000, 4), (8000, 2)])
@up_to_three_runs
def test_the_fleet_reaches_its_rate_and_never_exceeds_it(
    valkey: Valkey, rate: float, workers: int
) -> None:
    seen = Fleet(valkey, 3.0, rate, *[{1: None}] * workers).arrivals()
    times = [at for at, _, _ in seen]
    assert_never_above(times, rate)
    assert_reached(count_between(times, 0.5, 3.0), REACH * rate * 2.5)
    if rate >= 1000:
        shares = Counter(worker for _, _, worker in seen)
        assert_reached(min(shares[worker] for worker in range(workers)), 0.6 * len(seen) / workers)


@up_to_three_runs
def test_a_mailing_with_a_low_rate_does_not_slow_another(valkey: Valkey) -> None:
    demand = {1: None, 2: 10.0, 3: 100.0}
    seen = Fleet(valkey, 4.0, 1000, demand, demand).arrivals()
    of = {mailing: [at for at, m, _ in seen if m == mailing] for mailing in demand}
    assert_never_above([at for at, _, _ in seen], 1000)
    for mailing, rate in ((2, 10), (3, 100)):
        assert_never_above(of[mailing], rate)
    assert_reached(count_between([at for at, _, _ in seen], 0.5, 3.5), REACH * 1000 * 3)
    for mailing, rate in ((2, 10), (3, 100)):
        assert_reached(count_between(of[mailing], 0.5, 3.5), 0.9 * rate * 3)
    assert_reached(count_between(of[1], 0.5, 3.5), REACH * 890 * 3)


@up_to_three_runs
def test_a_mailing_at_its_limit_wastes_no_slots_of_the_fleet(valkey: Valkey) -> None:
    seen = Fleet(valkey, 3.0, 500, {2: 5.0}, {1: None}).arrivals()
    assert_never_above([at for at, m, _ in seen if m == 2], 5)
    assert_never_above([at for at, _, _ in seen], 500)
    assert_reached(count_between([at for at, m, _ in seen if m == 1], 0.5, 2.5), REACH * 495 * 2)


@up_to_three_runs
def test_mailing_limits_hold_without_a_fleet_limit(valkey: Valkey) -> None:
    demand = {1: 300.0, 2: 2.0}
    seen = Fleet(valkey, 3.0, None, demand, demand).arrivals()
    of = {mailing: [at for at, m, _ in seen if m == mailing] for mailing in demand}
    for mailing, rate in demand.items():
        assert_never_above(of[mailing], rate)
    for mailing, rate in demand.items():
        assert_reached(count_between(of[mailing], 1.0, 3.0), REACH * rate * 2 - 1)


@up_to_three_runs
def test_the_unused_share_of_a_slow_worker_goes_to_the_others(valkey: Valkey) -> None:
    seen = Fleet(valkey, 4.0, 1000, {1: None}, {1: None}, max_rate=100).arrivals()
    times = [at for at, _, _ in seen]
    assert_never_above(times, 1000)
    assert_reached(count_between(times, 0.5, 3.5), 0.85 * 1000 * 3)


@up_to_three_runs
def test_a_suspended_worker_does_not_catch_up(valkey: Valkey) -> None:
    fleet = Fleet(valkey, 3.0, 1000, {1: None})
    (worker,) = fleet.workers
    for moment in (0.6, 1.3, 2.0):
        fleet.wait_until(moment)
        worker.send_signal(signal.SIGSTOP)
        fleet.wait_until(moment + 0.15)
        worker.send_signal(signal.SIGCONT)
    times = [at for at, _, _ in fleet.arrivals()]
    # Its slots are dead by then; a new grant reaches back 25 ms.
    for moment in (0.6, 1.3, 2.0):
        assert count_between(times, moment + 0.15, moment + 0.16) < 25 + 10 + 10
        assert_never_above([at for at in times if at >= moment + 0.14], 1000)
    assert_reached(count_between(times, 0.0, 3.0), 2000)


@pytest.mark.parametrize("rate", [5, 1000])
@up_to_three_runs
def test_flushall_grants_no_slot_twice(valkey: Valkey, rate: float) -> None:
    fleet = Fleet(valkey, 4.0, rate, {1: None}, {1: None, 2: 3.0})
    for moment in (1.0, 1.4, 2.2):
        fleet.wait_until(moment)
        Redis.from_url(valkey.url).flushall()
    seen = fleet.arrivals()
    times = [at for at, _, _ in seen]
    assert_never_above(times, rate)
    assert_never_above([at for at, m, _ in seen if m == 2], 3)
    assert_reached(count_between(times, 2.6, 4.0), 0.9 * rate * 1.4 - 1)


@up_to_three_runs
def test_nothing_is_sent_while_redis_is_away_and_sending_resumes_after(valkey: Valkey) -> None:
    fleet = Fleet(valkey, 5.0, 1000, {1: None}, {1: None})
    fleet.wait_until(1.5)
    valkey.kill()
    fleet.wait_until(2.5)
    valkey.start()
    times = [at for at, _, _ in fleet.arrivals()]
    assert_never_above(times, 1000)
    assert count_between(times, 1.65, 2.5) == 0
    assert_reached(count_between(times, 0.5, 1.4), 0.9 * 900)
    assert_reached(count_between(times, 3.7, 4.9), 0.9 * 1200)


@up_to_three_runs
def test_an_unresponsive_redis_blocks_the_loop_for_less_than_200_ms(valkey: Valkey) -> None:
    redis = FailFastRedis(sending_loop_client(valkey.url))
    limiter = RateLimiter(redis, 1000)
    limiter.refill({1: (None, 10)}, boottime())
    assert redis.available
    assert valkey.pid
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        began, blocked = boottime(), 0.0
        while (now := boottime()) < began + 1.5:
            limiter.refill({1: (None, 10)}, now)
            blocked = max(blocked, boottime() - now)
            time.sleep(0.02)
        available = redis.available
        assert (available, limiter.acquire(1, None, boottime())) == (False, 0.0)
        if blocked >= 0.2:
            raise TooSlow(f"the loop was blocked for {blocked:.3f} s")
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


@up_to_three_runs
def test_a_server_clock_that_was_set_back_does_not_stop_sending(valkey: Valkey) -> None:
    an_hour_ahead = int((time.time() + 3600) * 1e6)
    Redis.from_url(valkey.url).set(FLEET_KEY, an_hour_ahead)
    times = [at for at, _, _ in Fleet(valkey, 1.5, 100, {1: None}).arrivals()]
    assert_reached(count_between(times, 0.5, 1.5), 90)


def test_a_worker_makes_at_most_60_round_trips_a_second(valkey: Valkey) -> None:
    before = (
        Redis.from_url(valkey.url)
        .info("commandstats")
        .get("cmdstat_evalsha", {"calls": 0})["calls"]
    )
    Fleet(valkey, 2.0, 4000, {1: None, 2: 50.0}).arrivals()
    calls = Redis.from_url(valkey.url).info("commandstats")["cmdstat_evalsha"]["calls"] - before
    assert calls <= 2 * 60


def test_keys_expire(valkey: Valkey) -> None:
    Fleet(valkey, 0.3, 100, {1: None, 2: 50.0}).arrivals()
    names = {str(name) for name in Redis.from_url(valkey.url, decode_responses=True).keys("*")}
    assert names == {FLEET_KEY, f"{FLEET_KEY}:2"}
    assert all(0 < Redis.from_url(valkey.url).pttl(name) <= 70_000 for name in names)

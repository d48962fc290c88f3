"""Many mailings at once share the workers, and rate limits are kept."""

import time
from collections.abc import Iterator
from random import Random

import pytest
from redis import Redis

from tests.chaos.conftest import Observe
from tests.chaos.run_options import short_or_long
from tests.support.system import System
from tests.support.waiting import wait_for

RATE = 200


def test_small_mailings_do_not_wait_for_a_large_one(
    system: System, observe: Observe, rng: Random
) -> None:
    # With 64 in flight two workers send about 2,600 a second: the large mailing takes six seconds.
    system.provider.set(latency=0.05)
    with observe("20 mailings of very different sizes at once") as observer:
        large = observer.create_mailing(short_or_long(16_000, 60_000))
        observer.wait_for_requests(500)
        sizes = [rng.choice((1, 5, 20, 60, 150)) for _ in range(19)]
        small = {observer.create_mailing(size, starts_in=0.0): size for size in sizes}
        begins = dict(
            system.query("SELECT id, extract(epoch FROM created_at)::float8 FROM mailings")
        )
        for mailing, size in small.items():
            done = system.wait_finished(mailing, 15)
            assert done["counts"]["sent"] == size
        took = [
            max(row["at"] for row in observer.find_requests(mailing_id=mailing)) - begins[mailing]
            for mailing in small
        ]
        assert system.statistics(large)["status"] == "running", (
            "the large mailing was too small for this test"
        )
        observer.result.recovery_s = max(took)
        observer.result.details["slowest small mailing, s"] = round(max(took), 2)
        assert max(took) < 3
        done = system.wait_finished(large, 120)
        assert done["counts"]["sent"] == done["audience"]


@pytest.fixture
def limited(system: System) -> Iterator[System]:
    """The system with a provider rate of RATE messages a second."""
    for name in system.dispatchers:
        system[name].stop()
        system[name].env["PROVIDER_RATE"] = str(RATE)
        system[name].start()
    yield system
    for name in system.dispatchers:
        system[name].stop()
        del system[name].env["PROVIDER_RATE"]
        system[name].start()


def test_workers_together_keep_the_provider_rate(limited: System, observe: Observe) -> None:
    system = limited
    seconds = short_or_long(4, 12)
    with observe(f"PROVIDER_RATE={RATE} over two workers") as observer:
        slow = observer.create_mailing(short_or_long(30, 60), rate_limit=5)
        mailing = observer.create_mailing(RATE * (seconds + 5))
        wait_for(lambda: observer.count_requests(), 10, "the first message")
        time.sleep(seconds + 1.2)
        # Redis loses the slots it has granted, and is down for a while.
        Redis.from_url(system.valkey.url).flushall()
        time.sleep(0.5)
        system.valkey.kill()
        away = time.time()
        time.sleep(1.0)
        assert not observer.find_requests(away + 0.2), "requests without a granted slot"
        system.valkey.start()
        done = system.wait_finished(mailing, seconds * 4)
        assert done["counts"]["sent"] == done["audience"]
        finished = time.time()
        system.wait_finished(slow, 30)
        fast = sorted(row["at"] for row in observer.find_requests(mailing_id=mailing))
        both = [row["at"] for row in observer.find_requests() if row["at"] < finished]
        most = max_per_second(both)
        slow_most = max_per_second(row["at"] for row in observer.find_requests(mailing_id=slow))
        # Steady state: after the first second.
        begun = fast[0] + 1
        steady = sum(begun <= at < begun + seconds for at in both) / seconds
        observer.result.details |= {
            "most in a second": most,
            f"over {seconds} s": f"{steady:.1f}/s",
            "the one limited to 5/s": slow_most,
        }
        assert most <= 1.05 * RATE + 1
        assert slow_most <= 1.05 * 5 + 1
        # The short form runs beside other tests, which use the processor as well.
        assert steady >= short_or_long(0.8, 0.95) * RATE


def max_per_second(times: Iterator[float] | list[float]) -> int:
    """Return the highest number of requests within any second."""
    times = sorted(times)
    most, first = 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - 1:
            first += 1
        most = max(most, last - first + 1)
    return most

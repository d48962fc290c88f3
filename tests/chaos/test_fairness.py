"""Many mailings at once, and limits of speed: nobody waits for a bigger one, nobody is too fast."""

import time
from collections.abc import Iterator
from random import Random

import pytest
from redis import Redis

from tests.chaos.conftest import Watch
from tests.chaos.run_options import pick
from tests.support.system import System
from tests.support.waiting import wait_for

RATE = 200


def test_small_mailings_do_not_wait_for_a_large_one(
    system: System, watch: Watch, rng: Random
) -> None:
    # At 64 in flight and two workers that is some 2,600 a second: the large one takes six seconds.
    system.provider.set(latency=0.05)
    with watch("20 mailings of very different sizes at once") as witness:
        large = witness.mailing(pick(16_000, 60_000))
        witness.wait_received(500)
        sizes = [rng.choice((1, 5, 20, 60, 150)) for _ in range(19)]
        small = {witness.mailing(size, starts_in=0.0): size for size in sizes}
        begins = dict(
            system.query("SELECT id, extract(epoch FROM created_at)::float8 FROM mailings")
        )
        for mailing, size in small.items():
            done = system.wait_finished(mailing, 15)
            assert done["counts"]["sent"] == size
        took = [
            max(row["at"] for row in witness.arrivals(mailing_id=mailing)) - begins[mailing]
            for mailing in small
        ]
        assert system.statistics(large)["status"] == "running", "the large one was too small"
        witness.verdict.recovery_s = max(took)
        witness.verdict.notes["slowest small one, s"] = round(max(took), 2)
        assert max(took) < 3
        done = system.wait_finished(large, 120)
        assert done["counts"]["sent"] == done["audience"]


@pytest.fixture
def limited(system: System) -> Iterator[System]:
    """The fleet with a rate of RATE messages a second."""
    for name in system.dispatchers:
        system[name].stop()
        system[name].env["PROVIDER_RATE"] = str(RATE)
        system[name].start()
    yield system
    for name in system.dispatchers:
        system[name].stop()
        del system[name].env["PROVIDER_RATE"]
        system[name].start()


def test_the_fleet_keeps_to_its_rate(limited: System, watch: Watch) -> None:
    system = limited
    seconds = pick(4, 12)
    with watch(f"PROVIDER_RATE={RATE} over two workers") as witness:
        slow = witness.mailing(pick(30, 60), rate_limit=5)
        mailing = witness.mailing(RATE * (seconds + 5))
        wait_for(lambda: witness.received(), 10, "the first message")
        time.sleep(seconds + 1.2)
        # Redis forgets what it has granted, and is away for a while.
        Redis.from_url(system.valkey.url).flushall()
        time.sleep(0.5)
        system.valkey.kill()
        away = time.time()
        time.sleep(1.0)
        assert not witness.arrivals(away + 0.2), "nobody knows the rate, and yet something left"
        system.valkey.start()
        done = system.wait_finished(mailing, seconds * 4)
        assert done["counts"]["sent"] == done["audience"]
        finished = time.time()
        system.wait_finished(slow, 30)
        fast = sorted(row["at"] for row in witness.arrivals(mailing_id=mailing))
        both = [row["at"] for row in witness.arrivals() if row["at"] < finished]
        most = busiest_second(both)
        slow_most = busiest_second(row["at"] for row in witness.arrivals(mailing_id=slow))
        # Steady state: from its first second on.
        begun = fast[0] + 1
        steady = sum(begun <= at < begun + seconds for at in both) / seconds
        witness.verdict.notes |= {
            "most in a second": most,
            f"over {seconds} s": f"{steady:.1f}/s",
            "the one limited to 5/s": slow_most,
        }
        assert most <= 1.05 * RATE + 1
        assert slow_most <= 1.05 * 5 + 1
        # The short form runs beside other tests, which take turns of the processor away.
        assert steady >= pick(0.8, 0.95) * RATE


def busiest_second(arrivals: Iterator[float] | list[float]) -> int:
    """The most arrivals in any window of one second."""
    times = sorted(arrivals)
    most, first = 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - 1:
            first += 1
        most = max(most, last - first + 1)
    return most

"""Measure how requests in flight adapt: `python -m dev.bench.adaptation [--seconds N] [NAME…]`.

The simulated provider bears a number of messages at once and treats more in one of four ways. A
line shows the rate and the mean latency in the last third of the time, the rate's share of what the
provider can serve, and the number of requests in flight that was permitted, second by second.
"""

import argparse
import time
from typing import NamedTuple

from redis import Redis

from dev.bench.environment import BenchEnvironment
from dev.provider.capacity import Overload
from shared.fleet_status import FleetStatus, read_fleet_status

CLIENTS = 300_000


class Case(NamedTuple):
    """A provider: its latency, how many messages it serves at once, and what happens to more."""

    name: str
    latency: float
    capacity: int | None
    overload: Overload = Overload.WAIT
    workers: int = 1
    most: int | None = None  # PROVIDER_CONCURRENCY; None is the default

    @property
    def ideal(self) -> float | None:
        """The most messages per second that the provider can serve."""
        if self.capacity is None:
            return None
        # One that slows down answers in twice the time when its capacity is used.
        slower = 2 if self.overload is Overload.SLOW_DOWN else 1
        return self.capacity / self.latency / slower


CASES = (
    Case("50, more wait", 0.2, 50),
    Case("50, more get a 429", 0.2, 50, Overload.THROTTLE),
    Case("50, more are refused", 0.2, 50, Overload.REFUSE),
    Case("500, more wait", 0.2, 500),
    Case("500, more get a 429", 0.2, 500, Overload.THROTTLE),
    Case("500, more are refused", 0.2, 500, Overload.REFUSE),
    Case("5,000, more wait", 3.0, 5_000, most=10_000),
    Case("slows down from 100", 0.1, 100, Overload.SLOW_DOWN),
    Case("500, two workers", 0.2, 500, workers=2),
    Case("no limit, 50 ms", 0.05, None),
)


def measure(bench: BenchEnvironment, case: Case, seconds: float) -> None:
    """Send for some seconds; print what was reached in the last third of them."""
    bench.provider.set(
        latency={"min": case.latency * 0.9, "max": case.latency * 1.1},
        capacity=case.capacity,
        overload=case.overload,
    )
    bench.provider.clear_requests()
    redis = Redis.from_url(bench.valkey.url)
    with bench.dispatchers(case.workers, case.most):
        mailing_id = bench.create_mailing("bench")
        bench.wait_for(lambda: bench.provider.stats()["received"], 30, interval=0.05)
        began = time.monotonic()
        limits, middle = [], None
        while (elapsed := time.monotonic() - began) < seconds:
            if middle is None and elapsed > seconds * 2 / 3:
                middle = (elapsed, bench.provider.stats(), read_fleet_status(redis))
            limits.append(read_fleet_status(redis).concurrency_limit)
            time.sleep(1)
        elapsed = time.monotonic() - began
        end, status = bench.provider.stats(), read_fleet_status(redis)
    bench.http.post(f"{bench.api}/mailings/{mailing_id}/cancel", timeout=30).raise_for_status()
    bench.wait_settled(mailing_id)
    assert middle is not None  # noqa: S101
    rate = (end["accepted"] - middle[1]["accepted"]) / (elapsed - middle[0])
    share = "" if case.ideal is None else f"{100 * rate / case.ideal:.0f} %"
    latency = 1000 * _latency(middle[2], status)
    print(f"{case.name:<24} {rate:>7,.0f}/s {share:>5} {latency:>7,.0f} ms  {limits}", flush=True)
    print(f"{'':<24} not accepted: {end['refused']}", flush=True)


def _latency(before: FleetStatus, after: FleetStatus) -> float:
    """Return the mean latency between two readings."""
    answers = sum(
        value - before.counters.get(name, 0)
        for name, value in after.counters.items()
        if name.startswith("bucket:")
    )
    seconds = after.counters.get("seconds", 0.0) - before.counters.get("seconds", 0.0)
    return seconds / max(answers, 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.adaptation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=45.0, help="for each case (45)")
    parser.add_argument("names", nargs="*", help="the cases whose names begin so; all")
    options = parser.parse_args()
    with BenchEnvironment(provider="dev.provider") as bench:
        bench.add_clients(CLIENTS, "bench")
        for case in CASES:
            if not options.names or case.name.startswith(tuple(options.names)):
                measure(bench, case, options.seconds + 20 * case.latency)


if __name__ == "__main__":
    main()

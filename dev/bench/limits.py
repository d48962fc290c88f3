"""What the policy's rules cost while sending: all of them on, against all of them off.

`python -m dev.bench.limits [--messages N]` measures both in turn, as the machine's speed changes,
and compares the medians. `--first-message N` measures instead when the first message leaves of a
mailing to N clients that has an audience limit.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

from dev.bench.environment import BenchEnvironment, cpu_seconds
from dev.bench.figures import Figure, format_figure

REPEATS = 3
WORKERS = 2
# Rules that no mailing of the benchmark breaks.
EVERYTHING = {
    "max_audience": 10**9,
    "stop_when": {"refused_share": 0.5, "min_answers": 100},
    "budget": {"day": {"segments": 10**9}, "month": {"segments": 10**10}},
    "launch_delay": 1,
}
UNITS = {
    "rate": "messages/s",
    "worker CPU": "µs/message",
    "PostgreSQL CPU": "µs/message",
    "WAL": "bytes/message",
}


def measure_limits(bench: BenchEnvironment, messages: int) -> Iterator[Figure]:
    """Measure sending so many messages with all rules on and off."""
    bench.add_clients(messages, "limits")
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(REPEATS):
        for state, rules in (("off", {}), ("on", EVERYTHING)):
            _set_policy(bench, rules)
            for name, value in _measure_mailing(bench, messages).items():
                found.setdefault((name, state), []).append(value)
    _set_policy(bench, {})
    for name, unit in UNITS.items():
        off, on = (statistics.median(found[name, state]) for state in ("off", "on"))
        yield Figure(f"all rules off: {name}", off, unit)
        yield Figure(f"all rules on: {name}", on, unit)
        yield Figure(f"all rules on against off: {name}", on / off, "times")


def measure_first_message(bench: BenchEnvironment, recipients: int) -> Iterator[Figure]:
    """Measure the delay of the first message of a mailing with an audience limit."""
    bench.add_clients(recipients, "limited")
    bench.query("CHECKPOINT")
    _set_policy(bench, {"max_audience": 10**9})
    with bench.dispatchers(1):
        posted = time.time()
        mailing = bench.create_mailing("limited")
        bench.wait_for(lambda: bench.provider.summary()["received"], 1800)
        first = bench.provider.summary()["first_at"] - posted
    bench.http.post(f"{bench.api}/mailings/{mailing}/cancel", timeout=30)
    _set_policy(bench, {})
    yield Figure(f"first message, {recipients:,} with an audience limit", first, "s")
    yield Figure("recipients by then", recipients / first, "per second")


def _set_policy(bench: BenchEnvironment, rules: dict[str, Any]) -> None:
    answer = bench.http.put(
        f"{bench.api}/policy", json=rules, headers={"If-Match": "*"}, timeout=30
    )
    answer.raise_for_status()


def _measure_mailing(bench: BenchEnvironment, messages: int) -> dict[str, float]:
    bench.provider.clear_requests()
    bench.query("CHECKPOINT")
    with bench.dispatchers(WORKERS) as pids:
        before = sum(map(cpu_seconds, pids))
        database, wal = bench.postgres_cpu_seconds(), bench.wal_bytes()
        mailing = bench.send_mailing("limits")
        cpu = sum(map(cpu_seconds, pids)) - before
        database, wal = bench.postgres_cpu_seconds() - database, bench.wal_bytes() - wal
    return {
        "rate": bench.sending_rate(mailing),
        "worker CPU": cpu / messages * 1e6,
        "PostgreSQL CPU": database / messages * 1e6,
        "WAL": wal / messages,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.limits", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, metavar="N")
    parser.add_argument("--first-message", type=int, metavar="N")
    options = parser.parse_args()
    with BenchEnvironment() as bench:
        if options.first_message:
            figures = measure_first_message(bench, options.first_message)
        else:
            figures = measure_limits(bench, options.messages)
        for figure in figures:
            print(format_figure(figure), flush=True)


if __name__ == "__main__":
    main()

"""Measure how sending and the API scale with processes: `python -m dev.bench.scaling`.

On one machine all processes share its cores. A provider that takes time shows what workers add
where they wait for it; one that takes none shows what the cores give.
"""

from collections.abc import Iterator

from dev.bench.environment import BenchEnvironment, cpu_seconds
from dev.bench.figures import Figure, format_figure, measure_api

WORKERS = (1, 2, 4)
API_PROCESSES = (1, 2)
FAST_MESSAGES, SLOW_MESSAGES = 100_000, 12_800
SLOW_SECONDS = 0.05
API_SECONDS = 4.0


def measure_workers(bench: BenchEnvironment) -> Iterator[Figure]:
    """Measure 1, 2 and 4 dispatch workers, each with 64 requests in flight."""
    bench.add_clients(FAST_MESSAGES, "fast")
    bench.add_clients(SLOW_MESSAGES, "slow")
    for latency, tag, messages in (
        (SLOW_SECONDS, "slow", SLOW_MESSAGES),
        (0, "fast", FAST_MESSAGES),
    ):
        for workers in WORKERS:
            bench.provider.clear_requests()
            bench.provider.set(latency=latency)
            with bench.dispatchers(workers) as pids:
                before = sum(map(cpu_seconds, pids))
                mailing = bench.send_mailing(tag)
                cpu = sum(map(cpu_seconds, pids)) - before
            name = f"{workers} dispatch, provider takes {latency * 1000:.0f} ms"
            yield Figure(name, bench.sending_rate(mailing), "messages/s")
            yield Figure(f"{name}, CPU of workers", cpu / messages * 1e6, "µs/message")


def main() -> None:
    for processes in API_PROCESSES:
        with BenchEnvironment(api_processes=processes) as bench:
            if processes == API_PROCESSES[0]:
                for figure in measure_workers(bench):
                    print(format_figure(figure), flush=True)
            else:
                bench.add_clients(10, "ten")
            for figure in measure_api(bench, API_SECONDS):
                print(f"{processes} × API: {format_figure(figure)}", flush=True)


if __name__ == "__main__":
    main()

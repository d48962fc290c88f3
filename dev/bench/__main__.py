"""Run the benchmark and print its table: `python -m dev.bench [--quick | --long] [--json FILE]`."""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from dev.bench import figures
from dev.bench.environment import BenchEnvironment
from dev.bench.figures import Figure, format_figure
from dev.bench.limits import measure_limits
from dev.bench.small_mailings import measure_small_mailings
from dev.bench.waiting_mailings import measure_waiting_mailings


def measure(quick: bool, long: bool) -> Iterator[Figure]:
    """Yield every figure, in the order of the table."""
    messages, slow, clients = (30_000, 5_000, 60_000) if quick else (200_000, 60_000, 1_000_000)
    with BenchEnvironment() as bench:
        bench.add_clients(messages, "bench")
        # First, as the others keep PostgreSQL's vacuum busy for a while.
        yield from figures.measure_api(bench, 2 if quick else 10)
        yield from figures.measure_sending(bench, messages)
        bench.add_clients(slow, "slow")
        if not quick:
            yield from figures.measure_slow_provider(bench, messages)
            bench.add_clients(clients // 2, "other")
        bench.add_clients(clients // 2, "half")
        yield from figures.measure_launch(bench, clients)
        yield from figures.measure_statistics(bench, 1)
        yield from figures.measure_import(bench, 50_000 if quick else 1_000_000)
        if not quick:
            sizes = (10_000, 100_000, 1_000_000)
            for size in sizes:
                bench.add_clients(size, f"size-{size}")
            yield from figures.measure_growth(bench, sizes, 20_000_000)
            yield from measure_limits(bench, 100_000)
        directory, counts = (100_000, [100]) if quick else (3_000_000, [100, 2_000])
        yield from measure_small_mailings(bench, directory, [*counts, *([20_000] if long else [])])
        yield from measure_waiting_mailings(bench)
        if long:
            yield from figures.measure_large_launch(bench, 10_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes, about a minute")
    size.add_argument(
        "--long",
        action="store_true",
        help="also 20,000 small mailings, and one to 10,000,000 clients",
    )
    parser.add_argument("--json", type=Path, default=Path(".local/bench.json"), help="the results")
    options = parser.parse_args()
    machine = f"{os.cpu_count()} × {_processor_name()}, Python {platform.python_version()}"
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, {machine}\n", flush=True)
    measured = []
    for figure in measure(options.quick, options.long):
        measured.append(figure)
        print(format_figure(figure), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine,
        "figures": [{**figure._asdict(), "met": figure.met} for figure in measured],
    }
    options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False))


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()

"""The measurements: each function yields figures with their targets."""

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dev.bench import load
from dev.bench.environment import TOKEN, BenchEnvironment, cpu_seconds, list_children, resident_mb

# Short measurements are repeated, as the machine's speed changes.
REPEATS = 5


class Figure(NamedTuple):
    """One measured number; `target` is its lower limit (or its upper one, if `at_most`)."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def format_figure(figure: Figure) -> str:
    """Return one line of the table."""
    target = "" if figure.target is None else f"{'≤' if figure.at_most else '≥'} {figure.target:,g}"
    verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
    value = f"{figure.value:,.2f}" if figure.value < 100 else f"{figure.value:,.0f}"
    return f"{figure.name:<52} {value:>12} {figure.unit:<14} {target:>12} {verdict}"


def measure_bare_loop(bench: BenchEnvironment, processes: int, messages: int) -> float:
    """Return messages per second of bare libcurl loops side by side."""
    each = messages // processes
    loop = [sys.executable, "-m", "dev.bench.baseline", bench.provider.base_url, TOKEN]
    first_ids = [str(10**12 + n * each) for n in range(processes)]
    running = [
        subprocess.Popen([*loop, str(each), "64", first_id], stdout=subprocess.PIPE)  # noqa: S603
        for first_id in first_ids
    ]
    seconds = max(float(p.communicate()[0]) for p in running)
    return each * processes / seconds


def measure_sending(bench: BenchEnvironment, messages: int) -> Iterator[Figure]:
    """Measure the whole path, with one worker and with two, and bare loops."""
    bare = {n: measure_bare_loop(bench, n, messages) for n in (1, 2)}
    for workers, target in ((1, 15_000), (2, 20_000)):
        bench.provider.clear_requests()
        with bench.dispatchers(workers) as pids:
            before = [cpu_seconds(pid) for pid in pids]
            database, wal = bench.postgres_cpu_seconds(), bench.wal_bytes()
            mailing = bench.send_mailing("bench")
            cpu = sum(map(cpu_seconds, pids)) - sum(before)
            database, wal = bench.postgres_cpu_seconds() - database, bench.wal_bytes() - wal
        rate = bench.sending_rate(mailing)
        name = f"end to end, {workers} worker{'s' * (workers > 1)}"
        yield Figure(name, rate, "messages/s", target)
        yield Figure(
            f"{name}, share of a bare loop", rate / bare[workers], "", 0.4 if workers == 2 else None
        )
        if workers == 1:
            yield Figure("worker CPU, 64 in flight", cpu / messages * 1e6, "µs/message", 45, True)
        else:
            yield Figure(
                "PostgreSQL CPU, with launch", database / messages * 1e6, "µs/message", 22, True
            )
            yield Figure("WAL, with launch", wal / messages, "bytes/message", 650, True)
    for n in (1, 2):
        yield Figure(f"bare libcurl loop, {n} process{'es' * (n > 1)}", bare[n], "messages/s")


def measure_slow_provider(bench: BenchEnvironment, messages: int) -> Iterator[Figure]:
    """Measure sending to a provider with latency: by two workers, and with 1,000 in flight."""
    bench.provider.clear_requests()
    bench.provider.set(latency=0.05)
    rates = []
    for workers in (1, 2):
        with bench.dispatchers(workers):
            mailing = bench.send_mailing("slow")
        rates.append(bench.sending_rate(mailing))
    yield Figure("two workers against one, 50 ms", rates[1] / rates[0], "times", 1.9)
    bench.provider.set(latency=0.2)
    with bench.dispatchers(1, concurrency=1000) as pids:
        before = cpu_seconds(pids[0])
        mailing = bench.send_mailing("bench")
        cpu = cpu_seconds(pids[0]) - before
    yield Figure(
        "one worker, 1,000 in flight, 200 ms", bench.sending_rate(mailing), "messages/s", 4_200
    )
    yield Figure("worker CPU, 1,000 in flight", cpu / messages * 1e6, "µs/message", 60, True)
    bench.provider.set(latency=0)


def measure_launch(bench: BenchEnvironment, clients: int) -> Iterator[Figure]:
    """Measure the rate of a launch, the time to the first message, and a small mailing's delay."""
    bench.provider.clear_requests()
    bench.add_clients(10, "ten")
    with bench.dispatchers(2):
        for tag, size in (("ten", "10"), ("half", f"{clients // 2:,}")):
            posted = time.time()
            mailing = bench.create_mailing(tag)
            bench.wait_for(lambda: bench.provider.summary()["received"], 30, interval=0.02)
            first = bench.provider.summary()["first_at"] - posted
            yield Figure(f"first message after POST, audience {size}", first, "s", 1.0, True)
            if tag == "half":
                posted = time.time()
                small = bench.create_mailing("ten")
                bench.wait_settled(small)
                yield Figure(
                    "a mailing of 10 beside a large one", time.time() - posted, "s", 1.5, True
                )
            bench.wait_settled(mailing)
            bench.provider.clear_requests()
    mailing = bench.create_mailing("half")
    posted = time.monotonic()
    statement = "SELECT 1 FROM mailings WHERE id = %s AND audience_complete"
    bench.wait_for(lambda: bench.query(statement, mailing), 120, interval=0.02)
    recipients = clients // 2
    seconds = time.monotonic() - posted
    yield Figure("launch", recipients / seconds, "recipients/s", 130_000)
    bench.http.post(f"{bench.api}/mailings/{mailing}/cancel", timeout=30)
    bench.wait_settled(mailing)


def measure_large_launch(bench: BenchEnvironment, recipients: int) -> Iterator[Figure]:
    """Measure the launch of a mailing to so many clients, while no worker sends to them."""
    bench.add_clients(recipients, "large")
    bench.query("CHECKPOINT")
    mailing = bench.create_mailing("large")
    statement = """
        SELECT extract(epoch FROM now() - started_at)::float FROM mailings
        WHERE id = %s AND audience_complete
    """
    ((seconds,),) = bench.wait_for(lambda: bench.query(statement, mailing), 1800)
    yield Figure(f"launch of {recipients:,}", recipients / seconds, "recipients/s")
    yield Figure(f"launch of {recipients:,}, duration", seconds, "s")


def measure_statistics(bench: BenchEnvironment, mailing_id: int) -> Iterator[Figure]:
    """Measure the statistics of one large mailing and of all."""
    for name, path in (
        ("statistics of a large mailing, p95", f"/mailings/{mailing_id}/statistics"),
        ("statistics of all, p95", "/statistics"),
    ):
        times = []
        for _ in range(60):
            started = time.perf_counter()
            bench.http.get(bench.api + path, timeout=30).raise_for_status()
            times.append((time.perf_counter() - started) * 1000)
        yield Figure(name, statistics.quantiles(times, n=20)[-1], "ms", 20, True)


def measure_api(bench: BenchEnvironment, seconds: float) -> Iterator[Figure]:
    """Measure requests per second from 16 connections, and latency at half that rate."""
    numbers = itertools.count()
    get = load.build_request("GET", "/api/v1/clients/1", TOKEN)

    def post() -> bytes:
        body = b'{"phone":"7999%07d","tag":"api","timezone":"Europe/Moscow"}' % next(numbers)
        return load.build_request("POST", "/api/v1/clients", TOKEN, body)

    servers = list_children(bench.processes["api"].pid)
    for name, next_request, target in (
        ("GET /clients/{id}", lambda: get, 1000),
        ("POST /clients", post, 600),
    ):
        load.run_load(bench.api_port, next_request, 0.5)  # connections to PostgreSQL are made
        before = sum(map(cpu_seconds, servers))
        full = load.run_load(bench.api_port, next_request, seconds)
        cpu = (sum(map(cpu_seconds, servers)) - before) / len(full.times) * 1e6
        times = load.run_load(bench.api_port, next_request, seconds, full.rate / 2).times
        yield Figure(name, full.rate, "requests/s", target)
        yield Figure(
            f"{name}, p95 at half that load", statistics.quantiles(times, n=20)[-1], "ms", 30, True
        )
        yield Figure(f"{name}, CPU of the API", cpu, "µs/request")
        yield Figure(f"{name}, CPU of the load itself", full.own_cpu, "µs/request")


def measure_import(bench: BenchEnvironment, rows: int) -> Iterator[Figure]:
    """Measure a CSV import of clients, from the request to the merged directory."""
    with tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False) as file:
        file.write("phone,tag,timezone\n")
        for n in range(rows):
            file.write(f"7800{n:07d},imported,Europe/Moscow\n")
    started = time.monotonic()
    with Path(file.name).open("rb") as body:
        answer = bench.http.post(
            f"{bench.api}/clients/import",
            data=body,
            headers={"Content-Type": "text/csv"},
            timeout=120,
        )
    answer.raise_for_status()
    address = f"{bench.api}/imports/{answer.json()['id']}"
    bench.wait_for(lambda: bench.http.get(address, timeout=30).json()["status"] == "finished", 120)
    yield Figure(
        f"CSV import of {rows:,} clients", time.monotonic() - started, "s", 20 * rows / 1e6, True
    )
    Path(file.name).unlink()


def measure_growth(bench: BenchEnvironment, sizes: tuple[int, ...], old: int) -> Iterator[Figure]:
    """Measure the rate at growing sizes, the worker's memory, and the rate beside old messages."""
    rates: dict[str, list[float]] = {f"end to end, {size:,} messages": [] for size in sizes}
    memory: list[float] = []
    for size in (*sizes, *sizes[:-1] * (REPEATS - 1)):
        with bench.dispatchers(2) as pids:
            mailing = bench.create_mailing(f"size-{size}")

            def settled(mailing: int = mailing, size: int = size) -> bool:
                if size == sizes[-1]:
                    memory.append(max(map(resident_mb, pids)))
                return bool(
                    bench.query("SELECT 1 FROM mailings WHERE id = %s AND settled", mailing)
                )

            bench.wait_for(settled, 900, interval=0.25)
        rates[f"end to end, {size:,} messages"].append(bench.sending_rate(mailing))
    tenth = max(1, len(memory) // 10)
    second, last = (
        statistics.mean(memory[tenth : 2 * tenth] or memory),
        statistics.mean(memory[-tenth:]),
    )
    yield Figure("worker memory", max(memory), "MB", 120, True)
    yield Figure("worker memory, last tenth against second", last / second, "times", 1.05, True)
    if old:
        _add_old_messages(bench, old)
        beside = rates[f"end to end beside {old:,} old messages"] = []
        for _ in range(REPEATS):
            with bench.dispatchers(2):
                mailing = bench.send_mailing(f"size-{sizes[1]}")
            beside.append(bench.sending_rate(mailing))
    for name, measured in rates.items():
        yield Figure(name, statistics.median(measured), "messages/s")
    medians = [statistics.median(measured) for measured in rates.values()]
    yield Figure("slowest of these against fastest", min(medians) / max(medians), "times", 0.85)


def _add_old_messages(bench: BenchEnvironment, count: int) -> None:
    """Add finished mailings of a million messages each, in partitions of their own."""
    for start in range(0, count, 1_000_000):
        mailing = bench.send_mailing("no such tag")
        first = bench.query("SELECT take_ids('message_ids', 1000000)")[0][0]
        bench.query(
            "INSERT INTO messages (mailing_id, id, client_id, batch_id, status, sent_at, attempts)"
            " SELECT %s, %s + n, n, %s + n / 500, 'sent', now(), 1"
            " FROM generate_series(0, 999999) AS n",
            mailing,
            first,
            start,
        )
    bench.query("VACUUM ANALYZE")

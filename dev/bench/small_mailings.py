"""Measure many small mailings, as integrators create one for each event.

`python -m dev.bench.small_mailings [--clients N] COUNT…` measures them alone.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence

from dev.bench import load
from dev.bench.environment import TOKEN, BenchEnvironment, mailing_body
from dev.bench.figures import Figure, format_figure

RECIPIENTS = 50
# Different groups of recipients, which the mailings address in turn.
TAGS = 200
MAILINGS_PER_SECOND = 90.0


def measure_small_mailings(
    bench: BenchEnvironment, clients: int, counts: Sequence[int]
) -> Iterator[Figure]:
    """Measure series of mailings of 50 in a directory of so many clients, by two workers."""
    _add_clients(bench, clients)
    for count in counts:
        bench.provider.clear_requests()
        with bench.dispatchers(2):
            yield from _measure_series(bench, count)


def _add_clients(bench: BenchEnvironment, clients: int) -> None:
    """Add clients of whom RECIPIENTS, spread over the directory, have each tag."""
    bench.query(
        """
        INSERT INTO clients (phone, operator_code, tag, timezone)
        SELECT p, substr(p::text, 2, 3),
            CASE WHEN n %% %(step)s = 0 AND n / %(step)s <= %(tagged)s
                THEN 'event-' || n / %(step)s %% %(tags)s ELSE 'no event' END,
            (ARRAY['Europe/Moscow', 'Asia/Omsk', 'Asia/Kamchatka'])[1 + p %% 3]
        FROM (SELECT n, n + (SELECT coalesce(max(phone), 79000000000) FROM clients) AS p
              FROM generate_series(1, %(clients)s) AS n) AS numbered
        """,
        clients=clients,
        step=clients // (TAGS * RECIPIENTS),
        tagged=TAGS * RECIPIENTS,
        tags=TAGS,
    )
    bench.add_clients(10, "behind")
    bench.query("VACUUM ANALYZE clients")
    bench.query("CHECKPOINT")


def _measure_series(bench: BenchEnvironment, count: int) -> Iterator[Figure]:
    numbers = itertools.count()

    def post() -> bytes:
        body = mailing_body(f"event-{next(numbers) % TAGS}")
        return load.build_request("POST", "/api/v1/mailings", TOKEN, body)

    (first_id,) = bench.query("SELECT coalesce(max(id), 0) + 1 FROM mailings")[0]
    cpu, wal = bench.cpu_seconds_by_part(), bench.wal_bytes()
    load.run_load(bench.api_port, post, count / MAILINGS_PER_SECOND, MAILINGS_PER_SECOND)
    (last_id,) = bench.query("SELECT max(id) FROM mailings")[0]
    behind = bench.create_mailing("behind")
    bench.wait_settled(behind)
    statement = "SELECT NOT EXISTS (SELECT 1 FROM mailings WHERE NOT settled)"
    bench.wait_for(lambda: bench.query(statement)[0][0], 1800, interval=0.25)
    spent = {name: used - cpu[name] for name, used in bench.cpu_seconds_by_part().items()}
    wal = bench.wal_bytes() - wal
    created, messages, done, start = bench.query(
        """
        SELECT count(*), sum(sent),
            extract(epoch FROM max(finished_at) - max(created_at))::float,
            percentile_cont(0.5) WITHIN GROUP
                (ORDER BY extract(epoch FROM started_at - created_at))
        FROM mailings WHERE id BETWEEN %s AND %s
        """,
        first_id,
        last_id,
    )[0]
    if messages != created * RECIPIENTS:
        raise RuntimeError(f"{messages} messages of {created} mailings were sent")
    behind_started, behind_done = bench.query(
        """
        SELECT extract(epoch FROM started_at - created_at)::float,
            extract(epoch FROM finished_at - created_at)::float
        FROM mailings WHERE id = %s
        """,
        behind,
    )[0]
    name = f"{count:,} mailings of {RECIPIENTS}"
    # Fewer than 90 a second if the API does not keep up.
    yield Figure(f"{name}, created", created / count * MAILINGS_PER_SECOND, "per second")
    yield Figure(f"{name}, done after the last POST", done, "s", 15, True)
    yield Figure(f"{name}, median start after POST", start, "s")
    yield Figure(f"{name}, CPU of all processes", sum(spent.values()) / created * 1e3, "ms each")
    for part, used in spent.items():
        yield Figure(f"{name}, CPU of {part}", used / created * 1e3, "ms each")
    yield Figure(f"{name}, WAL", wal / created / 1e3, "kB each")
    yield Figure("a mailing behind them, started after POST", behind_started, "s", 2, True)
    yield Figure("a mailing behind them, done after POST", behind_done, "s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.small_mailings", description=__doc__)
    parser.add_argument("--clients", type=int, default=3_000_000)
    parser.add_argument("counts", type=int, nargs="+", metavar="COUNT")
    options = parser.parse_args()
    with BenchEnvironment() as bench:
        for figure in measure_small_mailings(bench, options.clients, options.counts):
            print(format_figure(figure), flush=True)


if __name__ == "__main__":
    main()

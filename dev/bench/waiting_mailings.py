"""Measure what mailings that merely wait cost: the sweep and the scrape of metrics.

`python -m dev.bench.waiting_mailings COUNT…` measures them alone.
"""

import argparse
import re
import statistics
import time
from collections.abc import Iterator, Sequence

import psycopg2

from dev.bench.environment import BenchEnvironment
from dev.bench.figures import REPEATS, Figure, format_figure
from shared.db.partitions import ensure_partition

COUNTS = (10, 1_000, 5_000)
SWEEP_SECONDS = re.compile(r"^notification_sweep_seconds (\S+)$", re.MULTILINE)
SWEEP_AGE = re.compile(r"^notification_sweep_age_seconds (\S+)$", re.MULTILINE)
# As a launch leaves mailings to 60 clients in three time zones whose windows open in six hours.
ADD_MAILINGS = """
INSERT INTO mailings (text, start_at, end_at, status, started_at, audience, audience_complete)
SELECT 'Hello', now() - interval '1 hour', now() + interval '1 day', 'running',
    now() - interval '1 hour', 60, true
FROM generate_series(1, %s) RETURNING id
"""
ADD_BATCHES = """
INSERT INTO batches (mailing_id, id, first_id, last_id, due_at, size, pending, timezone)
SELECT mailing_id, 3 * mailing_id + n, 1, 20, now() + interval '6 hours', 20, 20, zone
FROM unnest(%s::bigint[]) AS mailing_id
CROSS JOIN unnest(ARRAY['Europe/Moscow', 'Asia/Omsk', 'Asia/Kamchatka']) WITH ORDINALITY z (zone, n)
"""


def measure_waiting_mailings(
    bench: BenchEnvironment, counts: Sequence[int] = COUNTS
) -> Iterator[Figure]:
    """Measure sweeps and scrapes beside growing numbers of mailings that wait for their window."""
    ids: list[int] = []
    for count in counts:
        ids += _add_waiting(bench, count - len(ids))
        bench.query("VACUUM ANALYZE mailings, batches")
        sweeps, scrapes = [], []
        for _ in range(REPEATS):
            sweeps.append(_measure_sweep(bench))
            started = time.perf_counter()
            _read_metrics(bench)
            scrapes.append(time.perf_counter() - started)
        name = f"{count:,} waiting mailings"
        yield Figure(f"{name}, sweep", statistics.median(sweeps) * 1e3, "ms", 200, True)
        yield Figure(f"{name}, scrape", statistics.median(scrapes) * 1e3, "ms")
    bench.query("DELETE FROM batches WHERE mailing_id = ANY (%s)", ids)
    bench.query("DELETE FROM mailings WHERE id = ANY (%s)", ids)


def _add_waiting(bench: BenchEnvironment, count: int) -> list[int]:
    connection = psycopg2.connect(bench.postgres.url)
    with connection, connection.cursor() as cursor:
        cursor.execute(ADD_MAILINGS, (count,))
        ids = [mailing_id for (mailing_id,) in cursor.fetchall()]
        ensure_partition(cursor, max(ids))
        cursor.execute(ADD_BATCHES, (ids,))
    connection.close()
    return ids


def _measure_sweep(bench: BenchEnvironment) -> float:
    """Return how many seconds the next sweep takes that begins after this call."""
    called = time.monotonic()

    def finished() -> float | None:
        text = _read_metrics(bench)
        age, seconds = (float(each.findall(text)[0]) for each in (SWEEP_AGE, SWEEP_SECONDS))
        return seconds if age + seconds < time.monotonic() - called else None

    return float(bench.wait_for(finished, 60))


def _read_metrics(bench: BenchEnvironment) -> str:
    answer = bench.http.get(bench.api.removesuffix("/api/v1") + "/metrics", timeout=30)
    answer.raise_for_status()
    return answer.text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.bench.waiting_mailings", description=__doc__
    )
    parser.add_argument("counts", type=int, nargs="*", metavar="COUNT", default=COUNTS)
    options = parser.parse_args()
    with BenchEnvironment() as bench:
        for figure in measure_waiting_mailings(bench, options.counts):
            print(format_figure(figure), flush=True)


if __name__ == "__main__":
    main()

"""The pulse: written about once a second, and it shows gaps in which no worker could write it."""

from collections.abc import Iterator

import psycopg2
import pytest
from redis import Redis

from shared.db.pulse import record_pulse
from shared.queues import Queues
from tests.support.fleet import Fleet
from worker.dispatch import claim_queries
from worker.maintenance.sweep import sweep_mailings

READ = """
SELECT extract(epoch FROM now() - seen_at)::float8, extract(epoch FROM now() - back_at)::float8
FROM pulse
"""


def read_pulse(fleet: Fleet) -> tuple[float, float]:
    """Return how many seconds ago workers reached PostgreSQL, and since when without a gap."""
    seen, back = fleet.query(READ)[0]
    return seen, back


def record(fleet: Fleet) -> None:
    with fleet.db.autocommit() as cursor:
        record_pulse(cursor)


@pytest.mark.parametrize("seen", [2.0, 4.5])
def test_short_pause_is_no_gap(fleet: Fleet, seen: float) -> None:
    fleet.set_pulse(seen, back=100.0)
    record(fleet)
    seen, back = read_pulse(fleet)
    assert seen < 0.4
    assert back >= 100.0


# A negative time: the clock of a standby that was promoted is behind.
@pytest.mark.parametrize("seen", [5.5, 3600.0, -5.5, -3600.0])
def test_longer_pause_is_a_gap(fleet: Fleet, seen: float) -> None:
    fleet.set_pulse(seen, back=100.0)
    record(fleet)
    seen, back = read_pulse(fleet)
    assert seen == back < 0.4


def test_pulse_is_written_once_a_second(fleet: Fleet) -> None:
    fleet.set_pulse(seen=0.4)
    version = fleet.query("SELECT xmin FROM pulse")
    record(fleet)
    assert fleet.query("SELECT xmin FROM pulse") == version


def test_worker_does_not_wait_for_another_one(fleet: Fleet) -> None:
    fleet.set_pulse(seen=2.0)
    connection = psycopg2.connect(fleet.url)
    with connection, connection.cursor() as cursor:
        record_pulse(cursor)
        with fleet.db.transaction() as second:
            second.execute("SET LOCAL lock_timeout = '1ms'")
            record_pulse(second)
            assert second.rowcount == 0
    connection.close()
    assert read_pulse(fleet)[0] < 1.0


@pytest.fixture
def queues(redis_url: str) -> Iterator[Queues]:
    with Redis.from_url(redis_url) as connection:
        yield Queues(connection)


def test_looking_for_work_and_sweeping_record_it(fleet: Fleet, queues: Queues) -> None:
    fleet.set_pulse(seen=2.0)
    claim_queries.fetch_due_mailings(fleet.db, 20.0)
    assert read_pulse(fleet)[0] < 1.0
    fleet.set_pulse(seen=2.0)
    sweep_mailings(fleet.db, queues, 20.0)
    assert read_pulse(fleet)[0] < 1.0


def test_long_sweep_leaves_no_gap(
    fleet: Fleet, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailings = [fleet.add_launched_mailing(1) for _ in range(3)]
    for mailing_id in mailings:
        fleet.cancel_mailing(mailing_id)
    seen: list[float] = []

    def work_for_long(*_: object) -> None:
        seen.append(read_pulse(fleet)[0])
        fleet.set_pulse(seen=2.0)

    monkeypatch.setattr("worker.maintenance.sweep.INTERVAL_SECONDS", 0)
    monkeypatch.setattr("worker.maintenance.sweep.apply_mailing_state", work_for_long)
    sweep_mailings(fleet.db, queues, 20.0)
    assert len(seen) >= len(mailings)
    assert max(seen) < 1.0

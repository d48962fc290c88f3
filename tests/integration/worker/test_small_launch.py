"""Many small mailings are launched together, each to exactly its audience."""

import itertools
from collections.abc import Iterator
from datetime import time
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from redis import Redis

from shared.db.partitions import ensure_partition
from shared.fleet_status import SCHEDULED_JOBS_KEY
from shared.queues import CONTROL_QUEUE, Queues, make_queue
from tests.support.counting_database import CountingDatabase
from tests.support.fleet import Fleet
from tests.support.interleaving import PausingDatabase, threads
from worker import jobs
from worker.launch import small_launch
from worker.launch.small_launch import SmallLaunch, SmallLauncher

ZONES = ("Europe/Moscow", "Asia/Omsk")
FAR_ZONES = ("Antarctica/Vostok", "Antarctica/Troll")
DELETE_CLIENT = """
UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL, timezone = NULL,
    attributes = '{}', deleted_at = now() WHERE id = %s
"""
_tags = itertools.count()


@pytest.fixture(autouse=True)
def no_other_due_mailings(fleet: Fleet) -> None:
    fleet.query(
        "UPDATE mailings SET status = 'cancelled', finished_at = now(), settled = true"
        " WHERE status = 'scheduled'"
    )


@pytest.fixture
def launcher(fleet: Fleet) -> SmallLauncher:
    return SmallLauncher(fleet.db, batch_size=3)


@pytest.fixture
def tag() -> str:
    """A tag that no other client has."""
    return f"small {next(_tags)}"


@pytest.fixture
def far_clients(fleet: Fleet, tag: str) -> Iterator[list[int]]:
    """Clients that are found by each indexed column."""
    ids = fleet.add_clients(20, FAR_ZONES, tag)
    fleet.query("UPDATE clients SET operator_code = '999' WHERE id = ANY (%s)", ids)
    yield ids
    for client_id in ids:
        fleet.query(DELETE_CLIENT, client_id)


def recipients(fleet: Fleet, mailing_id: int) -> list[int]:
    rows = fleet.query(
        "SELECT client_id FROM messages WHERE mailing_id = %s ORDER BY id", mailing_id
    )
    return [client_id for (client_id,) in rows]


def launched_ids(launch: SmallLaunch) -> list[int]:
    return [mailing.id for mailing in launch.launched]


@pytest.mark.parametrize("column", ["tags", "operator_codes", "timezones", "phones"])
def test_each_indexed_column_finds_the_audience(
    fleet: Fleet, tag: str, far_clients: list[int], launcher: SmallLauncher, column: str
) -> None:
    phones = fleet.query_value(
        "SELECT array_agg(phone) FROM clients WHERE id = ANY (%s)", far_clients
    )
    fleet.query(DELETE_CLIENT, far_clients[0])
    values: dict[str, Any] = {
        "tags": [tag, "of no client"],
        "operator_codes": ["999", "998"],
        "timezones": list(FAR_ZONES),
        "phones": [*phones, 79999999999],
    }
    mailing_id = fleet.add_mailing(**{column: values[column]})
    assert launched_ids(launcher.launch_some()) == [mailing_id]
    assert sorted(recipients(fleet, mailing_id)) == far_clients[1:]
    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["status"], mailing["audience"], mailing["audience_complete"]) == (
        *("running", 19, True),
    )
    assert mailing["launched_client_id"] == mailing["launch_last_client_id"] >= far_clients[-1]


def test_all_parts_of_the_filter_apply(fleet: Fleet, tag: str, launcher: SmallLauncher) -> None:
    ids = fleet.add_clients(12, ZONES, tag)
    fleet.query('UPDATE clients SET attributes = \'{"plan": "gold"}\' WHERE id = ANY (%s)', ids[:6])
    mailing_id = fleet.add_mailing(tags=[tag], timezones=[ZONES[0]], attributes='{"plan": "gold"}')
    launcher.launch_some()
    wanted = fleet.query(
        "SELECT id FROM clients WHERE id = ANY (%s) AND timezone = %s", ids[:6], ZONES[0]
    )
    assert [(client_id,) for client_id in recipients(fleet, mailing_id)] == wanted != []


def test_mailings_are_launched_together_with_batches_and_blocks_of_their_own(
    fleet: Fleet, launcher: SmallLauncher
) -> None:
    audiences = {}
    for size in (7, 0, 4):
        tag = f"small {next(_tags)}"
        ids = fleet.add_clients(size, ZONES, tag) if size else []
        audiences[fleet.add_mailing(tags=[tag])] = ids
    assert launched_ids(launcher.launch_some()) == list(audiences)
    for mailing_id, ids in audiences.items():
        assert sorted(recipients(fleet, mailing_id)) == ids
        batches = fleet.query(
            """
            SELECT b.first_id, b.last_id, b.size, array_agg(m.id ORDER BY m.id),
                array_agg(DISTINCT c.timezone)::text[] = ARRAY[b.timezone]
            FROM batches b JOIN messages m ON m.mailing_id = b.mailing_id AND m.batch_id = b.id
            JOIN clients c ON c.id = m.client_id WHERE b.mailing_id = %s
            GROUP BY 1, 2, 3, b.timezone
            """,
            mailing_id,
        )
        for first, last, size, messages, one_zone in batches:
            assert messages == list(range(first, last + 1))
            assert len(messages) == size <= 3
            assert one_zone
        assert sum(size for _, _, size, _, _ in batches) == len(ids)
        block = fleet.query(
            "SELECT min(first_id), max(last_id), count(*) FROM id_blocks WHERE mailing_id = %s",
            mailing_id,
        )[0]
        assert (
            block
            == fleet.query(
                "SELECT min(id), max(id), count(DISTINCT mailing_id) FROM messages"
                " WHERE mailing_id = %s",
                mailing_id,
            )[0]
        )
    fleet.check_totals()


def test_opted_out_clients_are_cancelled_at_once(
    fleet: Fleet, tag: str, launcher: SmallLauncher
) -> None:
    ids = fleet.add_clients(4, ZONES, tag)
    fleet.query(
        "INSERT INTO opt_outs (phone, source) SELECT phone, 'test' FROM clients WHERE id = %s",
        ids[1],
    )
    mailing_id = fleet.add_mailing(tags=[tag])
    launcher.launch_some()
    cancelled = fleet.query(
        "SELECT client_id, reason FROM messages WHERE mailing_id = %s AND status = 'cancelled'",
        mailing_id,
    )
    assert cancelled == [(ids[1], "opted out")]
    assert fleet.read_mailing(mailing_id)["audience"] == 4
    fleet.check_totals()


def test_batches_wait_for_the_window_of_their_mailing(
    fleet: Fleet, tag: str, launcher: SmallLauncher
) -> None:
    fleet.add_clients(2, ("Europe/Moscow",), tag)
    hour = fleet.query_value("SELECT extract(hour FROM now() AT TIME ZONE 'Europe/Moscow')::int")
    opening, closing = time((hour + 2) % 24), time((hour + 3) % 24)
    window: dict[str, Any] = {"window_from": opening, "window_to": closing}
    waiting = fleet.add_mailing(tags=[tag], ends_in=86_400, **window)
    due = fleet.add_mailing(tags=[tag], ends_in=86_400)
    launcher.launch_some()
    (opens,) = fleet.query(
        "SELECT due_at AT TIME ZONE 'Europe/Moscow' FROM batches WHERE mailing_id = %s", waiting
    )[0]
    assert opens.time() == opening
    assert fleet.query_value("SELECT due_at <= now() FROM batches WHERE mailing_id = %s", due)


@pytest.mark.parametrize("excludes", [False, True])
def test_mailings_that_are_not_small_are_left_alone(
    fleet: Fleet,
    tag: str,
    launcher: SmallLauncher,
    monkeypatch: pytest.MonkeyPatch,
    excludes: bool,
) -> None:
    monkeypatch.setattr(small_launch, "MAX_CANDIDATES", 5)
    fleet.add_clients(5 if excludes else 6, ZONES, tag)
    large = fleet.add_mailing(tags=[tag], exclude_mailing_ids=[1] if excludes else [])
    unfiltered = fleet.add_mailing()
    launch = launcher.launch_some()
    assert (launch.launched, sorted(launch.larger)) == ((), [large, unfiltered])
    assert fleet.read_mailing(large)["status"] == "scheduled"
    # A job was enqueued for each. It may be lost: after a while they are found again.
    assert launcher.launch_some() == SmallLaunch()
    monkeypatch.setattr(small_launch, "REMEMBER_SECONDS", 0.0)
    assert sorted(launcher.launch_some().larger) == [large, unfiltered]


def test_only_due_mailings_are_launched(fleet: Fleet, tag: str, launcher: SmallLauncher) -> None:
    fleet.add_clients(2, ZONES, tag)
    paused = fleet.add_mailing(tags=[tag], status="paused")
    cancelled = fleet.add_mailing(tags=[tag])
    fleet.cancel_mailing(cancelled)
    future = fleet.add_mailing(tags=[tag])
    fleet.query("UPDATE mailings SET start_at = now() + interval '1 minute' WHERE id = %s", future)
    assert launcher.launch_some() == SmallLaunch()
    assert [recipients(fleet, id_) for id_ in (paused, cancelled, future)] == [[], [], []]


def test_statements_do_not_grow_with_the_number_of_mailings(fleet: Fleet, tag: str) -> None:
    fleet.add_clients(4, ZONES, tag)
    counts = []
    for size in (1, 40):
        mailings = [fleet.add_mailing(tags=[tag]) for _ in range(size)]
        with fleet.db.transaction() as cursor:
            for mailing_id in mailings:
                ensure_partition(cursor, mailing_id)
        db = CountingDatabase(fleet.url)
        assert launched_ids(SmallLauncher(db, 500).launch_some()) == mailings
        db.close()
        counts.append(len(db.statements))
    assert counts[0] == counts[1] <= 5


def test_launch_reads_the_clients_of_a_filter_only(
    fleet: Fleet, tag: str, launcher: SmallLauncher
) -> None:
    """The directory's other clients cost nothing."""
    fleet.add_clients(20_000, ("Europe/Moscow",), "of many")
    fleet.query("ANALYZE clients")
    ids = fleet.add_clients(5, ZONES, tag)
    for _ in range(2):
        fleet.add_mailing(tags=[tag])
        fleet.query("SELECT pg_stat_force_next_flush()")
        statement = (
            "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables WHERE relname = 'clients'"
        )
        fleet.query("SELECT pg_stat_clear_snapshot()")
        before = fleet.query_value(statement)
        launch = launcher.launch_some()
        with fleet.db.transaction() as cursor:
            cursor.execute("SELECT pg_stat_force_next_flush()")
        fleet.db.close()
        fleet.query("SELECT pg_stat_clear_snapshot()")
    assert launch.launched[0].recipients == len(ids)
    assert fleet.query_value(statement) - before < 50


def test_concurrent_launches_skip_each_others_mailings(fleet: Fleet, tag: str) -> None:
    fleet.add_clients(3, ZONES, tag)
    mailing_id = fleet.add_mailing(tags=[tag])
    slow = PausingDatabase(fleet.url, before="EXECUTE write_audiences")
    with threads() as run:
        launched = run(SmallLauncher(slow, 500).launch_some)
        slow.wait_until_reached()
        assert SmallLauncher(fleet.db, 500).launch_some() == SmallLaunch()
        slow.resume.set()
        assert launched_ids(launched.result()) == [mailing_id]
    slow.close()
    assert len(recipients(fleet, mailing_id)) == 3


def test_one_bad_mailing_does_not_stop_the_others(
    fleet: Fleet, tag: str, launcher: SmallLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mailings that cannot be launched together are left to jobs of their own."""
    fleet.add_clients(3, ZONES, tag)
    mailings = [fleet.add_mailing(tags=[tag]) for _ in range(3)]

    def refuse(*_: object) -> None:
        raise psycopg2.errors.CheckViolation("refused")

    monkeypatch.setattr(small_launch, "_schedule_for_windows", refuse)
    launch = launcher.launch_some()
    assert (list(launch.launched), list(launch.larger)) == ([], mailings)
    assert [recipients(fleet, mailing_id) for mailing_id in mailings] == [[], [], []]


@pytest.fixture
def redis(fleet: Fleet, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Redis:
    """An empty Redis, for jobs that are run in this process."""
    redis = Redis.from_url(redis_url)
    redis.flushdb()
    monkeypatch.setattr(jobs, "_database", lambda number: fleet.db)
    settings = SimpleNamespace(batch_size=500, redis_url=redis_url)
    monkeypatch.setattr(jobs.WorkerContext, "settings", settings, raising=False)
    monkeypatch.setattr(jobs.WorkerContext, "next_small_launch_at", 0.0)
    return redis


def test_one_job_launches_all_due_mailings(fleet: Fleet, tag: str, redis: Redis) -> None:
    queues = Queues(redis)
    fleet.add_clients(3, ZONES, tag)
    mailings = []
    for _ in range(5):
        mailings.append(fleet.add_mailing(tags=[tag]))
        assert queues.enqueue_launch(mailings[-1])
    queue = make_queue(CONTROL_QUEUE, redis)
    (job,) = queue.jobs
    assert job.kwargs["mailing_id"] == mailings[0]
    redis.delete(queue.key)
    jobs.launch(mailings[0])
    assert all(fleet.read_mailing(id_)["audience_complete"] for id_ in mailings)
    # The next mailing is not left to a job that has looked already.
    queues.enqueue_launch(fleet.add_mailing(tags=[tag]))
    assert queue.count == 1


def test_mailings_of_a_stream_share_launches(
    fleet: Fleet, tag: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch waits a moment after the previous one; it finds what is created meanwhile."""
    monkeypatch.setattr(jobs, "SHARED_LAUNCH_SECONDS", 60.0)
    queues, queue = Queues(redis), make_queue(CONTROL_QUEUE, redis)
    fleet.add_clients(3, ZONES, tag)
    waits: list[float] = []
    mailings: list[int] = []

    def add_mailing() -> int:
        mailings.append(fleet.add_mailing(tags=[tag]))
        assert queues.enqueue_launch(mailings[-1])
        return mailings[-1]

    def wait(seconds: float) -> None:
        waits.append(seconds)
        add_mailing()

    monkeypatch.setattr(jobs, "stopping", SimpleNamespace(wait=wait, is_set=lambda: False))
    jobs.launch(add_mailing())
    jobs.launch(add_mailing())
    assert waits[0] == 0.0, "one that comes alone does not wait"
    assert 0.0 < waits[1] <= 60.0
    assert queue.count == 2, "what was created while a job waited needs no job"
    assert all(fleet.read_mailing(id_)["audience_complete"] for id_ in mailings)


def test_mailings_that_start_in_the_same_second_share_a_delayed_job(
    fleet: Fleet, redis_url: str
) -> None:
    """Thousands of jobs that find nothing would delay what is behind them in the queue."""
    redis = Redis.from_url(redis_url)
    redis.flushdb()
    queues = Queues(redis)
    for mailing_id in range(1, 6):
        assert queues.enqueue_launch(mailing_id, delay=3600.0)
    assert 1 <= redis.zcard(SCHEDULED_JOBS_KEY) <= 2  # two, if a second passed meanwhile

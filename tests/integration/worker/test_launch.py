"""A launch writes exactly the audience, in batches of one zone, despite interruptions and races."""

import itertools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, time
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import psycopg2
import pytest
from redis import Redis

from shared.db.partitions import ensure_partition
from shared.db.rows import fetch_one_row
from shared.domain.send_windows import Window, next_opening
from shared.queues import CONTROL_QUEUE, Queues, make_queue
from tests.support.fleet import TAKEOVER_SECONDS, Fleet
from tests.support.interleaving import PausingDatabase, threads, wait_until_blocked
from tests.support.waiting import wait_for
from worker import jobs
from worker.launch import chunks, launcher, small_launch
from worker.maintenance.sweep import sweep_mailings
from worker.recording import mailing_state
from worker.runtime.database import Database

ZONES = ("Europe/Kaliningrad", "Europe/Moscow", "Asia/Omsk", "Asia/Kamchatka")
MESSAGES = """
SELECT m.client_id, m.id, m.batch_id, b.timezone FROM messages m
JOIN batches b ON b.mailing_id = m.mailing_id AND b.id = m.batch_id
WHERE m.mailing_id = %s ORDER BY m.id
"""
TERMINATE_CONNECTION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %s AND datname = current_database()
"""
THIRD_CHUNK_WAITS = """
SELECT 1 FROM pg_stat_activity WHERE application_name = 'beside' AND datname = current_database()
    AND state = 'idle in transaction' AND query LIKE '%WITH chosen%'
"""
_tags = itertools.count()


@pytest.fixture
def tag() -> str:
    """A tag that no other client has."""
    return f"tag {next(_tags)}"


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice of a launch is one chunk of seven client ids."""
    monkeypatch.setattr(launcher, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(launcher, "FIRST_CHUNK_IDS", 7)
    monkeypatch.setattr(launcher, "NEXT_SLICE_CHUNK_IDS", 7)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk is of seven client ids; slices have their usual length."""
    monkeypatch.setattr(launcher, "FIRST_CHUNK_IDS", 7)
    monkeypatch.setattr(launcher, "_next_size", lambda chunk: 7)


def add_due_mailing(
    fleet: Fleet, tag: str, count: int, zones: Sequence[str] = ("Europe/Moscow",)
) -> tuple[list[int], int]:
    """Add clients with this tag, and a due mailing to them."""
    ids = fleet.add_clients(count, zones, tag)
    return ids, fleet.add_mailing(tags=[tag], launched_client_id=ids[0] - 1)


def launch_slice(fleet: Fleet, mailing_id: int, batch_size: int = 3) -> bool:
    return fleet.launch_slice(mailing_id, batch_size)


def count_queued_launches(redis: Redis, mailing_id: int) -> int:
    waiting = [job.kwargs for job in make_queue(CONTROL_QUEUE, redis).jobs]
    return sum(job.get("mailing_id") == mailing_id for job in waiting)


def sweep_and_count_launches(fleet: Fleet, redis: Redis, mailing_id: int) -> int:
    """Sweep; return how many launches of the mailing are queued afterwards."""
    sweep_mailings(fleet.db, Queues(redis), TAKEOVER_SECONDS)
    return count_queued_launches(redis, mailing_id)


def terminate_connection(
    fleet: Fleet, name: str, paused: PausingDatabase, launched: Future[bool]
) -> None:
    """Terminate the connection `name` of a paused launch, which then raises an error."""
    fleet.query(TERMINATE_CONNECTION, name)
    paused.resume.set()
    with pytest.raises(psycopg2.Error):
        launched.result()


# --- the audience ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator_codes", "tags"),
    [([], ["{}"]), (["901", "903"], ["{}"]), (["902"], ["{}", "other {}"]), (["999"], ["{}"])],
)
def test_audience_is_the_clients_that_match_the_filter(
    fleet: Fleet, tag: str, operator_codes: list[str], tags: list[str]
) -> None:
    for name in (tag, f"other {tag}", ""):
        ids = fleet.add_clients(400, ZONES, name)
        fleet.query(
            "UPDATE clients SET operator_code = (900 + id %% 5)::text WHERE id = ANY (%s)", ids
        )
    fleet.query(
        "UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL, timezone = NULL,"
        " deleted_at = now() WHERE id = ANY (%s)",
        ids[::10],
    )
    tags = [name.format(tag) for name in tags]
    mailing_id = fleet.add_mailing(operator_codes=operator_codes, tags=tags)
    fleet.launch_mailing(mailing_id, batch_size=50)

    wanted = fleet.query(
        """
        SELECT id FROM clients WHERE deleted_at IS NULL AND tag = ANY (%s)
            AND (%s OR operator_code = ANY (%s)) ORDER BY 1
        """,
        tags,
        not operator_codes,
        operator_codes,
    )
    got = fleet.query("SELECT client_id FROM messages WHERE mailing_id = %s ORDER BY 1", mailing_id)
    assert got == wanted
    assert fleet.read_mailing(mailing_id)["audience"] == len(wanted)
    assert fleet.read_mailing(mailing_id)["audience_complete"]


def test_empty_filter_matches_all_clients(fleet: Fleet) -> None:
    fleet.add_clients(10)
    mailing_id = fleet.add_mailing()
    fleet.launch_mailing(mailing_id)
    all_clients = fleet.query("SELECT id FROM clients WHERE deleted_at IS NULL ORDER BY id")
    got = fleet.query("SELECT client_id FROM messages WHERE mailing_id = %s ORDER BY 1", mailing_id)
    assert got == all_clients


def test_batches_hold_consecutive_messages_of_one_zone(
    fleet: Fleet, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In one chunk, whatever ids the clients of other tests have used up.
    monkeypatch.setattr("worker.launch.launcher.FIRST_CHUNK_IDS", 1_000_000)
    fleet.add_clients(1003, ZONES, tag)
    mailing_id = fleet.add_mailing(tags=[tag])
    fleet.launch_mailing(mailing_id, batch_size=100)
    check_batches(fleet, mailing_id, batch_size=100)
    sizes = fleet.query("SELECT timezone, size FROM batches WHERE mailing_id = %s", mailing_id)
    assert Counter(zone for zone, _ in sizes) == dict.fromkeys(ZONES, 3)
    assert sum(size == 100 for _, size in sizes) == 8


def check_batches(fleet: Fleet, mailing_id: int, batch_size: int) -> None:
    """Assert that each batch has one zone, that of its clients, and consecutive ids."""
    rows = fleet.query(MESSAGES, mailing_id)
    zones = dict(fleet.query("SELECT id, timezone FROM clients WHERE deleted_at IS NULL"))
    batches: dict[int, list[int]] = {}
    for client_id, id_, batch_id, zone in rows:
        assert zones[client_id] == zone
        batches.setdefault(batch_id, []).append(id_)
    for batch_id, ids in batches.items():
        batch = fleet.read_batch(mailing_id, batch_id)
        assert ids == list(range(batch["first_id"], batch["last_id"] + 1))
        assert len(ids) == batch["size"] <= batch_size
    blocks = fleet.query(
        "SELECT first_id, last_id FROM id_blocks WHERE mailing_id = %s ORDER BY 1", mailing_id
    )
    assert [id_ for a, b in blocks for id_ in range(a, b + 1)] == [id_ for _, id_, *_ in rows]


def test_chunks_are_limited_where_many_clients_follow_few(
    fleet: Fleet, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no client matches, chunks span more ids; one must not write all clients that follow."""
    fleet.add_clients(500, ZONES, f"not {tag}")
    fleet.add_clients(500, ZONES, tag)
    monkeypatch.setattr(launcher, "FIRST_CHUNK_IDS", 7)
    monkeypatch.setattr(chunks, "CHUNK_RECIPIENTS", 60)
    mailing_id = fleet.add_mailing(tags=[tag])
    fleet.launch_mailing(mailing_id, batch_size=50)
    blocks = fleet.query(
        "SELECT last_id - first_id + 1 FROM id_blocks WHERE mailing_id = %s", mailing_id
    )
    assert max(size for (size,) in blocks) == 60
    assert fleet.read_mailing(mailing_id)["audience"] == 500
    check_batches(fleet, mailing_id, batch_size=50)


def test_launch_continues_where_a_limited_chunk_ends(
    fleet: Fleet, tag: str, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk written at the same time begins after its requested end, and is rolled back."""
    monkeypatch.setattr(chunks, "CHUNK_RECIPIENTS", 5)
    ids, mailing_id = add_due_mailing(fleet, tag, 60, ZONES)
    fleet.launch_mailing(mailing_id, batch_size=3)
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    assert fleet.read_mailing(mailing_id)["audience"] == 60
    check_batches(fleet, mailing_id, batch_size=3)


def test_mailing_without_audience_finishes(fleet: Fleet, tag: str) -> None:
    mailing_id = fleet.add_mailing(tags=[tag])
    calls: list[int] = []
    assert not launcher.launch_slice(
        fleet.guard, fleet.connections, mailing_id, 500, lambda: calls.append(1)
    )
    assert not calls
    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["audience"], mailing["audience_complete"]) == (0, True)
    assert fleet.settle_mailing(mailing_id) == "finished"


def test_clients_added_after_the_start_are_not_in_the_audience(
    fleet: Fleet, tag: str, small_slices: None
) -> None:
    before = fleet.add_clients(20, tag=tag)
    mailing_id = fleet.add_mailing(tags=[tag], launched_client_id=before[0] - 1)
    assert launch_slice(fleet, mailing_id)
    fleet.add_clients(20, tag=tag)
    while launch_slice(fleet, mailing_id):
        pass
    assert [client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)] == before


def test_clients_deleted_before_their_chunk_are_not_in_the_audience(
    fleet: Fleet, tag: str, small_slices: None
) -> None:
    ids, mailing_id = add_due_mailing(fleet, tag, 20)
    assert launch_slice(fleet, mailing_id)
    fleet.query(
        "UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL, timezone = NULL,"
        " deleted_at = now() WHERE id = %s",
        ids[-1],
    )
    fleet.launch_mailing(mailing_id)
    assert [client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)] == ids[:-1]


# --- interruptions --------------------------------------------------------------------------------


def test_interrupted_launch_continues_at_its_checkpoint(
    fleet: Fleet, tag: str, small_slices: None
) -> None:
    """Every slice is a launch of its own, as after a crash."""
    ids, mailing_id = add_due_mailing(fleet, tag, 60, ZONES)
    slices = 0
    while launch_slice(fleet, mailing_id):
        slices += 1
        fleet.check_totals()
        mailing = fleet.read_mailing(mailing_id)
        assert not mailing["audience_complete"]
        assert mailing["audience"] == min(7 * slices, 60)
        assert fleet.settle_mailing(mailing_id) is None, "finished before its audience was complete"
    assert slices == 8
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    check_batches(fleet, mailing_id, batch_size=3)
    assert not launch_slice(fleet, mailing_id)
    assert fleet.read_mailing(mailing_id)["audience"] == 60


def test_launch_that_dies_within_a_chunk_writes_nothing(fleet: Fleet, tag: str) -> None:
    _, mailing_id = add_due_mailing(fleet, tag, 10)
    dying = PausingDatabase(fleet.url, before=chunks.ADVANCE_CHECKPOINT)
    with threads() as run:
        launched = run(launcher.launch_slice, fleet.guard, [dying], mailing_id, 500, lambda: None)
        dying.wait_until_reached()
        terminate_connection(fleet, "pausing", dying, launched)
    assert fleet.read_mailing(mailing_id)["audience"] == 0
    assert not fleet.query(MESSAGES, mailing_id)
    fleet.launch_mailing(mailing_id)
    assert fleet.read_mailing(mailing_id)["audience"] == 10


@pytest.mark.parametrize("slice_seconds", [-1.0, 1.0])
def test_concurrent_launches_write_each_client_once(
    fleet: Fleet,
    tag: str,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    slice_seconds: float,
) -> None:
    monkeypatch.setattr(launcher, "SLICE_SECONDS", slice_seconds)
    ids, mailing_id = add_due_mailing(fleet, tag, 150, ZONES)

    def launch() -> None:
        guard, *connections = databases = [Database(fleet.url, "launching") for _ in range(3)]
        while launcher.launch_slice(guard, connections, mailing_id, 3, lambda: None):
            pass
        for db in databases:
            db.close()

    with threads() as run:
        for done in [run(launch) for _ in range(3)]:
            done.result()
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    assert fleet.read_mailing(mailing_id)["audience"] == 150
    check_batches(fleet, mailing_id, batch_size=3)


def test_sweeps_queue_one_launch_of_a_mailing(
    fleet: Fleet, tag: str, small_slices: None, redis_url: str
) -> None:
    """More launches would only delay the jobs behind them."""
    redis = Redis.from_url(redis_url)
    _, mailing_id = add_due_mailing(fleet, tag, 100)
    assert launch_slice(fleet, mailing_id)
    assert [sweep_and_count_launches(fleet, redis, mailing_id) for _ in range(3)] == [1, 1, 1]
    taken = make_queue(CONTROL_QUEUE, redis).pop_job_id()  # by a worker that dies
    assert taken is not None
    assert sweep_and_count_launches(fleet, redis, mailing_id) == 1
    redis.flushdb()
    fleet.launch_mailing(mailing_id)
    assert sweep_and_count_launches(fleet, redis, mailing_id) == 0


def test_launch_requested_twice_continues_in_one_job(
    fleet: Fleet, tag: str, small_slices: None, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_launch, "MAX_CANDIDATES", 0)
    redis = Redis.from_url(redis_url)
    _, mailing_id = add_due_mailing(fleet, tag, 100)
    databases = (*fleet.connections, fleet.guard)
    monkeypatch.setattr(jobs, "_database", lambda number: databases[number])
    settings = SimpleNamespace(batch_size=3, redis_url=redis_url)
    monkeypatch.setattr(jobs.WorkerContext, "settings", settings, raising=False)
    for _ in range(2):
        Queues(redis).enqueue_launch(mailing_id)
    for _ in range(3):
        assert make_queue(CONTROL_QUEUE, redis).pop_job_id() is not None
        jobs.launch(mailing_id)
        assert count_queued_launches(redis, mailing_id) == 1
    fleet.launch_mailing(mailing_id)


def test_second_concurrent_launch_returns_at_once(fleet: Fleet, tag: str) -> None:
    _, mailing_id = add_due_mailing(fleet, tag, 5)
    writing = PausingDatabase(fleet.url, before=chunks.LOCK_MAILING)
    guard = Database(fleet.url, "guard")
    with threads() as run:
        launched = run(launcher.launch_slice, guard, [writing], mailing_id, 500, lambda: None)
        writing.wait_until_reached()
        assert not launch_slice(fleet, mailing_id)
        assert fleet.read_mailing(mailing_id)["audience"] == 0
        writing.resume.set()
        assert not launched.result()
    assert fleet.read_mailing(mailing_id)["audience"] == 5
    guard.close()


def test_totals_stay_right_when_the_guard_connection_is_lost(
    fleet: Fleet, tag: str, small_chunks: None
) -> None:
    ids, mailing_id = add_due_mailing(fleet, tag, 30)
    guard, writing = (
        Database(fleet.url, "guard"),
        PausingDatabase(fleet.url, before=chunks.LOCK_MAILING),
    )
    with threads() as run:
        launched = run(launcher.launch_slice, guard, [writing], mailing_id, 3, lambda: None)
        writing.wait_until_reached()
        terminate_connection(fleet, "guard", writing, launched)
    fleet.check_totals()
    fleet.launch_mailing(mailing_id, batch_size=3)
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    check_batches(fleet, mailing_id, batch_size=3)


def test_late_launch_continues_at_the_present_checkpoint(
    fleet: Fleet, tag: str, small_slices: None
) -> None:
    _, mailing_id = add_due_mailing(fleet, tag, 20)
    late = PausingDatabase(fleet.url, before="pg_try_advisory_xact_lock(hashtext('launch')")
    with threads() as run:
        launched = run(launcher.launch_slice, late, fleet.connections, mailing_id, 3, lambda: None)
        late.wait_until_reached()
        launch_slice(fleet, mailing_id)
        late.resume.set()
        assert launched.result(), "the launch returned that nothing is left to do"


def test_message_ids_grow_with_each_commit(fleet: Fleet, tag: str, small_chunks: None) -> None:
    """The second chunk is slow; the third is written meanwhile, and committed after it."""
    ids, mailing_id = add_due_mailing(fleet, tag, 21)
    slow, beside = (
        PausingDatabase(fleet.url, before=chunks.WRITE_CHUNK),
        Database(fleet.url, "beside"),
    )
    with threads() as run:
        launched = run(
            launcher.launch_slice, fleet.guard, [beside, slow], mailing_id, 3, lambda: None
        )
        slow.wait_until_reached()
        wait_for(
            lambda: fleet.query_value(THIRD_CHUNK_WAITS), 10, "the third chunk waits for the second"
        )
        slow.resume.set()
        launched.result()
    beside.close()
    written = fleet.query(MESSAGES, mailing_id)
    assert [client_id for client_id, *_ in written] == ids


def test_chunk_waits_for_the_previous_one_and_is_rolled_back_with_it(
    fleet: Fleet, tag: str, small_chunks: None
) -> None:
    """The first chunk is committed, the second fails, the third was written at the same time."""
    ids, mailing_id = add_due_mailing(fleet, tag, 60, ZONES)
    dying, beside = (
        PausingDatabase(fleet.url, before=chunks.LOCK_MAILING),
        Database(fleet.url, "beside"),
    )
    with threads() as run:
        launched = run(
            launcher.launch_slice, fleet.guard, [beside, dying], mailing_id, 3, lambda: None
        )
        dying.wait_until_reached()
        wait_for(
            lambda: fleet.query_value(THIRD_CHUNK_WAITS), 10, "the third chunk waits for the second"
        )
        assert fleet.read_mailing(mailing_id)["audience"] == 7
        fleet.check_totals()
        terminate_connection(fleet, "pausing", dying, launched)
    beside.close()
    assert len(fleet.query(MESSAGES, mailing_id)) == fleet.read_mailing(mailing_id)["audience"] == 7
    fleet.launch_mailing(mailing_id, batch_size=3)
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    check_batches(fleet, mailing_id, batch_size=3)


@pytest.mark.parametrize("deleted", [False, True])
def test_launch_of_a_cancelled_mailing_stops(
    fleet: Fleet, tag: str, small_slices: None, deleted: bool
) -> None:
    _, mailing_id = add_due_mailing(fleet, tag, 40)
    assert launch_slice(fleet, mailing_id)
    fleet.cancel_mailing(mailing_id, deleted)
    assert not launch_slice(fleet, mailing_id)
    assert fleet.read_mailing(mailing_id)["audience"] == 7
    assert fleet.apply_mailing_state(mailing_id) == 7
    assert fleet.settle_mailing(mailing_id) == "cancelled"
    assert fleet.count_statuses(mailing_id) == {"cancelled": 7}


def test_cancel_waits_for_a_chunk_that_holds_the_lock(fleet: Fleet, tag: str) -> None:
    """It then cancels the messages of the chunk; nothing is written after it."""
    _, mailing_id = add_due_mailing(fleet, tag, 5)
    filling = PausingDatabase(fleet.url, before=chunks.ADVANCE_CHECKPOINT)
    with threads() as run:
        launched = run(launcher.launch_slice, fleet.guard, [filling], mailing_id, 500, lambda: None)
        filling.wait_until_reached()
        cancelled = run(fleet.cancel_mailing, mailing_id)
        wait_until_blocked(fleet.url, [cancelled])
        assert not cancelled.done()
        filling.resume.set()
        launched.result()
        cancelled.result()
    assert fleet.apply_mailing_state(mailing_id) == 5
    assert fleet.settle_mailing(mailing_id) == "cancelled"


def test_cancel_does_not_wait_while_a_chunk_is_written(fleet: Fleet, tag: str) -> None:
    """The chunk locks the mailing only after writing, and is then rolled back."""
    _, mailing_id = add_due_mailing(fleet, tag, 5)
    writing = PausingDatabase(fleet.url, before=chunks.LOCK_MAILING)
    with threads() as run:
        launched = run(launcher.launch_slice, fleet.guard, [writing], mailing_id, 500, lambda: None)
        writing.wait_until_reached()
        fleet.cancel_mailing(mailing_id)
        writing.resume.set()
        assert not launched.result()
    assert fleet.read_mailing(mailing_id)["audience"] == 0
    assert not fleet.query(MESSAGES, mailing_id)
    assert fleet.apply_mailing_state(mailing_id) == 0


def test_launch_of_a_paused_mailing_is_completed(
    fleet: Fleet, tag: str, small_slices: None
) -> None:
    _, mailing_id = add_due_mailing(fleet, tag, 30)
    assert launch_slice(fleet, mailing_id)
    fleet.query("UPDATE mailings SET status = 'paused' WHERE id = %s", mailing_id)
    while launch_slice(fleet, mailing_id):
        pass
    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["audience"], mailing["status"]) == (30, "paused")
    assert fleet.try_claim_batch(mailing_id) is None


# --- times ----------------------------------------------------------------------------------------


def test_mailing_does_not_start_before_start_at(fleet: Fleet, tag: str) -> None:
    fleet.add_clients(3, tag=tag)
    mailing_id = fleet.add_mailing(tags=[tag])
    fleet.query("UPDATE mailings SET start_at = now() + interval '1 min' WHERE id = %s", mailing_id)
    assert not launch_slice(fleet, mailing_id)
    assert fleet.read_mailing(mailing_id)["status"] == "scheduled"
    fleet.query("UPDATE mailings SET start_at = now() WHERE id = %s", mailing_id)
    fleet.launch_mailing(mailing_id)
    assert fleet.count_statuses(mailing_id) == {"pending": 3}


def test_mailing_paused_before_its_start_is_launched_at_its_end_only(
    fleet: Fleet, tag: str
) -> None:
    fleet.add_clients(3, tag=tag)
    mailing_id = fleet.add_mailing(tags=[tag], status="paused")
    assert not launch_slice(fleet, mailing_id)
    assert fleet.read_mailing(mailing_id)["started_at"] is None
    # At its end the audience is written, and its messages expire.
    fleet.end_mailing(mailing_id)
    fleet.launch_mailing(mailing_id)
    fleet.apply_mailing_state(mailing_id)
    assert fleet.settle_mailing(mailing_id) == "finished"
    assert fleet.count_statuses(mailing_id) == {"expired": 3}


def test_batches_are_due_when_the_window_opens_in_their_zone(fleet: Fleet, tag: str) -> None:
    hour = datetime.now(ZoneInfo("Europe/Moscow")).hour
    window = Window(time((hour + 23) % 24), time((hour + 2) % 24))  # open in Moscow now
    zones = ("Europe/Moscow", "Asia/Kamchatka", "Asia/Kathmandu", "Pacific/Honolulu")
    fleet.add_clients(8, zones, tag)
    mailing_id = fleet.add_mailing(tags=[tag], window_from=window.start, window_to=window.end)
    fleet.launch_mailing(mailing_id)
    due = dict(
        fleet.query("SELECT timezone, due_at FROM batches WHERE mailing_id = %s", mailing_id)
    )
    started = fleet.read_mailing(mailing_id)["started_at"]
    now = datetime.now(UTC)
    assert started <= due.pop("Europe/Moscow") <= now
    assert due == {zone: next_opening(window, zone, now) for zone in zones[1:]}
    assert all(opening > now for opening in due.values())


@pytest.mark.parametrize("windowed", [False, True])
def test_mailing_launched_after_its_end_expires(fleet: Fleet, tag: str, windowed: bool) -> None:
    """The scheduler was down from start to end, while a window was open or none was set."""
    fleet.add_clients(50, ZONES, tag)
    hours: dict[str, Any] = {"window_from": time(1), "window_to": time(0, 59)} if windowed else {}
    mailing_id = fleet.add_mailing(tags=[tag], **hours)
    fleet.end_mailing(mailing_id)
    fleet.launch_mailing(mailing_id, batch_size=5)
    assert fleet.try_claim_batch(mailing_id) is None
    assert fleet.apply_mailing_state(mailing_id) == 50
    assert fleet.settle_mailing(mailing_id) == "finished"
    assert fleet.count_statuses(mailing_id) == {"expired": 50}
    reasons = fleet.query("SELECT DISTINCT reason FROM messages WHERE mailing_id = %s", mailing_id)
    assert reasons == [("the mailing ended first",)]


# --- ids and partitions ---------------------------------------------------------------------------


def test_id_blocks_never_overlap(fleet: Fleet) -> None:
    taken: list[tuple[int, int]] = []

    def take_ids(sizes: range) -> None:
        with Database(fleet.url, "ids").autocommit() as cursor:
            for n in sizes:
                cursor.execute("SELECT take_ids('batch_ids', %s)", (n,))
                (first,) = fetch_one_row(cursor)
                taken.append((first, first + n - 1))

    with threads() as run:
        for done in [run(take_ids, range(1, 150 + i)) for i in range(4)]:
            done.result()
    taken.sort()
    assert all(a_last < b_first for (_, a_last), (b_first, _) in itertools.pairwise(taken))
    assert fleet.query_value("SELECT take_ids('batch_ids', 0)") is None


def test_concurrent_calls_create_a_partition_once(fleet: Fleet) -> None:
    ahead: int = fleet.query_value("SELECT max(until_mailing_id) FROM partition_ranges") or 1

    def ensure() -> bool:
        with Database(fleet.url, "partitions").transaction() as cursor:
            return ensure_partition(cursor, ahead)

    with threads() as run:
        made = [future.result() for future in [run(ensure) for _ in range(4)]]
    assert made.count(True) == 1
    ranges = fleet.query(
        "SELECT first_mailing_id, until_mailing_id FROM partition_ranges ORDER BY 1"
    )
    assert all(until == first for (_, until), (first, _) in itertools.pairwise(ranges))
    for table, fillfactor in (("messages", 46), ("batches", 50), ("attempts", 100)):
        options = fleet.query_value(
            "SELECT reloptions FROM pg_class WHERE oid = %s::regclass", f"{table}_p{ahead}"
        )
        assert f"fillfactor={fillfactor}" in options


def test_creating_partitions_blocks_no_reader_or_writer(fleet: Fleet) -> None:
    """It succeeds while a transaction holds rows, which continues meanwhile."""
    mailing_id = fleet.add_launched_mailing(4)
    ahead: int = fleet.query_value("SELECT max(until_mailing_id) FROM partition_ranges")
    with Database(fleet.url, "writing").transaction() as writing:
        writing.execute("SELECT count(*) FROM messages, batches, attempts")
        writing.execute("UPDATE messages SET attempts = 1 WHERE mailing_id = %s", (mailing_id,))
        writing.execute("SELECT 1 FROM batches WHERE mailing_id = %s FOR UPDATE", (mailing_id,))
        with fleet.db.transaction() as making:
            making.execute("SET LOCAL lock_timeout = '2s'")
            assert ensure_partition(making, ahead)
            writing.execute("SET LOCAL lock_timeout = '2s'")
            writing.execute("SELECT count(*) FROM messages WHERE mailing_id = %s", (mailing_id,))
            writing.execute("UPDATE messages SET attempts = 2 WHERE mailing_id = %s", (mailing_id,))


def test_launch_creates_a_missing_partition(fleet: Fleet, tag: str) -> None:
    fleet.add_clients(2, tag=tag)
    ahead: int = fleet.query_value("SELECT max(until_mailing_id) FROM partition_ranges") or 1
    mailing_id = fleet.add_mailing(tags=[tag], id=ahead + 5)
    fleet.query("SELECT setval(pg_get_serial_sequence('mailings', 'id'), %s)", mailing_id)
    fleet.launch_mailing(mailing_id)
    assert fleet.count_statuses(mailing_id) == {"pending": 2}


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Hello", "Hello, {tag}"])
def test_recording_updates_rows_in_place(fleet: Fleet, tag: str, text: str) -> None:
    """Every message's update stays on its page: fillfactor, and no index on what changes."""
    fleet.add_clients(6000, ZONES, tag)
    ahead: int = fleet.query_value("SELECT max(until_mailing_id) FROM partition_ranges") or 1
    mailing_id = fleet.add_mailing(tags=[tag], id=ahead, text=text)  # a partition of its own
    fleet.query("SELECT setval(pg_get_serial_sequence('mailings', 'id'), %s)", mailing_id)
    fleet.launch_mailing(mailing_id)
    while worker := fleet.try_claim_batch(mailing_id):
        for start in range(0, len(worker.ids), 100):
            worker.record(worker.ids[start : start + 100])
        worker.finish()
    assert fleet.count_statuses(mailing_id) == {"sent": 6000}
    with fleet.db.transaction() as cursor:  # where the updates were made
        cursor.execute("SELECT pg_stat_force_next_flush()")
    fleet.db.close()
    for table, share in (("messages", 0.99), ("batches", 0.6)):
        updated, hot = fleet.query(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s",
            f"{table}_p{ahead}",
        )[0]
        assert updated >= 12
        assert hot >= share * updated, f"{table}: {hot} of {updated} updates were HOT"


def test_one_call_expires_a_large_mailing(fleet: Fleet, tag: str) -> None:
    """It commits a short transaction for every few batches."""
    fleet.add_clients(6000, ZONES, tag)
    mailing_id = fleet.add_mailing(tags=[tag])
    fleet.launch_mailing(mailing_id)
    fleet.end_mailing(mailing_id)
    assert mailing_state.apply_mailing_state(fleet.db, mailing_id, TAKEOVER_SECONDS, 60) == 6000

"""Launch writes exactly the audience, in batches of one zone, whatever happens meanwhile."""

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
from worker.launch import chunks, launcher
from worker.maintenance.sweep import sweep_mailings
from worker.recording import mailing_state
from worker.runtime.database import Database

ZONES = ("Europe/Kaliningrad", "Europe/Moscow", "Asia/Omsk", "Asia/Kamchatka")
MESSAGES = """
SELECT m.client_id, m.id, m.batch_id, b.timezone FROM messages m
JOIN batches b ON b.mailing_id = m.mailing_id AND b.id = m.batch_id
WHERE m.mailing_id = %s ORDER BY m.id
"""
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %s AND datname = current_database()
"""
WAITING = """
SELECT 1 FROM pg_stat_activity WHERE application_name = 'beside' AND datname = current_database()
    AND state = 'idle in transaction' AND query LIKE '%WITH chosen%'
"""
_tags = itertools.count()


@pytest.fixture
def tag() -> str:
    """One that no other client has."""
    return f"tag {next(_tags)}"


@pytest.fixture
def small_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn of a launch is one chunk, and each chunk a few clients."""
    monkeypatch.setattr(launcher, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(launcher, "FIRST_CHUNK_IDS", 7)
    monkeypatch.setattr(launcher, "NEXT_SLICE_CHUNK_IDS", 7)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are of a few clients each, but turns last as long as ever."""
    monkeypatch.setattr(launcher, "FIRST_CHUNK_IDS", 7)
    monkeypatch.setattr(launcher, "_next_size", lambda chunk: 7)


def new_mailing(
    fleet: Fleet, tag: str, count: int, zones: Sequence[str] = ("Europe/Moscow",)
) -> tuple[list[int], int]:
    """Clients with a tag of their own, and a mailing to them that is about to be launched."""
    ids = fleet.add_clients(count, zones, tag)
    return ids, fleet.add_mailing(tags=[tag], launched_client_id=ids[0] - 1)


def launch_turn(fleet: Fleet, mailing_id: int, batch_size: int = 3) -> bool:
    return fleet.launch_slice(mailing_id, batch_size)


def waiting_launches(redis: Redis, mailing_id: int) -> int:
    waiting = [job.kwargs for job in make_queue(CONTROL_QUEUE, redis).jobs]
    return sum(job.get("mailing_id") == mailing_id for job in waiting)


def swept(fleet: Fleet, redis: Redis, mailing_id: int) -> int:
    """Sweep; how many launches of the mailing wait in their queue then."""
    sweep_mailings(fleet.db, Queues(redis), TAKEOVER_SECONDS)
    return waiting_launches(redis, mailing_id)


def kill(fleet: Fleet, name: str, paused: PausingDatabase, launched: Future[bool]) -> None:
    """A launch loses the connection `name` while it pauses, and says so."""
    fleet.query(TERMINATE, name)
    paused.resume.set()
    with pytest.raises(psycopg2.Error):
        launched.result()


# --- the audience ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator_codes", "tags"),
    [([], ["{}"]), (["901", "903"], ["{}"]), (["902"], ["{}", "other {}"]), (["999"], ["{}"])],
)
def test_the_audience_is_what_the_filter_says(
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


def test_an_empty_filter_means_everybody(fleet: Fleet) -> None:
    fleet.add_clients(10)
    mailing_id = fleet.add_mailing()
    fleet.launch_mailing(mailing_id)
    everybody = fleet.query("SELECT id FROM clients WHERE deleted_at IS NULL ORDER BY id")
    got = fleet.query("SELECT client_id FROM messages WHERE mailing_id = %s ORDER BY 1", mailing_id)
    assert got == everybody


def test_batches_are_of_one_zone_and_of_consecutive_messages(
    fleet: Fleet, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In one chunk, whatever ids the clients of other tests have used up: each chunk has its own.
    monkeypatch.setattr("worker.launch.launcher.FIRST_CHUNK_IDS", 1_000_000)
    fleet.add_clients(1003, ZONES, tag)
    mailing_id = fleet.add_mailing(tags=[tag])
    fleet.launch_mailing(mailing_id, batch_size=100)
    check_shape(fleet, mailing_id, batch_size=100)
    sizes = fleet.query("SELECT timezone, size FROM batches WHERE mailing_id = %s", mailing_id)
    assert Counter(zone for zone, _ in sizes) == dict.fromkeys(ZONES, 3)
    assert sum(size == 100 for _, size in sizes) == 8


def check_shape(fleet: Fleet, mailing_id: int, batch_size: int) -> None:
    """One zone a batch, its clients' own; consecutive ids, which the id blocks lead back to."""
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


def test_a_crowd_behind_a_desert_is_written_in_short_chunks(
    fleet: Fleet, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody matches, chunks grow; one of them must not take in all who come after."""
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
    check_shape(fleet, mailing_id, batch_size=50)


def test_a_chunk_that_falls_short_is_gone_on_with_where_it_ends(
    fleet: Fleet, tag: str, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one written beside it, which begins where it should have ended, comes to nothing."""
    monkeypatch.setattr(chunks, "CHUNK_RECIPIENTS", 5)
    ids, mailing_id = new_mailing(fleet, tag, 60, ZONES)
    fleet.launch_mailing(mailing_id, batch_size=3)
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    assert fleet.read_mailing(mailing_id)["audience"] == 60
    check_shape(fleet, mailing_id, batch_size=3)


def test_an_empty_audience_finishes(fleet: Fleet, tag: str) -> None:
    mailing_id = fleet.add_mailing(tags=[tag])
    woken: list[int] = []
    assert not launcher.launch_slice(
        fleet.guard, fleet.connections, mailing_id, 500, lambda: woken.append(1)
    )
    assert not woken
    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["audience"], mailing["audience_complete"]) == (0, True)
    assert fleet.settle_mailing(mailing_id) == "finished"


def test_clients_added_after_its_beginning_are_not_in(
    fleet: Fleet, tag: str, small_turns: None
) -> None:
    before = fleet.add_clients(20, tag=tag)
    mailing_id = fleet.add_mailing(tags=[tag], launched_client_id=before[0] - 1)
    assert launch_turn(fleet, mailing_id)
    fleet.add_clients(20, tag=tag)
    while launch_turn(fleet, mailing_id):
        pass
    assert [client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)] == before


def test_who_is_deleted_before_their_chunk_is_not_in(
    fleet: Fleet, tag: str, small_turns: None
) -> None:
    ids, mailing_id = new_mailing(fleet, tag, 20)
    assert launch_turn(fleet, mailing_id)
    fleet.query(
        "UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL, timezone = NULL,"
        " deleted_at = now() WHERE id = %s",
        ids[-1],
    )
    fleet.launch_mailing(mailing_id)
    assert [client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)] == ids[:-1]


# --- interruptions --------------------------------------------------------------------------------


def test_it_goes_on_where_it_stopped(fleet: Fleet, tag: str, small_turns: None) -> None:
    """Every turn is a launch of its own, as after the death of the one before."""
    ids, mailing_id = new_mailing(fleet, tag, 60, ZONES)
    turns = 0
    while launch_turn(fleet, mailing_id):
        turns += 1
        fleet.check_totals()
        mailing = fleet.read_mailing(mailing_id)
        assert not mailing["audience_complete"]
        assert mailing["audience"] == min(7 * turns, 60)
        assert fleet.settle_mailing(mailing_id) is None, "finished before its audience was complete"
    assert turns == 8
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    check_shape(fleet, mailing_id, batch_size=3)
    assert not launch_turn(fleet, mailing_id)
    assert fleet.read_mailing(mailing_id)["audience"] == 60


def test_one_that_dies_in_mid_chunk_leaves_nothing_behind(fleet: Fleet, tag: str) -> None:
    _, mailing_id = new_mailing(fleet, tag, 10)
    dying = PausingDatabase(fleet.url, before=chunks.ADVANCE_CHECKPOINT)
    with threads() as run:
        launched = run(launcher.launch_slice, fleet.guard, [dying], mailing_id, 500, lambda: None)
        dying.wait_until_reached()
        kill(fleet, "pausing", dying, launched)
    assert fleet.read_mailing(mailing_id)["audience"] == 0
    assert not fleet.query(MESSAGES, mailing_id)
    fleet.launch_mailing(mailing_id)
    assert fleet.read_mailing(mailing_id)["audience"] == 10


@pytest.mark.parametrize("turn_seconds", [-1.0, 1.0])
def test_many_launches_at_once_write_everybody_once(
    fleet: Fleet,
    tag: str,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    turn_seconds: float,
) -> None:
    monkeypatch.setattr(launcher, "SLICE_SECONDS", turn_seconds)
    ids, mailing_id = new_mailing(fleet, tag, 150, ZONES)

    def whole() -> None:
        guard, *lanes = databases = [Database(fleet.url, "launching") for _ in range(3)]
        while launcher.launch_slice(guard, lanes, mailing_id, 3, lambda: None):
            pass
        for db in databases:
            db.close()

    with threads() as run:
        for done in [run(whole) for _ in range(3)]:
            done.result()
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    assert fleet.read_mailing(mailing_id)["audience"] == 150
    check_shape(fleet, mailing_id, batch_size=3)


def test_sweeps_leave_one_launch_of_a_mailing_in_the_queue(
    fleet: Fleet, tag: str, small_turns: None, redis_url: str
) -> None:
    """Each would take its turn; those behind them would wait for as many."""
    redis = Redis.from_url(redis_url)
    _, mailing_id = new_mailing(fleet, tag, 100)
    assert launch_turn(fleet, mailing_id)
    assert [swept(fleet, redis, mailing_id) for _ in range(3)] == [1, 1, 1]
    taken = make_queue(CONTROL_QUEUE, redis).pop_job_id()  # by a worker that dies
    assert taken is not None
    assert swept(fleet, redis, mailing_id) == 1
    redis.flushdb()
    fleet.launch_mailing(mailing_id)
    assert swept(fleet, redis, mailing_id) == 0


def test_a_launch_that_was_asked_for_twice_goes_on_once(
    fleet: Fleet, tag: str, small_turns: None, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = Redis.from_url(redis_url)
    _, mailing_id = new_mailing(fleet, tag, 100)
    databases = (*fleet.connections, fleet.guard)
    monkeypatch.setattr(jobs, "_database", lambda number: databases[number])
    monkeypatch.setattr(
        jobs.WorkerContext, "settings", SimpleNamespace(batch_size=3), raising=False
    )
    monkeypatch.setattr(jobs.WorkerContext, "connection", redis, raising=False)
    for _ in range(2):
        Queues(redis).enqueue_launch(mailing_id)
    for _ in range(3):
        assert make_queue(CONTROL_QUEUE, redis).pop_job_id() is not None
        jobs.launch(mailing_id)
        assert waiting_launches(redis, mailing_id) == 1
    fleet.launch_mailing(mailing_id)


def test_whoever_finds_others_at_it_leaves(fleet: Fleet, tag: str) -> None:
    _, mailing_id = new_mailing(fleet, tag, 5)
    writing = PausingDatabase(fleet.url, before=chunks.LOCK_MAILING)
    guard = Database(fleet.url, "guard")
    with threads() as run:
        launched = run(launcher.launch_slice, guard, [writing], mailing_id, 500, lambda: None)
        writing.wait_until_reached()
        assert not launch_turn(fleet, mailing_id)
        assert fleet.read_mailing(mailing_id)["audience"] == 0
        writing.resume.set()
        assert not launched.result()
    assert fleet.read_mailing(mailing_id)["audience"] == 5
    guard.close()


def test_one_whose_guard_dies_keeps_its_books(fleet: Fleet, tag: str, small_chunks: None) -> None:
    ids, mailing_id = new_mailing(fleet, tag, 30)
    guard, writing = (
        Database(fleet.url, "guard"),
        PausingDatabase(fleet.url, before=chunks.LOCK_MAILING),
    )
    with threads() as run:
        launched = run(launcher.launch_slice, guard, [writing], mailing_id, 3, lambda: None)
        writing.wait_until_reached()
        kill(fleet, "guard", writing, launched)
    fleet.check_totals()
    fleet.launch_mailing(mailing_id, batch_size=3)
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    check_shape(fleet, mailing_id, batch_size=3)


def test_one_that_comes_to_its_turn_late_goes_on_from_there(
    fleet: Fleet, tag: str, small_turns: None
) -> None:
    _, mailing_id = new_mailing(fleet, tag, 20)
    late = PausingDatabase(fleet.url, before="pg_try_advisory_xact_lock(hashtext('launch')")
    with threads() as run:
        launched = run(launcher.launch_slice, late, fleet.connections, mailing_id, 3, lambda: None)
        late.wait_until_reached()
        launch_turn(fleet, mailing_id)
        late.resume.set()
        assert launched.result(), "it says that nothing is left to do"


def test_ids_of_messages_grow_with_each_commit(fleet: Fleet, tag: str, small_chunks: None) -> None:
    """The second chunk is slow; the third is written meanwhile, and committed after it."""
    ids, mailing_id = new_mailing(fleet, tag, 21)
    slow, beside = (
        PausingDatabase(fleet.url, before=chunks.WRITE_CHUNK),
        Database(fleet.url, "beside"),
    )
    with threads() as run:
        launched = run(
            launcher.launch_slice, fleet.guard, [beside, slow], mailing_id, 3, lambda: None
        )
        slow.wait_until_reached()
        wait_for(lambda: fleet.query_value(WAITING), 10, "the third chunk waits for the second")
        slow.resume.set()
        launched.result()
    beside.close()
    written = fleet.query(MESSAGES, mailing_id)
    assert [client_id for client_id, *_ in written] == ids


def test_a_chunk_waits_for_the_one_before_and_falls_with_it(
    fleet: Fleet, tag: str, small_chunks: None
) -> None:
    """The first chunk is committed, the second dies, the third was written beside it."""
    ids, mailing_id = new_mailing(fleet, tag, 60, ZONES)
    dying, beside = (
        PausingDatabase(fleet.url, before=chunks.LOCK_MAILING),
        Database(fleet.url, "beside"),
    )
    with threads() as run:
        launched = run(
            launcher.launch_slice, fleet.guard, [beside, dying], mailing_id, 3, lambda: None
        )
        dying.wait_until_reached()
        wait_for(lambda: fleet.query_value(WAITING), 10, "the third chunk waits for the second")
        assert fleet.read_mailing(mailing_id)["audience"] == 7
        fleet.check_totals()
        kill(fleet, "pausing", dying, launched)
    beside.close()
    assert len(fleet.query(MESSAGES, mailing_id)) == fleet.read_mailing(mailing_id)["audience"] == 7
    fleet.launch_mailing(mailing_id, batch_size=3)
    assert sorted(client_id for client_id, *_ in fleet.query(MESSAGES, mailing_id)) == ids
    check_shape(fleet, mailing_id, batch_size=3)


@pytest.mark.parametrize("deleted", [False, True])
def test_one_that_is_cancelled_stops(
    fleet: Fleet, tag: str, small_turns: None, deleted: bool
) -> None:
    _, mailing_id = new_mailing(fleet, tag, 40)
    assert launch_turn(fleet, mailing_id)
    fleet.cancel_mailing(mailing_id, deleted)
    assert not launch_turn(fleet, mailing_id)
    assert fleet.read_mailing(mailing_id)["audience"] == 7
    assert fleet.apply_mailing_state(mailing_id) == 7
    assert fleet.settle_mailing(mailing_id) == "cancelled"
    assert fleet.count_statuses(mailing_id) == {"cancelled": 7}


def test_one_that_is_cancelled_in_mid_chunk(fleet: Fleet, tag: str) -> None:
    """The cancel waits for the chunk, whose messages it then finds; nothing is written after it."""
    _, mailing_id = new_mailing(fleet, tag, 5)
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


def test_a_cancel_does_not_wait_while_a_chunk_is_written(fleet: Fleet, tag: str) -> None:
    """The chunk locks the mailing only when all is written, and then comes to nothing."""
    _, mailing_id = new_mailing(fleet, tag, 5)
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


def test_one_that_is_paused_is_written_to_the_end(
    fleet: Fleet, tag: str, small_turns: None
) -> None:
    _, mailing_id = new_mailing(fleet, tag, 30)
    assert launch_turn(fleet, mailing_id)
    fleet.query("UPDATE mailings SET status = 'paused' WHERE id = %s", mailing_id)
    while launch_turn(fleet, mailing_id):
        pass
    mailing = fleet.read_mailing(mailing_id)
    assert (mailing["audience"], mailing["status"]) == (30, "paused")
    assert fleet.try_claim_batch(mailing_id) is None


# --- times ----------------------------------------------------------------------------------------


def test_nothing_starts_before_its_time(fleet: Fleet, tag: str) -> None:
    fleet.add_clients(3, tag=tag)
    mailing_id = fleet.add_mailing(tags=[tag])
    fleet.query("UPDATE mailings SET start_at = now() + interval '1 min' WHERE id = %s", mailing_id)
    assert not launch_turn(fleet, mailing_id)
    assert fleet.read_mailing(mailing_id)["status"] == "scheduled"
    fleet.query("UPDATE mailings SET start_at = now() WHERE id = %s", mailing_id)
    fleet.launch_mailing(mailing_id)
    assert fleet.count_statuses(mailing_id) == {"pending": 3}


def test_a_paused_one_that_did_not_start_is_not_started(fleet: Fleet, tag: str) -> None:
    fleet.add_clients(3, tag=tag)
    mailing_id = fleet.add_mailing(tags=[tag], status="paused")
    assert not launch_turn(fleet, mailing_id)
    assert fleet.read_mailing(mailing_id)["started_at"] is None
    # … until its end: then its books say who was not reached.
    fleet.end_mailing(mailing_id)
    fleet.launch_mailing(mailing_id)
    fleet.apply_mailing_state(mailing_id)
    assert fleet.settle_mailing(mailing_id) == "finished"
    assert fleet.count_statuses(mailing_id) == {"expired": 3}


def test_windows_put_it_off_zone_by_zone(fleet: Fleet, tag: str) -> None:
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
def test_one_whose_whole_time_was_missed_expires(fleet: Fleet, tag: str, windowed: bool) -> None:
    """The scheduler was away from its start to its end; a window was open then, or none was set."""
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


def test_blocks_of_ids_never_overlap(fleet: Fleet) -> None:
    taken: list[tuple[int, int]] = []

    def take(sizes: range) -> None:
        with Database(fleet.url, "ids").autocommit() as cursor:
            for n in sizes:
                cursor.execute("SELECT take_ids('batch_ids', %s)", (n,))
                (first,) = fetch_one_row(cursor)
                taken.append((first, first + n - 1))

    with threads() as run:
        for done in [run(take, range(1, 150 + i)) for i in range(4)]:
            done.result()
    taken.sort()
    assert all(a_last < b_first for (_, a_last), (b_first, _) in itertools.pairwise(taken))
    assert fleet.query_value("SELECT take_ids('batch_ids', 0)") is None


def test_partitions_made_at_once_are_made_once(fleet: Fleet) -> None:
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
    for table in ("messages", "batches", "attempts"):
        fillfactor = "fillfactor=100" if table == "attempts" else "fillfactor=50"
        options = fleet.query_value(
            "SELECT reloptions FROM pg_class WHERE oid = %s::regclass", f"{table}_p{ahead}"
        )
        assert fillfactor in options


def test_making_partitions_waits_for_no_reader_and_no_writer(fleet: Fleet) -> None:
    """Nor do they wait for it: it is done while others hold rows, and they go on meanwhile."""
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


def test_a_missing_partition_is_made_by_launch(fleet: Fleet, tag: str) -> None:
    fleet.add_clients(2, tag=tag)
    ahead: int = fleet.query_value("SELECT max(until_mailing_id) FROM partition_ranges") or 1
    mailing_id = fleet.add_mailing(tags=[tag], id=ahead + 5)
    fleet.query("SELECT setval(pg_get_serial_sequence('mailings', 'id'), %s)", mailing_id)
    fleet.launch_mailing(mailing_id)
    assert fleet.count_statuses(mailing_id) == {"pending": 2}


# --- cost -----------------------------------------------------------------------------------------


def test_recording_touches_no_index(fleet: Fleet, tag: str) -> None:
    """At least nine of ten updates stay on their page: fillfactor, and no index on what changes."""
    fleet.add_clients(6000, ZONES, tag)
    ahead: int = fleet.query_value("SELECT max(until_mailing_id) FROM partition_ranges") or 1
    mailing_id = fleet.add_mailing(tags=[tag], id=ahead)  # a partition of its own
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
    for table, share in (("messages", 0.9), ("batches", 0.6)):
        updated, hot = fleet.query(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s",
            f"{table}_p{ahead}",
        )[0]
        assert updated >= 12
        assert hot >= share * updated, f"{table}: {hot} of {updated} updates were HOT"


def test_expiry_is_quick(fleet: Fleet, tag: str) -> None:
    """In steps of some batches, each a short transaction, and all of it in one call."""
    fleet.add_clients(6000, ZONES, tag)
    mailing_id = fleet.add_mailing(tags=[tag])
    fleet.launch_mailing(mailing_id)
    fleet.end_mailing(mailing_id)
    assert mailing_state.apply_mailing_state(fleet.db, mailing_id, TAKEOVER_SECONDS, 60) == 6000

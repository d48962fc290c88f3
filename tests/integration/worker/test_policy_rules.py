"""Workers follow the policy: the audience limit, the launch delay and the emergency stop."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from shared.queues import CONTROL_QUEUE, DISPATCH_QUEUE, Queues, make_queue
from tests.support.fleet import TAKEOVER_SECONDS, Fleet
from worker.dispatch import claim_queries
from worker.dispatch.watch import fetch_watch
from worker.launch import launcher
from worker.launch.small_launch import SmallLauncher
from worker.maintenance.sweep import sweep_mailings

_tags = itertools.count()


@pytest.fixture(autouse=True)
def no_rules(fleet: Fleet) -> Iterator[None]:
    """End with a policy whose rules are off, and without the emergency stop."""
    fleet.query(
        "UPDATE mailings SET status = 'cancelled', finished_at = now(), settled = true"
        " WHERE status = 'scheduled'"
    )
    yield
    fleet.query("DELETE FROM policies WHERE version > 1")
    set_stop(fleet, stopped=False)


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice of a launch is one chunk of seven client ids."""
    monkeypatch.setattr(launcher, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(launcher, "FIRST_CHUNK_IDS", 7)
    monkeypatch.setattr(launcher, "NEXT_SLICE_CHUNK_IDS", 7)


def set_policy(fleet: Fleet, **rules: Any) -> int:
    """Insert a version of the policy; return its number."""
    version: int = fleet.query_value(
        "INSERT INTO policies (version, max_audience, launch_delay)"
        " SELECT max(version) + 1, %s, %s FROM policies RETURNING version",
        rules.get("max_audience"),
        rules.get("launch_delay", 0),
    )
    return version


def set_stop(fleet: Fleet, *, stopped: bool) -> None:
    fleet.query("UPDATE emergency_stop SET stopped_at = CASE WHEN %s THEN now() END", stopped)


def resume_mailing(fleet: Fleet, mailing_id: int, limit: int | None) -> None:
    """Raise the limit and resume, as the API does."""
    fleet.query(
        "UPDATE mailings SET status = 'running', audience_limit = %s WHERE id = %s",
        limit,
        mailing_id,
    )


def add_due_mailing(fleet: Fleet, clients: int, **columns: Any) -> int:
    """Add clients with a tag of their own, and a due mailing to them."""
    tag = f"policy {next(_tags)}"
    ids = fleet.add_clients(clients, tag=tag)
    return fleet.add_mailing(tags=[tag], launched_client_id=ids[0] - 1, **columns)


def sweep_and_count(fleet: Fleet, redis: Redis, mailing_id: int) -> int:
    """Sweep; return how many launches of a mailing are queued afterwards."""
    redis.flushdb()
    sweep_mailings(fleet.db, Queues(redis), TAKEOVER_SECONDS)
    waiting = [job.kwargs["mailing_id"] for job in make_queue(CONTROL_QUEUE, redis).jobs]
    return waiting.count(mailing_id)


def read_state(fleet: Fleet, mailing_id: int) -> tuple[str, str | None, int, bool]:
    row = fleet.read_mailing(mailing_id)
    return row["status"], row["pause_reason"], row["audience"], row["audience_complete"]


@pytest.mark.usefixtures("small_slices")
def test_a_limit_exceeded_in_the_third_chunk_stops_the_launch(
    fleet: Fleet, valkey_client: Redis
) -> None:
    mailing_id = add_due_mailing(fleet, 30, max_audience=15)
    for _ in range(2):
        assert fleet.launch_slice(mailing_id)
        # Nothing is sent before the whole audience is counted.
        assert fleet.try_claim_batch(mailing_id) is None
        assert mailing_id not in claim_queries.fetch_due_mailings(fleet.db, TAKEOVER_SECONDS)
    assert read_state(fleet, mailing_id) == ("running", None, 14, False)
    assert not fleet.launch_slice(mailing_id)
    assert read_state(fleet, mailing_id) == ("paused", "audience_limit", 21, False)
    # A job that was already queued, and the sweep, leave it as it is.
    assert not fleet.launch_slice(mailing_id)
    assert sweep_and_count(fleet, valkey_client, mailing_id) == 0
    assert read_state(fleet, mailing_id) == ("paused", "audience_limit", 21, False)
    assert fleet.try_claim_batch(mailing_id) is None
    # After the limit is raised the launch goes on at its checkpoint.
    resume_mailing(fleet, mailing_id, 30)
    assert sweep_and_count(fleet, valkey_client, mailing_id) == 1
    fleet.launch_mailing(mailing_id)
    assert read_state(fleet, mailing_id) == ("running", None, 30, True)
    assert fleet.try_claim_batch(mailing_id) is not None


@pytest.mark.usefixtures("small_slices")
def test_a_limit_exceeded_in_the_last_chunk_leaves_the_audience_incomplete(fleet: Fleet) -> None:
    mailing_id = add_due_mailing(fleet, 14, max_audience=13)
    while fleet.launch_slice(mailing_id):
        pass
    assert read_state(fleet, mailing_id) == ("paused", "audience_limit", 14, False)
    resume_mailing(fleet, mailing_id, None)
    fleet.launch_mailing(mailing_id)
    assert read_state(fleet, mailing_id) == ("running", None, 14, True)


def test_chunks_that_were_written_beside_are_rolled_back(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "FIRST_CHUNK_IDS", 7)
    monkeypatch.setattr(launcher, "_next_size", lambda chunk: 7)
    mailing_id = add_due_mailing(fleet, 60, max_audience=30)
    assert not fleet.launch_slice(mailing_id)
    assert read_state(fleet, mailing_id) == ("paused", "audience_limit", 35, False)
    assert fleet.count_statuses(mailing_id) == {"pending": 35}


def test_an_audience_as_large_as_the_limit_is_sent(fleet: Fleet) -> None:
    exact, small = (add_due_mailing(fleet, 5, max_audience=5) for _ in range(2))
    fleet.launch_mailing(exact)
    fleet.launch_small_mailings()
    for mailing_id in (exact, small):
        assert read_state(fleet, mailing_id) == ("running", None, 5, True)
        assert fleet.try_claim_batch(mailing_id) is not None


def test_small_mailings_over_their_limit_pause_and_others_run(fleet: Fleet) -> None:
    over = add_due_mailing(fleet, 5, max_audience=4)
    within = add_due_mailing(fleet, 5)
    fleet.launch_small_mailings()
    assert read_state(fleet, over) == ("paused", "audience_limit", 5, False)
    assert read_state(fleet, within) == ("running", None, 5, True)
    resume_mailing(fleet, over, None)
    fleet.launch_mailing(over)
    assert read_state(fleet, over) == ("running", None, 5, True)


def test_the_smaller_limit_of_the_policy_at_the_launch_applies(fleet: Fleet) -> None:
    before = add_due_mailing(fleet, 3)
    fleet.launch_mailing(before)
    version = set_policy(fleet, max_audience=2)
    mailings = [add_due_mailing(fleet, 3, max_audience=limit) for limit in (None, 1, 3)]
    fleet.launch_mailing(mailings[0])
    fleet.launch_small_mailings()
    for mailing_id, limit in zip(mailings, (2, 1, 2), strict=True):
        row = fleet.read_mailing(mailing_id)
        assert (row["policy_version"], row["audience_limit"]) == (version, limit)
        assert row["pause_reason"] == "audience_limit"
    assert read_state(fleet, before) == ("running", None, 3, True)


@pytest.mark.usefixtures("small_slices")
def test_a_mailing_over_its_limit_expires_at_its_end(fleet: Fleet, valkey_client: Redis) -> None:
    mailing_id = add_due_mailing(fleet, 30, max_audience=10)
    while fleet.launch_slice(mailing_id):
        pass
    fleet.end_mailing(mailing_id)
    for _ in range(2):
        sweep_and_count(fleet, valkey_client, mailing_id)
    row = fleet.read_mailing(mailing_id)
    assert (row["status"], row["settled"], row["pause_reason"]) == ("finished", True, None)
    assert (row["audience"], row["expired"], row["audience_complete"]) == (14, 14, False)


def test_a_mailing_is_not_launched_before_its_launch_delay(
    fleet: Fleet, valkey_client: Redis
) -> None:
    mailing_id = add_due_mailing(fleet, 3)
    fleet.query(
        "UPDATE mailings SET launch_not_before = now() + interval '1 hour' WHERE id = %s",
        mailing_id,
    )
    assert sweep_and_count(fleet, valkey_client, mailing_id) == 0
    assert not fleet.launch_slice(mailing_id)
    assert SmallLauncher(fleet.db, 500).launch_some().launched == ()
    assert read_state(fleet, mailing_id) == ("scheduled", None, 0, False)
    fleet.query("UPDATE mailings SET launch_not_before = now() WHERE id = %s", mailing_id)
    assert sweep_and_count(fleet, valkey_client, mailing_id) == 1
    fleet.launch_small_mailings()
    assert read_state(fleet, mailing_id) == ("running", None, 3, True)


def test_an_emergency_stop_holds_claims_and_launches(fleet: Fleet, valkey_client: Redis) -> None:
    running, due = (add_due_mailing(fleet, 3) for _ in range(2))
    fleet.launch_mailing(running)
    set_stop(fleet, stopped=True)
    assert fetch_watch(fleet.db, fleet.clock, [running]).stopped
    assert claim_queries.fetch_due_mailings(fleet.db, TAKEOVER_SECONDS) == {}
    assert fleet.try_claim_batch(running) is None
    assert not fleet.launch_slice(due)
    fleet.launch_small_mailings()
    assert sweep_and_count(fleet, valkey_client, running) == 0
    assert sweep_and_count(fleet, valkey_client, due) == 0
    assert make_queue(DISPATCH_QUEUE, valkey_client).count == 0
    assert [fleet.read_mailing(each)["status"] for each in (running, due)] == [
        "running",
        "scheduled",
    ]
    set_stop(fleet, stopped=False)
    assert not fetch_watch(fleet.db, fleet.clock, [running]).stopped
    sweep_and_count(fleet, valkey_client, running)
    assert make_queue(DISPATCH_QUEUE, valkey_client).count == 1
    assert fleet.try_claim_batch(running) is not None
    fleet.launch_small_mailings()
    assert read_state(fleet, due) == ("running", None, 3, True)


def test_mailings_that_end_during_an_emergency_stop_expire(
    fleet: Fleet, valkey_client: Redis
) -> None:
    running, due = (add_due_mailing(fleet, 3) for _ in range(2))
    fleet.launch_mailing(running)
    set_stop(fleet, stopped=True)
    for mailing_id in (running, due):
        fleet.end_mailing(mailing_id)
    assert sweep_and_count(fleet, valkey_client, due) == 1
    fleet.launch_small_mailings()
    sweep_and_count(fleet, valkey_client, due)
    for mailing_id in (running, due):
        assert fleet.count_statuses(mailing_id) == {"expired": 3}

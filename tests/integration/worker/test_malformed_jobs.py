"""Malformed data in Redis: it is removed and logged, and the jobs behind it are done."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from shared.fleet_status import SCHEDULED_JOBS_KEY, read_fleet_status
from shared.metrics import BREAKER_KEY, COUNTERS_KEY, HOLD_KEY, SENDERS_KEY, SWEPT_KEY
from shared.queues import NotificationJob
from tests.support.system import Process
from tests.support.waiting import wait_for

QUEUE = "rq:queue:control"
SWEEP_LIST = "rq:queue:sweep"
LAUNCH = "worker.jobs.launch"
MISSING_MAILING = 987_654_321  # a launch of it does nothing

Fields = dict[Any, Any]
Spoil = Callable[[Fields], Fields | None]


def replace(**changes: Any) -> Spoil:
    return lambda fields: {**fields, **changes}


def call(*parts: Any) -> Spoil:
    """Replace the call that the job names."""
    return replace(data=json.dumps(parts).encode())


# How a job's hash is malformed; None: the key is a list.
MALFORMED: dict[str, Spoil] = {
    "meta is not JSON": replace(meta=b"{broken"),
    "meta is a list": replace(meta=b"[1]"),
    "meta is a number": replace(meta=b"7"),
    "interval is a text": replace(meta=b'{"interval": "soon"}'),
    "interval is a list": replace(meta=b'{"interval": [1]}'),
    "interval is not positive": replace(meta=b'{"interval": -1}'),
    "repeat is a text": replace(meta=b'{"interval": 1, "repeat": "often"}'),
    "cron string is malformed": replace(meta=b'{"cron_string": "every day"}'),
    "meta is not UTF-8": replace(meta=b'{"interval": "\xff"}'),
    "bad creation date": replace(created_at=b"yesterday"),
    "bad date of enqueueing": replace(enqueued_at=b"2026-13-45"),
    "origin is not UTF-8": replace(origin=b"\xff\xfe"),
    "origin is another queue": replace(origin=b"elsewhere"),
    "status is unknown": replace(status=b"hopeful"),
    "description is not UTF-8": replace(description=b"\xff"),
    "a number is a text": replace(result_ttl=b"long"),
    "timeout is a text": replace(timeout=b"long"),
    "data is not JSON": replace(data=b"\x80\x04pickle"),
    "data is empty": replace(data=b""),
    "data is not a call": replace(data=b"7"),
    "data is too short": call(LAUNCH, None),
    "function is a number": call(7, None, [], {}),
    "function is a list": call([LAUNCH], None, [], {}),
    "function is null": call(None, None, [], {}),
    "instance is given": call(LAUNCH, "os", [], {}),
    "arguments are a number": call(LAUNCH, None, 7, {}),
    "named arguments are a list": call(LAUNCH, None, [], [1]),
    "no data": lambda fields: {name: fields[name] for name in fields if name != "data"},
    "wrong type of key": lambda _: None,
}
# Ids that are no ids of jobs, as they stand in a queue.
BAD_IDS = {"not UTF-8": b"\xff\xfe", "with a space": b"a job", "empty": b"", "with a colon": b"a:b"}


@pytest.fixture(scope="module")
def redis(redis_url: str) -> Redis:
    return Redis.from_url(redis_url)


@pytest.fixture(scope="module")
def environment(database_url: str, redis_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PROVIDER_URL": "http://127.0.0.1:9",
        "PROVIDER_TOKEN": "test-provider-token",
    }


# The processes of this module by their roles, which are fixtures.
_processes: dict[str, Process] = {}


def run_role(role: str, environment: dict[str, str], directory: Path) -> Iterator[Process]:
    argv = [sys.executable, "-m", "worker", role]
    process = Process(role, argv, environment, directory / f"{role}.log")
    process.start()
    _processes[role] = process
    yield process
    process.kill()


@pytest.fixture(scope="module")
def control(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    yield from run_role("control", environment, tmp_path_factory.mktemp("control"))


@pytest.fixture(scope="module")
def scheduler(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    yield from run_role("scheduler", environment, tmp_path_factory.mktemp("scheduler"))


@pytest.fixture(autouse=True)
def clean(redis: Redis, request: pytest.FixtureRequest) -> None:
    """Empty Redis; run the processes that the test names, and no others."""
    for role, process in _processes.items():
        if role not in request.fixturenames:
            process.kill()
    redis.flushdb()
    for role in {"control", "scheduler"} & set(request.fixturenames):
        process = request.getfixturevalue(role)
        if not process.running:
            process.start()


def make_job(redis: Redis) -> NotificationJob:
    job = NotificationJob.create(
        LAUNCH,
        kwargs={"mailing_id": MISSING_MAILING, "request_id": None},
        connection=redis,
        origin="control",
    )
    assert isinstance(job, NotificationJob)
    return job


def save_malformed(redis: Redis, spoil: Spoil) -> str:
    job = make_job(redis)
    fields = spoil(job.to_dict())
    if fields is None:
        redis.rpush(job.key, "x")
    else:
        redis.hset(job.key, mapping=fields)
    return job.id


def save_good(redis: Redis) -> str:
    job = make_job(redis)
    job.save()
    return job.id


def find_events(process: Process, event: str) -> list[dict[str, Any]]:
    lines = process.log.read_text(errors="replace").splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(events) == len(lines), f"not one JSON object a line: {lines}"
    return [each for each in events if each["event"] == event]


def wait_for_event(process: Process, event: str, **fields: Any) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        found = find_events(process, event)
        return next((line for line in found if fields.items() <= line.items()), None)

    return wait_for(find, 10, f"{process.name} logs {event} {fields}")


@pytest.mark.parametrize("spoil", MALFORMED.values(), ids=MALFORMED)
def test_worker_removes_a_malformed_job(spoil: Spoil, redis: Redis, control: Process) -> None:
    bad, good = save_malformed(redis, spoil), save_good(redis)
    redis.rpush(QUEUE, bad, good)
    wait_for(lambda: not redis.exists(f"rq:job:{good}"), 15, "the job behind it is done")
    assert control.running
    assert not redis.exists(f"rq:job:{bad}")
    assert wait_for_event(control, "job.unreadable", job_id=bad)["error"]
    wait_for(lambda: not redis.exists(f"{QUEUE}:intermediate"), 30, "no job is left behind")


@pytest.mark.parametrize("spoil", MALFORMED.values(), ids=MALFORMED)
def test_scheduler_removes_a_malformed_job(spoil: Spoil, redis: Redis, scheduler: Process) -> None:
    bad, good = save_malformed(redis, spoil), save_good(redis)
    now = time.time()
    redis.zadd(SCHEDULED_JOBS_KEY, {bad: now - 2, good: now - 1})
    wait_for(lambda: good.encode() in redis.lrange(QUEUE, 0, -1), 15, "the job behind it is due")
    assert scheduler.running
    assert not redis.exists(f"rq:job:{bad}")
    assert redis.zscore(SCHEDULED_JOBS_KEY, bad) is None
    assert wait_for_event(scheduler, "job.unreadable", job_id=bad)["error"]


def test_malformed_periodic_job_is_registered_again(redis: Redis, scheduler: Process) -> None:
    redis.hset("rq:job:notification-sweep", mapping={"data": b"[", "meta": b'{"interval": "x"}'})
    redis.zadd(SCHEDULED_JOBS_KEY, {"notification-sweep": time.time() - 1})
    wait_for(lambda: b"notification-sweep" in redis.lrange(SWEEP_LIST, 0, -1), 15, "a sweep is due")
    assert scheduler.running


def test_periodic_job_in_the_far_future_is_due_now(redis: Redis, scheduler: Process) -> None:
    """A scheduler whose clock was ahead registered it."""
    wait_for(lambda: redis.zscore(SCHEDULED_JOBS_KEY, "notification-sweep"), 15, "it is there")
    redis.delete(SWEEP_LIST)
    redis.zadd(SCHEDULED_JOBS_KEY, {"notification-sweep": time.time() + 86_400})
    wait_for(lambda: b"notification-sweep" in redis.lrange(SWEEP_LIST, 0, -1), 15, "a sweep is due")


def test_periodic_job_moves_from_the_queue_of_the_former_version(
    redis: Redis, scheduler: Process
) -> None:
    wait_for(lambda: redis.zscore(SCHEDULED_JOBS_KEY, "notification-sweep"), 15, "it is there")
    redis.hset("rq:job:notification-sweep", "origin", "control")
    redis.delete(SWEEP_LIST)
    wait_for(lambda: b"notification-sweep" in redis.lrange(SWEEP_LIST, 0, -1), 15, "it has moved")
    assert redis.hget("rq:job:notification-sweep", "origin") == b"sweep"


@pytest.mark.parametrize("entry", BAD_IDS.values(), ids=BAD_IDS)
def test_worker_removes_what_is_no_id(entry: bytes, redis: Redis, control: Process) -> None:
    good = save_good(redis)
    redis.rpush(QUEUE, entry, good)
    wait_for(lambda: not redis.exists(f"rq:job:{good}"), 15, "the job behind it is done")
    assert control.running
    wait_for(lambda: not redis.exists(f"{QUEUE}:intermediate"), 30, "no entry is left behind")


@pytest.mark.parametrize("entry", BAD_IDS.values(), ids=BAD_IDS)
def test_scheduler_removes_what_is_no_id(entry: bytes, redis: Redis, scheduler: Process) -> None:
    good, now = save_good(redis), time.time()
    redis.zadd(SCHEDULED_JOBS_KEY, {entry: now - 2, good.encode(): now - 1})
    wait_for(lambda: good.encode() in redis.lrange(QUEUE, 0, -1), 15, "the job behind it is due")
    assert scheduler.running
    assert redis.zscore(SCHEDULED_JOBS_KEY, entry) is None


@pytest.mark.parametrize("suffix", ["", ":intermediate"])
def test_worker_replaces_a_queue_of_the_wrong_type(
    suffix: str, redis: Redis, control: Process
) -> None:
    redis.set(QUEUE + suffix, "x")

    def enqueue() -> str | None:
        good = save_good(redis)
        return good if redis.type(QUEUE) != b"string" and redis.rpush(QUEUE, good) else None

    good = wait_for(enqueue, 15, "a job can be enqueued")
    wait_for(lambda: not redis.exists(f"rq:job:{good}"), 15, "it is done")
    assert control.running
    wait_for_event(control, "redis.key_removed", key=QUEUE + suffix)


def test_worker_replaces_its_own_key_of_the_wrong_type(redis: Redis, control: Process) -> None:
    wait_for(lambda: redis.keys("rq:worker:*"), 15, "the worker registers again")
    for key in redis.keys("rq:worker*"):
        redis.delete(key)
        redis.set(key, "x")

    def run_job() -> bool:
        good = save_good(redis)
        redis.rpush(QUEUE, good)
        time.sleep(0.1)
        return not redis.exists(f"rq:job:{good}")

    wait_for(run_job, 15, "a job is done")
    assert control.running


@pytest.mark.parametrize("key", [SCHEDULED_JOBS_KEY, SWEEP_LIST])
def test_scheduler_replaces_a_key_of_the_wrong_type(
    key: str, redis: Redis, scheduler: Process
) -> None:
    redis.set(key, "x")
    wait_for(lambda: b"notification-sweep" in _entries(redis), 15, "a sweep is due")
    assert scheduler.running
    wait_for_event(scheduler, "redis.key_removed", key=key)


def _entries(redis: Redis) -> list[Any]:
    return redis.lrange(SWEEP_LIST, 0, -1) if redis.type(SWEEP_LIST) == b"list" else []


def test_malformed_figures_are_no_figures(redis: Redis) -> None:
    redis.hset(COUNTERS_KEY, mapping={b"late": b"\xff", b"\xff": b"1", "seconds": "nan"})
    redis.hset(SENDERS_KEY, mapping={"a": "x y z", "b": b"\xff", "c": f"{time.time()} 1 2 3"})
    redis.hset(BREAKER_KEY, mapping={"until": "soon", "opened_at": b"\xff", "reason": b"\xff"})
    redis.set(HOLD_KEY, b"\xff")
    redis.set(SWEPT_KEY, "yesterday")
    redis.sadd("rq:workers:control", "rq:worker:x")
    redis.hset("rq:worker:x", "state", b"\xff")
    status = read_fleet_status(redis)
    assert status.counters["late"] == status.counters["seconds"] == 0
    # The last sender is of version 1.0, which reports no limit of its requests in flight.
    assert (status.senders, status.in_flight, status.concurrency_limit) == (1, 1, 1)
    assert status.breaker_opened_at is status.hold_until is None


@pytest.mark.parametrize("key", [COUNTERS_KEY, SENDERS_KEY, BREAKER_KEY, HOLD_KEY, SWEPT_KEY])
def test_figures_of_the_wrong_type_are_removed(
    key: str, redis: Redis, environment: dict[str, str], tmp_path: Path
) -> None:
    """Only metrics would miss them, so the scheduler looks at its start, and once a minute."""
    redis.zadd(key, {"x": 1})
    for scheduler in run_role("scheduler", environment, tmp_path):
        wait_for(lambda: not redis.exists(key), 15, f"{key} is removed")
        wait_for_event(scheduler, "redis.key_removed", key=key)

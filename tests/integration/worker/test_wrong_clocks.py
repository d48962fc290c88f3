"""Processes whose local clocks are wrong, each in another direction: nothing depends on them."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from redis import Redis

from shared.fleet_status import QUEUE_KEY, SCHEDULED_JOBS_KEY, read_fleet_status
from shared.queues import CONTROL_QUEUE, SWEEP_QUEUE, NotificationJob, Queues
from tests.support.system import TOKEN, Process, System
from tests.support.waiting import wait_for

SWEEP = "notification-sweep"
QUEUE = QUEUE_KEY.format(CONTROL_QUEUE)
SWEEPS = QUEUE_KEY.format(SWEEP_QUEUE)
LOCK = "rq:scheduler_lock"
HOUR = 3600.0
# By the name of the process; a dispatcher and the API are ahead, the others behind.
SKEWS = {
    "api": HOUR,
    "scheduler": -HOUR,
    "control": -2 * HOUR,
    "sweep": 2 * HOUR,
    "dispatch-1": 3 * HOUR,
}


class SkewedSystem(System):
    """The whole product, with wrong clocks."""

    def _add(self, name: str, *arguments: str) -> Process:
        process = super()._add(name, *arguments)
        if name in SKEWS:
            skew = str(SKEWS[name])
            process.argv = [sys.executable, "-m", "tests.support.skewed_process", skew, *arguments]
        return process


@pytest.fixture(scope="module")
def skewed_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SkewedSystem]:
    directory: Path = tmp_path_factory.mktemp("skewed")
    system = SkewedSystem(directory, dispatchers=1)
    try:
        system.start()
        yield system
    finally:
        system.stop()


def run_scheduler(redis_url: str, directory: Path, skew: float = 0.0) -> Process:
    argv = [sys.executable, "-m", "tests.support.skewed_process", str(skew), "worker", "scheduler"]
    settings = {"REDIS_URL": redis_url, "DATABASE_URL": "postgresql://127.0.0.1:9/unused"}
    process = Process("scheduler", argv, settings, directory / "scheduler.log")
    process.start()
    return process


def wait_for_sweep(redis: Redis, seconds: float = 15) -> None:
    redis.delete(SWEEPS)
    wait_for(lambda: SWEEP.encode() in redis.lrange(SWEEPS, 0, -1), seconds, "a sweep is due")


def test_mailing_is_sent_at_its_time_whatever_the_clocks_say(skewed_system: SkewedSystem) -> None:
    system = skewed_system
    system.add_clients(20)
    at_once = system.create_mailing()
    later = system.create_mailing(starts_in=3.0)
    for mailing_id in (at_once, later):
        system.wait_finished(mailing_id, 30)
    ((late, early),) = system.query(
        """
        SELECT extract(epoch FROM max(m.sent_at - now()))::float8,
            extract(epoch FROM min(m.sent_at - g.start_at))::float8
        FROM messages m JOIN mailings g ON g.id = m.mailing_id
        """
    )
    assert late < 1, "sent in the future"
    assert early > -0.5, "sent before the start"
    ((outside,),) = system.query(
        "SELECT count(*) FROM minutes WHERE minute > now() OR minute < now() - interval '5 minutes'"
    )
    assert outside == 0
    system.check_totals()


def test_ages_in_redis_are_right(skewed_system: SkewedSystem) -> None:
    redis = Redis.from_url(skewed_system.valkey.url)

    def swept() -> bool:
        age = read_fleet_status(redis).sweep_age_seconds
        return age is not None and 0 < age < 30

    wait_for(swept, 15, "a sweep is known, and recent")
    mailing_id = skewed_system.create_mailing(rate_limit=2)
    wait_for(lambda: read_fleet_status(redis).senders == 1, 15, "the dispatcher is seen to send")
    skewed_system.call("POST", f"/mailings/{mailing_id}/cancel", 200)


def test_metrics_and_readiness_do_not_depend_on_the_clock(skewed_system: SkewedSystem) -> None:
    address = f"http://127.0.0.1:{skewed_system.api_port}"
    metrics = requests.get(
        f"{address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10
    ).text
    age = next(
        float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith("notification_sweep_age_seconds ")
    )
    assert age < 60


def test_periodic_jobs_resume_after_a_scheduler_whose_clock_is_ahead(
    redis_url: str, tmp_path: Path
) -> None:
    redis = Redis.from_url(redis_url)
    redis.flushdb()
    ahead = run_scheduler(redis_url, tmp_path, skew=4.0)
    try:
        wait_for_sweep(redis)
        Queues(redis).enqueue_launch(7, delay=HOUR)
        due = redis.zscore(SCHEDULED_JOBS_KEY, SWEEP)
        assert due is not None
        assert due < time.time() + 2
    finally:
        ahead.kill()
    scheduler = run_scheduler(redis_url, tmp_path)
    try:
        wait_for_sweep(redis)
        assert redis.zcard(SCHEDULED_JOBS_KEY) == 2, "the launch is not due for an hour"
    finally:
        scheduler.kill()


def test_delayed_job_is_due_by_the_clock_of_redis(redis_url: str, tmp_path: Path) -> None:
    redis = Redis.from_url(redis_url)
    redis.flushdb()
    behind = run_scheduler(redis_url, tmp_path, skew=-HOUR)
    try:
        Queues(redis).enqueue_launch(7, delay=1.0)
        wait_for(
            lambda: any(b"launch-at-" in each for each in redis.lrange(QUEUE, 0, -1)),
            15,
            "it is due",
        )
    finally:
        behind.kill()


def call_another_job(redis: Redis) -> None:
    job = NotificationJob.create(
        "worker.jobs.launch", kwargs={"mailing_id": 7}, connection=redis, id=SWEEP
    )
    job.origin = CONTROL_QUEUE
    job.save()
    redis.zadd(SCHEDULED_JOBS_KEY, {SWEEP: time.time()})


def set_interval(redis: Redis) -> None:
    redis.hset(f"rq:job:{SWEEP}", "meta", b'{"interval": 86000}')


FAULTS: dict[str, Callable[[Redis], object]] = {
    "in half a minute": lambda redis: redis.zadd(SCHEDULED_JOBS_KEY, {SWEEP: time.time() + 30}),
    "never": lambda redis: redis.zadd(SCHEDULED_JOBS_KEY, {SWEEP: float("inf")}),
    "before 1970": lambda redis: redis.zadd(SCHEDULED_JOBS_KEY, {SWEEP: -5.0}),
    "before everything": lambda redis: redis.zadd(SCHEDULED_JOBS_KEY, {SWEEP: float("-inf")}),
    "another job under its id": call_another_job,
    "another interval": set_interval,
    "no hash": lambda redis: redis.delete(f"rq:job:{SWEEP}"),
    "a lock without an end": lambda redis: redis.set(LOCK, "someone"),
    "a lock for a day": lambda redis: redis.set(LOCK, "someone", ex=86_400),
}


@pytest.fixture(scope="module")
def scheduler(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = run_scheduler(redis_url, tmp_path_factory.mktemp("scheduler"))
    yield process
    process.kill()


@pytest.mark.parametrize("fault", FAULTS)
def test_periodic_jobs_resume_within_seconds_whatever_stands_in_redis(
    fault: str, redis_url: str, scheduler: Process
) -> None:
    redis = Redis.from_url(redis_url)
    wait_for_sweep(redis)
    FAULTS[fault](redis)
    started = time.monotonic()
    for _ in range(2):  # and it stays periodic
        wait_for_sweep(redis, 30)
    assert time.monotonic() - started < 20
    job = NotificationJob.fetch(SWEEP, redis)
    assert (job.func_name, job.meta) == ("worker.jobs.sweep", {"interval": 1})

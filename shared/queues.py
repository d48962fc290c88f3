"""Wakes workers: RQ jobs now, or later through rq-scheduler.

A job is a hint that carries ids only. It may be lost, repeated or late: PostgreSQL knows what is to
be done, and the sweep finds whatever a lost job left undone. So nothing here ever fails its caller.
"""

import math
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import structlog
from redis import Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue, Worker
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq_scheduler import Scheduler

CONTROL_QUEUE = "control"
DISPATCH_QUEUE = "dispatch"

# The only functions a job may name: Redis holds hints, not code.
JOB_QUEUES = {
    "worker.jobs.launch": CONTROL_QUEUE,
    "worker.jobs.merge_import": CONTROL_QUEUE,
    "worker.jobs.send_daily_report": CONTROL_QUEUE,
    "worker.jobs.send_test": CONTROL_QUEUE,
    "worker.jobs.sweep": CONTROL_QUEUE,
    "worker.jobs.dispatch": DISPATCH_QUEUE,
}
LAUNCH_ID = re.compile(rb"launch-(\d+)-[0-9a-f]+")
WAKE_KEY = "notification:wake:{}"
# Dispatchers linger longer than this when nothing is due, so a damped wake-up costs nothing.
WAKE_DAMPING_MS = 500

log = structlog.get_logger()


class UnknownJob(Exception):
    """Redis holds a job that is none of ours."""


class NotificationJob(Job):
    """A job whose data is JSON, which names one of our functions, and which leaves nothing behind.

    It has no time limit: that would be raised in the middle of the sending loop. Redis may hold
    what somebody else wrote: nothing of it is run, and it stops no worker.
    """

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        super().__init__(id, connection, JSONSerializer)

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> Job:
        if kwargs.get("result_ttl") is None:  # a periodic job's is -1: it is run again
            kwargs["result_ttl"] = 0
        kwargs.update(failure_ttl=3600, timeout=-1)
        return super().create(*args, **kwargs)

    def restore(self, raw_data: Any) -> None:
        """Leave out what else a job may name: functions and addresses to call when it ends."""
        super().restore(raw_data)
        self._success_callback_name = None
        self._failure_callback_name = None
        self._stopped_callback_name = None
        self.webhooks = []
        self.meta.pop("queue_class_name", None)

    def _deserialize_data(self) -> None:
        """Data that cannot be read names none of our functions."""
        try:
            super()._deserialize_data()  # type: ignore[no-untyped-call]
        except DeserializationError:
            self._func_name, self._instance, self._args, self._kwargs = "(unreadable)", None, (), {}

    @property
    def func(self) -> Any:
        if self.func_name not in JOB_QUEUES:
            raise UnknownJob(f"no job is called {self.func_name}")
        return super().func


def retrying_client(redis_url: str) -> Redis:
    """A client that outlasts a minute's outage: for workers and schedulers."""
    return Redis.from_url(
        redis_url,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), 60),
        socket_connect_timeout=5,
        health_check_interval=30,
    )


def fail_fast_client(redis_url: str, timeout: float = 0.3) -> Redis:
    """A client that gives up at once: for whoever has something better to do than to wait."""
    return Redis.from_url(
        redis_url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
    )


def make_queue(name: str, connection: Redis) -> Queue:
    return Queue(
        name,
        connection=connection,
        job_class=NotificationJob,
        serializer=JSONSerializer,
    )


class Queues:
    """What the API and the jobs themselves use to wake workers. `connection` is any client."""

    def __init__(self, connection: Redis):
        self.connection = connection
        self._queues = {
            name: make_queue(name, connection) for name in (CONTROL_QUEUE, DISPATCH_QUEUE)
        }
        self._scheduler = Scheduler(connection=connection, job_class=NotificationJob)

    @classmethod
    def connect(cls, redis_url: str, timeout: float = 0.3) -> "Queues":
        return cls(fail_fast_client(redis_url, timeout))

    def launch(
        self, mailing_id: int, at: datetime | None = None, request_id: str | None = None
    ) -> bool:
        """Have a mailing launched at `at` (an aware instant; now if past or None)."""
        return self._enqueue("worker.jobs.launch", {"mailing_id": mailing_id}, at, request_id)

    def keep_launching(self, mailing_ids: Iterable[int], request_id: str | None = None) -> None:
        """Have launches run, each unless it waits in its queue already.

        Each job of a long launch takes a turn, so two of one mailing make everybody behind them
        wait twice.
        """
        try:
            job_ids: list[Any] = self.connection.lrange(self._queues[CONTROL_QUEUE].key, 0, -1)
        except RedisError as error:
            log.warning("queue.unavailable", job="worker.jobs.launch", error=str(error))
            return
        waiting = {int(match[1]) for job_id in job_ids if (match := LAUNCH_ID.fullmatch(job_id))}
        for mailing_id in mailing_ids:
            if mailing_id not in waiting:
                self.launch(mailing_id, request_id=request_id)

    def dispatch(
        self, mailing_id: int, at: datetime | None = None, request_id: str | None = None
    ) -> bool:
        """Wake idle dispatchers because `mailing_id` has something due at `at` (None: now)."""
        ids = {"mailing_id": mailing_id}
        try:
            if at is None:
                key = WAKE_KEY.format(mailing_id)
                if not self.connection.set(key, 1, nx=True, px=WAKE_DAMPING_MS):
                    return True
                # A job for each dispatcher, and no more: they serve whatever is due.
                target = self._queues[DISPATCH_QUEUE]
                missing = Worker.count(queue=target) - target.count
                return all(
                    self._enqueue("worker.jobs.dispatch", ids, None, request_id)
                    for _ in range(max(1, missing) if missing >= 0 else 0)
                )
        except RedisError as error:
            return self._away(error, "worker.jobs.dispatch", ids)
        return self._enqueue("worker.jobs.dispatch", ids, at, request_id)

    def merge_import(self, import_id: int, request_id: str | None = None) -> bool:
        """Have the rows of an import merged."""
        return self._enqueue("worker.jobs.merge_import", {"import_id": import_id}, None, request_id)

    def send_test(self, test_id: int, request_id: str | None = None) -> bool:
        """Have a test sent, now or not at all."""
        return self._enqueue("worker.jobs.send_test", {"test_id": test_id}, None, request_id)

    def send_daily_report(self, day: date) -> bool:
        """Have a local day's report sent, unless it was."""
        ids = {"day": day.isoformat()}
        return self._enqueue("worker.jobs.send_daily_report", ids, None, None)

    def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self.connection.ping())
        except RedisError:
            return False

    def _enqueue(
        self, name: str, ids: Mapping[str, int | str], at: datetime | None, request_id: str | None
    ) -> bool:
        kwargs = {**ids, "request_id": request_id}
        target = self._queues[JOB_QUEUES[name]]
        # Never the same one twice, or a job that enqueues its successor would be in its way.
        job_id = "-".join((name.rpartition(".")[2], *map(str, ids.values()), secrets.token_hex(8)))
        try:
            if at is None or at <= datetime.now(UTC):
                target.enqueue_call(name, kwargs=kwargs, job_id=job_id)
            else:
                # The scheduler drops fractions of a second, which would be too early.
                when = datetime.fromtimestamp(math.ceil(at.timestamp()), UTC)
                self._scheduler.enqueue_at(
                    when, name, queue_name=target.name, job_id=job_id, **kwargs
                )
        except RedisError as error:
            return self._away(error, name, ids)
        return True

    def _away(self, error: RedisError, job: str, ids: Mapping[str, int | str]) -> bool:
        log.warning("queue.unavailable", job=job, error=str(error), **ids)
        return False

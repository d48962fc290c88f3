"""Enqueues RQ jobs for workers: immediately, or at a later time through rq-scheduler.

A job is a hint that carries ids only. It may be lost, repeated or late: the work to be done is in
PostgreSQL, and the sweep finds what a lost job left. So errors of Redis are logged and not raised.
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

# The functions that a job may name, with their queues; others are not executed.
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
# Dispatchers stay idle for longer than this before they end, so suppressing a wake-up is harmless.
WAKE_DAMPING_MS = 500

log = structlog.get_logger()


class UnknownJob(Exception):
    """A job in Redis names a function that is not in JOB_QUEUES."""


class NotificationJob(Job):
    """A job with JSON data that calls a function of JOB_QUEUES and stores no result.

    It has no time limit, as RQ would raise that within the sending loop. Data in Redis that this
    code did not write is not executed, and does not stop a worker.
    """

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        super().__init__(id, connection, JSONSerializer)

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> Job:
        if kwargs.get("result_ttl") is None:  # -1 for a periodic job, which runs again
            kwargs["result_ttl"] = 0
        kwargs.update(failure_ttl=3600, timeout=-1)
        return super().create(*args, **kwargs)

    def restore(self, raw_data: Any) -> None:
        """Ignore callbacks and webhooks, which a job in Redis could name as well."""
        super().restore(raw_data)
        self._success_callback_name = None
        self._failure_callback_name = None
        self._stopped_callback_name = None
        self.webhooks = []
        self.meta.pop("queue_class_name", None)

    def _deserialize_data(self) -> None:
        """Treat unreadable data as a job of an unknown function."""
        try:
            super()._deserialize_data()  # type: ignore[no-untyped-call]
        except DeserializationError:
            self._func_name, self._instance, self._args, self._kwargs = "(unreadable)", None, (), {}

    @property
    def func(self) -> Any:
        if self.func_name not in JOB_QUEUES:
            raise UnknownJob(f"unknown job: {self.func_name}")
        return super().func


def retrying_client(redis_url: str) -> Redis:
    """Return a client that retries for about a minute: for workers and schedulers."""
    return Redis.from_url(
        redis_url,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), 60),
        socket_connect_timeout=5,
        health_check_interval=30,
    )


def fail_fast_client(redis_url: str, timeout: float = 0.3, **options: Any) -> Redis:
    """Return a client without retries, for callers that must not wait; `options` are redis-py's."""
    return Redis.from_url(
        redis_url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        **options,
    )


def make_queue(name: str, connection: Redis) -> Queue:
    return Queue(
        name,
        connection=connection,
        job_class=NotificationJob,
        serializer=JSONSerializer,
    )


class Queues:
    """Enqueues jobs on a Redis client; methods return whether that succeeded."""

    def __init__(self, connection: Redis):
        self.connection = connection
        self._queues = {
            name: make_queue(name, connection) for name in (CONTROL_QUEUE, DISPATCH_QUEUE)
        }
        self._scheduler = Scheduler(connection=connection, job_class=NotificationJob)

    @classmethod
    def connect(cls, redis_url: str) -> "Queues":
        return cls(fail_fast_client(redis_url))

    def enqueue_launch(
        self, mailing_id: int, at: datetime | None = None, request_id: str | None = None
    ) -> bool:
        """Enqueue a mailing's launch at `at` (an aware instant; now if past or None)."""
        return self._enqueue("worker.jobs.launch", {"mailing_id": mailing_id}, request_id, at)

    def enqueue_launches(self, mailing_ids: Iterable[int], request_id: str | None = None) -> None:
        """Enqueue the launches that are not waiting in the queue.

        Each job of a long launch runs one slice, so two jobs of one mailing would delay all
        launches behind them twice.
        """
        try:
            job_ids: list[Any] = self.connection.lrange(self._queues[CONTROL_QUEUE].key, 0, -1)
        except RedisError as error:
            log.warning("queue.unavailable", job="worker.jobs.launch", error=str(error))
            return
        waiting = {int(match[1]) for job_id in job_ids if (match := LAUNCH_ID.fullmatch(job_id))}
        for mailing_id in mailing_ids:
            if mailing_id not in waiting:
                self.enqueue_launch(mailing_id, request_id=request_id)

    def wake_dispatchers(self, mailing_id: int, request_id: str | None = None) -> bool:
        """Wake idle dispatchers, as messages of a mailing are due."""
        ids = {"mailing_id": mailing_id}
        try:
            key = WAKE_KEY.format(mailing_id)
            if not self.connection.set(key, 1, nx=True, px=WAKE_DAMPING_MS):
                return True
            # At most one job per dispatcher: each serves all mailings that are due.
            target = self._queues[DISPATCH_QUEUE]
            missing = Worker.count(queue=target) - target.count
        except RedisError as error:
            return self._log_failure(error, "worker.jobs.dispatch", ids)
        return all(
            self._enqueue("worker.jobs.dispatch", ids, request_id)
            for _ in range(max(1, missing) if missing >= 0 else 0)
        )

    def enqueue_import_merge(self, import_id: int, request_id: str | None = None) -> bool:
        """Enqueue the merge of an import."""
        return self._enqueue("worker.jobs.merge_import", {"import_id": import_id}, request_id)

    def enqueue_test_send(self, test_id: int, request_id: str | None = None) -> bool:
        """Enqueue a test send."""
        return self._enqueue("worker.jobs.send_test", {"test_id": test_id}, request_id)

    def enqueue_daily_report(self, day: date) -> bool:
        """Enqueue the report of a local day."""
        ids = {"day": day.isoformat()}
        return self._enqueue("worker.jobs.send_daily_report", ids)

    def ping(self) -> bool:
        """Return whether Redis responds."""
        try:
            return bool(self.connection.ping())
        except RedisError:
            return False

    def _enqueue(
        self,
        name: str,
        ids: Mapping[str, int | str],
        request_id: str | None = None,
        at: datetime | None = None,
    ) -> bool:
        kwargs = {**ids, "request_id": request_id}
        target = self._queues[JOB_QUEUES[name]]
        # A unique id: a job that enqueues its successor must not replace itself.
        job_id = "-".join((name.rpartition(".")[2], *map(str, ids.values()), secrets.token_hex(8)))
        try:
            if at is None or at <= datetime.now(UTC):
                target.enqueue_call(name, kwargs=kwargs, job_id=job_id)
            else:
                # The scheduler truncates to seconds, which would be too early.
                when = datetime.fromtimestamp(math.ceil(at.timestamp()), UTC)
                self._scheduler.enqueue_at(
                    when, name, queue_name=target.name, job_id=job_id, **kwargs
                )
        except RedisError as error:
            return self._log_failure(error, name, ids)
        return True

    def _log_failure(self, error: RedisError, job: str, ids: Mapping[str, int | str]) -> bool:
        log.warning("queue.unavailable", job=job, error=str(error), **ids)
        return False

"""Enqueues RQ jobs for workers: immediately, or at a later time through rq-scheduler.

A job is a hint that carries ids only. It may be lost, repeated or late: the work to be done is in
PostgreSQL, and the sweep finds what a lost job left. So errors of Redis are logged and not raised.
"""

import math
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq_scheduler import Scheduler

from shared.metrics import SWEEP_SECONDS_KEY, SWEPT_KEY
from shared.redis_client import (
    CHECK_KEY,
    OutageLog,
    describe_error,
    error_code,
    fail_fast_client,
    is_wrong_type,
    read_redis_time,
)

CONTROL_QUEUE = "control"
# The sweep has a queue and a worker of its own, so that it never waits behind launches.
SWEEP_QUEUE = "sweep"
DISPATCH_QUEUE = "dispatch"

# The functions that a job may name, with their queues; others are not executed.
JOB_QUEUES = {
    "worker.jobs.launch": CONTROL_QUEUE,
    "worker.jobs.merge_import": CONTROL_QUEUE,
    "worker.jobs.undo_import": CONTROL_QUEUE,
    "worker.jobs.send_test": CONTROL_QUEUE,
    "worker.jobs.sweep": SWEEP_QUEUE,
    "worker.jobs.dispatch": DISPATCH_QUEUE,
}
QUEUES = (CONTROL_QUEUE, SWEEP_QUEUE, DISPATCH_QUEUE)
LAUNCH_ID = re.compile(rb"launch-(\d+)-[0-9a-f]+")
WAKE_KEY = "notification:wake:{}"
# A launch job that waits in its queue will find every mailing that is due by then, so there is one
# at a time. It deletes the key before it looks; in case it is lost, the key expires.
LAUNCH_WAITS_KEY = "notification:launch-waits"
LAUNCH_WAITS_MS = 2_000
# Dispatchers stay idle for longer than this before they end, so suppressing a wake-up is harmless.
WAKE_DAMPING_MS = 500

# The fields of a job's hash that are read.
READ_FIELDS = frozenset(
    b"data meta origin status description created_at enqueued_at started_at ended_at last_heartbeat"
    b" worker_name timeout result_ttl failure_ttl ttl enqueue_at_front".split()
)
MAX_INTERVAL_SECONDS = 86_400
ERROR_CHARS = 200  # of an error that quotes data

log = structlog.get_logger()


class UnknownJob(Exception):
    """A job in Redis names a function that is not in JOB_QUEUES."""


class NotificationJob(Job):
    """A job with JSON data that calls a function of JOB_QUEUES and stores no result.

    It has no time limit, as RQ would raise that within the sending loop. Data in Redis that this
    code did not write is not executed, and does not stop a worker or scheduler: a job that cannot
    be read is removed and logged, and counts as one that does not exist.
    """

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        super().__init__(id, connection, JSONSerializer)

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> Job:
        if kwargs.get("result_ttl") is None:  # -1 for a periodic job, which runs again
            kwargs["result_ttl"] = 0
        kwargs.update(failure_ttl=3600, timeout=-1)
        return super().create(*args, **kwargs)

    @classmethod
    def fetch_many(
        cls, job_ids: Iterable[str], connection: Redis, serializer: Any = None
    ) -> list[Job | None]:
        """Fetch jobs one by one, so that an unreadable one does not hide the others."""
        jobs: list[Job | None] = []
        for job_id in job_ids:
            try:
                jobs.append(cls.fetch(job_id, connection, serializer))
            except NoSuchJobError:
                jobs.append(None)
        return jobs

    def refresh(self) -> None:
        """Read the job's hash; remove it and raise NoSuchJobError if it cannot be read."""
        try:
            fields: Any = self.connection.hgetall(self.key)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise self._remove_unreadable(error) from error
        # RQ's heartbeat may make a new hash of a job that has just ended.
        if not fields.keys() - {b"last_heartbeat"}:
            raise NoSuchJobError(f"No such job: {self.key}")
        try:
            self.restore(fields)
        except Exception as error:  # of whatever kind: the data is not ours
            raise self._remove_unreadable(error) from error

    def restore(self, raw_data: Any) -> None:
        """Read the fields that this code writes; raise an exception for malformed ones.

        Others are ignored, such as callbacks, webhooks, dependencies and retries, which a job in
        Redis could name as well.
        """
        super().restore({name: raw_data[name] for name in READ_FIELDS & raw_data.keys()})
        if self.origin not in QUEUES:
            raise ValueError(f"no such queue: {self.origin}")
        self.timeout = -1
        self._parse_call()
        self.meta = _parse_meta(self.meta, self._unreadable_meta is None)

    def _parse_call(self) -> None:
        name, instance, args, kwargs = orjson.loads(self.data)
        if (type(name), instance, type(args), type(kwargs)) != (str, None, list, dict):
            raise ValueError("data is not a call of a function")
        self._func_name, self._instance, self._args, self._kwargs = name, instance, args, kwargs

    def _remove_unreadable(self, error: Exception) -> NoSuchJobError:
        log.error(
            "job.unreadable", job_id=self.id, error=f"{type(error).__name__}: {error}"[:ERROR_CHARS]
        )
        self.connection.delete(self.key)
        return NoSuchJobError(f"unreadable job: {self.key}")

    @property
    def func(self) -> Any:
        if self.func_name not in JOB_QUEUES:
            raise UnknownJob(f"unknown job: {self.func_name}")
        return super().func


def _parse_meta(meta: Any, readable: bool) -> dict[str, int]:
    """Return the seconds between the runs of a periodic job, all that this code stores."""
    if not readable or not isinstance(meta, dict):
        raise ValueError("meta is not a JSON object")
    if meta.keys() & {"repeat", "cron_string"}:
        raise ValueError("meta has another schedule than an interval")
    if "interval" not in meta:
        return {}
    interval = meta["interval"]
    if type(interval) is not int or not 0 < interval <= MAX_INTERVAL_SECONDS:
        raise ValueError("interval is not a number of seconds")
    return {"interval": interval}


class NotificationQueue(Queue):
    """A queue whose worker leaves no trace of a job that does not exist or cannot be read."""

    @classmethod
    def _fetch_dequeued_job(
        cls, connection: Redis, queue_key: str, job_id: str, *args: Any, **kwargs: Any
    ) -> tuple[Job, Queue] | None:
        dequeued = super()._fetch_dequeued_job(connection, queue_key, job_id, *args, **kwargs)
        if dequeued is None:
            connection.lrem(IntermediateQueue.get_intermediate_queue_key(queue_key), 0, job_id)
        return dequeued


def make_queue(name: str, connection: Redis) -> Queue:
    return NotificationQueue(
        name,
        connection=connection,
        job_class=NotificationJob,
        serializer=JSONSerializer,
    )


class Queues:
    """Enqueues jobs on a Redis client; methods return whether that succeeded."""

    def __init__(self, connection: Redis):
        self.connection = connection
        self._queues = {name: make_queue(name, connection) for name in QUEUES}
        self._scheduler = Scheduler(connection=connection, job_class=NotificationJob)
        self._outage_log = OutageLog()

    @classmethod
    def connect(cls, redis_url: str, timeout: float = 0.3) -> "Queues":
        return cls(fail_fast_client(redis_url, timeout))

    def enqueue_launch(
        self, mailing_id: int, delay: float = 0.0, request_id: str | None = None
    ) -> bool:
        """Enqueue a mailing's launch, to be run after `delay` seconds by PostgreSQL's clock.

        Call it after the commit: a waiting job launches all mailings that are due by its start.
        """
        ids = {"mailing_id": mailing_id}
        if delay <= 0:
            try:
                if not self.connection.set(LAUNCH_WAITS_KEY, 1, nx=True, px=LAUNCH_WAITS_MS):
                    return True
            except (RedisError, OSError) as error:
                return self._log_failure(error, "worker.jobs.launch", ids)
        return self._enqueue("worker.jobs.launch", ids, request_id, delay)

    def begin_launches(self) -> None:
        """Let further launches be enqueued: a launch job has begun, and looks for due mailings."""
        try:
            self.connection.delete(LAUNCH_WAITS_KEY)
        except (RedisError, OSError) as error:
            log.warning("queue.unavailable", job="worker.jobs.launch", error=describe_error(error))

    def enqueue_launches(self, mailing_ids: Iterable[int], request_id: str | None = None) -> None:
        """Enqueue the launches of large mailings that are not waiting in the queue.

        Each job of a long launch runs one slice, so two jobs of one mailing would delay all
        launches behind them twice.
        """
        try:
            job_ids: list[Any] = self.connection.lrange(self._queues[CONTROL_QUEUE].key, 0, -1)
        except (RedisError, OSError) as error:
            log.warning("queue.unavailable", job="worker.jobs.launch", error=describe_error(error))
            return
        waiting = {int(match[1]) for job_id in job_ids if (match := LAUNCH_ID.fullmatch(job_id))}
        for mailing_id in mailing_ids:
            if mailing_id not in waiting:
                self._enqueue("worker.jobs.launch", {"mailing_id": mailing_id}, request_id)

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
        except (RedisError, OSError) as error:
            return self._log_failure(error, "worker.jobs.dispatch", ids)
        return all(
            self._enqueue("worker.jobs.dispatch", ids, request_id)
            for _ in range(max(1, missing) if missing >= 0 else 0)
        )

    def enqueue_import_merge(self, import_id: int, request_id: str | None = None) -> bool:
        """Enqueue the merge of an import."""
        return self._enqueue("worker.jobs.merge_import", {"import_id": import_id}, request_id)

    def enqueue_import_undo(self, import_id: int, request_id: str | None = None) -> bool:
        """Enqueue the undo of an import."""
        return self._enqueue("worker.jobs.undo_import", {"import_id": import_id}, request_id)

    def enqueue_test_send(self, test_id: int, request_id: str | None = None) -> bool:
        """Enqueue a test send."""
        return self._enqueue("worker.jobs.send_test", {"test_id": test_id}, request_id)

    def record_sweep(self, seconds: float) -> None:
        """Store the time and the duration of a sweep that ends now, for the metrics."""
        try:
            swept_at = read_redis_time(self.connection)
            self.connection.mset({SWEPT_KEY: swept_at, SWEEP_SECONDS_KEY: seconds})
        except (RedisError, OSError) as error:
            log.warning("metrics.unavailable", source="redis", error=describe_error(error))

    def check(self) -> str:
        """Return "ok" if Redis can be written to, else the short name of its error."""
        try:
            self.connection.set(CHECK_KEY, 1, px=1000)
        except (RedisError, OSError) as error:
            self._outage_log.report_failure(describe_error(error))
            return error_code(error)
        self._outage_log.report_success()
        return "ok"

    def _enqueue(
        self,
        name: str,
        ids: Mapping[str, int],
        request_id: str | None = None,
        delay: float = 0.0,
    ) -> bool:
        kwargs = {**ids, "request_id": request_id}
        target = self._queues[JOB_QUEUES[name]]
        # A unique id: a job that enqueues its successor must not replace itself.
        job_id = "-".join((name.rpartition(".")[2], *map(str, ids.values()), secrets.token_hex(8)))
        try:
            if delay <= 0:
                target.enqueue_call(name, kwargs=kwargs, job_id=job_id)
            else:
                # The scheduler truncates to seconds, which would be too early.
                due = math.ceil(read_redis_time(self.connection) + delay)
                when = datetime.fromtimestamp(due, UTC)
                # One job launches all mailings that are due: those of a second share it.
                job_id = f"{name.rpartition('.')[2]}-at-{due}"
                self._scheduler.enqueue_at(
                    when, name, queue_name=target.name, job_id=job_id, **kwargs
                )
        except (RedisError, OSError) as error:
            return self._log_failure(error, name, ids)
        return True

    def _log_failure(self, error: Exception, job: str, ids: Mapping[str, int]) -> bool:
        log.warning("queue.unavailable", job=job, error=describe_error(error), **ids)
        return False

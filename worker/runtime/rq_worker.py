"""The fleet's processes: RQ workers on one queue each, which never fork and stop gracefully."""

import signal
import threading
from types import FrameType
from typing import Any

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker, WorkerStatus
from rq.worker_registration import register

from shared.queues import JOB_QUEUES, NotificationJob, fail_fast_client
from worker.runtime import heartbeat

log = structlog.get_logger()

# Read by long loops; set by SIGTERM and SIGINT.
stopping = threading.Event()

STOPS = (signal.SIGTERM, signal.SIGINT)

# A worker that was killed is missed after this many seconds and a minute; RQ's own is 420.
WORKER_TTL = 60


class FleetWorker(SimpleWorker):
    """Runs jobs in its own process, so that connections stay warm; its supervisor restarts it.

    SIGTERM sets `stopping`, which the running job reads; an idle worker ends at once. Unlike the
    base class it asks Redis nothing on that way, so that a stop works while Redis is away.
    """

    def __init__(self, queue_name: str, connection: Redis, redis_url: str):
        super().__init__(
            [queue_name],
            connection=connection,
            job_class=NotificationJob,
            serializer=JSONSerializer,
            log_job_description=False,
            worker_ttl=WORKER_TTL,
        )
        self._pulse = fail_fast_client(redis_url, timeout=0.1)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        stopping.set()
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            # Not RQ's StopRequested: that is an Exception, and the Redis client, which this breaks
            # in upon, takes some of those for its own and goes on.
            raise SystemExit(0)

    def subscribe(self) -> None:
        """Starts the thread that listens for commands; signals are none of its business.

        One that it took would not wake the main thread, which waits in Redis for most of a minute.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            super().subscribe()  # type: ignore[no-untyped-call]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Also registers anew: a Redis that lost everything knows no workers."""
        heartbeat.beat()
        super().heartbeat(timeout, pipeline)
        known: dict[Any, Any] = {"queues": ",".join(self.queue_names()), "state": self.get_state()}
        (self.connection if pipeline is None else pipeline).hset(self.key, mapping=known)
        register(self, pipeline)

    def pulse(self) -> None:
        """Say that this worker lives, from within a long job."""
        heartbeat.beat()
        try:
            self._pulse.expire(self.key, self.worker_ttl + 60)
        except RedisError as error:
            log.warning("worker.pulse_failed", error=str(error))

    def perform_job(self, job: Job, *args: Any, **kwargs: Any) -> bool:
        """Whatever the job logs carries its id."""
        with structlog.contextvars.bound_contextvars(job_id=job.id):
            return bool(super().perform_job(job, *args, **kwargs))

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Said once, with the ids that the job is about."""
        arguments = job.kwargs if job.func_name in JOB_QUEUES else {}
        ids = {name: value for name, value in arguments.items() if name.endswith("_id")}
        log.error("job.failed", job=job.func_name, **ids, exc_info=exc_info)

    def teardown(self) -> None:
        self.connection.set_retry(Retry(NoBackoff(), 0))
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except RedisError as error:
            log.warning("worker.farewell_failed", error=str(error))

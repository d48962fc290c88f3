"""An RQ worker on one queue that never forks and stops gracefully."""

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
from worker.runtime.heartbeat import touch_heartbeat

log = structlog.get_logger()

# Set by SIGTERM and SIGINT; long-running jobs check it.
stopping = threading.Event()

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# RQ forgets a killed worker this many seconds and a minute after its heartbeat (RQ's default: 420).
WORKER_TTL_SECONDS = 60


class FleetWorker(SimpleWorker):
    """Runs jobs in its own process, so that connections stay open; its supervisor restarts it.

    SIGTERM sets `stopping`, which the running job checks; an idle worker exits at once. Unlike the
    base class, stopping sends no command to Redis, so that it works while Redis is unavailable.
    """

    def __init__(self, queue_name: str, connection: Redis, redis_url: str):
        super().__init__(
            [queue_name],
            connection=connection,
            job_class=NotificationJob,
            serializer=JSONSerializer,
            log_job_description=False,
            worker_ttl=WORKER_TTL_SECONDS,
        )
        self._fail_fast_client = fail_fast_client(redis_url, timeout=0.1)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        stopping.set()
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            # Not RQ's StopRequested: it is an Exception, and the interrupted Redis client handles
            # some of those as its own and continues.
            raise SystemExit(0)

    def subscribe(self) -> None:
        """Start the thread that listens for commands, with the stop signals blocked in it.

        A signal delivered to that thread would not wake the main thread, which waits for a job.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().subscribe()  # type: ignore[no-untyped-call]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Refresh this worker's keys; register again, in case Redis has lost its data."""
        touch_heartbeat()
        super().heartbeat(timeout, pipeline)
        fields: dict[Any, Any] = {"queues": ",".join(self.queue_names()), "state": self.get_state()}
        (self.connection if pipeline is None else pipeline).hset(self.key, mapping=fields)
        register(self, pipeline)

    def extend_heartbeat(self) -> None:
        """Keep this worker registered during a long job."""
        touch_heartbeat()
        try:
            self._fail_fast_client.expire(self.key, self.worker_ttl + 60)
        except RedisError as error:
            log.warning("worker.pulse_failed", error=str(error))

    def perform_job(self, job: Job, *args: Any, **kwargs: Any) -> bool:
        """Run the job with its id bound to its log lines."""
        with structlog.contextvars.bound_contextvars(job_id=job.id):
            return bool(super().perform_job(job, *args, **kwargs))

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log the failure once, with the ids among the job's arguments."""
        arguments = job.kwargs if job.func_name in JOB_QUEUES else {}
        ids = {name: value for name, value in arguments.items() if name.endswith("_id")}
        log.error("job.failed", job=job.func_name, **ids, exc_info=exc_info)

    def teardown(self) -> None:
        self.connection.set_retry(Retry(NoBackoff(), 0))
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except RedisError as error:
            log.warning("worker.farewell_failed", error=str(error))

"""The fleet's processes: RQ workers on one queue each, which never fork and stop gracefully."""

import threading
from types import FrameType
from typing import Any

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker, WorkerStatus

from shared.queues import NotificationJob, quick_client

log = structlog.get_logger()

# Read by long loops; set by SIGTERM and SIGINT.
stopping = threading.Event()


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
        )
        self._pulse = quick_client(redis_url, timeout=0.1)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        stopping.set()
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested

    def pulse(self) -> None:
        """Say that this worker lives, from within a long job."""
        try:
            self._pulse.expire(self.key, self.worker_ttl + 60)
        except RedisError as error:
            log.warning("worker.pulse_failed", error=str(error))

    def handle_job_failure(self, job: Job, *args: Any, **kwargs: Any) -> None:
        log.error("job.failed", job_id=job.id, job=job.func_name, error=kwargs.get("exc_string"))
        super().handle_job_failure(job, *args, **kwargs)

    def teardown(self) -> None:
        self.connection.set_retry(Retry(NoBackoff(), 0))
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except RedisError as error:
            log.warning("worker.farewell_failed", error=str(error))

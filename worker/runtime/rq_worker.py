"""An RQ worker on one queue that never forks, stops gracefully, and outlasts what goes wrong."""

import signal
import threading
import time
from types import FrameType
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import SimpleWorker, WorkerStatus
from rq.worker_registration import register

from shared.fleet_status import RULES_FIELD, RULES_LEVEL
from shared.queues import JOB_QUEUES, NotificationJob, NotificationQueue
from shared.redis_client import describe_error, fail_fast_client, is_outage
from worker.runtime.heartbeat import touch_heartbeat
from worker.runtime.redis_repair import remove_bad_entries, remove_wrong_types

log = structlog.get_logger()

# Set by SIGTERM and SIGINT; long-running jobs and whatever waits for Redis check it.
stopping = threading.Event()

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# RQ forgets a killed worker this many seconds and a minute after its heartbeat (RQ's default: 420).
WORKER_TTL_SECONDS = 60
# How long one command waits for a job. A server that has vanished is noticed 10 s after that.
DEQUEUE_SECONDS = 5
# After an unexpected error outside of a job, so that one that persists is no busy loop.
ERROR_PAUSE_SECONDS = 0.2
MAX_ERROR_PAUSE_SECONDS = 5.0


class FleetWorker(SimpleWorker):
    """Runs jobs in its own process, so that connections stay open; its supervisor restarts it.

    SIGTERM sets `stopping`, which the running job checks; an idle worker exits at once. The
    connection is a patient client, so an outage of Redis makes the worker wait. Nothing but a
    signal ends its loop: unlike the base class, it listens to no commands in Redis.
    """

    def __init__(self, queue_name: str, connection: Redis, redis_url: str):
        super().__init__(
            [queue_name],
            connection=connection,
            job_class=NotificationJob,
            queue_class=NotificationQueue,
            serializer=JSONSerializer,
            log_job_description=False,
            worker_ttl=WORKER_TTL_SECONDS,
        )
        self._fail_fast_client = fail_fast_client(redis_url, timeout=0.1)

    def work(self, *_: Any, **__: Any) -> bool:
        """Run jobs until a signal. An error ends a job or is repaired; it never ends the loop."""
        pause = ERROR_PAUSE_SECONDS
        registered = False
        try:
            while not self._stop_requested:
                try:
                    if not registered:
                        self.bootstrap(logging_level="WARNING")
                        registered = True
                    self._run_next_job()
                    pause = ERROR_PAUSE_SECONDS
                except Exception as error:
                    if stopping.is_set():
                        break
                    self._repair(error)
                    time.sleep(pause)
                    pause = min(2 * pause, MAX_ERROR_PAUSE_SECONDS)
        finally:
            self.teardown()
        return True

    def _run_next_job(self) -> None:
        """Wait a few seconds for a job and run it."""
        self.check_for_suspension(burst=False)
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()
        self.set_state(WorkerStatus.IDLE)
        self.heartbeat()
        try:
            dequeued = self.queue_class.dequeue_any(
                self._ordered_queues,
                DEQUEUE_SECONDS,
                connection=self.connection,
                job_class=self.job_class,
                serializer=self.serializer,
                death_penalty_class=self.death_penalty_class,
            )
        except DequeueTimeout:
            return
        if dequeued is not None:
            self.execute_job(*dequeued)

    def _repair(self, error: Exception) -> None:
        """Log an unexpected error, and remove from Redis what may have caused it."""
        log.error("worker.error", error=f"{type(error).__name__}: {error}", exc_info=error)
        try:
            remove_wrong_types(self.connection, {self.key: "hash", self.executions_key: "set"})
            remove_bad_entries(self.connection)
        except RedisError as repair_error:
            log.warning("worker.repair_failed", error=describe_error(repair_error))

    def install_signal_handlers(self) -> None:
        """Let SIGTERM and SIGINT stop this worker, also while it waits for a server."""
        for number in STOP_SIGNALS:
            signal.signal(number, self.request_stop)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        stopping.set()
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            # Not RQ's StopRequested: it is an Exception, and the interrupted Redis client handles
            # some of those as its own and continues.
            raise SystemExit(0)

    def register_birth(self) -> None:
        """Register, also if an earlier attempt got half-way."""
        self.connection.delete(self.key)
        super().register_birth()  # type: ignore[no-untyped-call]

    def subscribe(self) -> None:
        """Listen to no commands, so that no second thread and connection can fail."""

    def _set_ip_address(self, connection: Redis) -> None:
        """Ask Redis nothing while the worker is constructed: it may be away."""
        self.ip_address = "unknown"

    @property
    def dequeue_timeout(self) -> int:
        return DEQUEUE_SECONDS

    def run_maintenance_tasks(self) -> None:
        """Clean RQ's registries; an error in their data does not keep jobs from running."""
        try:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except Exception as error:
            if is_outage(error):
                raise
            self._repair(error)
            self.last_cleaned_at = now()  # type: ignore[assignment]

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Refresh this worker's keys; register again, in case Redis has lost its data."""
        touch_heartbeat()
        super().heartbeat(timeout, pipeline)
        fields: dict[Any, Any] = {"queues": ",".join(self.queue_names()), "state": self.get_state()}
        fields[RULES_FIELD] = RULES_LEVEL
        (self.connection if pipeline is None else pipeline).hset(self.key, mapping=fields)
        register(self, pipeline)

    def extend_heartbeat(self) -> None:
        """Keep this worker registered during a long job."""
        touch_heartbeat()
        try:
            self._fail_fast_client.expire(self.key, self.worker_ttl + 60)
        except (RedisError, OSError) as error:
            log.warning("worker.pulse_failed", error=describe_error(error))

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
        self.connection = self._fail_fast_client
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            log.warning("worker.farewell_failed", error=describe_error(error))

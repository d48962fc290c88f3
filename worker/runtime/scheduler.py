"""Move delayed jobs into their queues when due, and keep the periodic jobs registered."""

import signal
import time
from datetime import UTC, datetime
from types import FrameType

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq_scheduler import Scheduler

from shared.queues import JOB_QUEUES, NotificationJob
from shared.redis_client import describe_error, fail_fast_client
from worker.runtime.heartbeat import touch_heartbeat
from worker.runtime.redis_repair import remove_bad_entries, remove_wrong_types
from worker.runtime.rq_worker import stopping

log = structlog.get_logger()

POLL_SECONDS = 0.5
SWEEP_SECONDS = 1
LOCK_SECONDS = 10  # the other scheduler takes over so long after the death of the active one
CHECK_SECONDS = 60.0  # between two looks at the types of the keys
CLOCK_SKEW_SECONDS = 5.0
# Job id → (function, seconds between runs).
PERIODIC = {"notification-sweep": ("worker.jobs.sweep", SWEEP_SECONDS)}


class FleetScheduler(Scheduler):
    """rq-scheduler that polls twice a second. Several may run; its lock lets one work at a time.

    `connection` is a patient client, so an outage of Redis makes the scheduler wait. Nothing but a
    signal ends its loop: a job that cannot be enqueued is removed and logged.
    """

    def __init__(self, connection: Redis, redis_url: str):
        super().__init__(connection=connection, interval=POLL_SECONDS, job_class=NotificationJob)
        self._fail_fast_client = fail_fast_client(redis_url)
        self._check_at = 0.0

    def run(self, burst: bool = False) -> None:
        """Poll until a signal."""
        self._install_signal_handlers()
        while True:
            try:
                self._poll()
            except Exception as error:
                log.error("scheduler.error", error=f"{type(error).__name__}: {error}")
                self._repair()
            time.sleep(POLL_SECONDS)

    def _poll(self) -> None:
        self.heartbeat()
        if not self.acquire_lock():
            return
        try:
            self._check_types()
            self.enqueue_jobs()
        finally:
            self.remove_lock()

    def heartbeat(self) -> None:
        """Touch the heartbeat file. rq-scheduler's own key in Redis serves nothing here."""
        touch_heartbeat()

    def acquire_lock(self) -> bool:
        """Take the lock for a few seconds; it may still be this scheduler's own after an outage."""
        key, seconds = self.scheduler_lock_key, LOCK_SECONDS
        self._lock_acquired = bool(
            self.connection.set(key, self.name, ex=seconds, nx=True)
            or self.connection.get(key) == self.name.encode()
        )
        return self._lock_acquired

    def remove_lock(self) -> None:
        """Give the lock back, if it is still this scheduler's own."""
        redis = self._fail_fast_client if stopping.is_set() else self.connection
        try:
            if redis.get(self.scheduler_lock_key) == self.name.encode():
                redis.delete(self.scheduler_lock_key)
        except (RedisError, OSError) as error:
            # It expires by itself.
            log.warning("worker.farewell_failed", error=describe_error(error))
        self._lock_acquired = False

    def enqueue_jobs(self) -> object:
        self._register_missing()
        for job in self.get_jobs_to_queue():
            try:
                self.enqueue_job(job)
            except RedisError:
                raise
            except Exception as error:
                log.error("job.unreadable", job_id=job.id, error=f"{type(error).__name__}: {error}")
                self.cancel(job)
                job.delete()
        return None

    def enqueue_job(self, job: NotificationJob) -> None:
        """Enqueue a due job, unless it is a periodic one that still waits in its queue."""
        if job.id in PERIODIC and job.get_position() is not None:
            self.connection.zadd(
                self.scheduled_jobs_key, {job.id: datetime.now(UTC).timestamp() + SWEEP_SECONDS}
            )
            return
        super().enqueue_job(job)

    def _register_missing(self) -> None:
        """Register periodic jobs that are missing, on another queue, or in the future.

        The former version had another queue; a wrong clock may have put a job into the future.
        """
        now = datetime.now(UTC)
        for job_id, (function, seconds) in PERIODIC.items():
            queue = JOB_QUEUES[function]
            due = self.connection.zscore(self.scheduled_jobs_key, job_id)
            origin = self.connection.hget(NotificationJob.key_for(job_id), "origin")
            if (
                due is not None
                and due < now.timestamp() + seconds + CLOCK_SKEW_SECONDS
                and origin == queue.encode()
            ):
                continue
            log.info("scheduler.registered", job=function, seconds=seconds)
            self.schedule(
                now,
                function,
                id=job_id,
                interval=seconds,
                queue_name=queue,
            )

    def _check_types(self) -> None:
        """Remove keys of the wrong type from time to time: not every reader of them reports one."""
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            remove_wrong_types(self.connection, {})

    def _repair(self) -> None:
        try:
            remove_wrong_types(self.connection, {})
            remove_bad_entries(self.connection)
        except RedisError as error:
            log.warning("worker.repair_failed", error=describe_error(error))

    def _install_signal_handlers(self) -> None:
        def stop(signum: int, frame: FrameType | None) -> None:
            stopping.set()
            raise SystemExit(0)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)

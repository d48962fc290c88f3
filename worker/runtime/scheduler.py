"""Move delayed jobs into their queues when due, and keep the periodic jobs registered.

Due times in Redis are instants of Redis's clock, and are compared with nothing else: several
processes write them, and the clock of one that is wrong must not delay a job of another.
"""

import signal
import time
from datetime import UTC, datetime
from types import FrameType

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq_scheduler import Scheduler

from shared.queues import JOB_QUEUES, NotificationJob
from shared.redis_client import describe_error, fail_fast_client, read_redis_time
from worker.runtime.heartbeat import touch_heartbeat
from worker.runtime.redis_repair import remove_bad_entries, remove_wrong_types
from worker.runtime.rq_worker import stopping

log = structlog.get_logger()

POLL_SECONDS = 0.5
SWEEP_SECONDS = 1
LOCK_SECONDS = 10  # the other scheduler takes over so long after the death of the active one
CHECK_SECONDS = 60.0  # between two looks at the types of the keys
# A periodic job that is due later than this after its interval was put there by a wrong clock.
MAX_DELAY_SECONDS = 1.0
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
        if not self._lock_acquired and not 0 <= self.connection.ttl(key) <= seconds:
            self.connection.expire(key, seconds)  # no scheduler has written this
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
        now = read_redis_time(self.connection)
        self._register_missing(now)
        for job in self.get_jobs(until=now):
            try:
                self._enqueue_due(job, now)
            except RedisError:
                raise
            except Exception as error:
                log.error("job.unreadable", job_id=job.id, error=f"{type(error).__name__}: {error}")
                self.cancel(job)
                job.delete()
        return None

    def _enqueue_due(self, job: NotificationJob, now: float) -> None:
        """Enqueue a due job, unless it is a periodic one that still waits in its queue."""
        if job.id in PERIODIC:
            function, seconds = PERIODIC[job.id]
            if (job.func_name, job.origin, job.meta) != (
                function,
                JOB_QUEUES[function],
                {"interval": seconds},
            ):
                self._register(job.id, now)
                return
            if job.get_position() is None:
                self.get_queue_for_job(job).enqueue_job(job)
            self.connection.zadd(self.scheduled_jobs_key, {job.id: now + seconds})
            return
        self.get_queue_for_job(job).enqueue_job(job)
        self.connection.zrem(self.scheduled_jobs_key, job.id)

    def _register_missing(self, now: float) -> None:
        """Register periodic jobs that are missing, or that are due at an impossible time."""
        for job_id, (_, seconds) in PERIODIC.items():
            due = self.connection.zscore(self.scheduled_jobs_key, job_id)
            if due is None or not 0 <= due <= now + seconds + MAX_DELAY_SECONDS:
                self._register(job_id, now)

    def _register(self, job_id: str, now: float) -> None:
        function, seconds = PERIODIC[job_id]
        log.info("scheduler.registered", job=function, seconds=seconds)
        self.connection.delete(NotificationJob.key_for(job_id))
        self.schedule(
            datetime.fromtimestamp(now, UTC),
            function,
            id=job_id,
            interval=seconds,
            queue_name=JOB_QUEUES[function],
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

"""Move delayed jobs into their queues when due, and keep the periodic jobs registered."""

import signal
from datetime import UTC, datetime
from types import FrameType

import structlog
from redis import Redis
from rq_scheduler import Scheduler

from shared.queues import CONTROL_QUEUE, NotificationJob
from worker.runtime.heartbeat import touch_heartbeat

log = structlog.get_logger()

POLL_SECONDS = 0.5
SWEEP_SECONDS = 1
# Job id → (function, seconds between runs).
PERIODIC = {"notification-sweep": ("worker.jobs.sweep", SWEEP_SECONDS)}


class FleetScheduler(Scheduler):
    """rq-scheduler that polls twice a second. Several may run; its lock lets one work at a time."""

    def __init__(self, connection: Redis):
        super().__init__(connection=connection, interval=POLL_SECONDS, job_class=NotificationJob)

    def heartbeat(self) -> None:
        touch_heartbeat()
        super().heartbeat()

    def enqueue_jobs(self) -> object:
        self._register_missing()
        return super().enqueue_jobs()

    def enqueue_job(self, job: NotificationJob) -> None:
        """Enqueue a due job, unless it is a periodic one that still waits in its queue."""
        if job.id in PERIODIC and job.get_position() is not None:
            self.connection.zadd(
                self.scheduled_jobs_key, {job.id: datetime.now(UTC).timestamp() + SWEEP_SECONDS}
            )
            return
        super().enqueue_job(job)

    def _register_missing(self) -> None:
        for job_id, (function, seconds) in PERIODIC.items():
            if job_id not in self:
                log.info("scheduler.registered", job=function, seconds=seconds)
                self.schedule(
                    datetime.now(UTC),
                    function,
                    id=job_id,
                    interval=seconds,
                    queue_name=CONTROL_QUEUE,
                )

    def _install_signal_handlers(self) -> None:
        def stop(signum: int, frame: FrameType | None) -> None:
            raise SystemExit(0)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)

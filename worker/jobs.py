"""The jobs that RQ runs: launch, dispatch and maintenance with this process's settings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import cache

import structlog
from redis import Redis

from shared.config.settings import WorkerSettings
from shared.metrics import SWEPT_KEY
from shared.queues import Queues
from shared.report.daily import find_due_days
from worker.dispatch.counters import DispatchCounters
from worker.dispatch.db_thread import log_database_error
from worker.dispatch.dispatcher import Dispatcher
from worker.dispatch.test_send import start_test_send
from worker.launch.launcher import launch_slice
from worker.maintenance.daily_report import start_daily_report
from worker.maintenance.imports import merge_import_slice
from worker.maintenance.retention import drop_old_data
from worker.maintenance.sweep import sweep_mailings
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.rate_limiter import RateLimiter
from worker.provider.redis_client import FailFastRedis, sending_loop_client
from worker.runtime.database import Database, DatabaseError
from worker.runtime.rq_worker import FleetWorker, stopping

RETENTION_INTERVAL_SECONDS = 600.0
REPORT_INTERVAL_SECONDS = 20.0


class WorkerContext:
    """What the jobs of this process share; set by the entry point before the first job."""

    settings: WorkerSettings
    connection: Redis
    worker: FleetWorker
    # By the monotonic clock: when to look for old partitions, and for days whose report is due.
    next_retention_at = 0.0
    next_report_at = 0.0

    @classmethod
    def queues(cls) -> Queues:
        return Queues(cls.connection)


@cache
def _database(number: int) -> Database:
    """Return one of several connections, for work that is done in parallel."""
    return Database(WorkerContext.settings.database_url, "notification-control")


@contextmanager
def _job_context(name: str, **ids: object) -> Iterator[None]:
    """Bind ids to a job's log lines; log database errors, since the sweep repeats the job."""
    with structlog.contextvars.bound_contextvars(**ids):
        try:
            yield
        except DatabaseError as error:
            log_database_error(name, error)


def launch(mailing_id: int, request_id: str | None = None) -> None:
    """Launch a due mailing for a while; enqueue the rest behind other jobs."""
    with _job_context("launch", request_id=request_id, mailing_id=mailing_id):
        queues = WorkerContext.queues()
        more = launch_slice(
            _database(2),
            (_database(0), _database(1)),
            mailing_id,
            WorkerContext.settings.batch_size,
            lambda: queues.wake_dispatchers(mailing_id, request_id=request_id),
        )
        if more and not stopping.is_set():
            queues.enqueue_launches([mailing_id], request_id)


def dispatch(mailing_id: int, request_id: str | None = None) -> None:
    """Send every due message of every mailing; the given mailing is only a hint."""
    settings = WorkerContext.settings
    redis = FailFastRedis(sending_loop_client(settings.redis_url))
    Dispatcher(
        settings,
        Database(settings.database_url, "notification-dispatch"),
        CircuitBreaker(redis, probe_timeout=settings.provider_timeout + 2),
        RateLimiter(redis, settings.provider_rate),
        DispatchCounters(sending_loop_client(settings.redis_url), settings.provider_rate),
        stopping,
        WorkerContext.worker.extend_heartbeat,
    ).run()


def merge_import(import_id: int, request_id: str | None = None) -> None:
    """Merge an import's rows for a while; enqueue the rest behind other jobs."""
    with _job_context("import", request_id=request_id, import_id=import_id):
        more = merge_import_slice(_database(0), import_id, _database(1))
        if more and not stopping.is_set():
            WorkerContext.queues().enqueue_import_merge(import_id, request_id)


def send_test(test_id: int, request_id: str | None = None) -> None:
    """Start a test send, without waiting for it."""
    start_test_send(WorkerContext.settings, test_id, request_id)


def send_daily_report(day: str, request_id: str | None = None) -> None:
    """Start sending a local day's report unless it has been sent, without waiting for it."""
    start_daily_report(WorkerContext.settings, date.fromisoformat(day), request_id)


def sweep() -> None:
    """Enqueue jobs for stalled work; periodically drop old data and enqueue due reports."""
    settings, queues, now = WorkerContext.settings, WorkerContext.queues(), time.monotonic()
    with _job_context("sweep"):
        if now > WorkerContext.next_retention_at:
            WorkerContext.next_retention_at = now + RETENTION_INTERVAL_SECONDS
            drop_old_data(_database(0), settings.retention_days)
        if now > WorkerContext.next_report_at:
            WorkerContext.next_report_at = now + REPORT_INTERVAL_SECONDS
            for day in find_due_days(_database(0).transaction, settings):
                queues.enqueue_daily_report(day)
        sweep_mailings(_database(0), queues, settings.lease_seconds)
        WorkerContext.connection.set(SWEPT_KEY, time.time())

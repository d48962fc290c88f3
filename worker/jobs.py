"""The jobs that RQ runs: thin doors to launch, dispatch and sweep."""

import time
from datetime import date
from functools import cache

import structlog
from redis import Redis

from shared.config.settings import WorkerSettings
from shared.metrics import SWEPT_KEY
from shared.queues import Queues
from shared.report.daily import find_due_days
from worker.dispatch import test_send
from worker.dispatch.counters import Tally
from worker.dispatch.db_thread import complain
from worker.dispatch.dispatcher import Dispatcher
from worker.launch.launcher import launch_slice
from worker.maintenance import daily_report, retention
from worker.maintenance import sweep as sweeping
from worker.maintenance.imports import merge
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.rate_limiter import RateLimiter
from worker.provider.redis_client import FailFastRedis, fail_fast_client
from worker.runtime.database import Database, DatabaseError
from worker.runtime.rq_worker import FleetWorker, stopping

log = structlog.get_logger()

RETAIN_SECONDS = 600.0
REPORT_SECONDS = 20.0


class Tools:
    """What this process' jobs share: made by its entry point before the first of them."""

    settings: WorkerSettings
    connection: Redis
    worker: FleetWorker
    # When old partitions are to be looked for next, by the monotonic clock.
    retain_at = 0.0
    # Likewise for days whose report is due.
    report_at = 0.0

    @classmethod
    def queues(cls) -> Queues:
        return Queues(cls.connection)


@cache
def _database(number: int) -> Database:
    """A connection; more than one, for what is done by several at once."""
    return Database(Tools.settings.database_url, "notification-control")


def launch(mailing_id: int, request_id: str | None = None) -> None:
    """Launch a mailing whose time has come; give way to other jobs after a while."""
    with structlog.contextvars.bound_contextvars(request_id=request_id, mailing_id=mailing_id):
        queues = Tools.queues()
        try:
            more = launch_slice(
                _database(2),
                (_database(0), _database(1)),
                mailing_id,
                Tools.settings.batch_size,
                lambda: queues.dispatch(mailing_id, request_id=request_id),
            )
        except DatabaseError as error:
            complain("launch", error)
            return
        if more and not stopping.is_set():
            queues.keep_launching([mailing_id], request_id)


def dispatch(mailing_id: int, request_id: str | None = None) -> None:
    """Send whatever is due; the mailing is only a hint."""
    settings = Tools.settings
    redis = FailFastRedis(fail_fast_client(settings.redis_url))
    Dispatcher(
        settings,
        Database(settings.database_url, "notification-dispatch"),
        CircuitBreaker(redis, probe_timeout=settings.provider_timeout + 2),
        RateLimiter(redis, settings.provider_rate),
        Tally(fail_fast_client(settings.redis_url), settings.provider_rate),
        stopping,
        Tools.worker.extend_heartbeat,
    ).run()


def merge_import(import_id: int, request_id: str | None = None) -> None:
    """Merge an import's rows; give way to other jobs after a while."""
    with structlog.contextvars.bound_contextvars(request_id=request_id, import_id=import_id):
        try:
            more = merge(_database(0), import_id, _database(1))
        except DatabaseError as error:
            complain("import", error)
            return
        if more and not stopping.is_set():
            Tools.queues().merge_import(import_id, request_id)


def send_test(test_id: int, request_id: str | None = None) -> None:
    """Send a test, without waiting for it."""
    test_send.start(Tools.settings, test_id, request_id)


def send_daily_report(day: str, request_id: str | None = None) -> None:
    """Send a local day's report, unless somebody has or does; without waiting for it."""
    daily_report.start(Tools.settings, date.fromisoformat(day), request_id)


def sweep() -> None:
    """Set going whatever stands still; now and then, drop what is too old."""
    try:
        if time.monotonic() > Tools.retain_at:
            Tools.retain_at = time.monotonic() + RETAIN_SECONDS
            retention.drop_old(_database(0), Tools.settings.retention_days)
        if time.monotonic() > Tools.report_at:
            Tools.report_at = time.monotonic() + REPORT_SECONDS
            for day in find_due_days(_database(0).transaction, Tools.settings):
                Tools.queues().send_daily_report(day)
        sweeping.sweep(_database(0), Tools.queues(), Tools.settings.lease_seconds)
        Tools.connection.set(SWEPT_KEY, time.time())
    except DatabaseError as error:
        complain("sweep", error)

"""The jobs that RQ runs: launch, dispatch and maintenance with this process's settings."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import structlog

from shared.config.settings import WorkerSettings
from shared.domain.time_zones import RULES_VERSION
from shared.file_limit import get_file_limit
from shared.queues import Queues
from shared.tracing import current_tracing, trace_id_of
from worker.dispatch.counters import DispatchCounters
from worker.dispatch.db_thread import log_database_error
from worker.dispatch.dispatcher import Dispatcher
from worker.dispatch.journal import Journal
from worker.dispatch.journal_recovery import JournalRecovery
from worker.dispatch.test_send import start_test_send
from worker.launch.launcher import SLICE_SECONDS, launch_slice
from worker.launch.small_launch import SmallLauncher
from worker.maintenance.containment import contain_failure
from worker.maintenance.import_undos import undo_import_slice
from worker.maintenance.imports import merge_import_slice
from worker.maintenance.retention import drop_old_data
from worker.maintenance.sweep import sweep_mailings
from worker.maintenance.zone_rules import apply_zone_rules
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.concurrency_limit import ConcurrencyLimit
from worker.provider.rate_limiter import RateLimiter
from worker.provider.redis_client import FailFastRedis, sending_loop_client
from worker.provider.token import ProviderToken
from worker.runtime.clock import boottime
from worker.runtime.database import Database, DatabaseError
from worker.runtime.rq_worker import FleetWorker, stopping

log = structlog.get_logger()

RETENTION_INTERVAL_SECONDS = 600.0
ZONE_RULES_INTERVAL_SECONDS = 600.0
# Small mailings that become due within this time after a launch are launched together. One that
# comes alone does not wait; of a stream, many share what a job and a transaction cost.
SHARED_LAUNCH_SECONDS = 0.1
# Files of a dispatch worker besides its connections to the provider; it needs about 20.
RESERVED_FILES = 100


class WorkerContext:
    """What the jobs of this process share; set by the entry point before the first job."""

    settings: WorkerSettings
    token: ProviderToken
    worker: FleetWorker
    journals: JournalRecovery | None = None
    # By the monotonic clock: when to look for old partitions, and for due times that follow other
    # time zone rules; and before when no launch of small mailings begins.
    next_retention_at = 0.0
    next_zone_rules_at = 0.0
    next_small_launch_at = 0.0

    @classmethod
    def use_settings(cls, settings: WorkerSettings) -> None:
        cls.settings = settings
        cls.token = ProviderToken.from_settings(settings.provider_token, os.environ)

    @classmethod
    def queues(cls) -> Queues:
        """Return queues that do not wait for Redis: a job holds locks, and the sweep repairs."""
        return _queues(cls.settings.redis_url)

    @classmethod
    def current_token(cls) -> ProviderToken:
        """Return the provider's token, read again if its file has changed."""
        cls.token.refresh(boottime())
        cls.token.remind(boottime())
        return cls.token

    @classmethod
    def start_journals(cls, folder: Path) -> None:
        """Keep a journal in `folder`, and record what those of dead workers there list."""
        settings = cls.settings
        cls.journals = JournalRecovery(
            folder,
            Database(settings.database_url, "notification-journal"),
            reserve=settings.provider_concurrency,
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
        )
        cls.journals.start()


@cache
def _queues(redis_url: str) -> Queues:
    return Queues.connect(redis_url, timeout=1.0)


@cache
def _concurrency() -> ConcurrencyLimit:
    """Return the limit of requests in flight, which outlives the dispatch jobs of this process."""

    def log_reduction(previous: int, limit: int, reason: str) -> None:
        log.warning("provider.concurrency_reduced", previous=previous, limit=limit, reason=reason)

    wanted, files = WorkerContext.settings.provider_concurrency, get_file_limit()
    most = max(1, min(wanted, files - RESERVED_FILES))
    if most < wanted:
        log.warning("worker.few_files", open_files=files, concurrency=most)
    return ConcurrencyLimit(most, log_reduction)


@cache
def _database(number: int) -> Database:
    """Return one of several connections, for work that is done in parallel."""
    return Database(WorkerContext.settings.database_url, "notification-control")


@cache
def _small_launcher(db: Database) -> SmallLauncher:
    return SmallLauncher(db, WorkerContext.settings.batch_size)


@contextmanager
def _job_context(name: str, request_id: str | None = None, **ids: int) -> Iterator[None]:
    """Bind ids to a job's log lines; log database errors, since the sweep repeats the job.

    A job that a request has caused is a span of its trace.
    """
    bind = structlog.contextvars.bound_contextvars
    with ExitStack() as stack:
        if request_id is not None:
            stack.enter_context(bind(request_id=request_id))
        stack.enter_context(bind(**ids))
        if (tracing := current_tracing()) is not None and request_id is not None:
            stack.enter_context(bind(trace_id=trace_id_of(request_id)))
            stack.enter_context(tracing.span(f"job {name}", request_id, ids))
        try:
            yield
        except DatabaseError as error:
            log_database_error(name, error)


def launch(mailing_id: int, request_id: str | None = None) -> None:
    """Launch all small mailings that are due, then the given one for a while, if it is large.

    Enqueues the rest behind other jobs.
    """
    queues = WorkerContext.queues()
    # Until then this job counts as waiting: mailings that are created meanwhile get no other one.
    stopping.wait(max(0.0, WorkerContext.next_small_launch_at - time.monotonic()))
    queues.begin_launches()
    with _job_context("launch"):
        if _launch_small_mailings(queues, mailing_id):
            return
    with _job_context("launch", request_id=request_id, mailing_id=mailing_id):
        more = launch_slice(
            _database(2),
            (_database(0), _database(1)),
            mailing_id,
            WorkerContext.settings.batch_size,
            lambda: queues.wake_dispatchers(mailing_id, request_id=request_id),
        )
        if more and not stopping.is_set():
            queues.enqueue_launches([mailing_id], request_id)


def _launch_small_mailings(queues: Queues, mailing_id: int) -> bool:
    """Launch small mailings for a while; return whether the given one was among them."""
    launcher = _small_launcher(_database(0))
    found, ends_at = False, time.monotonic() + SLICE_SECONDS
    while True:
        launch = launcher.launch_some()
        if launch.launched:
            WorkerContext.next_small_launch_at = time.monotonic() + SHARED_LAUNCH_SECONDS
            queues.wake_dispatchers(launch.launched[0].id)
            found |= any(mailing.id == mailing_id for mailing in launch.launched)
        if launch.larger:
            queues.enqueue_launches(each for each in launch.larger if each != mailing_id)
        if not launch.more:
            return found
        if time.monotonic() > ends_at or stopping.is_set():
            queues.enqueue_launch(mailing_id)
            return found


def dispatch(mailing_id: int, request_id: str | None = None) -> None:
    """Send every due message of every mailing; the given mailing is only a hint."""
    settings = WorkerContext.settings
    token = WorkerContext.current_token()
    redis = FailFastRedis(sending_loop_client(settings.redis_url))
    db = Database(settings.database_url, "notification-dispatch")
    with _job_context("dispatch"), _open_journal(db) as journal:
        Dispatcher(
            settings,
            token,
            db,
            CircuitBreaker(redis, settings.provider_timeout + 2, token.value),
            RateLimiter(redis, settings.provider_rate),
            _concurrency(),
            DispatchCounters(sending_loop_client(settings.redis_url), settings.provider_rate),
            stopping,
            WorkerContext.worker.extend_heartbeat,
            journal,
        ).run()


@contextmanager
def _open_journal(db: Database) -> Iterator[Journal | None]:
    """Yield the journal of a dispatch job, if journals are on; raises DatabaseError."""
    journals = WorkerContext.journals
    if journals is None:
        yield None
        return
    journals.wait_for_first_search()
    try:
        yield journals.open_journal(db)
    finally:
        # One that is not empty, because the job failed, is recorded like that of a dead worker.
        journals.close_journal(only_unrecorded=True)


def merge_import(import_id: int, request_id: str | None = None) -> None:
    """Merge an import's rows for a while; enqueue the rest behind other jobs."""
    with _job_context("import", request_id=request_id, import_id=import_id):
        more = merge_import_slice(_database(0), import_id, _database(1))
        if more and not stopping.is_set():
            WorkerContext.queues().enqueue_import_merge(import_id, request_id)


def undo_import(import_id: int, request_id: str | None = None) -> None:
    """Undo an import for a while; enqueue the rest behind other jobs."""
    with _job_context("undo", request_id=request_id, import_id=import_id):
        if undo_import_slice(_database(0), import_id) and not stopping.is_set():
            WorkerContext.queues().enqueue_import_undo(import_id, request_id)


def send_test(test_id: int, request_id: str | None = None) -> None:
    """Start a test send, without waiting for it."""
    token = WorkerContext.current_token().value
    start_test_send(WorkerContext.settings, token, test_id, request_id)


def sweep() -> None:
    """Enqueue jobs for stalled work; periodically drop old data."""
    settings, queues, now = WorkerContext.settings, WorkerContext.queues(), time.monotonic()
    with _job_context("sweep"):
        if now > WorkerContext.next_retention_at:
            WorkerContext.next_retention_at = now + RETENTION_INTERVAL_SECONDS
            with contain_failure("retention"):
                drop_old_data(_database(0), settings.retention_days)
        if now > WorkerContext.next_zone_rules_at:
            WorkerContext.next_zone_rules_at = now + ZONE_RULES_INTERVAL_SECONDS
            with contain_failure("time zone rules"):
                apply_zone_rules(_database(0), RULES_VERSION)
        started = time.monotonic()
        sweep_mailings(_database(0), queues, settings.lease_seconds, settings.end_margin)
        queues.record_sweep(time.monotonic() - started)
        WorkerContext.current_token().publish(queues.connection)

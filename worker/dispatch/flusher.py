"""Records a dispatcher's outcomes at least twice a second, and releases its batches.

One flush runs at a time. A flush that fails is repeated unchanged until it is recorded, and until
then nothing more is sent: an outcome that cannot be recorded must not occur.
"""

from typing import Any

import structlog

from shared.db.on_commit import IDS_PER_LINE
from shared.logging.log_config import format_timestamp
from worker.dispatch.brake import Brake
from worker.dispatch.db_thread import DatabaseThread, log_database_error, log_if_failed
from worker.dispatch.journal import Journal
from worker.dispatch.leased_batch import LeasedBatch
from worker.dispatch.state import DispatchState
from worker.provider.circuit_breaker import CircuitBreaker
from worker.recording.batch_report import BatchReport, RecordedBatch
from worker.recording.isolation import record_or_isolate
from worker.recording.mailing_state import apply_mailing_state, settle_mailing
from worker.runtime.clock import boottime

log = structlog.get_logger()

FLUSH_SECONDS = 0.4
# Batches that are done wait this long to be released together, since each transaction has a cost;
# not if all batches are done. While many messages are refused, outcomes wait no longer either.
GATHER_SECONDS = 0.15
RETRY_SECONDS = 0.5
# A flush that takes longer than this stops sending, as a failed one does.
SLOW_FLUSH_SECONDS = 1.5
# A batch that could send nothing for this long is released.
STARVED_SECONDS = 3.0
APPLY_STATE_SECONDS = 0.2
FINAL_REASONS = ("ended", "cancelled", "deleted")


class Flusher:
    """The part of a dispatcher that records outcomes."""

    def __init__(
        self,
        db_thread: DatabaseThread,
        state: DispatchState,
        breaker: CircuitBreaker,
        brake: Brake,
        lease_seconds: float,
        max_attempts: int,
        journal: Journal | None = None,
    ):
        self._db_thread, self._state, self._breaker = db_thread, state, breaker
        self._brake = brake
        self._lease_seconds, self._max_attempts = lease_seconds, max_attempts
        self._journal = journal
        # The journal's position before which the running flush records everything, if it does.
        self._journal_position: int | None = None
        self.unrecorded: list[BatchReport] = []  # the reports of the running flush
        self._flushed_at = self._all_flushed_at = 0.0
        self._retry_at = 0.0

    def can_record(self, now: float) -> bool:
        """Return whether outcomes can be recorded: no flush is failing or slow, no journal full."""
        if self._retry_at or (self._journal is not None and not self._journal.has_room()):
            return False
        return not self.unrecorded or now - self._flushed_at < SLOW_FLUSH_SECONDS

    def flush(self, now: float, *, last: bool = False) -> None:
        """Start a flush if one is due, or repeat the one that failed.

        `last`: flush every outcome now, before the dispatcher stops.
        """
        if self.unrecorded:
            if self._retry_at and now >= self._retry_at:
                self._retry_at = float("inf")
                self._submit()
            return
        wait = self._drain_starved(now)
        batches = self._state.batches
        interval = GATHER_SECONDS if self._brake.hurry else FLUSH_SECONDS
        all_due = self._brake.flush_now or now - self._all_flushed_at > interval
        gathering = now - self._flushed_at < GATHER_SECONDS and not all(b.done for b in batches)
        if gathering and not all_due and not last:
            return
        # A batch that was lost and claimed again is held twice: report one of them at a time.
        to_report = {
            batch.key[:2]: batch
            for batch in batches
            if all_due or batch.done or (last and batch.has_unrecorded)
        }
        if not to_report:
            return
        self._flushed_at = now
        if all_due:
            self._all_flushed_at = now
        open_mailings = self._state.due_mailings.keys() | {
            batch.mailing_id for batch in batches if not batch.done
        }
        self.unrecorded = [
            batch.make_report(wait, last=batch.mailing_id not in open_mailings)
            for batch in to_report.values()
        ]
        self._brake.start_flush(self.unrecorded)
        if self._journal is not None:
            complete = not any(batch.has_unrecorded for batch in batches)
            self._journal_position = self._journal.position if complete else None
        self._submit()

    def _drain_starved(self, now: float) -> float:
        """Drain batches that can send nothing; return the seconds until sending may resume."""
        for batch in self._state.batches:
            if batch.in_flight == 0 and now - batch.progress_at > STARVED_SECONDS:
                batch.drain("starved")
        if self._breaker.allowance(now) == 0:
            return max(0.0, self._breaker.retry_at - now)
        return 0.0

    def _submit(self) -> None:
        started_at = boottime()

        def on_recorded(
            results: dict[tuple[int, int], RecordedBatch] | None, error: Exception | None
        ) -> None:
            if results is None:
                self._retry_at = boottime() + RETRY_SECONDS
                log_database_error("record", error)
                return
            self._retry_at = 0.0
            reports, self.unrecorded = self.unrecorded, []
            self._brake.end_flush()
            if self._journal is not None and self._journal_position is not None:
                self._journal.mark_recorded(self._journal_position)
            for report in reports:
                recorded = results.get((report.mailing_id, report.batch_id))
                if recorded is None:
                    # Its lease runs out, and its messages are then in doubt.
                    self._state.remove_batch(
                        self._state.get_batch((report.mailing_id, report.batch_id, report.token))
                    )
                else:
                    self._update_batch(report, recorded, started_at)

        self._db_thread.submit(
            on_recorded, record_or_isolate, self.unrecorded, self._lease_seconds, self._max_attempts
        )

    def _update_batch(
        self, report: BatchReport, recorded: RecordedBatch, started_at: float
    ) -> None:
        batch = self._state.get_batch((report.mailing_id, report.batch_id, report.token))
        if report.release is not None:
            if self._state.tracer is not None:
                self._state.tracer.trace_release(batch, recorded, started_at)
            self._state.remove_batch(batch)
            self._log_release(batch, recorded)
            if not recorded.settled:
                self._finish_mailing(batch)
        elif recorded.held:
            batch.renew_lease(started_at)
        elif not batch.lost:
            log.warning("batch.lost", mailing_id=report.mailing_id, batch_id=report.batch_id)
            batch.lost = True

    def _log_release(self, batch: LeasedBatch, recorded: RecordedBatch) -> None:
        fields: dict[str, Any] = batch.log_fields
        due_at = recorded.due_at and format_timestamp(recorded.due_at.timestamp())
        why = batch.drain_reason or ("retry" if batch.has_retries else "done")
        log.info("batch.released", **fields, why=why, pending=recorded.pending, due_at=due_at)
        if not due_at or batch.drain_reason in FINAL_REASONS:
            return
        retried = [id_ for id_, used in batch.attempts_used.items() if used < self._max_attempts]
        for at in range(0, len(retried), IDS_PER_LINE):
            ids = retried[at : at + IDS_PER_LINE]
            clients = [batch.client_ids[id_] for id_ in ids if id_ in batch.client_ids]
            log.info("message.retry", **fields, due_at=due_at, message_ids=ids, client_ids=clients)

    def _finish_mailing(self, batch: LeasedBatch) -> None:
        """Apply a mailing's end or cancellation and settle it, once no batch of it is leased."""
        mailing_id = batch.mailing_id
        if self._state.holds_mailing(mailing_id):
            return
        submit = self._db_thread.submit
        if batch.drain_reason in FINAL_REASONS:
            submit(
                log_if_failed,
                apply_mailing_state,
                mailing_id,
                self._lease_seconds,
                APPLY_STATE_SECONDS,
            )
        if mailing_id not in self._state.due_mailings or batch.drain_reason:
            submit(log_if_failed, settle_mailing, mailing_id)

"""Records what a dispatcher knows, at least twice a second, and gives batches back.

One flush is under way at a time. One that fails is repeated as it was until it is recorded, and
until then nothing more is handed off: what cannot be written down must not happen.
"""

from typing import Any

import structlog

from shared.db.on_commit import IDS_PER_LINE
from shared.logging.log_config import format_timestamp
from worker.dispatch.db_thread import Clerk, complain, ignore
from worker.dispatch.leased_batch import Hand, HeldBatch
from worker.provider.circuit_breaker import CircuitBreaker
from worker.recording.batch_report import BatchReport, RecordedBatch
from worker.recording.mailing_state import apply_mailing_state, settle_mailing
from worker.recording.record import record_reports
from worker.runtime.clock import boottime
from worker.runtime.database import DatabaseError

log = structlog.get_logger()

FLUSH_SECONDS = 0.4
# Batches that are done wait for so long, to be given back together: a transaction has its price.
# Unless there is nothing else in hand: then nobody is to wait.
GATHER_SECONDS = 0.15
RETRY_SECONDS = 0.5
# A flush that takes longer than this stops the hand-off, as a failed one does.
SLOW_SECONDS = 1.5
# A batch that can hand nothing off for this long is given back.
STARVED_SECONDS = 3.0


class Recorder:
    """The part of a dispatcher that writes down what happened."""

    def __init__(
        self,
        clerk: Clerk,
        hand: Hand,
        breaker: CircuitBreaker,
        lease_seconds: float,
        max_attempts: int,
    ):
        self.clerk, self.hand, self.breaker = clerk, hand, breaker
        self.lease, self.max_attempts = lease_seconds, max_attempts
        self.flushing: list[BatchReport] = []
        self._flushed_at = self._all_flushed_at = 0.0
        self._again_at = 0.0

    def works(self, now: float) -> bool:
        """Whether what happens can be written down."""
        if self._again_at:
            return False
        return not self.flushing or now - self._flushed_at < SLOW_SECONDS

    def flush(self, now: float, *, last: bool = False) -> None:
        """Give what is known to the clerk: one flush at a time, repeated until it is recorded.

        `last`: there will be no other occasion.
        """
        if self.flushing:
            if self._again_at and now >= self._again_at:
                self._again_at = float("inf")
                self._record()
            return
        wait = self._give_back(now)
        held = self.hand.held.values()
        late = now - self._all_flushed_at > FLUSH_SECONDS
        gathering = now - self._flushed_at < GATHER_SECONDS and not all(b.done for b in held)
        if gathering and not late and not last:
            return
        # A batch that was lost and claimed again is held twice: one at a time.
        todo = {
            (batch.mailing_id, batch.claim.batch_id): batch
            for batch in held
            if late or batch.done or (last and batch.unrecorded)
        }
        if not todo:
            return
        self._flushed_at = now
        if late:
            self._all_flushed_at = now
        self.flushing = [batch.flush(wait) for batch in todo.values()]
        self._record()

    def _give_back(self, now: float) -> float:
        """Drain what cannot be handed off for a while; return for how long, in seconds."""
        wait = 0.0
        if self.breaker.allowance(now) == 0:
            wait = max(0.0, self.breaker.retry_at - now)
        for batch in self.hand.held.values():
            if batch.in_flight == 0 and now - batch.progress_at > STARVED_SECONDS:
                batch.draining = batch.draining or "starved"
        return wait

    def _record(self) -> None:
        asked_at = boottime()

        def recorded(
            results: dict[tuple[int, int], RecordedBatch] | None, error: DatabaseError | None
        ) -> None:
            if results is None:
                # Nothing more is handed off until what is known can be written down.
                self._again_at = boottime() + RETRY_SECONDS
                complain("record", error)
                return
            self._again_at = 0.0
            flushes, self.flushing = self.flushing, []
            for flush in flushes:
                self._recorded(flush, results, asked_at)

        self.clerk.ask(recorded, record_reports, self.flushing, self.lease, self.max_attempts)

    def _recorded(
        self, flush: BatchReport, results: dict[tuple[int, int], RecordedBatch], asked_at: float
    ) -> None:
        key = flush.mailing_id, flush.batch_id, flush.token
        batch = self.hand.held[key]
        if flush.release is not None:
            del self.hand.held[key]
            self._released(batch, flush, results[key[:2]])
        elif results[key[:2]].held:
            batch.renew(asked_at)
        elif not batch.lost:
            log.warning("batch.lost", mailing_id=flush.mailing_id, batch_id=flush.batch_id)
            batch.lost = True

    def _released(self, batch: HeldBatch, flush: BatchReport, recorded: RecordedBatch) -> None:
        place: dict[str, Any] = {"mailing_id": batch.mailing_id, "batch_id": flush.batch_id}
        if batch.claim.request_id:
            place["request_id"] = batch.claim.request_id
        due_at = recorded.due_at and format_timestamp(recorded.due_at.timestamp())
        why = batch.draining or ("retry" if batch.retries else "done")
        pending = recorded.pending
        log.info("batch.released", **place, why=why, pending=pending, due_at=due_at)
        retried = [id_ for id_, used in batch.unaccepted.items() if used < self.max_attempts]
        if due_at and batch.draining not in ("ended", "cancelled", "deleted"):
            for at in range(0, len(retried), IDS_PER_LINE):
                ids = retried[at : at + IDS_PER_LINE]
                log.info("message.retry", **place, due_at=due_at, message_ids=ids)
        if any(held.mailing_id == batch.mailing_id for held in self.hand.held.values()):
            return
        if batch.draining in ("ended", "cancelled", "deleted"):
            self.clerk.ask(ignore, apply_mailing_state, batch.mailing_id, self.lease, 0.2)
        if batch.mailing_id not in self.hand.due or batch.draining:
            self.clerk.ask(ignore, settle_mailing, batch.mailing_id)

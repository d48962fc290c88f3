"""Traces a sample of batches: their claim, their sending and their recording, with a few messages.

Spans are recorded when a batch is claimed and when it is released, so a message costs nothing. At
most one batch of a mailing in a second, and ten of all, are traced by each worker: a mailing of ten
million has 20,000.
"""

from collections import deque
from typing import TYPE_CHECKING

from shared.tracing import Tracing
from worker.dispatch.leased_batch import BatchKey, LeasedBatch
from worker.recording.batch_report import RecordedBatch
from worker.runtime.clock import boottime

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

SAMPLE_SECONDS = 1.0
MAX_BATCHES_PER_SAMPLE = 10
MAX_MESSAGES = 3


class BatchTracer:
    """The part of a dispatcher that traces."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        # The claim's span of each traced batch.
        self._claims: dict[BatchKey, SpanContext] = {}
        self._traced_at: deque[tuple[float, int]] = deque()  # boottime, mailing id

    def trace_claim(self, batch: LeasedBatch) -> None:
        """Record the claim of a batch just claimed, if it is in the sample."""
        request_id, now = batch.claim.request_id, boottime()
        while self._traced_at and self._traced_at[0][0] < now - SAMPLE_SECONDS:
            self._traced_at.popleft()
        recent = [mailing_id for _, mailing_id in self._traced_at]
        if request_id is None or len(recent) >= MAX_BATCHES_PER_SAMPLE:
            return
        if batch.mailing_id in recent:
            return
        self._traced_at.append((now, batch.mailing_id))
        self._claims[batch.key] = self._tracing.record(
            "claim batch",
            self._tracing.context_of(request_id),
            now - batch.claim.lease_start,
            {
                "mailing_id": batch.mailing_id,
                "batch_id": batch.claim.batch_id,
                "messages": len(batch.claim.rows),
                "attempt": batch.claim.attempt,
                "taken_over": batch.claim.taken_over,
            },
        )

    def trace_release(
        self, batch: LeasedBatch, recorded: RecordedBatch, record_started_at: float
    ) -> None:
        """Record how a traced batch was sent and recorded; `record_started_at` is a boottime."""
        claim = self._claims.pop(batch.key, None)
        if claim is None:
            return
        recording_seconds = boottime() - record_started_at
        sending_seconds = record_started_at - batch.claim.lease_start
        ids = {
            "mailing_id": batch.mailing_id,
            "batch_id": batch.claim.batch_id,
        }
        sending = self._tracing.record(
            "send batch",
            claim,
            sending_seconds,
            {**ids, "drain_reason": batch.drain_reason},
            ended_ago=recording_seconds,
        )
        links = [
            self._tracing.record(
                "message",
                sending,
                sending_seconds,
                {
                    **ids,
                    "message_id": message_id,
                    "client_id": batch.client_ids.get(message_id),
                    "attempts": batch.attempts_used.get(message_id),
                },
                error="not accepted" if message_id in batch.attempts_used else None,
                ended_ago=recording_seconds,
            )
            for message_id in self._choose_messages(batch)
        ]
        self._tracing.record(
            "record batch",
            claim,
            recording_seconds,
            {**ids, "pending": recorded.pending},
            links=links,
        )

    @staticmethod
    def _choose_messages(batch: LeasedBatch) -> list[int]:
        """Return a few messages of the batch: those that must be repeated, then the first ones."""
        rows = [row.message_id for row in batch.claim.rows[:MAX_MESSAGES]]
        return list(dict.fromkeys([*list(batch.attempts_used)[:MAX_MESSAGES], *rows]))[
            :MAX_MESSAGES
        ]

    def forget(self, batch: LeasedBatch) -> None:
        """Drop a batch that was lost."""
        self._claims.pop(batch.key, None)

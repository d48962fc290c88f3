"""The state that the parts of a dispatcher share: its leased batches and the due mailings."""

from collections.abc import ValuesView

from shared.tracing import current_tracing
from worker.dispatch.batch_tracer import BatchTracer
from worker.dispatch.claim_queries import DueMailing
from worker.dispatch.leased_batch import BatchKey, LeasedBatch
from worker.runtime.clock import boottime


class DispatchState:
    """A dispatcher's batches, and the mailings that have a batch to claim. Instants are boottimes.

    `due_mailings` are the mailings with a batch to claim, by id.
    """

    def __init__(self) -> None:
        self.due_mailings: dict[int, DueMailing] = {}
        self._batches: dict[BatchKey, LeasedBatch] = {}
        self._served_at: dict[int, float] = {}
        self._active_at = boottime()
        tracing = current_tracing()
        self.tracer = None if tracing is None else BatchTracer(tracing)

    @property
    def batches(self) -> ValuesView[LeasedBatch]:
        """The leased batches. A batch that was lost and claimed again is in it twice."""
        return self._batches.values()

    def add_batch(self, batch: LeasedBatch) -> None:
        """Hold a batch that was just claimed."""
        self._batches[batch.key] = batch
        if self.tracer is not None:
            self.tracer.trace_claim(batch)
        self.record_activity()

    def get_batch(self, key: BatchKey) -> LeasedBatch:
        """Return a leased batch by mailing id, batch id and token."""
        return self._batches[key]

    def remove_batch(self, batch: LeasedBatch) -> None:
        """Drop a batch that was released."""
        del self._batches[batch.key]
        if self.tracer is not None:
            self.tracer.forget(batch)

    def holds_mailing(self, mailing_id: int) -> bool:
        """Return whether a batch of the mailing is leased."""
        return any(batch.mailing_id == mailing_id for batch in self.batches)

    def drain(self, reason: str) -> None:
        """Stop sending from all batches, so that they are released."""
        for batch in self.batches:
            batch.drain(reason)

    def set_due_mailings(self, due_mailings: dict[int, DueMailing]) -> None:
        """Replace the due mailings, and drop the times of mailings served over a minute ago."""
        self.due_mailings = due_mailings
        if due_mailings:
            self.record_activity()
        expired = boottime() - 60
        self._served_at = {m: at for m, at in self._served_at.items() if at > expired}

    def record_served(self, mailing_id: int, now: float) -> None:
        """Record that a mailing has had its turn: a claim or a message sent."""
        self._served_at[mailing_id] = now

    def served_at(self, mailing_id: int) -> float:
        """Return when the mailing last had its turn, 0 if that is long ago: a sort key."""
        return self._served_at.get(mailing_id, 0.0)

    def record_activity(self) -> None:
        """Record that there is work now."""
        self._active_at = boottime()

    def idle_seconds(self, now: float) -> float:
        """Return for how long there has been no work."""
        return now - self._active_at

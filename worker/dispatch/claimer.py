"""Keeps a dispatcher supplied: claims batches and follows changes of their mailings."""

from collections import Counter
from datetime import datetime
from heapq import nsmallest

import structlog

from shared.config.settings import WorkerSettings
from shared.domain.statuses import Reason
from worker.dispatch import claim_queries
from worker.dispatch.brake import Brake
from worker.dispatch.claimed_batch import ClaimedBatch, MessageRow
from worker.dispatch.db_thread import DatabaseThread, log_database_error
from worker.dispatch.leased_batch import LeasedBatch
from worker.dispatch.state import DispatchState
from worker.dispatch.watch import Watch, fetch_watch
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.concurrency_limit import ConcurrencyLimit
from worker.runtime.clock import DatabaseClock, boottime

log = structlog.get_logger()

SNAPSHOT_SECONDS = 0.4
FIND_DUE_SECONDS = 0.25
# One worker leaves further batches to other workers, or for later.
MAX_LEASED_BATCHES = 64
# No message is sent in the last PROVIDER_TIMEOUT and this of a lease.
LEASE_MARGIN_SECONDS = 1


class Claimer:
    """The part of a dispatcher that leases batches."""

    def __init__(
        self,
        settings: WorkerSettings,
        db_thread: DatabaseThread,
        clock: DatabaseClock,
        state: DispatchState,
        breaker: CircuitBreaker,
        brake: Brake,
        concurrency: ConcurrencyLimit,
    ):
        self._settings, self._db_thread, self._clock = settings, db_thread, clock
        self._state, self._breaker, self._concurrency = state, breaker, concurrency
        self._brake = brake
        self._lease_seconds, self._end_margin = settings.lease_seconds, settings.end_margin
        self.claiming = self._finding_due = self._fetching_snapshots = False
        self._found_due_at = self._snapshots_at = 0.0

    def claim_due(self, now: float) -> None:
        """Find due mailings, and claim batches of those that were least recently served."""
        if not self._finding_due and now - self._found_due_at > FIND_DUE_SECONDS:
            self._finding_due = True
            self._db_thread.submit(
                self._on_due_found,
                claim_queries.fetch_due_mailings,
                self._lease_seconds,
                self._end_margin,
            )
        if self.claiming or len(self._state.batches) >= MAX_LEASED_BATCHES:
            return
        breaker_state = self._breaker.state
        if breaker_state == "closed":
            if self._breaker.allowance(now) == 0:
                return
        elif breaker_state == "open" or self._state.batches:
            return  # one batch is enough for probes
        candidates = self._mailings_to_claim()
        if not candidates:
            return
        mailing_ids = self._choose_mailings(candidates, several=breaker_state == "closed")
        for mailing_id in mailing_ids:
            self._state.record_served(mailing_id, now)
        self.claiming = True

        def on_claimed(claims: list[ClaimedBatch] | None, error: Exception | None) -> None:
            self.claiming = False
            if error is not None:
                log_database_error("claim", error)
            self._update_due_mailings(mailing_ids, claims or [])
            for claimed in claims or ():
                self._add_batch(claimed)

        self._db_thread.submit(
            on_claimed,
            claim_queries.claim_batches,
            self._clock,
            mailing_ids,
            self._lease_seconds,
            self._end_margin,
        )

    def _choose_mailings(self, candidates: list[int], *, several: bool) -> list[int]:
        """Return the least recently served mailings, each once for each batch to claim of it.

        It is one batch, or `several` small ones: together no larger than one batch may be.
        """
        room = MAX_LEASED_BATCHES - len(self._state.batches) if several else 1
        chosen: list[int] = []
        messages = 0
        for mailing_id in nsmallest(room, candidates, self._state.served_at):
            due = self._state.due_mailings[mailing_id]
            for _ in range(due.batches):
                messages += due.messages
                if chosen and (messages > self._settings.batch_size or len(chosen) == room):
                    return chosen
                chosen.append(mailing_id)
        return chosen

    def _update_due_mailings(self, mailing_ids: list[int], claims: list[ClaimedBatch]) -> None:
        """Drop the mailings of which nothing is left to claim."""
        requested = Counter(mailing_ids)
        claimed = Counter(claim.mailing_id for claim in claims)
        for mailing_id, count in requested.items():
            due = self._state.due_mailings.get(mailing_id)
            if due is None:
                continue
            # More than are counted may be left: the next look shows them.
            exhausted = due.batches <= count < claim_queries.MAX_COUNTED_BATCHES
            if exhausted or claimed[mailing_id] < count:
                del self._state.due_mailings[mailing_id]
            elif due.batches < claim_queries.MAX_COUNTED_BATCHES:
                left = due._replace(batches=due.batches - count)
                self._state.due_mailings[mailing_id] = left

    def _add_batch(self, claimed: ClaimedBatch) -> None:
        margin = self._settings.provider_timeout + LEASE_MARGIN_SECONDS
        batch = LeasedBatch(claimed, self._clock, self._lease_seconds, margin, self._end_margin)
        if batch.zone_unknown:
            log.error("batch.zone_unknown", timezone=claimed.timezone, **batch.log_fields)
            batch.fail_rows(Reason.TIME_ZONE)
        self._brake.add_batch(batch)
        self._state.add_batch(batch)
        log.info(
            "batch.claimed",
            messages=len(claimed.rows),
            taken_over=claimed.taken_over,
            **batch.log_fields,
        )

    def _mailings_to_claim(self) -> list[int]:
        """Return the due mailings of which too few messages are leased."""
        leased: Counter[int] = Counter()
        unlimited = 0
        for batch in self._state.batches:
            if not (batch.drain_reason or batch.lost):
                leased[batch.mailing_id] += len(batch.rows)
                unlimited += 0 if self._is_limited(batch.rate_limit) else len(batch.rows)
        enough = max(self._concurrency.limit, self._settings.batch_size)
        several_due = len(self._state.due_mailings.keys() | leased.keys()) > 1
        share, total = (enough // 2, 2 * enough) if several_due else (enough, enough)
        return [
            mailing_id
            for mailing_id, due in self._state.due_mailings.items()
            if (
                leased[mailing_id] == 0
                if self._is_limited(due.rate_limit)
                else leased[mailing_id] < share and unlimited < total
            )
        ]

    def _is_limited(self, rate: int | None) -> bool:
        """Return whether a mailing is sent slowly, so that few of its messages should be leased."""
        return rate is not None or self._settings.provider_rate is not None

    def _on_due_found(
        self, due_mailings: dict[int, claim_queries.DueMailing] | None, error: Exception | None
    ) -> None:
        self._finding_due = False
        self._found_due_at = boottime()
        if error is not None:
            log_database_error("look", error)
        self._state.set_due_mailings(due_mailings or {})

    def reload_rows(self, batch: LeasedBatch) -> None:
        """Fetch a batch's remaining messages again: their clients may have changed since."""
        batch.reloading = True
        started_at = boottime()

        def on_fetched(rows: list[MessageRow] | None, error: Exception | None) -> None:
            if rows is None:
                batch.reloading = False
                log_database_error("read", error)
            else:
                batch.replace_rows(rows, started_at)

        self._db_thread.submit(on_fetched, claim_queries.fetch_pending_rows, batch.claim)

    def refresh_mailings(self, now: float) -> None:
        """Fetch twice a second the state of the leased batches' mailings, and the throttle."""
        if self._fetching_snapshots or now - self._snapshots_at < SNAPSHOT_SECONDS:
            return
        self._fetching_snapshots, self._snapshots_at = True, now

        def on_fetched(watch: Watch | None, error: Exception | None) -> None:
            self._fetching_snapshots = False
            if watch is None:
                log_database_error("watch", error)
                return
            for batch in self._state.batches:
                batch.update_mailing(watch.mailings.get(batch.mailing_id), self._clock)
            if watch.stopped:
                self._state.drain("stopped")
            self._apply_throttle(watch.throttled_until)

        mailing_ids = {batch.mailing_id for batch in self._state.batches}
        self._db_thread.submit(on_fetched, fetch_watch, self._clock, mailing_ids)

    def _apply_throttle(self, throttled_until: datetime | None) -> None:
        if throttled_until is not None:
            until = self._clock.start_time(throttled_until)
            if until > boottime():
                self._breaker.hold_until(until)

"""Keeps a dispatcher supplied: looks for due mailings, claims batches, watches them change."""

from datetime import datetime
from typing import Any

import structlog

from shared.config.settings import WorkerSettings
from worker.dispatch import claim_queries
from worker.dispatch.db_thread import Clerk, complain
from worker.dispatch.leased_batch import Hand, HeldBatch
from worker.provider.circuit_breaker import CircuitBreaker
from worker.runtime.clock import DatabaseClock, boottime
from worker.runtime.database import DatabaseError

log = structlog.get_logger()

WATCH_SECONDS = 0.4
LOOK_SECONDS = 0.25
# The most batches one worker holds: the others are left to others, or for later.
MOST_HELD = 64


class Claimer:
    """The part of a dispatcher that takes batches in hand."""

    def __init__(
        self,
        settings: WorkerSettings,
        clerk: Clerk,
        clock: DatabaseClock,
        hand: Hand,
        breaker: CircuitBreaker,
    ):
        self.settings, self.clerk, self.clock = settings, clerk, clock
        self.hand, self.breaker = hand, breaker
        self.lease = settings.lease_seconds
        self.claiming = self._looking = self._watching = False
        self._looked_at = self._watched_at = 0.0

    def claim(self, now: float) -> None:
        """Look for due mailings, and claim a batch of the one least recently served."""
        if not self._looking and now - self._looked_at > LOOK_SECONDS:
            self._looking = True
            self.clerk.ask(self._looked, claim_queries.due_mailings, self.lease)
        if self.claiming:
            return
        state = self.breaker.state
        if state == "closed":
            if self.breaker.allowance(now) == 0:
                return
        elif state == "open" or self.hand.held:
            return  # one batch is enough to probe with
        hungry = self._hungry()
        if not hungry or len(self.hand.held) >= MOST_HELD:
            return
        mailing_id = min(hungry, key=lambda m: self.hand.served.get(m, 0.0))
        self.hand.served[mailing_id] = now
        self.claiming = True

        def claimed(claim: claim_queries.Claim | None, error: DatabaseError | None) -> None:
            self.claiming = False
            if claim is None:
                self.hand.due.pop(mailing_id, None)
                if error is not None:
                    complain("claim", error)
                return
            self.hand.busy_at = boottime()
            batch = HeldBatch(claim, self.clock, self.lease, self.settings.provider_timeout + 1)
            self.hand.held[claim.mailing_id, claim.batch_id, claim.token] = batch
            asked_by = {"request_id": claim.request_id} if claim.request_id else {}
            log.info(
                "batch.claimed",
                mailing_id=claim.mailing_id,
                batch_id=claim.batch_id,
                messages=len(claim.rows),
                taken_over=claim.taken_over,
                **asked_by,
            )

        self.clerk.ask(claimed, claim_queries.claim, self.clock, mailing_id, self.lease)

    def _hungry(self) -> list[int]:
        """The due mailings of which too little is in hand."""
        left: dict[int, int] = {}
        unlimited = 0
        for batch in self.hand.held.values():
            if not (batch.draining or batch.lost):
                left[batch.mailing_id] = left.get(batch.mailing_id, 0) + len(batch.rows)
                unlimited += 0 if self._limited(batch.rate_limit) else len(batch.rows)
        most = max(self.settings.provider_concurrency, self.settings.batch_size)
        crowd = len(self.hand.due.keys() | left.keys()) > 1
        share, total = (most // 2, 2 * most) if crowd else (most, most)
        return [
            mailing_id
            for mailing_id, rate in self.hand.due.items()
            if (
                left.get(mailing_id, 0) == 0
                if self._limited(rate)
                else left.get(mailing_id, 0) < share and unlimited < total
            )
        ]

    def _limited(self, rate: int | None) -> bool:
        """Whether a mailing's messages leave slowly, so that little is to be held of it."""
        return rate is not None or self.settings.provider_rate is not None

    def _looked(self, due: list[claim_queries.Due] | None, error: DatabaseError | None) -> None:
        self._looking = False
        self._looked_at = boottime()
        if error is not None:
            complain("look", error)
        self.hand.due = dict(due or ())
        if self.hand.due:
            self.hand.busy_at = boottime()
        self.hand.served = {
            m: at for m, at in self.hand.served.items() if at > self._looked_at - 60
        }

    def reread(self, batch: HeldBatch) -> None:
        """Ask again for what is left of a slow batch: clients may have been changed since."""
        batch.reading = True
        asked_at = boottime()

        def read(rows: list[claim_queries.Row] | None, error: DatabaseError | None) -> None:
            if rows is None:
                batch.reading = False
                complain("read", error)
            else:
                batch.reread(rows, asked_at)

        self.clerk.ask(read, claim_queries.read_again, batch.claim)

    def watch(self, now: float) -> None:
        """Twice a second: what was changed about the mailings in hand, and is there a throttle."""
        if self._watching or now - self._watched_at < WATCH_SECONDS:
            return
        self._watching, self._watched_at = True, now

        def watched(answer: Any, error: DatabaseError | None) -> None:
            self._watching = False
            if answer is None:
                complain("watch", error)
                return
            mailings, throttled_until = answer
            for batch in self.hand.held.values():
                batch.watch(mailings.get(batch.mailing_id), self.clock)
            self._adopt_throttle(throttled_until)

        ids = {batch.mailing_id for batch in self.hand.held.values()}
        self.clerk.ask(watched, claim_queries.watch, self.clock, ids)

    def _adopt_throttle(self, throttled_until: datetime | None) -> None:
        if throttled_until is not None:
            until = self.clock.start_time(throttled_until)
            if until > boottime():
                self.breaker.hold_until(until)

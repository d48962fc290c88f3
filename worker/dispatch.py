"""The loop that sends: claims batches, hands their messages off, records what became of them.

Its turn: take in what the clerk has done, hand off while slots are free, claim more when little is
left, flush what is known, wait for answers. It waits for nothing else: the database work is the
clerk's, Redis gets a tenth of a second, and the provider's slowness only fills the slots.
"""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog

from shared.logs import timestamp, write_lines
from shared.settings import WorkerSettings
from shared.statuses import MessageStatus, Reason
from worker import bulk, claims
from worker.clerk import Clerk
from worker.clock import DatabaseClock, boottime
from worker.database import Database, DatabaseError
from worker.held import HeldBatch, Outgoing, text_tail
from worker.provider.breaker import Breaker
from worker.provider.engine import Engine, Request, Result
from worker.provider.outcomes import Outcome
from worker.provider.rate import RateLimiter
from worker.record import Flush, Recorded, record
from worker.transitions import AttemptRow, Report

log = structlog.get_logger()

FLUSH_SECONDS = 0.4
WATCH_SECONDS = 0.4
LOOK_SECONDS = 0.25
STALE_SECONDS = 1.0
# Nothing due for this long: the job ends. Longer than wake-ups are damped.
LINGER_SECONDS = 1.0
# A batch that can hand nothing off for this long is given back.
STARVED_SECONDS = 3.0
RETRY_RECORD_SECONDS = 0.5
STOP_SECONDS = 10.0
PULSE_SECONDS = 30.0
# A mailing's share of the slots is dealt out in portions of this many messages.
PORTION = 8
# Where the provider says "too many" without saying until when.
THROTTLE_SECONDS = 5.0


class Dispatcher:
    """One dispatch job. Everything here belongs to the loop's thread."""

    def __init__(
        self,
        settings: WorkerSettings,
        db: Database,
        breaker: Breaker,
        limiter: RateLimiter,
        stopping: threading.Event,
        pulse: Callable[[], None],
    ):
        self.settings = settings
        self.breaker, self.limiter = breaker, limiter
        self.stopping, self.pulse = stopping, pulse
        self.lease = settings.lease_seconds
        self.clock = DatabaseClock()
        self.engine = Engine(
            base_url=settings.provider_url,
            token=settings.provider_token.get_secret_value(),
            concurrency=settings.provider_concurrency,
            timeout=settings.provider_timeout,
            permit=self._permit,
        )
        self.clerk = Clerk(db, self.engine.wake)
        self.held: dict[tuple[int, int], HeldBatch] = {}
        self.due: dict[int, int | None] = {}
        self.served: dict[int, float] = {}
        self.flushing: list[Flush] = []
        self.flushed_at = self.watched_at = self.looked_at = self.pulsed_at = 0.0
        self.record_again_at = 0.0
        self.claiming = self.looking = self.watching = False
        self.busy_at = boottime()
        self.lines: list[dict[str, Any]] = []

    def run(self) -> None:
        """Send whatever is due, until nothing is, or until asked to stop."""
        stop_by = float("inf")
        try:
            while True:
                self.clerk.deliver()
                now = boottime()
                if self.stopping.is_set():
                    stop_by = min(stop_by, now + STOP_SECONDS)
                    self._drain("stopping")
                self.breaker.sync(now, self._probes_wanted(now))
                self._hand_off(now)
                self._claim(now)
                self._watch(now)
                self._flush(now)
                if now - self.pulsed_at > PULSE_SECONDS:
                    self.pulsed_at = now
                    self.pulse()
                if self._finished(now, stop_by):
                    return
                self._take(self.engine.poll(self._patience(now)))
        finally:
            self.clerk.close()
            self.engine.close()
            self._write_lines()

    # --- handing off ---------------------------------------------------------------------------

    def _permit(self, request: Request) -> bool:
        """Asked right before a request leaves: may it, still?"""
        assert isinstance(request, Outgoing)  # noqa: S101
        batch = request.batch
        now = boottime()
        return (
            now < batch.deadline
            and now < request.expires
            and batch.draining is None
            and not batch.lost
            and (request.probe or self.breaker.allow(now) is None)
        )

    def _probes_wanted(self, now: float) -> int:
        """How many messages could be handed off at once, should the breaker be half open."""
        if self.breaker.state == "closed" or self.record_again_at:
            return 0
        return sum(len(b.rows) for b in self.held.values() if self._ready(b, now))

    def _hand_off(self, now: float) -> None:
        if not self.held or not self.engine.free or self.record_again_at:
            return
        probes = self.breaker.allow(now)
        if probes == 0:
            return
        ready: dict[int, list[HeldBatch]] = {}
        for batch in self.held.values():
            if self._ready(batch, now):
                ready.setdefault(batch.mailing_id, []).append(batch)
        if not ready:
            return
        demands = {
            mailing_id: (batches[0].rate_limit, sum(len(b.rows) for b in batches))
            for mailing_id, batches in ready.items()
        }
        self.limiter.refill(demands, now)
        if probes is not None:
            self._probe(ready, probes, now)
            return
        # While others are due, no mailing holds more than half the slots.
        crowd = len(ready.keys() | self.due.keys()) > 1
        cap = max(1, self.settings.provider_concurrency // 2) if crowd else float("inf")
        busy: dict[int, int] = {}
        for batch in self.held.values():
            busy[batch.mailing_id] = busy.get(batch.mailing_id, 0) + batch.in_flight
        queue = sorted(ready, key=lambda m: self.served.get(m, 0.0))
        while queue and self.engine.free:
            for mailing_id in list(queue):
                room = min(PORTION, cap - busy[mailing_id], self.engine.free)
                sent = self._portion(ready[mailing_id], int(room), now) if room > 0 else 0
                busy[mailing_id] += sent
                if sent < PORTION:
                    queue.remove(mailing_id)

    def _ready(self, batch: HeldBatch, now: float) -> bool:
        if not batch.rows or batch.draining or batch.lost or batch.reading:
            return False
        if not batch.check_deadline(now):
            return False
        if now - batch.read_at > STALE_SECONDS:
            self._reread(batch)
            return False
        return True

    def _portion(self, batches: list[HeldBatch], most: int, now: float) -> int:
        """Hand off up to `most` messages of one mailing."""
        sent = 0
        for batch in batches:
            rows = batch.rows
            while rows and sent < most:
                expires = self.limiter.take(batch.mailing_id, batch.rate_limit, now)
                if not expires:
                    return sent
                if self._submit(batch, expires, probe=False):
                    sent += 1
                    batch.progress_at = now
        if sent:
            self.served[batches[0].mailing_id] = now
        return sent

    def _probe(self, ready: dict[int, list[HeldBatch]], probes: int, now: float) -> None:
        """A few requests to see whether the provider is back, out of changing batches."""
        batches = [batch for batches in ready.values() for batch in batches]
        for i in range(probes):
            batch = batches[(int(now * 1000) + i) % len(batches)]
            if not batch.rows or not self.engine.free:
                continue
            if not self.limiter.ready(batch.mailing_id, batch.rate_limit, now):
                continue
            if not self.breaker.probe(now):
                return
            expires = self.limiter.take(batch.mailing_id, batch.rate_limit, now)
            batch.rows.rotate(-(int(now * 7919) % len(batch.rows)))
            if not self._submit(batch, expires, probe=True):
                self.breaker.record(Outcome.NOT_SENT, probe=True)

    def _submit(self, batch: HeldBatch, expires: float, *, probe: bool) -> bool:
        row = batch.rows.popleft()
        batch.handled.add(row.message_id)
        if row.phone is None:
            batch.report(
                Report(row.message_id, ends=MessageStatus.CANCELLED, reason=Reason.CLIENT_DELETED)
            )
            return False
        phone = row.first_phone or row.phone
        tail = batch.tail if row.first_text is None else text_tail(row.first_text)
        body = b'{"id":%d,"phone":%d%b' % (row.message_id, phone, tail)
        request = Outgoing(row.message_id, body, batch.claim.request_id, batch)
        request.row = row
        request.phone = phone
        request.text = row.first_text
        request.expires = expires
        request.probe = probe
        self.engine.submit(request)
        batch.in_flight += 1
        return True

    # --- answers -------------------------------------------------------------------------------

    def _take(self, results: list[Result]) -> None:
        for result in results:
            request = result.request
            assert isinstance(request, Outgoing)  # noqa: S101
            batch, row, outcome = request.batch, request.row, result.outcome
            batch.in_flight -= 1
            if outcome is Outcome.NOT_SENT:
                batch.handled.discard(row.message_id)
                batch.rows.appendleft(row)
                if request.probe:
                    self.breaker.record(outcome, probe=True)
                continue
            self.breaker.record(outcome, probe=request.probe)
            if outcome is Outcome.ACCEPTED:
                batch.accept(row.message_id, result.finished_at)
            else:
                self._not_accepted(batch, request, result)
            self._log(batch, request, result)
        if results:
            self.busy_at = boottime()
            self._write_lines()

    def _not_accepted(self, batch: HeldBatch, request: Outgoing, result: Result) -> None:
        outcome = result.outcome
        rejected = outcome.final
        if outcome is Outcome.THROTTLED:
            self._throttle(THROTTLE_SECONDS if result.retry_after is None else result.retry_after)
        elif not rejected:
            batch.retry_after = max(batch.retry_after, result.retry_after or 0.0)
        batch.retries = batch.retries or not rejected
        batch.report(
            Report(
                request.message_id,
                ends=MessageStatus.FAILED if rejected else None,
                reason=f"{Reason.REJECTED}: {result.reason}" if rejected else None,
                burns=rejected or (outcome.burns_attempt and not request.probe),
                doubt=outcome.in_doubt,
                attempt=AttemptRow(
                    result.finished_at,
                    str(outcome),
                    result.reason,
                    result.http_status,
                    int(result.latency * 1000),
                    result.excerpt,
                    request.phone,
                    request.text or batch.claim.text,
                ),
            )
        )

    def _throttle(self, seconds: float) -> None:
        """The provider asked the whole fleet to wait."""
        now = boottime()
        if self.breaker.allow(now) != 0:
            log.warning("provider.throttled", seconds=round(seconds, 3))
            self.clerk.ask(_ignore, claims.throttle, seconds)
        self.breaker.hold(now + seconds)

    def _log(self, batch: HeldBatch, request: Outgoing, result: Result) -> None:
        line = {
            "ts": timestamp(result.finished_at),
            "level": "info" if result.outcome is Outcome.ACCEPTED else "warning",
            "event": "message.attempt",
            "mailing_id": batch.mailing_id,
            "message_id": request.message_id,
            "client_id": request.row.client_id,
            "batch_id": batch.claim.batch_id,
            "attempt": request.row.attempts + 1,
            "outcome": result.outcome,
            "http_status": result.http_status,
            "latency_ms": round(result.latency * 1000, 1),
            "service": "dispatch",
        }
        if result.outcome is not Outcome.ACCEPTED:
            line |= {"reason": result.reason, "answer": result.excerpt}
        if request.request_id:
            line["request_id"] = request.request_id
        self.lines.append(line)

    def _write_lines(self) -> None:
        if self.lines:
            write_lines(self.lines)
            self.lines = []

    # --- claiming ------------------------------------------------------------------------------

    def _claim(self, now: float) -> None:
        """Look for due mailings, and claim a batch of the one least recently served."""
        if self.stopping.is_set() or self.record_again_at:
            return
        if not self.looking and now - self.looked_at > LOOK_SECONDS:
            self.looking = True
            self.clerk.ask(self._looked, claims.due_mailings, self.lease)
        if self.claiming:
            return
        state = self.breaker.state
        if state == "closed":
            if self.breaker.allow(now) == 0:
                return
        elif state == "open" or self.held:
            return  # one batch is enough to probe with
        left: dict[int, int] = {}
        for batch in self.held.values():
            if not (batch.draining or batch.lost):
                left[batch.mailing_id] = left.get(batch.mailing_id, 0) + len(batch.rows)
        most = max(self.settings.provider_concurrency, self.settings.batch_size)
        crowd = len(self.due.keys() | left.keys()) > 1
        share = most // 2 if crowd else most
        hungry = [
            mailing_id
            for mailing_id, rate in self.due.items()
            if left.get(mailing_id, 0) < (1 if self._limited(rate) else share)
        ]
        if not hungry or (not crowd and sum(left.values()) >= most):
            return
        mailing_id = min(hungry, key=lambda m: self.served.get(m, 0.0))
        self.served[mailing_id] = now
        self.claiming = True

        def claimed(claim: claims.Claim | None, error: DatabaseError | None) -> None:
            self.claiming = False
            if claim is None:
                self.due.pop(mailing_id, None)
                if error is not None:
                    self._complain("claim", error)
                return
            self.busy_at = boottime()
            batch = HeldBatch(claim, self.clock, self.lease, self.settings.provider_timeout + 1)
            self.held[claim.mailing_id, claim.batch_id] = batch

        self.clerk.ask(claimed, claims.claim, self.clock, mailing_id, self.lease)

    def _limited(self, rate: int | None) -> bool:
        """Whether a mailing's messages leave slowly, so that little is to be held of it."""
        return rate is not None or self.settings.provider_rate is not None

    def _looked(self, due: list[claims.Due] | None, error: DatabaseError | None) -> None:
        self.looking = False
        self.looked_at = boottime()
        if error is not None:
            self._complain("look", error)
        self.due = dict(due or ())
        if self.due:
            self.busy_at = boottime()
        self.served = {m: at for m, at in self.served.items() if at > self.looked_at - 60}

    def _reread(self, batch: HeldBatch) -> None:
        """Ask again for what is left of a slow batch: clients may have been changed since."""
        batch.reading = True
        asked_at = boottime()

        def read(rows: list[claims.Row] | None, error: DatabaseError | None) -> None:
            if rows is None:
                batch.reading = False
                self._complain("read", error)
            else:
                batch.reread(rows, asked_at)

        self.clerk.ask(read, claims.read_again, batch.claim)

    def _watch(self, now: float) -> None:
        """Twice a second: what was changed about the mailings in hand, and is there a throttle."""
        if self.watching or now - self.watched_at < WATCH_SECONDS:
            return
        self.watching, self.watched_at = True, now

        def watched(answer: Any, error: DatabaseError | None) -> None:
            self.watching = False
            if answer is None:
                self._complain("watch", error)
                return
            mailings, throttled_until = answer
            for batch in self.held.values():
                batch.watch(mailings.get(batch.mailing_id), self.clock)
            self._adopt_throttle(throttled_until)

        ids = {batch.mailing_id for batch in self.held.values()}
        self.clerk.ask(watched, claims.watch, self.clock, ids)

    def _adopt_throttle(self, throttled_until: datetime | None) -> None:
        if throttled_until is not None:
            until = self.clock.begins(throttled_until)
            if until > boottime():
                self.breaker.hold(until)

    # --- recording -----------------------------------------------------------------------------

    def _drain(self, why: str) -> None:
        for batch in self.held.values():
            batch.draining = batch.draining or why

    def _flush(self, now: float) -> None:
        """Give what is known to the clerk: one flush at a time, repeated until it is recorded."""
        if self.flushing:
            if self.record_again_at and now >= self.record_again_at:
                self.record_again_at = float("inf")
                self._record()
            return
        wait = self._give_back(now)
        late = now - self.flushed_at > FLUSH_SECONDS
        todo = [b for b in self.held.values() if late or b.done]
        if not todo:
            return
        self.flushed_at = now
        self.flushing = [batch.flush(wait) for batch in todo]
        self._record()

    def _give_back(self, now: float) -> float:
        """Drain what cannot be handed off for a while; return for how long, in seconds."""
        wait = 0.0
        if self.breaker.allow(now) == 0:
            wait = max(0.0, self.breaker.retry_at - now)
        for batch in self.held.values():
            if batch.in_flight == 0 and now - batch.progress_at > STARVED_SECONDS:
                batch.draining = batch.draining or "starved"
        return wait

    def _record(self) -> None:
        asked_at = boottime()

        def recorded(
            results: dict[tuple[int, int], Recorded] | None, error: DatabaseError | None
        ) -> None:
            if results is None:
                # Nothing more is handed off until what is known can be written down.
                self.record_again_at = boottime() + RETRY_RECORD_SECONDS
                self._complain("record", error)
                return
            self.record_again_at = 0.0
            flushes, self.flushing = self.flushing, []
            for flush in flushes:
                self._recorded(flush, results, asked_at)

        self.clerk.ask(recorded, record, self.flushing, self.lease, self.settings.max_attempts)

    def _recorded(
        self, flush: Flush, results: dict[tuple[int, int], Recorded], asked_at: float
    ) -> None:
        key = flush.mailing_id, flush.batch_id
        batch = self.held[key]
        if flush.release is not None:
            del self.held[key]
            self._released(batch, flush)
        elif results[key].held:
            batch.renew(asked_at)
        else:
            log.warning("batch.lost", mailing_id=flush.mailing_id, batch_id=flush.batch_id)
            batch.lost = True

    def _released(self, batch: HeldBatch, flush: Flush) -> None:
        log.info(
            "batch.released",
            mailing_id=batch.mailing_id,
            batch_id=flush.batch_id,
            why=batch.draining or ("retry" if batch.retries else "done"),
        )
        if any(held.mailing_id == batch.mailing_id for held in self.held.values()):
            return
        if batch.draining in ("ended", "cancelled", "deleted"):
            self.clerk.ask(_ignore, bulk.apply_state, batch.mailing_id, self.lease, 0.2)
        if batch.mailing_id not in self.due or batch.draining:
            self.clerk.ask(_ignore, bulk.settle, batch.mailing_id)

    # --- the turn ------------------------------------------------------------------------------

    def _complain(self, what: str, error: DatabaseError | None) -> None:
        self.looked_at = boottime()
        log.warning("database.unavailable", what=what, error=str(error).strip())

    def _patience(self, now: float) -> float:
        """How long to wait for answers before the next turn."""
        if not self.held:
            return 0.05
        if self.engine.free and any(b.rows and not b.draining for b in self.held.values()):
            return 0.005
        return 0.05

    def _finished(self, now: float, stop_by: float) -> bool:
        if now > stop_by and not self.flushing:
            # What is still out keeps its lease; whoever takes it over says that it is in doubt.
            return True
        if self.held or self.flushing:
            return now > stop_by + RETRY_RECORD_SECONDS
        if self.stopping.is_set():
            return not self.claiming
        if self.due or self.clerk.pending:
            return False
        return now - self.busy_at > LINGER_SECONDS


def _ignore(_result: Any, error: DatabaseError | None) -> None:
    """The sweep repeats what this failed to do."""
    if error is not None:
        log.warning("database.unavailable", error=str(error).strip())

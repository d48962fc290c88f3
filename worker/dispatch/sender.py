"""Hands messages off and takes the provider's answers in.

Who is next is decided here: mailings take turns, small portions at a time, and while others are due
none holds more than half the slots. What an answer means for its message goes to the batch as a
report; what it means for the fleet goes to the breaker.
"""

import time
from collections.abc import Callable

import structlog

from shared.domain.statuses import MessageStatus, Reason
from shared.domain.templates import RenderingError
from worker.dispatch.attempt_log import AttemptLog
from worker.dispatch.counters import Tally
from worker.dispatch.leased_batch import Hand, HeldBatch, Outgoing
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.http.client import HttpClient, Result
from worker.provider.outcomes import Outcome
from worker.provider.rate_limiter import RateLimiter
from worker.recording.state_machine import AttemptRecord, MessageReport
from worker.runtime.clock import boottime

log = structlog.get_logger()

# What was read longer ago is read again: a client may have been deleted or opted out since.
STALE_SECONDS = 1.0
# A mailing's share of the slots is dealt out in portions of this many messages.
PORTION = 8
# Where the provider says "too many" without saying until when.
THROTTLE_SECONDS = 5.0


def make_send_check(breaker: CircuitBreaker) -> Callable[[Outgoing], bool]:
    """The question asked right before a request leaves: may it, still?"""

    def may_send(request: Outgoing) -> bool:
        batch = request.batch
        now = boottime()
        return (
            now < batch.deadline
            and now < request.expires
            and batch.draining is None
            and not batch.lost
            and (request.probe or breaker.allowance(now) is None)
        )

    return may_send


class Sender:
    """The part of a dispatcher that talks to the provider.

    `reread` asks for what is left of a batch; `throttle` has the whole fleet wait for some seconds.
    """

    def __init__(
        self,
        client: HttpClient[Outgoing],
        hand: Hand,
        breaker: CircuitBreaker,
        limiter: RateLimiter,
        tally: Tally,
        reread: Callable[[HeldBatch], None],
        throttle: Callable[[float], None],
    ):
        self.client, self.hand = client, hand
        self.breaker, self.limiter, self.tally = breaker, limiter, tally
        self._reread, self._throttle_fleet = reread, throttle
        self._slots = client.free_slots
        self._log = AttemptLog()

    def probes_wanted(self, now: float) -> int:
        """How many messages could be handed off at once, should the breaker be half open."""
        if self.breaker.state == "closed":
            return 0
        return sum(len(b.rows) for b in self.hand.held.values() if self._ready(b, now))

    def hand_off(self, now: float) -> None:
        """Fill the free slots with what may leave now."""
        if not self.hand.held or not self.client.free_slots:
            return
        probes = self.breaker.allowance(now)
        if probes == 0:
            return
        ready: dict[int, list[HeldBatch]] = {}
        for batch in self.hand.held.values():
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
        crowd = len(ready.keys() | self.hand.due.keys()) > 1
        cap = max(1, self._slots // 2) if crowd else float("inf")
        busy: dict[int, int] = {}
        for batch in self.hand.held.values():
            busy[batch.mailing_id] = busy.get(batch.mailing_id, 0) + batch.in_flight
        queue = sorted(ready, key=lambda m: self.hand.served.get(m, 0.0))
        while queue and self.client.free_slots:
            for mailing_id in list(queue):
                room = min(PORTION, cap - busy[mailing_id], self.client.free_slots)
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
            while batch.rows and sent < most:
                expires = self.limiter.acquire(batch.mailing_id, batch.rate_limit, now)
                if not expires:
                    return sent
                self.hand.served[batch.mailing_id] = batch.progress_at = now
                sent += self._submit(batch, expires, probe=False)
        return sent

    def _probe(self, ready: dict[int, list[HeldBatch]], probes: int, now: float) -> None:
        """A few requests to see whether the provider is back, out of changing batches."""
        batches = [batch for batches in ready.values() for batch in batches]
        for i in range(probes):
            batch = batches[(int(now * 1000) + i) % len(batches)]
            if not batch.rows or not self.client.free_slots:
                continue
            if not self.limiter.has_slot(batch.mailing_id, batch.rate_limit, now):
                continue
            if not self.breaker.acquire_probe(now):
                return
            expires = self.limiter.acquire(batch.mailing_id, batch.rate_limit, now)
            batch.rows.rotate(-(int(now * 7919) % len(batch.rows)))
            if not self._submit(batch, expires, probe=True):
                self.breaker.record_outcome(Outcome.NOT_SENT, probe=True)

    def _submit(self, batch: HeldBatch, expires: float, *, probe: bool) -> bool:
        row = batch.rows.popleft()
        batch.handled.add(row.message_id)
        if row.phone is None or row.opted_out:
            reason = Reason.CLIENT_DELETED if row.phone is None else Reason.OPTED_OUT
            batch.report(
                MessageReport(row.message_id, final_status=MessageStatus.CANCELLED, reason=reason)
            )
            return False
        try:
            text, tail = batch.text_for(row)
        except RenderingError as why:
            batch.report(
                MessageReport(row.message_id, final_status=MessageStatus.FAILED, reason=str(why))
            )
            return False
        phone = row.first_phone or row.phone
        body = b'{"id":%d,"phone":%d%b' % (row.message_id, phone, tail)
        request = Outgoing(row.message_id, body, batch.claim.request_id)
        request.batch = batch
        request.row = row
        request.phone = phone
        request.text = text
        request.expires = expires
        request.read_at = batch.read_at
        request.probe = probe
        self.client.submit(request)
        batch.in_flight += 1
        return True

    # --- answers -------------------------------------------------------------------------------

    def take(self, results: list[Result[Outgoing]]) -> None:
        """Turn finished requests into reports and log lines."""
        booted_at = time.time() - boottime()
        for result in results:
            request = result.request
            batch, row, outcome = request.batch, request.row, result.outcome
            batch.in_flight -= 1
            if outcome is Outcome.NOT_SENT:
                batch.take_back(row, request.read_at)
                if request.probe:
                    self.breaker.record_outcome(outcome, probe=True)
                continue
            self.breaker.record_outcome(outcome, probe=request.probe)
            latency = result.latency
            self.tally.count(outcome, latency)
            if latency and result.finished_at - latency - booted_at > batch.late_after:
                self.tally.count_late()
            if outcome is Outcome.ACCEPTED:
                batch.accept(row.message_id, result.finished_at)
            else:
                self._not_accepted(batch, request, result)
            self._log.add(batch, request, result)
        self._log.write()

    def _not_accepted(self, batch: HeldBatch, request: Outgoing, result: Result[Outgoing]) -> None:
        outcome = result.outcome
        rejected = outcome.final
        counts_attempt = rejected or (outcome.counts_attempt and not request.probe)
        if not rejected:
            batch.unaccepted[request.message_id] = request.row.attempts + counts_attempt
        if outcome is Outcome.THROTTLED:
            self._throttle(THROTTLE_SECONDS if result.retry_after is None else result.retry_after)
        elif outcome.counts_attempt and not (rejected or request.probe):
            batch.retries = True
            batch.retry_after = max(batch.retry_after, result.retry_after or 0.0)
        batch.report(
            MessageReport(
                request.message_id,
                final_status=MessageStatus.FAILED if rejected else None,
                reason=f"{Reason.REJECTED}: {result.reason}" if rejected else None,
                counts_attempt=counts_attempt,
                in_doubt=outcome.in_doubt,
                attempt=AttemptRecord(
                    result.finished_at,
                    str(outcome),
                    result.reason,
                    result.http_status,
                    int(result.latency * 1000),
                    result.excerpt,
                    request.phone,
                    batch.plain if request.text is None else request.text,
                ),
            )
        )

    def _throttle(self, seconds: float) -> None:
        now = boottime()
        if self.breaker.allowance(now) != 0:
            log.warning("provider.throttled", seconds=round(seconds, 3))
            self._throttle_fleet(seconds)
        self.breaker.hold_until(now + seconds)

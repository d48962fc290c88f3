"""The sending loop: claims batches, sends their messages, and records the outcomes.

A cycle of the loop delivers the database thread's results, sends while slots are free, claims more
when few messages are left, flushes outcomes, and waits for responses. It waits for nothing else:
database work is done by the database thread, Redis gets a tenth of a second, and a slow provider
only fills the slots.
"""

import threading
from collections.abc import Callable

from shared.config.settings import WorkerSettings
from worker.dispatch.brake import Brake
from worker.dispatch.claim_queries import extend_throttle, record_breaker_opening
from worker.dispatch.claimer import Claimer
from worker.dispatch.counters import DispatchCounters
from worker.dispatch.db_thread import DatabaseThread, log_if_failed
from worker.dispatch.flusher import Flusher
from worker.dispatch.journal import Journal
from worker.dispatch.leased_batch import OutgoingMessage
from worker.dispatch.sender import Sender, make_send_check
from worker.dispatch.state import DispatchState
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.concurrency_limit import ConcurrencyLimit
from worker.provider.http.client import HttpClient
from worker.provider.rate_limiter import RateLimiter
from worker.provider.token import ProviderToken
from worker.runtime.clock import DatabaseClock, boottime
from worker.runtime.database import Database

# The job ends after so long without work. Longer than the damping of wake-ups.
LINGER_SECONDS = 1.0
# Requests in flight at SIGTERM have this long to be answered and recorded.
STOP_SECONDS = 10.0
LAST_FLUSH_SECONDS = 0.5
HEARTBEAT_SECONDS = 30.0
# How long a cycle waits for responses: while messages wait for a rate slot, and otherwise.
SHORT_POLL_SECONDS = 0.005
POLL_SECONDS = 0.05


class Dispatcher:
    """One dispatch job. Everything here runs in the loop's thread, except database work."""

    def __init__(
        self,
        settings: WorkerSettings,
        token: ProviderToken,
        db: Database,
        breaker: CircuitBreaker,
        limiter: RateLimiter,
        concurrency: ConcurrencyLimit,
        counters: DispatchCounters,
        stopping: threading.Event,
        send_heartbeat: Callable[[], None],
        journal: Journal | None = None,
    ):
        self._stopping, self._send_heartbeat = stopping, send_heartbeat
        self._breaker, self._counters, self._token = breaker, counters, token
        self._concurrency = concurrency
        self._cycles = self._unfilled_cycles = 0  # since the limit was judged
        self._state = DispatchState()
        clock = DatabaseClock()
        self._http_client = HttpClient[OutgoingMessage](
            base_url=settings.provider_url,
            token=token.value,
            concurrency=concurrency.limit,
            timeout=settings.provider_timeout,
            may_send=make_send_check(breaker),
            wall_clock=clock.seconds,
        )
        self._db_thread = DatabaseThread(db, self._http_client.wake)
        self._brake = Brake(self._db_thread, self._state)
        self._flusher = Flusher(
            self._db_thread,
            self._state,
            breaker,
            self._brake,
            settings.lease_seconds,
            settings.max_attempts,
            journal,
        )
        self._claimer = Claimer(
            settings, self._db_thread, clock, self._state, breaker, self._brake, concurrency
        )
        self._sender = Sender(
            self._http_client,
            clock.seconds,
            self._state,
            breaker,
            limiter,
            concurrency,
            counters,
            token,
            self._claimer.reload_rows,
            lambda seconds: self._db_thread.submit(log_if_failed, extend_throttle, seconds),
            journal,
        )
        self._heartbeat_at = 0.0
        self._stop_by = float("inf")

    def run(self) -> None:
        """Send due messages until there are none, or until `stopping` is set."""
        self._concurrency.resume(boottime())
        self._http_client.limit_concurrency(self._concurrency.limit)
        try:
            while self._run_cycle():
                pass
        finally:
            self._counters.publish_last(self._db_thread)
            self._db_thread.close()
            self._http_client.close()

    def _run_cycle(self) -> bool:
        """Run one cycle of the loop; return whether another one is needed."""
        self._db_thread.deliver_results()
        now = boottime()
        if self._stopping.is_set():
            self._stop_by = min(self._stop_by, now + STOP_SECONDS)
            self._state.drain("stopping")
        if self._token.path is not None and self._token.refresh(now):
            self._http_client.use_token(self._token.value)
            self._breaker.use_token(self._token.value)
        self._brake.check()
        can_record = self._flusher.can_record(now)
        self._breaker.sync(now, self._sender.wanted_probes(now) if can_record else 0)
        while self._breaker.unsaved_openings:
            reason = self._breaker.unsaved_openings.pop()
            self._db_thread.submit(log_if_failed, record_breaker_opening, reason)
        if can_record:
            self._sender.send_due(now)
            if not self._stopping.is_set():
                self._claimer.claim_due(now)
        self._cycles += 1
        self._unfilled_cycles += self._http_client.free_slots > 0
        if now >= self._concurrency.judge_at:
            self._judge_concurrency(now)
        self._claimer.refresh_mailings(now)
        last = now > self._stop_by
        self._sender.decide_unauthorized(now, stopping=self._stopping.is_set(), last=last)
        self._flusher.flush(now, last=last)
        self._counters.publish(
            self._db_thread, now, self._http_client.in_flight, self._concurrency.limit
        )
        if now - self._heartbeat_at > HEARTBEAT_SECONDS:
            self._heartbeat_at = now
            self._send_heartbeat()
        if self._is_finished(now):
            return False
        results = self._http_client.poll(self._poll_seconds())
        if results:
            self._state.record_activity()
            self._sender.process_results(results)
        return True

    def _judge_concurrency(self, now: float) -> None:
        """Adapt the number of requests in flight to what was measured since the last time."""
        answers, seconds = self._counters.measure()
        self._concurrency.judge(now, answers, seconds, self._unfilled_cycles / self._cycles)
        self._http_client.limit_concurrency(self._concurrency.limit)
        self._cycles = self._unfilled_cycles = 0

    def _poll_seconds(self) -> float:
        """Return how long this cycle may wait for responses."""
        waiting = any(batch.rows and not batch.drain_reason for batch in self._state.batches)
        return SHORT_POLL_SECONDS if waiting and self._http_client.free_slots > 0 else POLL_SECONDS

    def _is_finished(self, now: float) -> bool:
        busy = bool(self._state.batches or self._flusher.unrecorded)
        if now > self._stop_by:
            # Batches in flight keep their leases; the next holder marks them as in doubt.
            unrecorded = any(batch.has_unrecorded for batch in self._state.batches)
            recorded = not (self._flusher.unrecorded or unrecorded)
            return recorded or now > self._stop_by + LAST_FLUSH_SECONDS
        if self._stopping.is_set():
            return not (busy or self._claimer.claiming)
        if busy or self._state.due_mailings or self._db_thread.pending:
            return False
        return self._state.idle_seconds(now) > LINGER_SECONDS

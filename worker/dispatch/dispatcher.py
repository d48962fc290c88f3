"""The loop that sends: claims batches, hands their messages off, records what became of them.

Its turn: take in what the clerk has done, hand off while slots are free, claim more when little is
left, flush what is known, wait for answers. It waits for nothing else: the database work is the
clerk's, Redis gets a tenth of a second, and the provider's slowness only fills the slots.
"""

import threading
from collections.abc import Callable

from shared.config.settings import WorkerSettings
from worker.dispatch import claim_queries
from worker.dispatch.claimer import Claimer
from worker.dispatch.counters import Tally
from worker.dispatch.db_thread import Clerk, ignore
from worker.dispatch.flusher import Recorder
from worker.dispatch.leased_batch import Hand, Outgoing
from worker.dispatch.sender import Sender, make_send_check
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.http.client import HttpClient
from worker.provider.rate_limiter import RateLimiter
from worker.runtime.clock import DatabaseClock, boottime
from worker.runtime.database import Database

# Nothing due for this long: the job ends. Longer than wake-ups are damped.
LINGER_SECONDS = 1.0
# What is in flight at SIGTERM gets this long to be answered and recorded.
STOP_SECONDS = 10.0
LAST_FLUSH_SECONDS = 0.5
PULSE_SECONDS = 30.0


class Dispatcher:
    """One dispatch job. Everything here belongs to the loop's thread, but for the clerk's work."""

    def __init__(
        self,
        settings: WorkerSettings,
        db: Database,
        breaker: CircuitBreaker,
        limiter: RateLimiter,
        tally: Tally,
        stopping: threading.Event,
        pulse: Callable[[], None],
    ):
        self.stopping, self.pulse, self.breaker, self.tally = stopping, pulse, breaker, tally
        self._slots = settings.provider_concurrency
        self.hand = Hand()
        self.client: HttpClient[Outgoing] = HttpClient(
            base_url=settings.provider_url,
            token=settings.provider_token.get_secret_value(),
            concurrency=settings.provider_concurrency,
            timeout=settings.provider_timeout,
            may_send=make_send_check(breaker),
        )
        self.clerk = Clerk(db, self.client.wake)
        self.recorder = Recorder(
            self.clerk, self.hand, breaker, settings.lease_seconds, settings.max_attempts
        )
        self.claimer = Claimer(settings, self.clerk, DatabaseClock(), self.hand, breaker)
        self.sender = Sender(
            self.client,
            self.hand,
            breaker,
            limiter,
            tally,
            self.claimer.reread,
            lambda seconds: self.clerk.ask(ignore, claim_queries.throttle, seconds),
        )
        self._pulsed_at = 0.0
        self._stop_by = float("inf")

    def run(self) -> None:
        """Send whatever is due, until nothing is, or until asked to stop."""
        try:
            while not self._turn():
                pass
        finally:
            self.tally.say_goodbye(self.clerk)
            self.clerk.close()
            self.client.close()

    def _turn(self) -> bool:
        """One turn of the loop; say whether it was the last one."""
        self.clerk.deliver()
        now = boottime()
        if self.stopping.is_set():
            self._stop_by = min(self._stop_by, now + STOP_SECONDS)
            self.hand.drain("stopping")
        recording = self.recorder.works(now)
        self.breaker.sync(now, self.sender.probes_wanted(now) if recording else 0)
        while self.breaker.unsaved_openings:
            self.clerk.ask(ignore, claim_queries.note_opening, self.breaker.unsaved_openings.pop())
        if recording:
            self.sender.hand_off(now)
            if not self.stopping.is_set():
                self.claimer.claim(now)
        self.claimer.watch(now)
        self.recorder.flush(now, last=now > self._stop_by)
        self.tally.tell(self.clerk, now, self._slots - self.client.free_slots)
        if now - self._pulsed_at > PULSE_SECONDS:
            self._pulsed_at = now
            self.pulse()
        if self._finished(now):
            return True
        results = self.client.poll(self._patience())
        if results:
            self.hand.busy_at = boottime()
            self.sender.take(results)
        return False

    def _patience(self) -> float:
        """How long to wait for answers before the next turn, in seconds."""
        held = self.hand.held.values()
        if self.client.free_slots and any(b.rows and not b.draining for b in held):
            return 0.005
        return 0.05

    def _finished(self, now: float) -> bool:
        busy = bool(self.hand.held or self.recorder.flushing)
        if now > self._stop_by:
            # What is still out keeps its lease; whoever takes it over says that it is in doubt.
            unrecorded = any(batch.unrecorded for batch in self.hand.held.values())
            recorded = not (self.recorder.flushing or unrecorded)
            return recorded or now > self._stop_by + LAST_FLUSH_SECONDS
        if self.stopping.is_set():
            return not (busy or self.claimer.claiming)
        if busy or self.hand.due or self.clerk.pending:
            return False
        return now - self.hand.busy_at > LINGER_SECONDS

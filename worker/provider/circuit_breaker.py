"""The fleet's circuit breaker and the pauses that the provider requests, as one worker sees them.

A worker records every outcome here. Ten times a second it reports what it observed to Redis and
receives the fleet's state, in one round trip. circuit_breaker_rules.py has the rules. A worker
that observes what would open the breaker stops at once, reports, and then follows the fleet's
state. While Redis is unavailable the worker keeps a breaker of its own; when Redis has lost its
data the breaker is closed and counts from zero.

Why these values:

* SYNC_SECONDS 0.1: an outcome takes up to one sync to reach Redis and one to reach the others, so
  an open breaker is known to all within 200 ms. STOPPED_SYNC_SECONDS 0.05 while this worker waits
  for the fleet's decision.
* UNUSED_PROBE_SECONDS 1: a probe for which this worker finds no message is returned after that.
* SEND_TIME_MARGIN 0.2: ages are reported to Redis and received from it up to a call's timeout late,
  so instants of other workers are taken as this much earlier.

Keys: BREAKER_KEY, a hash kept for 10 minutes after the last outcome; HOLD_KEY, the instant (server
clock) until which the fleet waits because the provider answered 429 with Retry-After. HOLD_KEY
only spreads the pause quickly; the dispatcher also stores it in PostgreSQL.
"""

import hashlib
import random
import uuid
from time import monotonic

import structlog

from shared.metrics import BREAKER_KEY, HOLD_KEY
from worker.provider import circuit_breaker_rules as rules
from worker.provider.circuit_breaker_rules import BreakerState, Transition, WorkerReport
from worker.provider.outcomes import Outcome
from worker.provider.redis_client import FailFastRedis, read_lua_script

SYNC_SECONDS = 0.1
STOPPED_SYNC_SECONDS = 0.05
UNUSED_PROBE_SECONDS = 1.0
SEND_TIME_MARGIN = 0.2

SCRIPT = read_lua_script(
    "circuit_breaker",
    FAILURE_THRESHOLD=rules.FAILURE_THRESHOLD,
    MAX_PROBES=rules.MAX_PROBES,
    RECENT_SECONDS=rules.RECENT_SECONDS,
    FIRST_WAIT_SECONDS=rules.FIRST_WAIT_SECONDS,
    MAX_WAIT_SECONDS=rules.MAX_WAIT_SECONDS,
)

log = structlog.get_logger()


class CircuitBreaker:
    """One worker's view of the fleet's breaker. Only `sync` does I/O.

    `probe_timeout`: seconds after which an unanswered probe counts as lost; longer than any
    request may take. `token`: the provider's, of which only a hash leaves the process. All instants
    are those of `redis.clock`, except `accepted_sent_at`.
    """

    def __init__(self, redis: FailFastRedis, probe_timeout: float = 30.0, token: str = "") -> None:
        self._redis = redis
        self._script = redis.register_script(SCRIPT)
        self._probe_timeout = probe_timeout
        self._worker = uuid.uuid4().hex[:12]
        self._fleet = BreakerState()
        self._report = WorkerReport()
        self._probes = 0
        self._probes_until = 0.0
        self._held_until = 0.0
        self._unreported_hold = 0.0
        self._next_sync = 0.0
        self._next_stopped_sync = 0.0
        # By the monotonic clock: when the latest of this worker's accepted messages was sent, which
        # its sender sets; the last of these that was reported; the fleet's with the same token.
        self.accepted_sent_at = self._reported_sent_at = self._fleet_sent_at = 0.0
        self._token_hash = _hash_token(token)
        # The same clock: since when this worker has its token, if it has replaced another.
        self.token_since = 0.0
        # The reasons of outages that this worker's reports opened and that are not stored yet.
        self.unsaved_openings: list[str] = []

    def allowance(self, now: float) -> int | None:
        """Return how many probes (`acquire_probe`) may be sent now; None without a limit."""
        if now < self._held_until or self._stopped():
            return 0
        if not self._fleet.until:
            return None
        return self._probes if now < self._probes_until else 0

    def acquire_probe(self, now: float) -> bool:
        """Use one of the granted probes; its outcome is then recorded with `probe=True`."""
        if not self._probes or now >= self._probes_until or now < self._held_until:
            return False
        self._probes -= 1
        return True

    def record_outcome(self, outcome: Outcome, probe: bool = False) -> None:
        """Count an outcome, also of a request that was sent before the breaker opened."""
        report = self._report
        if outcome is Outcome.ACCEPTED:  # nearly always
            report.provider_worked = report.accepted = True
            report.trailing_failures = report.trailing_unauthorized = 0
            report.probe_worked |= probe
        elif outcome.provider_works:
            report.provider_worked, report.trailing_failures = True, 0
            report.probe_worked |= probe
        elif outcome.trips_breaker:
            report.trailing_failures += 1
            report.failure_reason = outcome.value
            if probe:
                report.probe_failure = outcome.value
        elif outcome is Outcome.UNAUTHORIZED:
            report.trailing_unauthorized += 1
            if probe:
                report.probe_failure = rules.UNAUTHORIZED
        elif probe:  # throttled or not sent: inconclusive, another worker may try
            report.returned_probes += 1

    def accepted_after(self, sent_at: float) -> bool:
        """Whether a message sent after that instant (monotonic) was accepted with its token."""
        if sent_at < self.token_since:
            return False  # sent with the token before
        return sent_at < self.accepted_sent_at or sent_at < self._fleet_sent_at

    def use_token(self, token: str) -> None:
        """Judge by acceptances with this token only, from now on."""
        self._token_hash = _hash_token(token)
        self.token_since = self.accepted_sent_at = self._reported_sent_at = monotonic()
        self._fleet_sent_at = 0.0
        self._report.trailing_unauthorized = 0

    def hold_until(self, until: float) -> None:
        """Make the whole fleet wait until then, at the provider's request."""
        self._held_until = max(self._held_until, until)
        self._unreported_hold = max(self._unreported_hold, until)

    def sync(self, now: float, wanted_probes: int = rules.MAX_PROBES) -> None:
        """Report and receive the fleet's state if a sync is due. Call it in every cycle.

        `wanted_probes`: how many messages this worker could send soon if the breaker were half
        open; 0 for a worker that has nothing to send.
        """
        if now < (self._next_stopped_sync if self._stopped() else self._next_sync):
            return
        if self._probes and now >= self._probes_until:
            self._report.returned_probes += self._probes
            self._probes = 0
        report, self._report = self._report, WorkerReport()
        report.wanted_probes = max(0, min(wanted_probes, rules.MAX_PROBES) - self._probes)
        transition = self._exchange(report, now)
        now = self._redis.clock()
        if report.trailing_unauthorized >= rules.FAILURE_THRESHOLD and not self._fleet.until:
            # Others' messages were accepted a moment ago: either the token is rejected from now on,
            # or this worker has an old one. It sends nothing until that is known.
            self._held_until = max(self._held_until, now + rules.RECENT_SECONDS)
        self._next_sync, self._next_stopped_sync = now + SYNC_SECONDS, now + STOPPED_SYNC_SECONDS
        if not self._fleet.until or now < self._fleet.until:
            self._probes = 0
        elif transition.granted_probes:
            self._probes += transition.granted_probes
            self._probes_until = now + UNUSED_PROBE_SECONDS
        self._log_transition(transition)

    @property
    def reason(self) -> str:
        """Why the breaker is not closed: unavailable, unknown or unauthorized; else empty."""
        return self._fleet.reason if self._fleet.until else ""

    @property
    def state(self) -> str:
        """closed, open or half_open."""
        if not self._fleet.until:
            return "open" if self._stopped() else "closed"
        return "open" if self._redis.clock() < self._fleet.until else "half_open"

    @property
    def retry_at(self) -> float:
        """While `allowance` is 0: the end of the wait, or the next sync."""
        sync_at = self._next_stopped_sync if self._stopped() else self._next_sync
        return max(self._fleet.until, self._held_until, sync_at)

    def _stopped(self) -> bool:
        """Return whether this worker observed what opens the breaker and has not reported it."""
        report = self._report
        return (
            report.trailing_failures >= rules.FAILURE_THRESHOLD
            or report.trailing_unauthorized >= rules.FAILURE_THRESHOLD
        )

    def _exchange(self, report: WorkerReport, now: float) -> Transition:
        """Report to Redis and adopt the fleet's state; without Redis apply the rules locally."""
        wait_factor = random.uniform(1.0, 1.1)  # noqa: S311 (no secret)
        hold = max(0.0, self._unreported_hold - now)
        sent_at = self.accepted_sent_at
        age = monotonic() - sent_at if sent_at > self._reported_sent_at else ""
        reply = self._redis.run_script(
            self._script,
            [BREAKER_KEY, HOLD_KEY],
            [
                self._worker, int(report.provider_worked), report.trailing_failures,
                report.failure_reason, int(report.accepted), report.trailing_unauthorized,
                int(report.probe_worked), report.probe_failure, report.returned_probes,
                report.wanted_probes, self._probe_timeout, wait_factor, hold,
                self._token_hash, age,
            ],
        )  # fmt: skip
        now = self._redis.clock()
        if reply is None:
            return rules.apply_report(
                self._fleet, report, self._worker, now, self._probe_timeout, wait_factor
            )
        event, wait, granted, until, opened_at, opens, reason, run, held_for, sent_age = reply
        self._unreported_hold = 0.0
        self._reported_sent_at = sent_at
        if sent_age:
            self._fleet_sent_at = monotonic() - float(sent_age) - SEND_TIME_MARGIN
        if float(held_for):
            self._held_until = max(self._held_until, now + float(held_for))
        self._fleet = BreakerState(
            until=now + float(until) if until else 0.0,
            opened_at=now + float(opened_at) if until else 0.0,
            opens=int(opens),
            reason=reason.decode(),
            run=int(run),
        )
        return Transition(event.decode(), float(wait), int(granted))

    def _log_transition(self, transition: Transition) -> None:
        """Log a change of state, in the one worker whose report caused it."""
        fields = {
            "reason": self._fleet.reason,
            "scope": "fleet" if self._redis.available else "worker",
        }
        if transition.event == "opened":
            if self._fleet.opens == 1:
                self.unsaved_openings.append(self._fleet.reason)
            wait = round(transition.wait, 3)
            log.warning("breaker.opened", wait=wait, opens=self._fleet.opens, **fields)
        elif transition.event == "probing":
            log.info("breaker.probing", **fields)
        elif transition.event == "closed":
            log.info("breaker.closed", **fields)


def _hash_token(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:16]

"""Whether the provider may be bothered at all: the fleet's circuit breaker, and its pauses.

Each worker tells the breaker every outcome; ten times a second what it saw goes to Redis and the
fleet's state comes back, in one round trip. breaker_rules.py says when it opens and closes. Here
is the worker's side: it stops at once by itself when it sees what would open the breaker, asks,
and then does as the fleet does. While Redis is away it keeps a breaker of its own; when Redis
has lost everything the breaker is closed and counts from nothing.

* SYNC_EVERY 100 ms: another worker's open breaker is known within 200 ms, as outcomes take up to
  one sync to get to Redis and one to come back. SYNC_URGENT 50 ms if this worker has stopped.
* PROBE_IDLE 1 s: a probe that finds nothing to send for so long is left to another worker.

Keys: `notification:breaker`, a hash, kept for 10 minutes after the last outcome;
`notification:hold`, the moment (server's clock) until which the fleet waits as the provider told
it to (429), gone when that moment has come. The hold is a short cut only: who must not forget it
keeps it in PostgreSQL as well.
"""

import random
import uuid

import structlog

from shared.metrics import BREAKER_KEY, HOLD_KEY
from worker.provider.circuit_breaker_rules import (
    PROBES,
    THRESHOLD,
    TRANSITION,
    UNAUTHORIZED,
    Change,
    Report,
    State,
    transition,
)
from worker.provider.outcomes import Outcome
from worker.provider.redis_client import HotRedis

KEY = BREAKER_KEY
SYNC_EVERY = 0.1
SYNC_URGENT = 0.05
PROBE_IDLE = 1.0

log = structlog.get_logger()


class Breaker:
    """The fleet's breaker as one worker sees it. Everything but `sync` is local and cheap.

    `probe_timeout`: after that many seconds a probe without an answer is taken for lost; longer
    than any request may last. All moments are of `redis.clock`.
    """

    def __init__(self, redis: HotRedis, probe_timeout: float = 30.0) -> None:
        self._redis = redis
        self._script = redis.script(TRANSITION)
        self._probe_timeout = probe_timeout
        self._worker = uuid.uuid4().hex[:12]
        self._fleet = State()
        self._report = Report()
        self._probes = 0
        self._probes_until = 0.0
        self._held_until = 0.0
        self._hold = 0.0  # to be told to the others
        self._next_sync = 0.0
        self._next_urgent = 0.0
        # Why it opened, once per outage that this worker's report made known: to be kept.
        self.openings: list[str] = []

    # --- what the loop asks before each hand-off -----------------------------------------------

    def allow(self, now: float) -> int | None:
        """How many messages may go now: None is no limit; n is that many, each after `probe`."""
        if now < self._held_until or self._stopped():
            return 0
        if not self._fleet.until:
            return None
        return self._probes if now < self._probes_until else 0

    def probe(self, now: float) -> bool:
        """Take one of the probes that `allow` tells of. Its outcome is recorded as a probe's."""
        if not self._probes or now >= self._probes_until or now < self._held_until:
            return False
        self._probes -= 1
        return True

    # --- what the loop tells -------------------------------------------------------------------

    def record(self, outcome: Outcome, probe: bool = False) -> None:
        """Note an outcome; also of requests that went out before the breaker opened."""
        report = self._report
        if outcome.provider_works:
            report.worked, report.tail = True, 0
            report.probe_worked |= probe
        elif outcome.trips_breaker:
            report.tail += 1
            report.reason = outcome.value
            if probe:
                report.probe_failed = outcome.value
        elif outcome is Outcome.UNAUTHORIZED:
            report.unauthorized = True
            if probe:
                report.probe_failed = UNAUTHORIZED
        elif probe:  # throttled or not sent: it showed nothing, another may try
            report.probes_returned += 1

    def hold(self, until: float) -> None:
        """Have the whole fleet wait until then, because the provider said so."""
        self._held_until = max(self._held_until, until)
        self._hold = max(self._hold, until)

    def sync(self, now: float, probes_wanted: int = PROBES) -> None:
        """Report and learn, if it is time to. Call it every turn of the loop; it never raises.

        `probes_wanted`: how many messages this worker could hand off soon, should the breaker be
        half open; a worker that has nothing to send should say 0.
        """
        if now < (self._next_urgent if self._stopped() else self._next_sync):
            return
        if self._probes and now >= self._probes_until:
            self._report.probes_returned += self._probes
            self._probes = 0
        report, self._report = self._report, Report()
        report.probes_wanted = max(0, min(probes_wanted, PROBES) - self._probes)
        change = self._transition(report, now)
        now = self._redis.clock()
        self._next_sync, self._next_urgent = now + SYNC_EVERY, now + SYNC_URGENT
        if not self._fleet.until or now < self._fleet.until:
            self._probes = 0
        elif change.granted:
            self._probes += change.granted
            self._probes_until = now + PROBE_IDLE
        self._say(change)

    # --- what may be shown ---------------------------------------------------------------------

    @property
    def reason(self) -> str:
        """Why it is not closed: unavailable, unknown or unauthorized."""
        return self._fleet.reason if self._fleet.until else ""

    @property
    def state(self) -> str:
        """closed, open or half_open."""
        if not self._fleet.until:
            return "open" if self._stopped() else "closed"
        return "open" if self._redis.clock() < self._fleet.until else "half_open"

    @property
    def retry_at(self) -> float:
        """When to look again, while `allow` says 0: the end of the wait, or the next sync."""
        sync_at = self._next_urgent if self._stopped() else self._next_sync
        return max(self._fleet.until, self._held_until, sync_at)

    # --- inside --------------------------------------------------------------------------------

    def _stopped(self) -> bool:
        """This worker has seen what would open the breaker, and not yet asked the fleet."""
        report = self._report
        return report.tail >= THRESHOLD or report.unauthorized

    def _transition(self, report: Report, now: float) -> Change:
        stretch = random.uniform(1.0, 1.1)  # noqa: S311 (no secret)
        hold = max(0.0, self._hold - now)
        answer = self._redis.run(
            self._script,
            [KEY, HOLD_KEY],
            [
                self._worker, int(report.worked), report.tail, report.reason,
                int(report.unauthorized), int(report.probe_worked), report.probe_failed,
                report.probes_returned, report.probes_wanted, self._probe_timeout, stretch, hold,
            ],
        )  # fmt: skip
        now = self._redis.clock()
        if answer is None:
            return transition(self._fleet, report, self._worker, now, self._probe_timeout, stretch)
        self._hold = 0.0
        if held := float(answer[8]):
            self._held_until = max(self._held_until, now + held)
        return self._adopt(answer, now)

    def _adopt(self, answer: list[bytes], now: float) -> Change:
        """Make the fleet's state this worker's, in local time."""
        event, wait, granted, until, opened_at, opens, reason, run = answer[:8]
        self._fleet = State(
            until=now + float(until) if until else 0.0,
            opened_at=now + float(opened_at) if until else 0.0,
            opens=int(opens),
            reason=reason.decode(),
            run=int(run),
        )
        return Change(event.decode(), float(wait), int(granted))

    def _say(self, change: Change) -> None:
        """Once per change and fleet: the worker whose report caused it says it."""
        scope = "fleet" if self._redis.available else "worker"
        if change.event == "opened":
            if self._fleet.opens == 1:
                self.openings.append(self._fleet.reason)
            log.warning(
                "breaker.opened",
                reason=self._fleet.reason,
                wait=round(change.wait, 3),
                opens=self._fleet.opens,
                scope=scope,
            )
        elif change.event == "probing":
            log.info("breaker.probing", reason=self._fleet.reason, scope=scope)
        elif change.event == "closed":
            log.info("breaker.closed", reason=self._fleet.reason, scope=scope)

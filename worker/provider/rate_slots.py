"""Slots: the instants at which messages may be sent, and how a worker keeps and uses them.

A rate is a sequence of instants, *slots*, one interval apart on the Redis server's clock; each slot
admits one message. The script rate_slots.lua grants runs of them to the workers and stores per
limit only the last slot granted. A message may be sent from its slot until SLOT_SECONDS later;
then the slot is dead and is never granted again. Any window of one second therefore sees at most
the slots of 1 s + SLOT_SECONDS, that is 1.05 x rate + 1, with any number of workers and whatever
each of them does.

Why these values (those in capitals without a definition here are the script's, in microseconds):

* SLOT_SECONDS 50 ms: the 0.05 in the bound above.
* AHEAD 50 ms: slots are granted this long before their time, the time of two requests, so that a
  late request loses no slot.
* COVER 25 ms: the most that one grant covers, hence some 40 round trips a second for a worker that
  uses the whole rate alone, and at most that much waiting for the others.
* BEHIND 25 ms: slots that were not requested may still be granted this long after their time.
* PACE 0.99: slots are this much rarer than allowed. It leaves 10 ms in each second for the network
  to delay one message and speed up the next; 4 % of the slots may still be lost.
* START 100 ms: a missing key's first slot lies this far ahead, beyond every slot granted before
  the key was lost (AHEAD at most), so that FLUSHALL grants nothing twice. For slow rates a whole
  interval beyond those, as far as one second can matter (FORGET).
* SPREAD 30 ms: a message of a mailing with its own limit needs two slots, which may lie this far
  apart; it may be sent while both are alive, that is for 20 ms at least.

A key expires a minute and ten intervals after its last grant.
"""

import math
from collections import deque

SLOT_SECONDS = 0.050
PACE = 0.99
# How fast the server's clock may drift from this machine's, in seconds per second.
MAX_CLOCK_DRIFT = 0.001


class ServerClock:
    """The Redis server's clock relative to this process's own, as bounds.

    A round trip shows that the server read its clock between two readings of ours. The bounds of
    earlier round trips stay valid, a little wider each second, so a slow round trip does no harm.
    """

    def __init__(self) -> None:
        self.earliest = -math.inf  # local time = server time + a value between these two
        self.latest = math.inf
        self._observed_at = 0.0

    def observe(self, server: float, before: float, after: float) -> None:
        """Narrow the bounds by a server's reading taken between two local instants."""
        slack = MAX_CLOCK_DRIFT * (after - self._observed_at)
        self._observed_at = after
        self.earliest = max(self.earliest - slack, before - server)
        self.latest = min(self.latest + slack, after - server)
        if self.earliest > self.latest:  # the server's clock was set, or it is another server
            self.earliest, self.latest = before - server, after - server


class SlotBucket:
    """A worker's slots of one limit: (from, until) in local time, in order."""

    __slots__ = ("expired", "max_slots", "request_at", "slots", "used")

    def __init__(self) -> None:
        self.slots: deque[tuple[float, float]] = deque()
        self.request_at = 0.0
        self.used = 0
        self.expired = 0
        self.max_slots = math.inf

    def usable_from(self, now: float) -> float:
        """Return the instant from which the next live slot may be used; infinity without one."""
        slots = self.slots
        while slots:
            begins, ends = slots[0]
            if now < ends:
                return begins
            slots.popleft()
            self.expired += 1
        return math.inf

    def acquire(self, now: float) -> float:
        """Use a slot; return the instant at which it dies, or 0.0 if none may be used now."""
        slots = self.slots
        while slots:
            begins, ends = slots[0]
            if begins > now:
                break
            slots.popleft()
            if now < ends:
                self.used += 1
                return ends
            self.expired += 1
        return 0.0

    def shortfall(self, wanted: int, now: float) -> int:
        """Return how many slots to request, so that no more are held than are used in time."""
        self.usable_from(now)  # drops dead slots
        return int(min(wanted, self._allowed_slots())) - len(self.slots)

    def start_period(self) -> None:
        """Start counting used and dead slots anew: after each grant."""
        self.max_slots = self._allowed_slots()
        self.used = self.expired = 0

    def _allowed_slots(self) -> float:
        # A slot that dies unused was withheld from the other workers. After that happened only
        # about as many are held as were used (but half at least: one pause proves nothing), and a
        # quarter more after each period without a dead slot.
        if not self.expired:
            return self.max_slots * 1.25
        return max(self.used * 1.25, (self.used + self.expired) / 2, 1)

    def add_slots(
        self,
        count: int,
        fleet: tuple[float, float],
        own: tuple[float, float],
        clock: ServerClock,
    ) -> None:
        """Add a grant of two sequences (first, interval): each message needs a slot of both."""
        early, late = SLOT_SECONDS + clock.earliest, clock.latest
        (a, a_step), (b, b_step) = fleet, own
        if fleet == own:
            slots = [(a + i * a_step + late, a + i * a_step + early) for i in range(count)]
        else:
            pairs = [(a + i * a_step, b + i * b_step) for i in range(count)]
            slots = [(max(pair) + late, min(pair) + early) for pair in pairs]
        self.slots.extend(slot for slot in slots if slot[0] < slot[1])


def slot_interval(rate: float | None) -> float:
    """Return the microseconds between two slots; 0 without a limit."""
    return 0.0 if rate is None else 1e6 / (rate * PACE)

"""Adapts the number of requests in flight to what the provider bears.

Pure: the dispatcher reports once an interval what it has counted, so a message costs nothing here.

With all slots in use, requests in flight = rate x latency (Little's law), so the provider works at
a rate of `limit / latency`. The limit climbs while that rate grows with it:

* At first it doubles in each interval; later a quarter more and a fifth less are tried in turn. A
  step is kept if the rate follows at least half of it (WORTH). Above the provider's capacity the
  rate no longer follows: more requests only wait longer, and the limit comes down.
* Several workers share a queue at the provider, and one that sends more gets a larger share of it.
  So no step up is kept at more than MAX_QUEUE times the shortest latency.
* It is halved when the provider throttles, when connections are refused, and when many requests
  time out. Then it stays below the number that was too many for CAP_SECONDS, twice as long each
  time.
* It is halved when the latency is LATENCY_RISE times the shortest one. If two halvings do not
  shorten it, the latency has another cause than load, and they are undone.
* An interval in which slots stayed free decides nothing: there was too little to send, or
  PROVIDER_RATE was the limit.

docs/adr/0049-requests-in-flight-adapt-to-the-provider.md has the alternatives and measurements.

Why these values:

* START 64: the number for a provider of unknown capacity. FLOOR 4: a provider that answers in 50 ms
  still gets 80 messages a second.
* INTERVAL_SECONDS 0.2, and at least one latency: as many answers as there are slots.
* FAST_SECONDS 0.02: shorter latencies vary with this machine's load and show no queue.
* PROBE_SECONDS 5: a step that is not kept costs a fifth of the rate for one interval.
* OVERLOAD_SHARE 0.05: one timeout in a hundred requests has other causes than their number.
"""

from collections.abc import Callable
from typing import NamedTuple

START = 64
FLOOR = 4
INTERVAL_SECONDS = 0.2
FAST_SECONDS = 0.02
PROBE_SECONDS = 5.0
CAP_SECONDS = 60.0
MAX_CAP_SECONDS = 960.0
CAP_SHARE = 0.9
# After so long without work the limit starts again: the provider may have changed.
FORGET_SECONDS = 60.0
WORTH = 0.5
STEP_UP, STEP_DOWN = 1.25, 0.8
LATENCY_RISE = 2.0
MAX_QUEUE = 1.5
# A latency that is still above this share after two halvings does not come from load.
RELIEF = 0.85
# A step is judged once the slots are in use: with this share of the answers that they can yield.
SETTLED_SHARE = 0.7
MAX_DELAYS = 3
OVERLOAD_SHARE = 0.05
MAX_REFUSED = 10
MAX_UNFILLED_SHARE = 0.25
# The reasons of failures that say that there are too many requests.
THROTTLED, REFUSED, TIMEOUT = "throttled", "connection_refused", "timeout"


class Level(NamedTuple):
    """What was measured at one limit: the mean latency, and the messages processed per second."""

    limit: int
    latency: float
    rate: float


class ConcurrencyLimit:
    """The number of requests that one worker may have in flight: `limit`, at most `most`.

    `on_reduced(old, new, reason)` is called after each reduction but those that are only tried.
    `judge` is due at `judge_at`. All instants are of one clock.
    """

    def __init__(
        self, most: int, on_reduced: Callable[[int, int, str], None] = lambda *_: None
    ) -> None:
        self._most, self._floor = most, min(FLOOR, most)
        self._on_reduced = on_reduced
        self._cap, self._cap_until, self._cap_seconds = most, float("-inf"), CAP_SECONDS
        self._latency = 0.0  # the newest mean
        self._failed = self._overloads = 0
        self._overload_reason = ""
        self._active_at = self._halved_at = float("-inf")
        self._start_over(0.0)

    def _start_over(self, now: float) -> None:
        self.limit = min(START, self._most)
        self._doubling = self._upwards = True
        self._step_at = now
        self._before: Level | None = None  # the level before the step that is being tried
        self._shortest_latency = 0.0  # under little load; 0: not known
        self._slow = False  # the latency was long in the last interval
        self._slow_level: Level | None = None  # the level before a halving because of latency
        self._halvings = self._delays = 0
        self._settle(now)

    def resume(self, now: float) -> None:
        """Begin to measure for a new dispatch job."""
        if now - self._active_at > FORGET_SECONDS:
            self._start_over(now)
        self._undo_step()
        self._settle(now)

    def record_failure(self, reason: str, now: float, sent_at: float, *, sent: bool) -> None:
        """Count a request that the provider did not process.

        `reason` is "throttled" or a `Failure`; `sent_at` is when it was sent, or was to be sent.
        """
        self._failed += sent
        if reason == "reset" and not sent:  # a server that has too many connections may do that
            reason = REFUSED
        # A request that was sent before the last halving says nothing about the present limit.
        elif reason not in (THROTTLED, REFUSED, TIMEOUT):
            return
        if sent_at < self._halved_at + (0.0 if sent else 0.1):
            return
        self._overloads += 1
        self._overload_reason = reason
        enough = {THROTTLED: 1, REFUSED: min(MAX_REFUSED, self.limit // 4)}
        if self._overloads >= enough.get(reason, self.limit // 4):
            self._halve_overloaded(now)

    def restrict(self, most: int, now: float) -> None:
        """Use at most `most` slots for a while: this process cannot open more connections."""
        self._undo_step()
        self._set_cap(most, now)
        if self.limit > self._cap:
            self._reduce(self._cap, "open_files", now)

    def judge(self, now: float, answers: int, seconds: float, unfilled_share: float) -> None:
        """Adapt the limit to what was counted since the last call.

        `answers` arrived, with latencies of `seconds` in sum; `unfilled_share` is how often slots
        were free because nothing could be sent.
        """
        self._active_at = now
        if not self._measuring:  # these were answers to requests sent before the last change
            self._measure(now)
            return
        if self._overloads > OVERLOAD_SHARE * answers:
            self._halve_overloaded(now)
            return
        if answers:
            self._latency = seconds / answers
        if not answers or unfilled_share > MAX_UNFILLED_SHARE:
            self._undo_step()
            self._measure(now)
            return
        expected = self.limit * (now - self._began_at) / self._latency
        if answers < SETTLED_SHARE * expected and self._delays < MAX_DELAYS:
            self._delays += 1
            self._measure(now)
            return
        self._delays = 0
        processed = max(answers - self._failed, 0)
        level = Level(self.limit, self._latency, self.limit * processed / seconds)
        self._note_latency(level.latency)
        if self._slow_level is not None:
            self._decide_halving(self._slow_level, level, now)
        elif self._before is None and self._is_slow(level):
            if self._slow:
                self._halve_slow(level)
            self._slow = not self._slow  # it may be rising still: look again first
        else:
            self._slow = False
            if self._before is not None:
                self._decide(self._before, level, now)
            if self.limit == level.limit and now >= self._step_at:
                self._try_step(level, now)
        if self.limit == level.limit and not self._slow:
            self._measure(now)
        else:
            self._settle(now)

    def _note_latency(self, latency: float) -> None:
        shortest = self._shortest_latency
        if not shortest:
            self._shortest_latency = latency
        elif latency < shortest:  # slowly, as single means vary
            self._shortest_latency += (latency - shortest) / 4

    def _decide(self, before: Level, level: Level, now: float) -> None:
        """Keep the step from `before`, or undo it."""
        self._before = None
        step = level.limit / before.limit - 1
        gain = level.rate / before.rate - 1 if before.rate else 1.0
        keep = gain >= WORTH * step
        if step > 0:
            queued = level.latency > max(MAX_QUEUE * self._shortest_latency, FAST_SECONDS)
            keep = (keep and not queued) or self._is_unproblematic(level)
        if keep:
            self._step_at = now
            return
        self.limit = before.limit
        if self._doubling:
            self._doubling = False
        else:
            self._upwards = not self._upwards
            self._step_at = now + PROBE_SECONDS

    def _is_slow(self, level: Level) -> bool:
        slow = level.latency > max(LATENCY_RISE * self._shortest_latency, FAST_SECONDS)
        return slow and level.limit >= 2 * self._floor

    def _halve_slow(self, level: Level) -> None:
        self._slow_level, self._halvings = level, 0
        self._doubling = self._upwards = False
        self._halve_further()

    def _halve_further(self) -> None:
        previous, self.limit = self.limit, max(self.limit // 2, self._floor)
        self._halvings += 1
        self._on_reduced(previous, self.limit, "latency")

    def _decide_halving(self, slow: Level, level: Level, now: float) -> None:
        """Halve again, stay, or return to the limit before if the latency is not due to load."""
        if level.latency <= max(MAX_QUEUE * self._shortest_latency, FAST_SECONDS):
            self._slow_level, self._step_at = None, now + PROBE_SECONDS
        elif self._halvings < 2:
            self._halve_further()
        elif level.latency > RELIEF * slow.latency:
            self._slow_level, self.limit = None, slow.limit
            self._shortest_latency = level.latency
            self._step_at = now
        else:
            self._halve_slow(level)

    def _try_step(self, level: Level, now: float) -> None:
        """Change the limit, to see what the rate does."""
        cap = self._cap if now < self._cap_until else self._most
        if self._upwards:
            limit = min(cap, int(self.limit * (2 if self._doubling else STEP_UP)) + 1)
        elif self._is_unproblematic(level):
            limit = self.limit
        else:
            limit = max(self._floor, int(self.limit * STEP_DOWN))
        if limit == self.limit:
            self._doubling = False
            self._upwards = not self._upwards
            self._step_at = now + PROBE_SECONDS
        else:
            self._before, self.limit = level, limit

    def _is_unproblematic(self, level: Level) -> bool:
        """Whether a limit is so low, and the provider so fast, that the rate need not prove it."""
        return level.limit <= START and level.latency < FAST_SECONDS

    def _undo_step(self) -> None:
        """Give up what is being tried."""
        before = self._slow_level or self._before
        if before is not None:
            self.limit, self._before, self._slow_level = before.limit, None, None

    def _halve_overloaded(self, now: float) -> None:
        """Halve the limit, and stay below what was too much."""
        raised = self._before is not None and self._before.limit < self.limit
        if self._before is not None and raised and not self._doubling:
            self._set_cap(self._before.limit, now)
        else:
            self._set_cap(int(self.limit * CAP_SHARE), now)
        self._halved_at = now
        self._reduce(max(self.limit // 2, self._floor), self._overload_reason, now)

    def _set_cap(self, cap: int, now: float) -> None:
        recent = now < self._cap_until + self._cap_seconds
        self._cap_seconds = min(2 * self._cap_seconds, MAX_CAP_SECONDS) if recent else CAP_SECONDS
        self._cap, self._cap_until = max(cap, self._floor), now + self._cap_seconds

    def _reduce(self, limit: int, reason: str, now: float) -> None:
        """Go down to `limit`; what was measured before no longer matters."""
        previous, self.limit = self.limit, limit
        self._before = self._slow_level = None
        self._doubling, self._upwards, self._step_at = False, True, now
        self._settle(now)
        if limit < previous:
            self._on_reduced(previous, limit, reason)

    def _settle(self, now: float) -> None:
        """Wait until the requests that were sent before the change are answered."""
        self._measuring = False
        self.judge_at = now + self._latency
        self._failed = self._overloads = 0

    def _measure(self, now: float) -> None:
        """Begin an interval."""
        self._measuring, self._began_at = True, now
        self.judge_at = now + max(INTERVAL_SECONDS, self._latency)
        self._failed = self._overloads = 0

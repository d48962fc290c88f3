"""When the breaker opens, probes and closes: the rules, once in Lua for the fleet, once in Python.

The fleet's breaker lives in Redis and its rules run there, as the script TRANSITION. While Redis
is away each worker goes on by itself with the same rules in Python, `transition`. A test feeds
both the same reports and compares every step.

closed     Messages flow. A run of THRESHOLD outcomes that speak against the provider opens it; a
           refused token does so at once.
open       Nothing is handed off for a while: BASE_WAIT, doubling each time up to MAX_WAIT.
half open  The wait is over: PROBES messages may go, over the whole fleet. The first one that shows
           the provider to work closes the breaker; the first one that fails opens it again. If all
           of them vanish (their worker was killed), others are given after a while.

Outcomes come in reports, ten a second from each worker, so their order across workers is not
known. A run counts only if no *other* worker saw the provider work within the last FRESH: one
worker with a broken network does not stop a fleet that is well.

Why each number:

* THRESHOLD 20: a provider that fails three requests in ten at random does this once in 3e10 runs.
* BASE_WAIT 1 s, MAX_WAIT 60 s: what a restart takes, and what an operator bears to wait after an
  outage is over. Up to a tenth more by chance, so that two fleets do not probe in step.
* PROBES 3: one lost or unlucky probe does not cost another wait, and nobody is hammered by three.
* FRESH 200 ms: two reports' worth. Also how old an open breaker must be before an answer to a
  request sent earlier may close it; a refused token is only ever cleared by a probe.
"""

from dataclasses import dataclass

THRESHOLD = 20
BASE_WAIT = 1.0
MAX_WAIT = 60.0
PROBES = 3
FRESH = 0.2
UNAUTHORIZED = "unauthorized"


@dataclass(slots=True)
class Report:
    """What one worker saw since its last report, and what it would like."""

    worked: bool = False  # some answer showed that the provider works
    tail: int = 0  # outcomes that speak against it, after the last such answer
    reason: str = ""  # the newest of those
    unauthorized: bool = False
    probe_worked: bool = False
    probe_failed: str = ""  # the reason
    probes_returned: int = 0  # neither used nor answered: somebody else may have them
    probes_wanted: int = 0


@dataclass(slots=True)
class State:
    """The breaker's state; moments are seconds of one clock, 0 means never."""

    until: float = 0.0  # 0: closed; else half open from then on
    opened_at: float = 0.0
    opens: int = 0  # in a row, without closing in between
    reason: str = ""
    run: int = 0
    probes: int = 0  # given in this half-open period
    probing_since: float = 0.0
    worked_by: str = ""  # who saw the provider work last, and when
    worked_at: float = 0.0
    other_worked_at: float = 0.0  # when the last one but them did


@dataclass(slots=True)
class Change:
    """What a report led to."""

    event: str = ""  # opened, closed, probing or nothing
    wait: float = 0.0
    granted: int = 0


def transition(
    state: State, report: Report, worker: str, now: float, probe_timeout: float, stretch: float
) -> Change:
    """Apply a report to `state`. `stretch` (1.0 to 1.1) is the chance in a wait."""
    change = Change()
    others_at = state.other_worked_at if state.worked_by == worker else state.worked_at
    if report.worked:
        if state.worked_by != worker:
            state.other_worked_at, state.worked_by = state.worked_at, worker
        state.worked_at = now

    def trip(reason: str) -> None:
        state.opens += 1
        change.event, change.wait = (
            "opened",
            stretch * min(MAX_WAIT, BASE_WAIT * 2 ** min(state.opens - 1, 10)),
        )
        state.until, state.opened_at, state.reason = now + change.wait, now, reason
        state.run = state.probes = 0
        state.probing_since = 0.0

    if not state.until:
        if report.worked or report.tail:
            if now - others_at < FRESH:
                state.run = 0
            else:
                state.run = report.tail if report.worked else state.run + report.tail
        if report.unauthorized:
            trip(UNAUTHORIZED)
        elif state.run >= THRESHOLD:
            trip(report.reason)
    elif report.probe_worked or (
        report.worked and state.reason != UNAUTHORIZED and now - state.opened_at >= FRESH
    ):
        change.event = "closed"
        state.until = state.opened_at = state.probing_since = 0.0
        state.opens = state.run = state.probes = 0
    elif report.probe_failed and now >= state.until:
        trip(report.probe_failed)

    if state.until and now >= state.until:
        if state.probing_since and now - state.probing_since >= probe_timeout:
            state.probes, state.probing_since = 0, 0.0
        state.probes = max(0, state.probes - report.probes_returned)
        change.granted = min(report.probes_wanted, PROBES - state.probes)
        if change.granted:
            if not state.probing_since:
                state.probing_since, change.event = now, "probing"
            state.probes += change.granted
    return change


# KEYS: the breaker's, the hold's.
# ARGV: worker, worked, tail, reason, unauthorized, probe_worked, probe_failed, probes_returned,
# probes_wanted, probe_timeout, stretch, hold (seconds to have the fleet wait; 0: nothing to add).
# Answer, as text: event, wait, granted, then the state: until and opened_at relative to the
# server's time, opens, reason, run; and how long the hold still lasts.
TRANSITION = (
    f"""
local THRESHOLD, PROBES, FRESH = {THRESHOLD}, {PROBES}, {FRESH}
local BASE_WAIT, MAX_WAIT = {BASE_WAIT}, {MAX_WAIT}
"""
    + """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local worker, worked, tail, reason = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4]
local unauthorized, probe_worked, probe_failed = ARGV[5] == '1', ARGV[6] == '1', ARGV[7]
local returned, wanted = tonumber(ARGV[8]), tonumber(ARGV[9])
local probe_timeout, stretch, hold = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])

local stored = redis.call('HMGET', KEYS[1], 'until', 'opened_at', 'opens', 'reason', 'run',
                          'probes', 'probing_since', 'worked_by', 'worked_at', 'other_worked_at')
local function number(i) return tonumber(stored[i] or '') or 0 end
local s = {until_ = number(1), opened_at = number(2), opens = number(3), reason = stored[4] or '',
           run = number(5), probes = number(6), probing_since = number(7),
           worked_by = stored[8] or '', worked_at = number(9), other_worked_at = number(10)}
local event, wait, granted = '', 0, 0

-- A server's clock that was set back must not keep the breaker open.
if s.until_ > now + 2 * MAX_WAIT then s.until_ = now end

local others_at = s.worked_by == worker and s.other_worked_at or s.worked_at
if worked then
  if s.worked_by ~= worker then
    s.other_worked_at, s.worked_by = s.worked_at, worker
  end
  s.worked_at = now
end

local function trip(why)
  s.opens = s.opens + 1
  event, wait = 'opened', stretch * math.min(MAX_WAIT, BASE_WAIT * 2 ^ math.min(s.opens - 1, 10))
  s.until_, s.opened_at, s.reason = now + wait, now, why
  s.run, s.probes, s.probing_since = 0, 0, 0
end

if s.until_ == 0 then
  if worked or tail > 0 then
    if math.abs(now - others_at) < FRESH then
      s.run = 0
    else
      s.run = worked and tail or s.run + tail
    end
  end
  if unauthorized then
    trip('unauthorized')
  elseif s.run >= THRESHOLD then
    trip(reason)
  end
elseif probe_worked
    or (worked and s.reason ~= 'unauthorized' and now - s.opened_at >= FRESH) then
  event = 'closed'
  s.until_, s.opened_at, s.probing_since, s.opens, s.run, s.probes = 0, 0, 0, 0, 0, 0
elseif probe_failed ~= '' and now >= s.until_ then
  trip(probe_failed)
end

if s.until_ > 0 and now >= s.until_ then
  if s.probing_since > 0 and math.abs(now - s.probing_since) >= probe_timeout then
    s.probes, s.probing_since = 0, 0
  end
  s.probes = math.max(0, s.probes - returned)
  granted = math.min(wanted, PROBES - s.probes)
  if granted > 0 then
    if s.probing_since == 0 then s.probing_since, event = now, 'probing' end
    s.probes = s.probes + granted
  end
end

local function text(value) return string.format('%.6f', value) end
if worked or tail > 0 or returned + granted > 0 or event ~= '' then
  redis.call('HSET', KEYS[1], 'until', text(s.until_), 'opened_at', text(s.opened_at),
             'opens', s.opens, 'reason', s.reason, 'run', s.run, 'probes', s.probes,
             'probing_since', text(s.probing_since), 'worked_by', s.worked_by,
             'worked_at', text(s.worked_at), 'other_worked_at', text(s.other_worked_at))
  redis.call('PEXPIRE', KEYS[1], 600000)
end

local held = tonumber(redis.call('GET', KEYS[2]) or '') or 0
if hold > 0 and now + hold > held then
  held = now + hold
  redis.call('SET', KEYS[2], text(held), 'PX', math.ceil(hold * 1000))
end

return {event, text(wait), granted, s.until_ > 0 and text(s.until_ - now) or '',
        text(s.opened_at - now), s.opens, s.reason, s.run, text(math.max(0, held - now))}
"""
)

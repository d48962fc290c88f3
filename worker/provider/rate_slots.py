"""The moments at which messages may leave: how Redis gives them out and a worker keeps them.

A rate is a row of moments, *slots*, one interval apart on the Redis server's clock; each slot
admits one message. One Lua script gives runs of them to whoever asks, and remembers per limit only
the last slot it gave. A message may leave from its slot until LIFE later; then the slot is dead
and nobody gets it again. So any window of one second sees at most the slots of 1 s + LIFE, that is
1.05 x rate + 1, with any number of workers and whatever each of them does.

Why each number:

* LIFE 50 ms: the 0.05 in the sentence above.
* AHEAD 50 ms: slots are given this long before their time, two asks' worth, so that an ask that
  comes late costs no slot.
* COVER 25 ms: the most that one grant covers, hence some 40 round trips a second for a worker that
  has the whole rate to itself, and at most that much for the others to wait for.
* BEHIND 25 ms: slots that nobody asked for may still be given this long after their time.
* PACE 0.99: slots are this much rarer than allowed. It leaves 10 ms in each second for the network
  to delay one message and hurry the next; 4 % of the slots may still be lost.
* START 100 ms: a missing key's first slot lies this far ahead, beyond every slot given before the
  key was lost (AHEAD at most), so that FLUSHALL grants nothing twice. For slow rates a whole
  interval beyond those, as far as one second can see (FORGET).
* SPREAD 30 ms: a message of a mailing with a limit of its own needs two slots, which may lie this
  far apart; it may leave while both are alive, that is for 20 ms at least.

A key holds the last slot given, in microseconds of the server's clock, and lives for a minute and
ten intervals after it was given.
"""

import math
from collections import deque

LIFE = 0.050
PACE = 0.99
# How far the server's clock may be adjusted against this machine's, in seconds per second.
DRIFT = 0.001

# KEYS: the fleet's, then one for each demand (the fleet's again if it has no limit of its own).
# ARGV: the fleet's interval in microseconds (0: no limit), then for each demand its own interval
# (0: none) and how many slots are wanted.
# Answer: the server's time, then for each demand: how many; its first slot of the fleet's and of
# its own; when to ask again. All three in microseconds from the server's time.
GRANT = """
local AHEAD, BEHIND, COVER, SPREAD = 50000, 25000, 25000, 30000
local START, FORGET = 100000, 1050000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function remember(key, last, interval)
  redis.call('SET', key, string.format('%.2f', last), 'PX',
             math.ceil(60000 + interval / 100))
end

local function next_slot(key, interval)
  local last = tonumber(redis.call('GET', key) or '')
  if last == nil or last > now + 2 * START then -- lost, or the server's clock was set back
    local first = now + math.max(START, AHEAD + math.min(interval, FORGET))
    remember(key, first - interval, interval)
    return first
  end
  return math.max(last + interval, now - BEHIND)
end

-- How many slots from `first` on may be given now.
local function due(first, interval)
  if first > now + AHEAD then return 0 end
  return math.min(math.floor((now + AHEAD - first) / interval) + 1,
                  math.max(1, math.floor(COVER / interval)))
end

local fleet = tonumber(ARGV[1])
local first, left = now, math.huge
if fleet > 0 then
  first = next_slot(KEYS[1], fleet)
  left = due(first, fleet)
end

local demands = {}
for i = 1, #KEYS - 1 do
  local d = {key = KEYS[i + 1], own = tonumber(ARGV[2 * i]), count = tonumber(ARGV[2 * i + 1])}
  if d.own > 0 then
    d.own = math.max(d.own, fleet)
    d.first = next_slot(d.key, d.own)
    d.count = math.min(d.count, due(d.first, d.own))
  end
  demands[i] = d
end

-- The fleet's slots are shared out evenly; what the modest leave goes to the others.
local order = {}
for i, d in ipairs(demands) do order[i] = d end
table.sort(order, function(a, b) return a.count < b.count end)
local given = 0
for i, d in ipairs(order) do
  local n = math.min(d.count, math.ceil(left / (#order - i + 1)))
  d.fleet_first = first + given * fleet
  if d.own > 0 and n > 0 then
    if fleet > 0 then
      d.first = math.max(d.first, d.fleet_first - SPREAD)
      local apart = d.first - d.fleet_first
      if apart > SPREAD then
        n = 0
      elseif d.own > fleet then
        n = math.min(n, math.floor((SPREAD - apart) / (d.own - fleet)) + 1)
      end
    end
    n = math.min(n, due(d.first, d.own))
    if n > 0 then remember(d.key, d.first + (n - 1) * d.own, d.own) end
  end
  d.given = n
  given = given + n
  left = left - n
end
if fleet > 0 and given > 0 then remember(KEYS[1], first + (given - 1) * fleet, fleet) end

local answer = {now}
for _, d in ipairs(demands) do
  local own_first = d.own > 0 and d.first or d.fleet_first
  local again = -math.huge
  if fleet > 0 then again = first + given * fleet - now - AHEAD end
  if d.own > 0 then
    local following = d.first + d.given * d.own - now
    again = math.max(again, following - AHEAD)
    if fleet > 0 then
      again = math.max(again, following - SPREAD - math.max(first + given * fleet - now, -BEHIND))
    end
  end
  if fleet == 0 then d.fleet_first = own_first end
  answer[#answer + 1] = d.given
  answer[#answer + 1] = math.ceil(d.fleet_first - now)
  answer[#answer + 1] = math.ceil(own_first - now)
  answer[#answer + 1] = math.ceil(math.max(again, 0))
end
return answer
"""


class ServerClock:
    """Where the Redis server's clock stands against this process' own, as bounds.

    A round trip shows that the server's reading was taken between two of ours. Bounds of earlier
    trips hold on, a little wider by the second; so one slow trip does no harm.
    """

    def __init__(self) -> None:
        self.earliest = -math.inf  # local time = server time + something between these two
        self.latest = math.inf
        self._at = 0.0

    def observe(self, server: float, before: float, after: float) -> None:
        slack = DRIFT * (after - self._at)
        self._at = after
        self.earliest = max(self.earliest - slack, before - server)
        self.latest = min(self.latest + slack, after - server)
        if self.earliest > self.latest:  # somebody set the server's clock, or it is another server
            self.earliest, self.latest = before - server, after - server


class Bucket:
    """The slots a worker holds of one limit: (from, until) in local time, in order."""

    __slots__ = ("ask_at", "expired", "most", "slots", "used")

    def __init__(self) -> None:
        self.slots: deque[tuple[float, float]] = deque()
        self.ask_at = 0.0
        self.used = 0
        self.expired = 0
        self.most = math.inf

    def head(self, now: float) -> float:
        """From when the next live slot may be used; infinity if there is none."""
        slots = self.slots
        while slots:
            begins, ends = slots[0]
            if now < ends:
                return begins
            slots.popleft()
            self.expired += 1
        return math.inf

    def take(self, now: float) -> float:
        """Use a slot: the moment it dies, or 0.0 if none may be used now."""
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

    def missing(self, wanted: int, now: float) -> int:
        """How many slots to ask for, so that no more are held than are used in time."""
        self.head(now)
        return int(min(wanted, self._may_hold())) - len(self.slots)

    def settle(self) -> None:
        """Begin a new account of what was used and what died: between two asks."""
        self.most = self._may_hold()
        self.used = self.expired = 0

    def _may_hold(self) -> float:
        # What dies unused was taken from the other workers. So after that happened only about as
        # many are held as were used (but half at least: a pause is not yet a habit), and a quarter
        # more each time all went well.
        if not self.expired:
            return self.most * 1.25
        return max(self.used * 1.25, (self.used + self.expired) / 2, 1)

    def add(self, count: int, fleet: tuple[float, float], own: tuple[float, float],
            clock: ServerClock) -> None:  # fmt: skip
        """Take in a grant: two rows of slots (first, interval), of which each message needs one."""
        early, late = LIFE + clock.earliest, clock.latest
        (a, a_step), (b, b_step) = fleet, own
        if fleet == own:
            slots = [(a + i * a_step + late, a + i * a_step + early) for i in range(count)]
        else:
            pairs = [(a + i * a_step, b + i * b_step) for i in range(count)]
            slots = [(max(pair) + late, min(pair) + early) for pair in pairs]
        self.slots.extend(slot for slot in slots if slot[0] < slot[1])


def interval_of(rate: float | None) -> float:
    """Microseconds between two slots; 0 without a limit."""
    return 0.0 if rate is None else 1e6 / (rate * PACE)

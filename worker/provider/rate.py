"""How many messages per second the whole fleet hands off, and each mailing: slots from Redis.

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

Keys: `notification:rate` and `notification:rate:<mailing id>`: the last slot given, in
microseconds of the server's clock; they live for a minute after the last grant (or ten intervals).
"""

import math
import random
from collections import deque
from collections.abc import Mapping

from worker.provider.hot_redis import HotRedis

KEY = "notification:rate"
LIFE = 0.050
PACE = 0.99
# How often a worker asks, at random in between: then several share alike without any register.
ASK_EVERY = (0.020, 0.030)
# ... and if the grant was cut at COVER and more was to be had.
ASK_AGAIN = 0.010
# How far the server's clock may be adjusted against this machine's, in seconds per second.
DRIFT = 0.001

# KEYS: the fleet's, then one for each demand (the fleet's again if it has no limit of its own).
# ARGV: the fleet's interval in microseconds (0: no limit), then for each demand its own interval
# (0: none) and how many slots are wanted.
# Answer: the server's time, then for each demand: how many; its first slot of the fleet's and of
# its own; when to ask again. All three relative to the server's time.
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
        if self.head(now) > now:
            return 0.0
        self.used += 1
        return self.slots.popleft()[1]

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
        for i in range(count):
            a, b = fleet[0] + i * fleet[1], own[0] + i * own[1]
            begins, ends = max(a, b) + clock.latest, min(a, b) + LIFE + clock.earliest
            if begins < ends:
                self.slots.append((begins, ends))


class RateLimiter:
    """The hand-offs that this worker may make now: `rate` is the fleet's, None for no limit.

    Mailings without a limit of their own share one bucket; each of the others has its own, whose
    slots are slots of both limits, given together or not at all.
    """

    def __init__(self, redis: HotRedis, rate: float | None) -> None:
        self._redis = redis
        self._script = redis.script(GRANT)
        self._interval = _interval(rate)
        self._shared = Bucket()
        self._own: dict[int, Bucket] = {}
        self._clock = ServerClock()
        self._next_ask = 0.0

    @property
    def available(self) -> bool:
        """False while Redis is away: where there is a limit, nothing is to be handed off."""
        return self._redis.available

    def ready(self, mailing_id: int, mailing_rate: float | None, now: float) -> bool:
        """Whether `take` would succeed."""
        if mailing_rate is None and not self._interval:
            return True
        bucket = self._bucket(mailing_id, mailing_rate)
        return bucket is not None and bucket.head(now) <= now

    def take(self, mailing_id: int, mailing_rate: float | None, now: float) -> float:
        """Use one slot: the message may leave before the moment returned; 0.0 means there is none.

        Without any limit that moment is infinity.
        """
        if mailing_rate is None and not self._interval:
            return math.inf
        bucket = self._bucket(mailing_id, mailing_rate)
        return bucket.take(now) if bucket is not None else 0.0

    def next_at(self, mailing_id: int, mailing_rate: float | None, now: float) -> float:
        """When something changes for this mailing: a slot may be used, or `refill` be called."""
        if mailing_rate is None and not self._interval:
            return now
        bucket = self._bucket(mailing_id, mailing_rate)
        if bucket is None:
            return self._next_ask
        begins = bucket.head(now)
        return begins if begins < math.inf else max(self._next_ask, bucket.ask_at)

    def refill(self, demands: Mapping[int, tuple[float | None, int]], now: float) -> None:
        """Ask Redis for slots, if it is time to: one round trip for all, or none.

        `demands` says for each mailing this worker has messages of: its own rate (None: no limit),
        and how many messages are wanted soon. Call it every turn of the loop. Redis being away is
        not an error here: then there are no slots.
        """
        if now < self._next_ask:
            return
        asked: list[tuple[str, Bucket, float, int]] = []
        unlimited = 0
        for mailing_id, (rate, wanted) in demands.items():
            if rate is None:
                unlimited += wanted
                continue
            bucket = self._own.setdefault(mailing_id, Bucket())
            if bucket.ask_at <= now and (count := bucket.missing(wanted, now)) > 0:
                asked.append((f"{KEY}:{mailing_id}", bucket, _interval(rate), count))
        if self._interval and unlimited and self._shared.ask_at <= now:
            count = self._shared.missing(unlimited, now)
            if count > 0:
                asked.append((KEY, self._shared, 0.0, count))
        if asked:
            self._ask(asked)
            for gone in self._own.keys() - demands.keys():
                del self._own[gone]

    def _ask(self, asked: list[tuple[str, Bucket, float, int]]) -> None:
        before = self._redis.clock()
        answer = self._redis.run(
            self._script,
            [KEY, *(key for key, _, _, _ in asked)],
            [self._interval, *(arg for _, _, own, count in asked for arg in (own, count))],
        )
        after = self._redis.clock()
        self._next_ask = after + random.uniform(*ASK_EVERY)  # noqa: S311 (no secret)
        if answer is None:
            self._next_ask = max(self._next_ask, self._redis.next_try)
            return
        server = answer[0] / 1e6
        self._clock.observe(server, before, after)
        for i, (_, bucket, own, count) in enumerate(asked):
            given, fleet_first, own_first, again = answer[4 * i + 1 : 4 * i + 5]
            interval = max(own, self._interval) / 1e6
            bucket.settle()
            bucket.add(
                given,
                (server + fleet_first / 1e6, (self._interval or own) / 1e6),
                (server + own_first / 1e6, interval),
                self._clock,
            )
            bucket.ask_at = before + again / 1e6
            if given < count and not again:
                self._next_ask = after + ASK_AGAIN

    def _bucket(self, mailing_id: int, mailing_rate: float | None) -> Bucket | None:
        return self._shared if mailing_rate is None else self._own.get(mailing_id)


def _interval(rate: float | None) -> float:
    """Microseconds between two slots; 0 without a limit."""
    return 0.0 if rate is None else 1e6 / (rate * PACE)

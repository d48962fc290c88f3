-- Grants slots, the moments at which messages may be sent, from the fleet's rate and the mailings'.
--
-- rate_slots.py explains slots and the constants below. A key stores the last slot granted, in
-- microseconds of the server's clock.
--
-- KEYS: the fleet's key, then one for each demand (the fleet's again if it has no own limit).
-- ARGV: the fleet's interval between slots in microseconds (0: no limit), then for each demand
--       its own interval (0: no limit) and how many slots are wanted.
-- Returns the server's time, then for each demand: the number of slots granted, its first fleet
--       slot, its first own slot, and when to request again; each in microseconds, the last
--       three relative to the server's time.

local AHEAD, BEHIND, COVER, SPREAD = 50000, 25000, 25000, 30000
local START, FORGET = 100000, 1050000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function remember(key, last, interval)
    redis.call('SET', key, string.format('%.2f', last), 'PX', math.ceil(60000 + interval / 100))
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

-- How many slots from `first` on may be granted now.
local function grantable(first, interval)
    if first > now + AHEAD then return 0 end
    return math.min(math.floor((now + AHEAD - first) / interval) + 1,
        math.max(1, math.floor(COVER / interval)))
end

local fleet = tonumber(ARGV[1])
local first, left = now, math.huge
if fleet > 0 then
    first = next_slot(KEYS[1], fleet)
    left = grantable(first, fleet)
end

local demands = {}
for i = 1, #KEYS - 1 do
    local d = {key = KEYS[i + 1], own = tonumber(ARGV[2 * i]), count = tonumber(ARGV[2 * i + 1])}
    if d.own > 0 then
        d.own = math.max(d.own, fleet)
        d.first = next_slot(d.key, d.own)
        d.count = math.min(d.count, grantable(d.first, d.own))
    end
    demands[i] = d
end

-- Divide the fleet's slots evenly; what small demands leave goes to the larger ones.
local order = {}
for i, d in ipairs(demands) do order[i] = d end
table.sort(order, function(a, b) return a.count < b.count end)
local granted = 0
for i, d in ipairs(order) do
    local n = math.min(d.count, math.ceil(left / (#order - i + 1)))
    d.fleet_first = first + granted * fleet
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
        n = math.min(n, grantable(d.first, d.own))
        if n > 0 then remember(d.key, d.first + (n - 1) * d.own, d.own) end
    end
    d.granted = n
    granted = granted + n
    left = left - n
end
if fleet > 0 and granted > 0 then remember(KEYS[1], first + (granted - 1) * fleet, fleet) end

local reply = {now}
for _, d in ipairs(demands) do
    local own_first = d.own > 0 and d.first or d.fleet_first
    local again = -math.huge
    if fleet > 0 then again = first + granted * fleet - now - AHEAD end
    if d.own > 0 then
        local following = d.first + d.granted * d.own - now
        again = math.max(again, following - AHEAD)
        if fleet > 0 then
            local next_fleet = math.max(first + granted * fleet - now, -BEHIND)
            again = math.max(again, following - SPREAD - next_fleet)
        end
    end
    if fleet == 0 then d.fleet_first = own_first end
    reply[#reply + 1] = d.granted
    reply[#reply + 1] = math.ceil(d.fleet_first - now)
    reply[#reply + 1] = math.ceil(own_first - now)
    reply[#reply + 1] = math.ceil(math.max(again, 0))
end
return reply

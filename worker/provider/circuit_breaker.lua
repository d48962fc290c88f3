-- Applies one worker's report to the fleet's circuit breaker and extends the fleet's hold.
--
-- circuit_breaker_rules.py explains the rules and applies the same ones without Redis;
-- test_redis_and_python_apply_the_same_rules compares the two step by step.
-- circuit_breaker.py defines above this text the constants FAILURE_THRESHOLD,
-- MAX_PROBES, RECENT_SECONDS, FIRST_WAIT_SECONDS and MAX_WAIT_SECONDS.
--
-- KEYS: the breaker's hash; the end of the hold.
-- ARGV: 1 worker, 2 provider_worked, 3 trailing_failures, 4 failure_reason, 5 unauthorized,
--       6 probe_worked, 7 probe_failure, 8 returned_probes, 9 wanted_probes,
--       10 probe_timeout, 11 wait_factor, 12 hold in seconds from now (0: do not extend it).
-- Returns texts and integers: event, wait, granted probes; then the state: `until` and
--       `opened_at` relative to the server's clock, opens, reason, run; the hold's rest.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local worker, worked = ARGV[1], ARGV[2] == '1'
local failures, failure_reason = tonumber(ARGV[3]), ARGV[4]
local unauthorized, probe_worked, probe_failure = ARGV[5] == '1', ARGV[6] == '1', ARGV[7]
local returned, wanted = tonumber(ARGV[8]), tonumber(ARGV[9])
local probe_timeout, wait_factor, hold = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])

local stored = redis.call('HMGET', KEYS[1], 'until', 'opened_at', 'opens', 'reason', 'run',
    'probes', 'probing_since', 'worked_by', 'worked_at', 'other_worked_at')
local function number(i) return tonumber(stored[i] or '') or 0 end
local state = {
    until_ = number(1), opened_at = number(2), opens = number(3), reason = stored[4] or '',
    run = number(5), probes = number(6), probing_since = number(7),
    worked_by = stored[8] or '', worked_at = number(9), other_worked_at = number(10),
}
local event, wait, granted = '', 0, 0

-- A server clock that was set back must not keep the breaker open.
if state.until_ > now + 2 * MAX_WAIT_SECONDS then state.until_ = now end

local others_worked_at = state.worked_by == worker and state.other_worked_at or state.worked_at
if worked then
    if state.worked_by ~= worker then
        state.other_worked_at, state.worked_by = state.worked_at, worker
    end
    state.worked_at = now
end

local function open(reason)
    state.opens = state.opens + 1
    local doubled = FIRST_WAIT_SECONDS * 2 ^ math.min(state.opens - 1, 10)
    event, wait = 'opened', wait_factor * math.min(MAX_WAIT_SECONDS, doubled)
    state.until_, state.opened_at, state.reason = now + wait, now, reason
    state.run, state.probes, state.probing_since = 0, 0, 0
end

if state.until_ == 0 then
    if worked or failures > 0 then
        if math.abs(now - others_worked_at) < RECENT_SECONDS then
            state.run = 0
        else
            state.run = worked and failures or state.run + failures
        end
    end
    if unauthorized then
        open('unauthorized')
    elseif state.run >= FAILURE_THRESHOLD then
        open(failure_reason)
    end
elseif probe_worked or (worked and state.reason ~= 'unauthorized'
        and now - state.opened_at >= RECENT_SECONDS) then
    event = 'closed'
    state.until_, state.opened_at, state.probing_since = 0, 0, 0
    state.opens, state.run, state.probes = 0, 0, 0
elseif probe_failure ~= '' and now >= state.until_ then
    open(probe_failure)
end

if state.until_ > 0 and now >= state.until_ then
    if state.probing_since > 0 and math.abs(now - state.probing_since) >= probe_timeout then
        state.probes, state.probing_since = 0, 0
    end
    state.probes = math.max(0, state.probes - returned)
    granted = math.min(wanted, MAX_PROBES - state.probes)
    if granted > 0 then
        if state.probing_since == 0 then state.probing_since, event = now, 'probing' end
        state.probes = state.probes + granted
    end
end

local function text(value) return string.format('%.6f', value) end
if worked or failures > 0 or returned + granted > 0 or event ~= '' then
    redis.call('HSET', KEYS[1], 'until', text(state.until_), 'opened_at', text(state.opened_at),
        'opens', state.opens, 'reason', state.reason, 'run', state.run, 'probes', state.probes,
        'probing_since', text(state.probing_since), 'worked_by', state.worked_by,
        'worked_at', text(state.worked_at), 'other_worked_at', text(state.other_worked_at))
    redis.call('PEXPIRE', KEYS[1], 600000)
end

local hold_until = tonumber(redis.call('GET', KEYS[2]) or '') or 0
if hold > 0 and now + hold > hold_until then
    hold_until = now + hold
    redis.call('SET', KEYS[2], text(hold_until), 'PX', math.ceil(hold * 1000))
end

return {
    event, text(wait), granted, state.until_ > 0 and text(state.until_ - now) or '',
    text(state.opened_at - now), state.opens, state.reason, state.run,
    text(math.max(0, hold_until - now)),
}

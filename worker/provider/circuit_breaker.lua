-- Applies one worker's report to the fleet's circuit breaker and extends the fleet's hold.
--
-- circuit_breaker_rules.py explains the rules and applies the same ones without Redis;
-- test_redis_and_python_apply_the_same_rules compares the two step by step.
-- circuit_breaker.py defines above this text the constants FAILURE_THRESHOLD,
-- MAX_PROBES, RECENT_SECONDS, FIRST_WAIT_SECONDS and MAX_WAIT_SECONDS.
--
-- KEYS: the breaker's hash; the end of the hold.
-- ARGV: 1 worker, 2 provider_worked, 3 trailing_failures, 4 failure_reason, 5 accepted,
--       6 trailing_unauthorized, 7 probe_worked, 8 probe_failure, 9 returned_probes,
--       10 wanted_probes, 11 probe_timeout, 12 wait_factor, 13 hold in seconds from now (0: do not
--       extend it), 14 hash of the token, 15 the age of the request of the worker's latest accepted
--       message (empty: none since its last report).
-- Returns texts and integers: event, wait, granted probes; then the state: `until` and
--       `opened_at` relative to the server's clock, opens, reason, run; the hold's rest; the age of the
--       request of the fleet's latest accepted message with this token (empty: not known).

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local worker, worked = ARGV[1], ARGV[2] == '1'
local failures, failure_reason = tonumber(ARGV[3]), ARGV[4]
local accepted, unauthorized = ARGV[5] == '1', tonumber(ARGV[6])
local probe_worked, probe_failure = ARGV[7] == '1', ARGV[8]
local returned, wanted = tonumber(ARGV[9]), tonumber(ARGV[10])
local probe_timeout, wait_factor, hold = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])

local stored = redis.call('HMGET', KEYS[1], 'until', 'opened_at', 'opens', 'reason', 'run',
    'probes', 'probing_since', 'worked_by', 'worked_at', 'other_worked_at', 'unauthorized_run',
    'accepted_by', 'accepted_at', 'other_accepted_at')
local function number(i) return tonumber(stored[i] or '') or 0 end
local state = {
    until_ = number(1), opened_at = number(2), opens = number(3), reason = stored[4] or '',
    run = number(5), probes = number(6), probing_since = number(7),
    worked_by = stored[8] or '', worked_at = number(9), other_worked_at = number(10),
    unauthorized_run = number(11), accepted_by = stored[12] or '', accepted_at = number(13),
    other_accepted_at = number(14),
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
local others_accepted_at = state.accepted_by == worker and state.other_accepted_at
    or state.accepted_at
if accepted then
    if state.accepted_by ~= worker then
        state.other_accepted_at, state.accepted_by = state.accepted_at, worker
    end
    state.accepted_at = now
end

local function open(reason)
    state.opens = state.opens + 1
    local doubled = FIRST_WAIT_SECONDS * 2 ^ math.min(state.opens - 1, 10)
    event, wait = 'opened', wait_factor * math.min(MAX_WAIT_SECONDS, doubled)
    state.until_, state.opened_at, state.reason = now + wait, now, reason
    state.run, state.unauthorized_run, state.probes, state.probing_since = 0, 0, 0, 0
end

if state.until_ == 0 then
    if worked or failures > 0 then
        if math.abs(now - others_worked_at) < RECENT_SECONDS then
            state.run = 0
        else
            state.run = worked and failures or state.run + failures
        end
    end
    state.unauthorized_run = (accepted and 0 or state.unauthorized_run) + unauthorized
    if state.unauthorized_run >= FAILURE_THRESHOLD
            and math.abs(now - others_accepted_at) >= RECENT_SECONDS then
        open('unauthorized')
    elseif state.run >= FAILURE_THRESHOLD then
        open(failure_reason)
    end
elseif probe_worked or (worked and state.reason ~= 'unauthorized'
        and now - state.opened_at >= RECENT_SECONDS) then
    event = 'closed'
    state.until_, state.opened_at, state.probing_since = 0, 0, 0
    state.opens, state.run, state.unauthorized_run, state.probes = 0, 0, 0, 0
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
if worked or failures > 0 or unauthorized > 0 or returned + granted > 0 or event ~= '' then
    redis.call('HSET', KEYS[1], 'until', text(state.until_), 'opened_at', text(state.opened_at),
        'opens', state.opens, 'reason', state.reason, 'run', state.run, 'probes', state.probes,
        'probing_since', text(state.probing_since), 'worked_by', state.worked_by,
        'worked_at', text(state.worked_at), 'other_worked_at', text(state.other_worked_at),
        'unauthorized_run', state.unauthorized_run, 'accepted_by', state.accepted_by,
        'accepted_at', text(state.accepted_at),
        'other_accepted_at', text(state.other_accepted_at))
    redis.call('PEXPIRE', KEYS[1], 600000)
end

local hold_until = tonumber(redis.call('GET', KEYS[2]) or '') or 0
if hold > 0 and now + hold > hold_until then
    hold_until = now + hold
    redis.call('SET', KEYS[2], text(hold_until), 'PX', math.ceil(hold * 1000))
end

-- One field for each token, as workers may have different ones while it is changed.
local sent_field = 'sent_at:' .. ARGV[14]
local sent_at = tonumber(redis.call('HGET', KEYS[1], sent_field) or '') or 0
if sent_at > now then sent_at = 0 end
local reported = tonumber(ARGV[15])
if reported and now - reported > sent_at then
    sent_at = now - reported
    redis.call('HSET', KEYS[1], sent_field, text(sent_at))
end

return {
    event, text(wait), granted, state.until_ > 0 and text(state.until_ - now) or '',
    text(state.opened_at - now), state.opens, state.reason, state.run,
    text(math.max(0, hold_until - now)), sent_at > 0 and text(now - sent_at) or '',
}

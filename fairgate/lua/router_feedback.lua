-- Takes the feedback to one request, once, and moves its tenant's virtual queue (MESS+).
-- Runs by itself: none of the ledger's pieces is in front of it.
--
-- KEYS  the tenant's notes (hash), their times (sorted set), the tenant's debt (hash)
-- ARGV  1 request id   2 score, 0 to 1   3 satisfaction agreed   4 how long notes are kept, ms
--       5 debt to begin with   6 caution: how many standard errors of the share that nobody judged
--       7 how long the debt is kept, ms
-- Reply {}: no such note, or its time is over; else {note, debt, requests, judged}

local call = redis.call
local t = call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local id, score, agreed = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local note = call('HGET', KEYS[1], id)
local made = tonumber(call('ZSCORE', KEYS[2], id) or 0)
if note then
  call('HDEL', KEYS[1], id)
  call('ZREM', KEYS[2], id)
end
if not note or made < now - tonumber(ARGV[4]) then
  return {}
end

local judged = call('HINCRBY', KEYS[3], 'judged', 1)
local known = call('HMGET', KEYS[3], 'debt', 'requests')
local requests = tonumber(known[2]) or 0 -- counted once per heartbeat, so it may lag
local unseen = 1 - judged / math.max(requests, judged)
local margin = tonumber(ARGV[6]) * math.sqrt(agreed * (1 - agreed) * unseen / (judged + 20))
local debt = math.max(0, (tonumber(known[1]) or tonumber(ARGV[5])) + agreed + margin - score)
call('HSET', KEYS[3], 'debt', string.format('%.17g', debt))
call('PEXPIRE', KEYS[3], ARGV[7])
return {note, string.format('%.17g', debt), string.format('%.0f', requests), judged}

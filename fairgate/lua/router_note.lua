-- Keeps what was known of a routed request until its feedback comes, for a while and up to a number.
-- Runs by itself: none of the ledger's pieces is in front of it.
--
-- KEYS  the tenant's notes (hash), the times they were made (sorted set)
-- ARGV  1 request id   2 the note   3 how long it is kept, ms   4 most notes of the tenant
-- Reply notes kept

local call = redis.call
local t = call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local kept_ms, most = tonumber(ARGV[3]), tonumber(ARGV[4])

call('HSET', KEYS[1], ARGV[1], ARGV[2])
call('ZADD', KEYS[2], now, ARGV[1])
local old = call('ZRANGEBYSCORE', KEYS[2], '-inf', now - kept_ms, 'LIMIT', 0, 16)
local over = call('ZCARD', KEYS[2]) - #old - most
if over > 0 then
  for _, id in ipairs(call('ZRANGE', KEYS[2], #old, #old + math.min(over, 16) - 1)) do
    table.insert(old, id)
  end
end
if #old > 0 then
  call('HDEL', KEYS[1], unpack(old))
  call('ZREM', KEYS[2], unpack(old))
end
call('PEXPIRE', KEYS[1], kept_ms)
call('PEXPIRE', KEYS[2], kept_ms)
return call('ZCARD', KEYS[2])

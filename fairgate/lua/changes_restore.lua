-- Gives a store that forgot them the changes back that a gateway remembers.
--
-- KEYS  changes, log
-- ARGV  1 version   2 epoch   3… field, value
-- Reply 1, or 0: the store knows as much, or another history

local found = redis.call('HMGET', KEYS[1], 'epoch', 'version')
local epoch = found[1] or ''
if epoch ~= '' and (epoch ~= ARGV[2] or tonumber(found[2]) >= tonumber(ARGV[1])) then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'epoch', ARGV[2])
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return 1

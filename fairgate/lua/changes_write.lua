-- Makes one change, if nobody made another one since the version that it was thought out for.
--
-- KEYS  changes, log
-- ARGV  1 version   2 its epoch ('' before the first change)   3 epoch that begins with a first change
--       4 entries that the log keeps   5 what the log says of it, in JSON   6… field, value
--         ('' : it goes)
-- Reply the new version, or 0: there is another version

local found = redis.call('HMGET', KEYS[1], 'epoch', 'version')
if (found[1] or '') ~= ARGV[2] or (found[2] or '0') ~= ARGV[1] then
  return 0
end
-- The log's ids are versions; where only the changes were lost, it knows higher ones.
local top = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local logged = top and tonumber(string.match(top[1], '^%d+')) or 0
local version = math.max(tonumber(ARGV[1]), logged) + 1
if ARGV[2] == '' then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[3])
end
redis.call('HSET', KEYS[1], 'version', version)
local names = {}
for i = 6, #ARGV, 2 do
  table.insert(names, ARGV[i])
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
local t = redis.call('TIME')
local at = string.format('%.0f', t[1] * 1000 + t[2] / 1000)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], version .. '-0',
  'fields', table.concat(names, ' '), 'at', at, 'entry', ARGV[5])
return version

-- The log of changes, the newest first.
--
-- KEYS  changes, log
-- ARGV  1 id to begin with   2 entries at most

return redis.call('XREVRANGE', KEYS[2], ARGV[1], '-', 'COUNT', ARGV[2])

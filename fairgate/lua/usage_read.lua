-- Usage records, in the order in which they were written.
--
-- KEYS  usage
-- ARGV  1 id behind which to begin   2 last id   3 records at most
-- Reply {whether the first id is still there, or was none, [id, [field, value…]]…}

local there = ARGV[1] == '0-0' or #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) > 0
return {there and 1 or 0, redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], ARGV[2], 'COUNT', ARGV[3])}

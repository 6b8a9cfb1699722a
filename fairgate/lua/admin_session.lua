-- A browser's session: who logged in.
--
-- KEYS  session
-- ARGV  1 what is to be kept ('' to look, 'end' to forget it)   2 for how many milliseconds
-- Reply what is kept, or nothing

if ARGV[1] == '' then
  return redis.call('GET', KEYS[1])
elseif ARGV[1] == 'end' then
  return redis.call('DEL', KEYS[1])
end
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])

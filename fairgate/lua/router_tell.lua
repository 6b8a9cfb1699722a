-- Hands records to `fairgate router record`. Runs by itself.
--
-- KEYS  who records (string), whose name with ':lines' is the channel
-- ARGV  lines
-- Reply how many listen

local heard = 0
for _, line in ipairs(ARGV) do
  heard = redis.call('PUBLISH', KEYS[1] .. ':lines', line)
end
return heard

-- How routers chose and what came of it, over all replicas: adds what one has to tell, says the last
-- hour's sums. Runs by itself.
--
-- KEYS  tallies; those of each ten minutes are in the hash '<tallies>:<slice>'
-- ARGV  field, what to add to it …
-- Reply field, sum …

local call = redis.call
local SLICE_S, SLICES = 600, 6

local now = math.floor(call('TIME')[1] / SLICE_S)
local function key_of(slice)
  return KEYS[1] .. ':' .. string.format('%.0f', slice)
end

for i = 1, #ARGV, 2 do
  call('HINCRBYFLOAT', key_of(now), ARGV[i], ARGV[i + 1])
end
if #ARGV > 0 then
  call('EXPIRE', key_of(now), SLICE_S * (SLICES + 1))
end

local sums = {}
for slice = now - SLICES + 1, now do
  local flat = call('HGETALL', key_of(slice))
  for i = 1, #flat, 2 do
    sums[flat[i]] = (sums[flat[i]] or 0) + tonumber(flat[i + 1])
  end
end
local reply = {}
for field, sum in pairs(sums) do
  table.insert(reply, field)
  table.insert(reply, string.format('%.17g', sum))
end
return reply

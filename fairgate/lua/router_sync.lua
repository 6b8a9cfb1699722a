-- One replica's exchange with all others, once per heartbeat: what they learned of satisfaction, how
-- many requests each tenant had, on which lanes interactions are. Runs by itself.
--
-- KEYS  1 learner (hash), 2 interactions' lanes (hash, with the last place in '#'), 3 their order
--       (sorted set), 4 who records (string), 5… debts (hashes)
-- ARGV  1 version of the weights seen   2 place in the order seen   3 how long all is kept, ms
--       4 rows that changed (n)   then n times: row, changes (float32, little-endian), labels
--       then interactions that are new (m)   then m times: interaction, lane
--       then the debt to begin with
--       then for each debt: requests since the last time, what it moved by estimate
-- Reply {version, place, rows…, interactions…, debts…, who records}: three of them lists
--       rows         row, weights, labels …; empty if the version was seen
--       interactions interaction, lane …: at most 1,000 since the place that was seen
--       debts        debt or '', requests, judged … in the order of KEYS
--       who records  as `fairgate router record` wrote it, or ''

local call = redis.call
local MOST_PLACES, MOST_TOLD = 50000, 1000
local at = 3

local function nextarg()
  at = at + 1
  return ARGV[at]
end

local function added(old, changes)
  local n = #changes / 4
  local format = '<' .. string.rep('f', n)
  if not old or #old ~= #changes then
    return changes
  end
  local a, b = {struct.unpack(format, old)}, {struct.unpack(format, changes)}
  for i = 1, n do
    a[i] = a[i] + b[i]
  end
  return struct.pack(format, unpack(a, 1, n))
end

local rows = tonumber(nextarg())
for _ = 1, rows do
  local row, changes, labels = nextarg(), nextarg(), nextarg()
  local weights = added(call('HGET', KEYS[1], 'w:' .. row), changes)
  call('HSET', KEYS[1], 'w:' .. row, weights)
  call('HINCRBY', KEYS[1], 'n:' .. row, labels)
end
local version = tonumber(call('HGET', KEYS[1], 'version') or 0)
if rows > 0 then
  version = call('HINCRBY', KEYS[1], 'version', 1)
end

for _ = 1, tonumber(nextarg()) do
  local interaction, lane = nextarg(), nextarg()
  call('HSET', KEYS[2], interaction, lane)
  call('ZADD', KEYS[3], call('HINCRBY', KEYS[2], '#', 1), interaction)
end
local over = call('ZCARD', KEYS[3]) - MOST_PLACES
if over > 0 then
  for _, interaction in ipairs(call('ZRANGE', KEYS[3], 0, math.min(over, 5000) - 1)) do
    call('HDEL', KEYS[2], interaction)
    call('ZREM', KEYS[3], interaction)
  end
end

local told_rows = {}
if version ~= tonumber(ARGV[1]) then
  local all = call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'w:' then
      local row = string.sub(all[i], 3)
      table.insert(told_rows, row)
      table.insert(told_rows, all[i + 1])
      table.insert(told_rows, call('HGET', KEYS[1], 'n:' .. row) or '0')
    end
  end
end

-- A place beyond the last one was given by a store that has since forgotten: begin anew.
local seen, place = tonumber(ARGV[2]), tonumber(call('HGET', KEYS[2], '#') or 0)
if seen > place then
  seen = 0
end
local told = {}
local since = call('ZRANGEBYSCORE', KEYS[3], '(' .. seen, '+inf', 'WITHSCORES', 'LIMIT', 0, MOST_TOLD)
for i = 1, #since, 2 do
  table.insert(told, since[i])
  table.insert(told, call('HGET', KEYS[2], since[i]) or '')
  seen = tonumber(since[i + 1])
end

local debts = {}
local first_debt = tonumber(nextarg())
for i = 5, #KEYS do
  local requests, moved = tonumber(nextarg()), tonumber(nextarg())
  if requests > 0 then
    call('HINCRBY', KEYS[i], 'requests', requests)
    call('PEXPIRE', KEYS[i], ARGV[3])
  end
  if moved ~= 0 then
    local debt = tonumber(call('HGET', KEYS[i], 'debt') or first_debt)
    call('HSET', KEYS[i], 'debt', string.format('%.17g', math.max(0, debt + moved)))
    call('PEXPIRE', KEYS[i], ARGV[3])
  end
  local known = call('HMGET', KEYS[i], 'debt', 'requests', 'judged')
  for f = 1, 3 do
    table.insert(debts, known[f] or '')
  end
end
for i = 1, 3 do
  call('PEXPIRE', KEYS[i], ARGV[3])
end
return {version, string.format('%.0f', seen), told_rows, told, debts,
  call('GET', KEYS[4]) or ''}
